//! What is held of a session: one handle, which everything else borrows.
//!
//! The session's thread owns its numbers and is reached through rings and the [`Handoff`] alone.
//! Everybody else, from the sources that bring counts to the viewers of the live page, holds the
//! same [`SessionHandle`]. What must happen in an order happens inside one of its methods:
//! [`SessionHandle::stop`] and [`Swap::finish`].

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::annotations::{AnnotationError, Annotations};
use super::calibration::{Calibration, CalibrationState};
use super::counts::CountsReader;
use super::events::EventLog;
use super::handoff::{Handoff, Successor};
use super::plan::{Plan, SessionFacts};
use super::subscription::{Feeds, Subscription, Turn, Update};
use super::triggers::{TriggerState, Triggers};
use crate::clock::wall_ns;
use crate::intake::{Assembly, Port, Status};
use crate::journal::Journal;
use crate::regime::Engine;
use crate::sync::locked;
use crate::telemetry;
use crate::wire::journal_record::What;
use crate::wire::{Annotation, Metrics};

/// A session's thread takes another engine over within this, or is stuck.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(2);
/// Interval of checks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Tasks that write results elsewhere get this long for the last of them.
const OUTS_PATIENCE: Duration = Duration::from_secs(2);

/// Counters of the session's thread and publishing task.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Hypotheses that became non-finite and were restarted so far.
    pub filter_resets: AtomicU64,
    /// Consecutive bins, up to the newest, with dynamics unknown to the model.
    pub strange_bins: AtomicU64,
    /// Bins with counts beyond the model's range.
    pub bins_beyond: AtomicU64,
}

/// Requests to a replayed recording to continue at another position.
#[derive(Default)]
pub struct Seek {
    /// The newest request; an older one that was not read yet is replaced.
    to: Mutex<Option<f64>>,
    /// Wakes a replay that waits at its end.
    changed: tokio::sync::Notify,
}

impl Seek {
    /// Continues at `position_s` seconds after the recording's start.
    pub fn seek(&self, position_s: f64) {
        *locked(&self.to) = Some(position_s);
        self.changed.notify_one();
    }

    /// Where to, once it was asked for.
    pub fn take(&self) -> Option<f64> {
        locked(&self.to).take()
    }

    /// Resolves at the next request.
    pub async fn asked(&self) {
        self.changed.notified().await;
    }
}

/// A session's tasks.
pub(crate) struct Tasks {
    /// Bring counts in, and close bins in time; ended by force.
    pub sources: Vec<JoinHandle<()>>,
    /// Carry results out; they end by themselves after the session has.
    pub outs: Vec<JoinHandle<()>>,
    /// Ends when the port is closed and everything the session had is published.
    pub publishing: JoinHandle<()>,
}

/// What a session is made of.
pub struct Parts {
    /// What it runs on.
    pub plan: Arc<Plan>,
    /// Entrance of whole bins.
    pub port: Arc<Port>,
    /// Entrance of spike events and of parts of bins.
    pub assembly: Arc<Assembly>,
    /// The rig that the daemon connects to, where it does.
    pub source: Option<Arc<Status>>,
    /// Where it replays a recording.
    pub seek: Option<Arc<Seek>>,
    /// Its counts for the live page.
    pub page_counts: CountsReader,
    /// Counts for a calibration, or for warming up another engine.
    pub fit_counts: CountsReader,
    /// Events kept in memory.
    pub events_kept: usize,
    /// Where events are kept beyond those.
    pub journal: Option<Arc<Journal>>,
}

/// What a session runs on now.
struct Served {
    plan: Arc<Plan>,
    /// Models that it had before this one.
    swaps: u32,
}

