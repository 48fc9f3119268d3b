//! Who hears of a decision: subscribers of each session, and the events it keeps for those that
//! resume.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;

use super::conditions::Conditions;
use super::counts::CountsReader;
use super::page::EmbeddingMap;
use super::subscription::{Feeds, Subscription, Turn, Update};
use crate::journal::Journal;
use crate::source::Entry;
use crate::telemetry;
use crate::wire::{Event, Metrics};

/// Events read from the journal at once: a whole file of it is gone through for them.
const JOURNAL_EVENTS_AT_ONCE: usize = 4096;
/// Events looked up at once for one subscriber.
const EVENTS_AT_ONCE: usize = 256;

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
    /// What the model learned of where its regimes lie.
    pub map: Arc<EmbeddingMap>,
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

    /// Of a session that reads by a readout of its own.
    #[must_use]
    pub fn of_result(trusted: bool) -> Self {
        if trusted { Self::Done } else { Self::NotTrusted }
    }

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
pub enum EventsError {
    /// Events in between are gone.
    #[error(
        "expected to resume after event {oldest_resumable} or later, found {asked}: older events are no longer held"
    )]
    Gone {
        /// Oldest number after which nothing would be skipped.
        oldest_resumable: u64,
        /// Number asked for.
        asked: u64,
    },
    /// There was no such event.
    #[error(
        "expected to resume after event {newest} at most, the newest there is, found {asked}: numbers are of one \
         daemon's journal (or, without one, of one run)"
    )]
    NotYet {
        /// Number of the newest event.
        newest: u64,
        /// Number asked for.
        asked: u64,
    },
}

impl EventsError {
    /// The nearest number after which events can be had.
    #[must_use]
    pub fn nearest(&self) -> u64 {
        match self {
            Self::Gone { oldest_resumable, .. } => *oldest_resumable,
            Self::NotYet { newest, .. } => *newest,
        }
    }
}

/// What a session's own thread and task tell of how well it does.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Hypotheses that lost their numbers so far.
    pub filter_resets: AtomicU64,
    /// Bins in a row, up to the newest, whose dynamics were none that the model knows.
    pub strange_bins: AtomicU64,
    /// Bins with counts beyond what the model can tell.
    pub bins_beyond: AtomicU64,
    /// Events that were dropped because too many waited for a disk that fails.
    pub events_dropped: AtomicU64,
}

/// One session's subscribers and events.
pub struct SessionBus {
    name: String,
    facts: RwLock<Arc<SessionFacts>>,
    feeds: Arc<Feeds>,
    ended: AtomicBool,
    events: Mutex<VecDeque<Event>>,
    events_kept: usize,
    /// Newest event that was announced.
    newest_event: watch::Sender<u64>,
    /// Where events are kept, beyond those in memory.
    journal: Option<Arc<Journal>>,
    /// How well it does.
    pub vitals: Vitals,
    metrics: Mutex<Option<Metrics>>,
    /// Newest covariance of the embedding's posterior, the lower triangle row by row.
    covariance: Mutex<Vec<f32>>,
    /// Its counts, for the live page.
    counts: Mutex<Option<CountsReader>>,
    calibration: Mutex<Calibration>,
    bins: AtomicU64,
    /// Where its counts come in.
    entry: OnceLock<Entry>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionBus {
    /// Nobody listens yet. Events go on from where the journal stands.
    #[must_use]
    pub fn new(facts: SessionFacts, events_kept: usize, journal: Option<Arc<Journal>>) -> Self {
        let newest = journal.as_ref().map_or(0, |journal| journal.newest_event(&facts.name));
        let bus = Self {
            name: facts.name.clone(),
            feeds: Arc::new(Feeds::new(&facts.name)),
            facts: RwLock::new(Arc::new(facts)),
            ended: AtomicBool::new(false),
            events: Mutex::default(),
            events_kept,
            newest_event: watch::Sender::new(newest),
            journal,
            vitals: Vitals::default(),
            metrics: Mutex::default(),
            covariance: Mutex::default(),
            counts: Mutex::default(),
            calibration: Mutex::default(),
            bins: AtomicU64::new(0),
            entry: OnceLock::new(),
        };
        bus.measure_calibration(CalibrationState::Given);
        bus
    }

    /// The session's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its counts come in, once that is known; before, nobody can find the session.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        self.entry.get()
    }

