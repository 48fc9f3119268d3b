//! A session: the thread that owns its numbers, and the task that tells the world.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::announcer::Announcer;
use super::attach;
use super::calibrator::Calibrator;
use super::handoff::Handoff;
use super::metrics_worker::{MetricsWorker, Probe};
use super::models::Plan;
use super::outcomes::{self, Sending};
use super::resume::{self, Keeping};
use super::state_place::StatePlace;
use super::teller::{Renaming, Teller, Telling};
use crate::config::{Config, SessionConfig};
use crate::journal::Journal;
use crate::publish::counts::{CountsReader, CountsTap, tap};
use crate::publish::recorder;
use crate::publish::zeromq::{Publisher, Topics};
use crate::publish::{CalibrationState, Outcome, SessionBus};
use crate::regime::Engine;
use crate::source::replay::Seek;
use crate::source::{Answer, Assembly, Entry, Header, Kind, MASKED, Outlet, Port, PortSettings};

/// Outcomes that wait for the publishing task at most; the thread waits for it beyond that.
const OUTCOMES_WAITING: usize = 4096;

/// A session that runs.
pub(super) struct Running {
    pub(super) port: Arc<Port>,
    pub(super) bus: Arc<SessionBus>,
    served: Mutex<Served>,
    pub(super) handoff: Arc<Handoff>,
    /// Its counts, for whoever warms up another engine or calibrates.
    pub(super) aside: Arc<Mutex<CountsReader>>,
    /// Another model's words, until the publishing task has taken them.
    pub(super) renaming: Renaming,
    /// One model is swapped at a time.
    pub(super) swapping: Alone,
    /// Where it replays a recording.
    pub(super) seek: Option<Arc<Seek>>,
    /// Until it is ended.
    tasks: Mutex<Option<Tasks>>,
}

/// What a session runs on now.
#[derive(Clone)]
pub(super) struct Served {
    /// How it was configured; its model and readout as they are now.
    pub(super) config: SessionConfig,
    pub(super) plan: Plan,
    /// Models that it had before this one.
    pub(super) swaps: u32,
}

/// A session's tasks.
pub(super) struct Tasks {
    /// Bring counts in, and close bins in time; ended by force.
    pub(super) sources: Vec<JoinHandle<()>>,
    /// Carry results out; they end by themselves after the session has.
    pub(super) outs: Vec<JoinHandle<()>>,
    /// Ends when the session is closed and everything it had is published.
    pub(super) publishing: JoinHandle<()>,
}

impl Running {
    /// What it runs on now.
    pub(super) fn served(&self) -> Served {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It runs on something else now.
    pub(super) fn serve(&self, served: Served) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    /// Its tasks, for whoever ends it; once.
    pub(super) fn take_tasks(&self) -> Option<Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Lets one in at a time, and refuses the others.
#[derive(Default)]
pub(super) struct Alone(AtomicBool);

impl Alone {
    /// `None` while somebody else is in.
    pub(super) fn begin(&self) -> Option<Within<'_>> {
        (!self.0.swap(true, Ordering::AcqRel)).then_some(Within(self))
    }
}

/// In, until it is dropped.
pub(super) struct Within<'a>(&'a Alone);

impl Drop for Within<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// Closes the port of a session that does not come to run, so that whatever was begun for it ends.
struct Begun(Option<Arc<Port>>);

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(port) = &self.0 {
            port.close();
        }
    }
}

/// What all sessions share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) publisher: Option<Arc<Publisher>>,
    pub(super) worker: MetricsWorker,
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) keeping: Option<Keeping>,
    /// Where decisions are recorded, and every how many of them.
    pub(super) decisions: Option<(Arc<Journal>, u64)>,
}