/// One session: everything that the program holds of it, shared by all who use it.
pub struct SessionHandle {
    name: String,
    /// Replaced when another model takes over; readers keep the one that they have.
    facts: RwLock<Arc<SessionFacts>>,
    /// Entrance of whole bins.
    pub port: Arc<Port>,
    /// Entrance of spike events and of parts of bins.
    pub assembly: Arc<Assembly>,
    /// The rig that the daemon connects to, where it does.
    pub source: Option<Arc<Status>>,
    /// Where it replays a recording.
    pub seek: Option<Arc<Seek>>,
    feeds: Arc<Feeds>,
    /// Its regime changes.
    pub events: EventLog,
    /// What is done about them.
    pub(crate) triggers: Triggers,
    /// Where notes are kept beyond those in memory.
    journal: Option<Arc<Journal>>,
    /// What people noted.
    pub(crate) annotations: Annotations,
    /// How well it does.
    pub vitals: Vitals,
    /// The rig's clock at the newest published bin, ns.
    rig_time_ns: AtomicI64,
    /// Published bins. A counter of its own, because the metrics' counters cannot be read.
    bins: AtomicU64,
    /// Set once, after the last outcome was published; then woken subscribers find it.
    ended: AtomicBool,
    /// Written ten times a second by the metrics worker, cloned by the page and by `ListSessions`.
    metrics: Mutex<Option<Metrics>>,
    /// Newest covariance of the embedding's posterior, the lower triangle row by row.
    covariance: Mutex<Vec<f32>>,
    /// Its counts for the live page. Locked by the one task that makes the page's frames.
    page_counts: Mutex<CountsReader>,
    /// Counts for a calibration or for warming up another engine. The lock is held while one of
    /// them reads: there is one reader at a time.
    fit_counts: Mutex<CountsReader>,
    /// Changed by the calibrator's thread, cloned by everybody else.
    calibration: Mutex<Calibration>,
    /// What the session runs on. Replaced once the thread has taken another model's engine, not
    /// when that model is offered: a swap that fails leaves no trace. Decisions are worded by the
    /// publishing task, which changes at the first outcome of the new engine (`renaming`).
    served: Mutex<Served>,
    /// Where another engine waits for the thread. Not under `served`: the thread must never wait.
    pub(crate) handoff: Handoff,
    /// Another model's plan, until the publishing task words the first outcome of its engine.
    renaming: Mutex<Option<(u32, Arc<Plan>)>>,
    /// One model is swapped at a time.
    swapping: AtomicBool,
    /// Until it is stopped.
    tasks: Mutex<Option<Tasks>>,
}