    /// Its counts come in here: said once, before it is found by anybody.
    pub fn set_entry(&self, entry: Entry) {
        // A second one would be a bug, and would change nothing.
        let _ = self.entry.set(entry);
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
        self.feeds.end();
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

    /// Whose numbers events have: the journal's, or without one this run's.
    #[must_use]
    pub fn numbering(&self) -> &str {
        static RUN: std::sync::LazyLock<String> = std::sync::LazyLock::new(crate::journal::new_id);
        self.journal.as_ref().map_or(RUN.as_str(), |journal| journal.id())
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

    /// The newest estimate's covariance of the embedding, the lower triangle row by row.
    #[must_use]
    pub fn covariance(&self) -> Vec<f32> {
        locked(&self.covariance).clone()
    }

    /// A newer estimate's.
    pub fn set_covariance(&self, covariance: &[f32]) {
        let mut kept = locked(&self.covariance);
        kept.clear();
        kept.extend_from_slice(covariance);
    }

    /// Where its counts can be had.
    pub fn set_counts(&self, counts: CountsReader) {
        *locked(&self.counts) = Some(counts);
    }

    /// The counts since this was asked last, as [`CountsReader::each`]; for one at a time.
    pub fn each_count(&self, take: impl FnMut(bool, &[u16])) {
        if let Some(counts) = &mut *locked(&self.counts) {
            counts.each(take);
        }
    }

    /// How the session stands with calibrating itself.
    #[must_use]
    pub fn calibration(&self) -> Calibration {
        locked(&self.calibration).clone()
    }

    /// What has become of it.
    pub fn set_calibration(&self, change: impl FnOnce(&mut Calibration)) {
        let mut calibration = locked(&self.calibration);
        change(&mut calibration);
        self.measure_calibration(calibration.state);
    }

    fn measure_calibration(&self, state: CalibrationState) {
        let states = CalibrationState::ALL.map(CalibrationState::name);
        telemetry::calibration(&self.name, &states, state.name());
    }

    /// Tells everybody of a decision.
    pub fn publish(&self, update: &Arc<Update>) {
        self.bins.fetch_add(1, Ordering::Relaxed);
        self.feeds.tell(update);
    }

    /// Announces an event; they come in the order of their numbers.
    pub fn announce(&self, update: &Arc<Update>) {
        let Update::Event(event) = &**update else { return };
        let number = event.event_sequence;
        let mut events = locked(&self.events);
        if events.len() == self.events_kept {
            events.pop_front();
        }
        events.push_back(event.clone());
        // While nobody can look at the events: whoever has found this one is never told that it was not given yet.
        self.newest_event.send_replace(number);
        drop(events);
        self.feeds.tell(update);
    }

    /// Events, and every `every`-th decision and those that name an event, from now on.
    #[must_use]
    pub fn subscribe(&self, every: u64) -> Subscription {
        self.feeds.subscribe(every)
    }

    /// Told of each new event's number.
    #[must_use]
    pub fn newest_event(&self) -> NewestEvent {
        NewestEvent { newest: self.newest_event.subscribe(), turn: self.feeds.turn() }
    }

    /// Events that were announced, after a number (0: all that are held), in order and without a gap; the next
    /// when these are dealt with.
    ///
    /// # Errors
    /// When events in between are no longer held, or the number was never given.
    pub async fn events_after(self: &Arc<Self>, number: u64) -> Result<Vec<Event>, EventsError> {
        let newest = *self.newest_event.borrow();
        if number > newest {
            return Err(EventsError::NotYet { newest, asked: number });
        }
        let from_memory = self.events_in_memory(number);
        let Some(journal) = &self.journal else { return from_memory };
        if number != 0 && from_memory.is_ok() {
            return from_memory;
        }
        let (journal, name) = (journal.clone(), self.name.clone());
        let read = move || journal.events_after(&name, number, JOURNAL_EVENTS_AT_ONCE);
        let gone = |oldest_resumable| EventsError::Gone { oldest_resumable, asked: number };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(mut events)) => {
                // Not what is kept and not announced yet.
                events.retain(|e| e.event_sequence <= newest);
                Ok(events)
            }
            Ok(Err(oldest)) => Err(gone(oldest)),
            // The reader was cancelled: the daemon ends.
            Err(_) => Ok(Vec::new()),
        }
    }

    fn events_in_memory(&self, number: u64) -> Result<Vec<Event>, EventsError> {
        let events = locked(&self.events);
        let oldest_resumable = match events.front() {
            Some(first) => first.event_sequence - 1,
            None => *self.newest_event.borrow(),
        };
        // Zero asks for all that are held.
        if number != 0 && number < oldest_resumable {
            return Err(EventsError::Gone { oldest_resumable, asked: number });
        }
        let from = (number.max(oldest_resumable) - oldest_resumable) as usize;
        Ok(events.iter().skip(from).take(EVENTS_AT_ONCE).cloned().collect())
    }
}

/// That no session has this name.
#[must_use]
pub fn unknown(name: &str, known: &[&str]) -> String {
    let found: String = name.chars().take(64).collect();
    format!("expected one of the sessions {}, found '{found}'", known.join(", "))
}

/// One that waits for a session's events.
pub struct NewestEvent {
    newest: watch::Receiver<u64>,
    turn: Turn,
}

impl NewestEvent {
    /// Its number; from here on only what is newer counts as a change.
    pub fn seen(&mut self) -> u64 {
        *self.newest.borrow_and_update()
    }

