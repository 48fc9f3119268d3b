//! Who hears of a decision: subscribers of each session, and the events it keeps for those that
//! resume.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{broadcast, watch};

use crate::telemetry;
use crate::wire::{Decision, Event, Metrics};

/// Decisions that wait for one subscriber before it loses the oldest.
const SUBSCRIBER_DECISIONS: usize = 4096;

/// One bin's messages, shared by all subscribers.
#[derive(Debug)]
pub struct Update {
    /// The decision.
    pub decision: Decision,
    /// The event, where the regime changed.
    pub event: Option<Event>,
}

/// What a session is.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionFacts {
    /// Name.
    pub name: String,
    /// Channels.
    pub n_channels: usize,
    /// Bin width, seconds.
    pub bin_width_s: f64,
    /// Regime names.
    pub regime_names: Vec<String>,
    /// The model's identity.
    pub model: String,
}

/// Where a session stands with calibrating itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CalibrationState {
    /// It came calibrated.
    #[default]
    Given,
    /// It gathers counts.
    Gathering,
    /// Its readout is fitted.
    Fitting,
    /// It reads by a readout of its own.
    Done,
    /// The same, but without labels for a new animal: labels are not to be trusted.
    NotTrusted,
    /// It could not be calibrated.
    Failed,
}

impl CalibrationState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Given, Self::Gathering, Self::Fitting, Self::Done, Self::NotTrusted, Self::Failed];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Gathering => "gathering",
            Self::Fitting => "fitting",
            Self::Done => "done",
            Self::NotTrusted => "not_trusted",
            Self::Failed => "failed",
        }
    }
}

/// A session's own calibration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// Where it stands.
    pub state: CalibrationState,
    /// Seconds of counts gathered so far.
    pub seconds_seen: f64,
    /// Seconds that it gathers.
    pub seconds_needed: f64,
    /// Why it failed.
    pub problem: Option<String>,
}

/// Why events cannot be resumed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected to resume after event {oldest_resumable} or later, found {asked}: older events are no longer held"
)]
pub struct EventsError {
    /// Oldest number after which nothing would be skipped.
    pub oldest_resumable: u64,
    /// Number asked for.
    pub asked: u64,
}

/// One session's subscribers and events.
pub struct SessionBus {
    name: String,
    facts: RwLock<Arc<SessionFacts>>,
    /// `None` once the session has ended.
    updates: Mutex<Option<broadcast::Sender<Arc<Update>>>>,
    ended: AtomicBool,
    events: Mutex<VecDeque<Event>>,
    events_kept: usize,
    newest_event: watch::Sender<u64>,
    metrics: Mutex<Option<Metrics>>,
    calibration: Mutex<Calibration>,
    bins: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionBus {
    /// Nobody listens yet.
    #[must_use]
    pub fn new(facts: SessionFacts, events_kept: usize) -> Self {
        Self {
            name: facts.name.clone(),
            facts: RwLock::new(Arc::new(facts)),
            updates: Mutex::new(Some(broadcast::Sender::new(SUBSCRIBER_DECISIONS))),
            ended: AtomicBool::new(false),
            events: Mutex::default(),
            events_kept,
            newest_event: watch::Sender::new(0),
            metrics: Mutex::default(),
            calibration: Mutex::default(),
            bins: AtomicU64::new(0),
        }
    }

    /// The session's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the session is.
    #[must_use]
    pub fn facts(&self) -> Arc<SessionFacts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The session has another model.
    pub fn set_facts(&self, facts: SessionFacts) {
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    /// Nothing more comes: subscribers get what waits, and then the end.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        locked(&self.updates).take();
        // Whoever waits for an event looks again.
        self.newest_event.send_modify(|_| {});
    }

    /// True once it has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Bins done, and number of the newest event.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.bins.load(Ordering::Relaxed), *self.newest_event.borrow())
    }

    /// Number for the next event.
    #[must_use]
    pub fn next_event(&self) -> u64 {
        *self.newest_event.borrow() + 1
    }

    /// The newest metrics.
    #[must_use]
    pub fn metrics(&self) -> Option<Metrics> {
        locked(&self.metrics).clone()
    }

    /// Newer metrics.
    pub fn set_metrics(&self, metrics: Metrics) {
        *locked(&self.metrics) = Some(metrics);
    }

    /// What was read of a former model.
    pub fn forget_metrics(&self) {
        *locked(&self.metrics) = None;
    }

    /// How the session stands with calibrating itself.
    #[must_use]
    pub fn calibration(&self) -> Calibration {
        locked(&self.calibration).clone()
    }

    /// What has become of it.
    pub fn set_calibration(&self, change: impl FnOnce(&mut Calibration)) {
        change(&mut locked(&self.calibration));
    }

    /// Tells everybody.
    pub fn publish(&self, update: Arc<Update>) {
        self.bins.fetch_add(1, Ordering::Relaxed);
        if let Some(event) = &update.event {
            let mut events = locked(&self.events);
            if events.len() == self.events_kept {
                events.pop_front();
            }
            events.push_back(event.clone());
            drop(events);
            self.newest_event.send_replace(event.event_sequence);
        }
        if let Some(updates) = &*locked(&self.updates) {
            // An error says that nobody listens.
            let _ = updates.send(update);
        }
    }