impl SessionHandle {
    /// A session that has just been made: nobody is subscribed, no bin is done.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let facts = parts.plan.facts();
        let session = Self {
            name: facts.name.clone(),
            feeds: Arc::new(Feeds::new(&facts.name)),
            journal: parts.journal.clone(),
            events: EventLog::new(&facts.name, parts.events_kept, parts.journal),
            facts: RwLock::new(Arc::new(facts)),
            port: parts.port,
            assembly: parts.assembly,
            source: parts.source,
            seek: parts.seek,
            triggers: Triggers::default(),
            annotations: Annotations::default(),
            vitals: Vitals::default(),
            rig_time_ns: AtomicI64::new(0),
            bins: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            metrics: Mutex::default(),
            covariance: Mutex::default(),
            page_counts: Mutex::new(parts.page_counts),
            fit_counts: Mutex::new(parts.fit_counts),
            calibration: Mutex::default(),
            served: Mutex::new(Served { plan: parts.plan, swaps: 0 }),
            handoff: Handoff::default(),
            renaming: Mutex::default(),
            swapping: AtomicBool::new(false),
            tasks: Mutex::default(),
        };
        session.measure_calibration(CalibrationState::Given);
        session
    }

    /// The same, with triggers in the order of the configuration.
    #[must_use]
    pub(crate) fn with_triggers(mut self, each: Vec<TriggerState>) -> Self {
        self.triggers = Triggers::new(each);
        self
    }

    /// The session's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the session is.
    #[must_use]
    pub(crate) fn facts(&self) -> Arc<SessionFacts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_facts(&self, plan: &Plan) {
        let facts = Arc::new(plan.facts());
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// What it runs on now.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        locked(&self.served).plan.clone()
    }

    /// Bins done.
    #[must_use]
    pub fn bins(&self) -> u64 {
        self.bins.load(Ordering::Relaxed)
    }

    /// True once everything is published and nothing more comes.
    #[must_use]
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// The newest metrics.
    #[must_use]
    pub fn metrics(&self) -> Option<Metrics> {
        locked(&self.metrics).clone()
    }

    pub(crate) fn set_metrics(&self, metrics: Metrics) {
        *locked(&self.metrics) = Some(metrics);
    }

    /// The newest estimate's covariance of the embedding, the lower triangle row by row.
    #[must_use]
    pub fn covariance(&self) -> Vec<f32> {
        locked(&self.covariance).clone()
    }

    pub(crate) fn set_covariance(&self, covariance: &[f32]) {
        let mut kept = locked(&self.covariance);
        kept.clear();
        kept.extend_from_slice(covariance);
    }

    /// The counts since this was asked last, as [`CountsReader::each`]; for the live page.
    pub(crate) fn each_page_count(&self, take: impl FnMut(bool, &[u16])) {
        locked(&self.page_counts).each(take);
    }

    /// Counts for a calibration or for warming up another engine; the guard is held while reading.
    pub fn fit_counts(&self) -> MutexGuard<'_, CountsReader> {
        locked(&self.fit_counts)
    }

    /// State of the session's self-calibration.
    #[must_use]
    pub fn calibration(&self) -> Calibration {
        locked(&self.calibration).clone()
    }

    /// What has become of it.
    pub(crate) fn set_calibration(&self, change: impl FnOnce(&mut Calibration)) {
        let mut calibration = locked(&self.calibration);
        change(&mut calibration);
        self.measure_calibration(calibration.state);
    }

    fn measure_calibration(&self, state: CalibrationState) {
        let states = CalibrationState::ALL.map(CalibrationState::name);
        telemetry::calibration(&self.name, &states, state.name());
    }

    /// Gives everybody a decision.
    pub fn publish(&self, update: &Arc<Update>) {
        if let Some(decision) = update.decision() {
            self.rig_time_ns.store(decision.rig_time_ns, Ordering::Relaxed);
        }
        self.bins.fetch_add(1, Ordering::Relaxed);
        self.feeds.publish(update);
    }

    /// Announces an event. The caller calls this in the order of the events' numbers.
    pub fn announce(&self, update: &Arc<Update>) {
        let Update::Event(event) = &**update else { return };
        self.events.announce(event);
        self.feeds.publish(update);
    }

    /// Events, and every `every`-th decision and those that name an event, from now on.
    #[must_use]
    pub fn subscribe(&self, every: u64) -> Subscription {
        self.feeds.subscribe(every)
    }

    pub(super) fn turn(&self) -> Turn {
        self.feeds.turn()
    }

    /// Notes something at the bin of `age_s` seconds ago (0: the newest): in memory, and in the
    /// journal where there is one.
    ///
    /// # Errors
    /// A text that is empty or too long.
    pub(crate) fn annotate(
        &self,
        text: &str,
        source: &str,
        age_s: f64,
    ) -> Result<Annotation, AnnotationError> {
        Annotations::check(text, source)?;
        let bins_ago = (age_s / self.facts().bin_width_s).round() as u64;
        let annotation = Annotation {
            session: self.name.clone(),
            text: text.to_owned(),
            source: source.to_owned(),
            bin: self.bins().saturating_sub(1 + bins_ago),
            rig_time_ns: match self.rig_time_ns.load(Ordering::Relaxed) {
                // Not known.
                0 => 0,
                newest => newest - (age_s * 1e9) as i64,
            },
            time_ns: wall_ns() - (age_s * 1e9) as i64,
        };
        self.annotations.add(annotation.clone());
        if let Some(journal) = &self.journal {
            journal.add(&self.name, What::Annotation(annotation.clone()));
        }
        Ok(annotation)
    }

    /// For the session's thread, once it has taken the engine of model number `swaps` and before
    /// its first outcome is out: what that model is.
    pub(crate) fn named(&self, swaps: u32, take: impl FnOnce(&Plan)) {
        if let Some((number, plan)) = &*locked(&self.renaming)
            && *number == swaps
        {
            take(plan);
        }
    }

    /// While paused, bins and events are refused and counted.
    pub fn pause(&self, paused: bool) {
        self.port.pause(paused);
        telemetry::session_state(&self.name, if paused { "paused" } else { "running" });
        tracing::info!(session = self.name, paused, "session");
    }

    /// Gives the thread an engine that reads by another readout, of the same model.
    pub(crate) fn replace_engine(&self, engine: Engine, fingerprint: String) {
        self.handoff.offer(Successor { engine, fingerprint, swap: None });
        self.port.wake();
    }

    /// Starts to give the session another model; `None` while another swap is in progress.
    #[must_use]
    pub(crate) fn begin_swap(self: &Arc<Self>) -> Option<Swap> {
        let alone = !self.swapping.swap(true, Ordering::AcqRel);
        alone.then(|| Swap { session: self.clone(), before: self.plan() })
    }

    /// For the publishing task, at the first outcome of model number `swaps`: hands its plan to
    /// `take_up`, and only then forgets the former model's metrics, so that everything that still
    /// records them is done.
    pub fn rename(&self, swaps: u32, take_up: impl FnOnce(&Plan)) {
        let waiting = locked(&self.renaming).take_if(|(number, _)| *number == swaps);
        let Some((_, plan)) = waiting else { return };
        take_up(&plan);
        *locked(&self.metrics) = None;
        self.set_facts(&plan);
    }

    /// The tasks that [`Self::stop`] ends.
    pub(crate) fn set_tasks(&self, tasks: Tasks) {
        *locked(&self.tasks) = Some(tasks);
    }

    /// Nothing more comes: subscribers get what waits, and then the end.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.feeds.end();
        self.events.wake();
    }

    /// Stops the session: closes its entrance, lets the thread and the publishing task finish what
    /// waits, then gives the tasks that write elsewhere time for the last results. True where
    /// `drain` was too short.
    pub async fn stop(&self, drain: Duration) -> bool {
        // Taken, so that a second stop finds nothing to do.
        let Some(mut tasks) = locked(&self.tasks).take() else { return false };
        // Sources first: nothing new is to come in behind the close.
        for task in &tasks.sources {
            task.abort();
        }
        self.port.close();
        // A port that one of them listens at is free when it has ended.
        let patience = tokio::time::Instant::now() + OUTS_PATIENCE.min(drain);
        for task in &mut tasks.sources {
            let _ = tokio::time::timeout_at(patience, task).await;
        }
        // The thread ends when its ring is empty, and the publishing task after it.
        let late = tokio::time::timeout(drain, &mut tasks.publishing).await.is_err();
        self.end();
        let patience = tokio::time::Instant::now() + OUTS_PATIENCE.min(drain);
        for out in &mut tasks.outs {
            if tokio::time::timeout_at(patience, &mut *out).await.is_err() {
                out.abort();
            }
        }
        late
    }
}