    /// Resolves when there are newer events than were seen, or the session has ended; where a crowd waits for them, a
    /// little later for each, so that not all are served at once. False when the session is gone.
    pub async fn changed(&mut self, of: &SessionBus) -> bool {
        let changed = self.newest.changed().await.is_ok();
        let place = self.turn.place(of.newest_event.receiver_count());
        if !place.is_zero() {
            tokio::time::sleep(place).await;
        }
        changed
    }
}

/// All sessions that run: whoever looks for one by its name finds it here, and nowhere else.
pub struct Bus {
    /// In the order in which they began.
    sessions: RwLock<Vec<Arc<SessionBus>>>,
    /// Counts sessions that began.
    begun: watch::Sender<u64>,
    /// Turns true when streams are to end.
    closing: watch::Receiver<bool>,
    /// What is wrong now.
    pub conditions: Conditions,
}

impl Bus {
    /// Without sessions; streams end when `closing` turns true.
    #[must_use]
    pub fn new(closing: watch::Receiver<bool>, conditions: Conditions) -> Self {
        Self { sessions: RwLock::default(), begun: watch::Sender::new(0), closing, conditions }
    }

    /// The sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<SessionBus>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A session begins.
    pub fn insert(&self, session: Arc<SessionBus>) {
        self.conditions.watch(session.name());
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
    ///
    /// # Errors
    /// Which sessions there are, for people.
    pub fn find(&self, name: &str) -> Result<Arc<SessionBus>, String> {
        self.session(name).ok_or_else(|| {
            let sessions = self.sessions();
            let known: Vec<&str> = sessions.iter().map(|s| s.name()).collect();
            unknown(name, &known)
        })
    }

    /// A session by name.
    #[must_use]
    pub fn session(&self, name: &str) -> Option<Arc<SessionBus>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().find(|s| s.name() == name).cloned()
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
            map: Arc::default(),
        };
        Arc::new(SessionBus::new(facts, 3, None))
    }

    #[tokio::test]
    async fn events_resume_without_a_gap_or_say_so() {
        let bus = bus();
        assert_eq!(bus.events_after(0).await, Ok(Vec::new()));
        for event_sequence in 1..=5 {
            let event = Event { event_sequence, ..Event::default() };
            bus.announce(&Arc::new(Update::Event(event)));
        }
        let numbers = async |after| {
            let events = bus.events_after(after).await;
            events.map(|e| e.iter().map(|e| e.event_sequence).collect::<Vec<_>>())
        };
        assert_eq!(numbers(0).await, Ok(vec![3, 4, 5]));
        assert_eq!(numbers(2).await, Ok(vec![3, 4, 5]));
        assert_eq!(numbers(4).await, Ok(vec![5]));
        assert_eq!(numbers(5).await, Ok(vec![]));
        assert_eq!(numbers(1).await, Err(EventsError::Gone { oldest_resumable: 2, asked: 1 }));
        assert_eq!(numbers(6).await, Err(EventsError::NotYet { newest: 5, asked: 6 }));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn subscribers_that_come_and_go_hear_each_event_once_and_in_order() {
        const EVENTS: u64 = 3000;
        let folder = tempfile::tempdir().expect("a folder");
        let settings = crate::journal::Settings {
            name: "journal",
            folder: folder.path().to_owned(),
            // The order of things is what counts here, not the disk.
            sync: crate::journal::Sync::Interval(std::time::Duration::from_secs(60)),
            when_disk_fails: crate::journal::WhenDiskFails::Hold,
            bytes_max: 64 << 20,
            age_max_s: 1e6,
        };
        let (journal, _) = Journal::open(settings).expect("a journal");
        let journal = Arc::new(journal);
        let facts = (*bus().facts()).clone();
        // So few in memory that who is behind must read the journal.
        let bus = Arc::new(SessionBus::new(facts, 16, Some(journal.clone())));
        let hearing: Vec<_> = (0..8u64)
            .map(|i| {
                let bus = bus.clone();
                tokio::spawn(async move {
                    let (mut after, mut heard, mut newest) = (0, Vec::new(), bus.newest_event());
                    while after < EVENTS {
                        newest.seen();
                        let events = bus.events_after(after).await.expect("held");
                        let none = events.is_empty();
                        // Some are cut off in the middle of what they were sent.
                        let taken = if i % 2 == 0 { events.len().min(5) } else { events.len() };
                        for event in events.into_iter().take(taken) {
                            after = event.event_sequence;
                            heard.push(after);
                        }
                        if none {
                            assert!(newest.changed(&bus).await);
                        } else if after % (i + 3) == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                    heard
                })
            })
            .collect();
        for _ in 0..EVENTS {
            let mut event = Event { session: "rig".into(), ..Event::default() };
            let ticket = journal.add_event(&mut event).expect("taken");
            assert!(journal.announceable(ticket).await);
            bus.announce(&Arc::new(Update::Event(event)));
        }
        for heard in hearing {
            let heard = heard.await.expect("heard");
            assert_eq!(heard, (1..=EVENTS).collect::<Vec<_>>());
        }
    }
}