/// Starts a session's thread and its tasks. Files are read: not for a thread that does I/O for others.
///
/// # Errors
/// A recording that does not fit, a machine without a thread to spare: nothing is left of the session then.
pub(super) fn start(
    plan: Plan,
    session: SessionConfig,
    config: &Config,
    shared: &Shared,
) -> Result<Running> {
    let Shared { publisher, worker, journal, mut keeping, decisions } = shared.clone();
    let session = attach::named(session, &plan)?;
    if attach::learns_order(&session) {
        // Another run's channels may be in another order: nothing of its readout is of use, nor of its state.
        keeping = None;
    }
    let model = plan.model.clone();
    let readout = plan.readout.clone();
    let mut engine = Engine::new(&model, &readout, plan.rule, plan.adaptation)
        .with_context(|| format!("session '{}'", plan.session))?;
    if !readout.trusted && plan.calibration.is_none() {
        tracing::warn!(
            session = plan.session,
            "calibrated without labels: its label stays 'unknown' (calibrate with labels, or with --from)"
        );
    }
    let outlet = Port::open(PortSettings {
        session: plan.session.clone(),
        n_channels: readout.n_channels(),
        bin_width_s: model.bin_width_s,
        queue_bins: config.queue_bins,
        gap_bins_max: config.gap_bins_max,
    });
    let mut begun = Begun(Some(outlet.port.clone()));
    let ready = attach::prepare(&session, outlet.port.settings(), readout.channels.as_deref())?;
    let bus = Arc::new(SessionBus::new(plan.facts(), config.events_kept, journal.clone()));
    let mut fingerprint = resume::fingerprint(&plan, &readout);
    let mut resumed = None;
    let mut calibrates = plan.calibration.clone();
    if let (Some(keeping), Some(journal)) = (&keeping, &journal) {
        let mut own = resume::calibrated(&plan, &keeping.folder);
        if let Some((own_engine, own_print, trusted)) = &mut own {
            resumed = resume::take_up(own_engine, &plan, own_print, keeping, journal);
            if resumed.is_some() {
                std::mem::swap(&mut engine, own_engine);
                std::mem::swap(&mut fingerprint, own_print);
                calibrates = None;
                bus.set_calibration(|c| c.state = CalibrationState::of_result(*trusted));
            }
        }
        if resumed.is_none() {
            resumed = resume::take_up(&mut engine, &plan, &fingerprint, keeping, journal);
        }
    }
    let place = keeping.as_ref().map(|keeping| {
        let every = (keeping.every_s / model.bin_width_s).round() as u64;
        Arc::new(StatePlace::new(&mut engine, every))
    });
    let started = plan.started(resumed.is_some());
    let handoff = Arc::new(Handoff::default());
    let (page_tap, page_counts) = tap(readout.n_channels());
    bus.set_counts(page_counts);
    let (aside_tap, aside) = tap(readout.n_channels());
    let aside = Arc::new(Mutex::new(aside));
    let (sending, fetching) = outcomes::ring(OUTCOMES_WAITING);
    let renaming = Renaming::default();
    let port = outlet.port.clone();
    let n_channels = readout.n_channels();
    let (probe, counts_tap) = Probe::new(plan.model.clone(), n_channels);
    let owner = Owner {
        engine,
        taps: [counts_tap, aside_tap, page_tap],
        handoff: handoff.clone(),
        resets_before: 0,
        swaps: 0,
        outlet,
        sending,
        raw: vec![0; n_channels],
        counts: vec![0.0; n_channels],
        active: vec![true; n_channels],
        bin: 0,
        place: place.clone(),
        fingerprint,
        since_state: 0,
        bus: bus.clone(),
        count_max: 0.0,
        resumed_after: resumed.map(|r| r.sequence),
        gap_bins_max: config.gap_bins_max as u64,
    };
    let thread = std::thread::Builder::new()
        .name(format!("session-{}", plan.session))
        .spawn(move || owner.run())
        .context("cannot start a session's thread")?;
    port.set_thread(thread.thread().clone());
    if let Some(how) = &calibrates {
        // Here, not on its thread: nobody may find the session as one that does not calibrate itself.
        bus.set_calibration(|c| {
            c.state = CalibrationState::Gathering;
            c.seconds_needed = how.seconds;
        });
        let calibrator = Calibrator {
            plan: plan.clone(),
            how: how.clone(),
            aside: aside.clone(),
            handoff: handoff.clone(),
            port: port.clone(),
            bus: bus.clone(),
            journal: journal.clone(),
            keep: keeping.as_ref().map(|k| k.folder.clone()),
        };
        calibrator.start()?;
    }
    // Nothing fails from here on.
    begun.0 = None;
    if let Some(journal) = &journal {
        journal.add(&plan.session, started);
    }
    let (events, announced) = mpsc::unbounded_channel();
    let announcer = Announcer {
        bus: bus.clone(),
        topics: Topics::new(&plan.session),
        publisher: publisher.clone(),
        journal: journal.clone(),
    };
    let announcing = tokio::spawn(announcer.run(announced));
    let telling = Telling {
        bus: bus.clone(),
        publisher,
        journal,
        events,
        renaming: renaming.clone(),
        fetching,
        requests: worker,
        probe,
        metrics_hz: config.metrics_hz,
    };
    let teller = Teller::new(&plan, telling);
    let ending = bus.clone();
    let assembly = Arc::new(Assembly::new(port.clone(), session.events));
    let mut entry = Entry { port: port.clone(), assembly: assembly.clone(), source: None };
    let attached = attach::attach(&session, &entry, &bus, ready);
    entry.source = attached.status;
    bus.set_entry(entry);
    let (mut sources, mut outs) = (attached.sources, attached.outs);
    if let (Some(place), Some(keeping)) = (place, keeping) {
        outs.push(tokio::spawn(resume::keep(place, bus.clone(), keeping.folder)));
    }
    if let Some((log, every)) = decisions {
        outs.push(tokio::spawn(recorder::run(bus.clone(), log, every)));
    }
    sources.push(tokio::spawn(async move { assembly.keep_closing().await }));
    let publishing = tokio::spawn(async move {
        // What waits to be announced ends with its teller.
        teller.run().await;
        let _ = announcing.await;
        ending.end();
    });
    Ok(Running {
        port,
        bus,
        served: Mutex::new(Served { config: session, plan, swaps: 0 }),
        handoff,
        aside,
        renaming,
        swapping: Alone::default(),
        seek: attached.seek,
        tasks: Mutex::new(Some(Tasks { sources, outs, publishing })),
    })
}