/// Another model on its way into a session. Dropped without [`Self::finish`], the session keeps its
/// model.
pub(crate) struct Swap {
    session: Arc<SessionHandle>,
    /// What the session runs on.
    pub before: Arc<Plan>,
}

/// Why a session did not take another model over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{session}' did not take the model over: {why}")]
pub(crate) struct SwapError {
    session: String,
    why: &'static str,
}

impl Swap {
    /// Gives the session the warm engine of `next`, and waits until it has taken it.
    ///
    /// The publishing task must know the new names before the thread can have the new engine, whose
    /// first outcome is worded by them. They are withdrawn only after the engine was, because the
    /// thread may be taking it in between.
    ///
    /// # Errors
    /// When the session ends, or its thread does not respond: the session keeps its engine.
    pub(crate) async fn finish(self, next: Arc<Plan>, engine: Engine) -> Result<(), SwapError> {
        let session = &self.session;
        let swaps = locked(&session.served).swaps + 1;
        let names = &next.model.regime_names;
        let known = |name: &String| names.iter().position(|n| n == name);
        let regimes = self.before.model.regime_names.iter().map(known).collect();
        let fingerprint = next.fingerprint(&next.readout);
        // Names before the engine: see above.
        *locked(&session.renaming) = Some((swaps, next.clone()));
        session.handoff.offer(Successor { engine, fingerprint, swap: Some((swaps, regimes)) });
        // A session without bins takes the engine too.
        session.port.wake();
        let began = Instant::now();
        while session.handoff.is_waiting() {
            let ended = session.port.is_closed();
            if (ended || began.elapsed() > HANDOVER_PATIENCE) && session.handoff.withdraw() {
                *locked(&session.renaming) = None;
                let why = if ended { "it ends" } else { "its thread is stuck" };
                return Err(SwapError { session: session.name.clone(), why });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        session.set_facts(&next);
        // The former model's readings are not shown under the new one's name, also where no bin
        // comes. One that is on its way is forgotten with the first outcome of the new engine.
        *locked(&session.metrics) = None;
        *locked(&session.served) = Served { plan: next, swaps };
        Ok(())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        self.session.swapping.store(false, Ordering::Release);
    }
}