    /// Every update from now on.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        let updates = match &*locked(&self.updates) {
            Some(updates) => updates.subscribe(),
            // A sender that is dropped at once: the end comes first.
            None => broadcast::Sender::new(1).subscribe(),
        };
        Subscription { updates, bus: self.clone(), lost: 0 }
    }

    /// Told of each new event's number.
    #[must_use]
    pub fn newest_event(&self) -> watch::Receiver<u64> {
        self.newest_event.subscribe()
    }

    /// The first event after a number, if there is one.
    ///
    /// # Errors
    /// When events in between are no longer held.
    pub fn event_after(&self, number: u64) -> Result<Option<Event>, EventsError> {
        let events = locked(&self.events);
        let Some(first) = events.front() else { return Ok(None) };
        let oldest_resumable = first.event_sequence - 1;
        // Zero asks for all that are held.
        if number != 0 && number < oldest_resumable {
            return Err(EventsError { oldest_resumable, asked: number });
        }
        let at = (number.max(oldest_resumable) - oldest_resumable) as usize;
        Ok(events.get(at).cloned())
    }
}

/// One subscriber to one session.
pub struct Subscription {
    updates: broadcast::Receiver<Arc<Update>>,
    bus: Arc<SessionBus>,
    lost: u64,
}

impl Subscription {
    /// The next update; `None` when the session has ended. Safe to cancel.
    pub async fn next(&mut self) -> Option<Arc<Update>> {
        loop {
            match self.updates.recv().await {
                Ok(update) => return Some(update),
                Err(broadcast::error::RecvError::Lagged(n)) => self.lose(n),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The next update, where one waits.
    pub fn try_next(&mut self) -> Option<Arc<Update>> {
        loop {
            match self.updates.try_recv() {
                Ok(update) => return Some(update),
                Err(broadcast::error::TryRecvError::Lagged(n)) => self.lose(n),
                Err(_) => return None,
            }
        }
    }

    fn lose(&mut self, n: u64) {
        self.lost += n;
        telemetry::lost_by_subscriber(&self.bus.name, n);
    }

    /// Updates lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// All sessions.
pub struct Bus {
    /// In the order in which they began.
    sessions: RwLock<Vec<Arc<SessionBus>>>,
    /// Counts sessions that began.
    begun: watch::Sender<u64>,
    /// Turns true when streams are to end.
    closing: watch::Receiver<bool>,
}

impl Bus {
    /// Without sessions; streams end when `closing` turns true.
    #[must_use]
    pub fn new(closing: watch::Receiver<bool>) -> Self {
        Self { sessions: RwLock::default(), begun: watch::Sender::new(0), closing }
    }

    /// The sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<SessionBus>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A session begins.
    pub fn insert(&self, session: Arc<SessionBus>) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).push(session);
        self.begun.send_modify(|n| *n += 1);
    }

    /// A session has ended.
    pub fn remove(&self, name: &str) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).retain(|s| s.name() != name);
    }

    /// Told when a session begins.
    #[must_use]
    pub fn begun(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    /// A session by name.
    #[must_use]
    pub fn session(&self, name: &str) -> Option<Arc<SessionBus>> {
        self.sessions().into_iter().find(|s| s.name() == name)
    }

    /// Resolves when streams are to end.
    pub async fn closed(&self) {
        let mut closing = self.closing.clone();
        // An error says that the daemon is gone.
        let _ = closing.wait_for(|c| *c).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Arc<SessionBus> {
        let facts = SessionFacts {
            name: "rig".into(),
            n_channels: 1,
            bin_width_s: 0.01,
            regime_names: vec!["a".into()],
            model: String::new(),
        };
        Arc::new(SessionBus::new(facts, 3))
    }

    fn publish(bus: &SessionBus, event: bool) {
        let event = event.then(|| Event { event_sequence: bus.next_event(), ..Event::default() });
        bus.publish(Arc::new(Update { decision: Decision::default(), event }));
    }

    #[test]
    fn events_resume_without_a_gap_or_say_so() {
        let bus = bus();
        assert_eq!(bus.event_after(0), Ok(None));
        for _ in 0..5 {
            publish(&bus, true);
        }
        let number = |after| bus.event_after(after).map(|e| e.map(|e| e.event_sequence));
        assert_eq!(number(0), Ok(Some(3)));
        assert_eq!(number(2), Ok(Some(3)));
        assert_eq!(number(4), Ok(Some(5)));
        assert_eq!(number(5), Ok(None));
        assert_eq!(number(1), Err(EventsError { oldest_resumable: 2, asked: 1 }));
    }

    #[tokio::test]
    async fn a_slow_subscriber_loses_the_oldest_and_is_told() {
        let bus = bus();
        let mut slow = bus.subscribe();
        for _ in 0..SUBSCRIBER_DECISIONS + 7 {
            publish(&bus, false);
        }
        assert!(slow.next().await.is_some());
        assert_eq!(slow.lost(), 7);
    }
}