/// Owns the numbers. After the first bins it neither allocates nor awaits.
struct Owner {
    engine: Engine,
    /// For the metrics worker; for whoever calibrates, or warms up another engine; for the live page. The latter two are
    /// full while nobody reads them.
    taps: [CountsTap; 3],
    handoff: Arc<Handoff>,
    /// Hypotheses that engines before this one lost.
    resets_before: u64,
    /// Models that the session had before this one.
    swaps: u32,
    outlet: Outlet,
    sending: Sending<Outcome>,
    raw: Vec<u16>,
    counts: Vec<f32>,
    active: Vec<bool>,
    bin: u64,
    /// Where its state is left for the next start.
    place: Option<Arc<StatePlace>>,
    /// What that state belongs to.
    fingerprint: String,
    /// Bins since it was left.
    since_state: u64,
    /// How well it does.
    bus: Arc<SessionBus>,
    /// Counts that the model can tell.
    count_max: f32,
    /// Number of the newest bin of the state that it goes on from, until a bin has come.
    resumed_after: Option<u64>,
    gap_bins_max: u64,
}

impl Owner {
    fn run(mut self) {
        self.count_max = self.engine.count_max();
        loop {
            match self.outlet.next(&mut self.raw) {
                Answer::Found(header) => self.handle(&header),
                Answer::Ended => break,
                Answer::Nothing => {
                    self.take_over();
                    self.outlet.sleep();
                }
            }
        }
    }

    fn handle(&mut self, header: &Header) {
        match header.kind {
            Kind::Start => {
                self.resumed_after = None;
                self.engine.restart();
                self.taps.iter_mut().for_each(CountsTap::skip);
            }
            Kind::Missing(n) => {
                let width = self.outlet.port.width_ns();
                for i in 0..u64::from(n) {
                    // The header's time is that of the bin behind the gap.
                    let before = width.saturating_mul((u64::from(n) - i) as i64);
                    let rig_time_ns = match header.rig_time_ns {
                        0 => 0,
                        t => t.saturating_sub(before),
                    };
                    let missing = Header { rig_time_ns, sequence: header.sequence + i, ..*header };
                    self.bin(&missing, false);
                }
            }
            Kind::Bin => {
                self.unmask();
                self.pass_downtime(header.sequence);
                self.bin(header, true);
            }
        }
    }

    /// Counts to `f32`, masked channels switched off.
    fn unmask(&mut self) {
        let (mut changed, mut beyond) = (false, false);
        for ((count, active), &raw) in self.counts.iter_mut().zip(&mut self.active).zip(&self.raw) {
            let on = raw != MASKED;
            changed |= on != *active;
            *active = on;
            *count = if on { f32::from(raw) } else { 0.0 };
            beyond |= *count > self.count_max;
        }
        if beyond {
            self.bus.vitals.bins_beyond.fetch_add(1, Ordering::Relaxed);
        }
        if changed {
            self.engine.set_active(self.active.iter().copied());
        }
    }

    /// Predicts through the bins that came while the daemon was away, where the rig's numbers tell how many.
    fn pass_downtime(&mut self, sequence: u64) {
        let Some(last) = self.resumed_after.take() else { return };
        let missed = sequence.saturating_sub(last).saturating_sub(1);
        if missed <= self.gap_bins_max {
            (0..missed).for_each(|_| self.engine.pass());
        }
    }

    /// Another engine, where one waits.
    fn take_over(&mut self) {
        let resets = self.engine.filter_resets();
        let taken = self.handoff.take(&mut self.engine, &mut self.swaps, &mut self.fingerprint);
        if taken {
            self.resets_before += resets;
            self.count_max = self.engine.count_max();
            self.engine.set_active(self.active.iter().copied());
        }
    }

    fn bin(&mut self, header: &Header, seen: bool) {
        let began = Instant::now();
        self.take_over();
        let change = self.engine.push(seen.then_some(self.counts.as_slice()));
        let done = Instant::now();
        let nanoseconds = |from: Instant| {
            u64::try_from(done.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
        };
        let outcome = Outcome {
            sequence: header.sequence,
            bin: self.bin,
            rig_time_ns: header.rig_time_ns,
            received_wall_ns: header.received.wall_ns,
            latency_ns: nanoseconds(header.received.instant),
            compute_ns: nanoseconds(began),
            label: self.engine.label(),
            untrusted: !self.engine.trusted(),
            change,
            predicted: !seen,
            waiting: u32::try_from(self.outlet.waiting()).unwrap_or(u32::MAX),
            filter_resets: self.resets_before + self.engine.filter_resets(),
            swaps: self.swaps,
            ..Outcome::of(self.engine.estimate())
        };
        self.bin += 1;
        self.sending.send(outcome);
        if let Some(place) = &self.place {
            let (engine, since) = (&mut self.engine, &mut self.since_state);
            place.leave(engine, header.sequence, since, change.is_some(), &self.fingerprint);
        }
        // Once the decision is out.
        for tap in &mut self.taps {
            if seen {
                tap.push(&self.raw);
            } else {
                tap.skip();
            }
        }
    }
}
