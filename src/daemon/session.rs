//! A session: the thread that owns its numbers, and the task that tells the world.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::task::AtomicWaker;
use ringbuf::HeapRb;
use ringbuf::traits::{Consumer, Producer, Split};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::announcer::{Announcer, Numbered};
use super::attach;
use super::calibrator::Calibrator;
use super::counts::{CountsReader, CountsTap, tap};
use super::handoff::Handoff;
use super::metrics_worker::{MetricsWorker, Probe, Request};
use super::models::Plan;
use super::resume::{self, Keeping, StatePlace};
use crate::config::{Config, SessionConfig};
use crate::journal::Journal;
use crate::publish::recorder;
use crate::publish::zeromq::{Publisher, Topics};
use crate::publish::{CalibrationState, Outcome, SessionBus, Update, Wording};
use crate::regime::Engine;
use crate::source::replay::Seek;
use crate::source::{Assembly, Entry, Header, Kind, MASKED, Outlet, Port, PortSettings, Received};
use crate::telemetry::SessionMetrics;
use crate::wire::journal_record::What;
use crate::wire::{Event, Gap};

/// Outcomes that wait for the publishing task. Beyond that a decision is dropped and counted; one with
/// a change waits for its place.
const OUTCOMES_WAITING: usize = 4096;

/// Gaps are gathered so long for one record, ns.
const GAP_EVERY_NS: u64 = 1_000_000_000;

/// A session that runs.
pub(super) struct Running {
    pub(super) port: Arc<Port>,
    pub(super) bus: Arc<SessionBus>,
    pub(super) entry: Entry,
    /// How it was configured; its model and readout as they are now.
    pub(super) config: SessionConfig,
    pub(super) plan: Plan,
    pub(super) handoff: Arc<Handoff>,
    /// Its counts, for whoever warms up another engine or calibrates.
    pub(super) aside: Arc<Mutex<CountsReader>>,
    pub(super) link: Arc<Link>,
    /// Models that it had before this one.
    pub(super) swaps: u32,
    /// Where it replays a recording.
    pub(super) seek: Option<Arc<Seek>>,
    /// Bring counts in, and close bins in time; ended by force.
    pub(super) sources: Vec<JoinHandle<()>>,
    /// Carry results out; they end by themselves after the session has.
    pub(super) outs: Vec<JoinHandle<()>>,
    /// Ends when the session is closed and everything it had is published.
    pub(super) publishing: JoinHandle<()>,
}

/// Another model's words and gauges, for the publishing task to take up with its first outcome.
pub(super) struct Renaming {
    pub(super) swaps: u32,
    pub(super) plan: Plan,
}

type Sending = <HeapRb<Outcome> as Split>::Prod;
type Fetching = <HeapRb<Outcome> as Split>::Cons;

/// Shared by the thread and the task.
#[derive(Default)]
pub(super) struct Link {
    waker: AtomicWaker,
    finished: AtomicBool,
    lost: std::sync::atomic::AtomicU64,
    pub(super) renaming: Mutex<Option<Renaming>>,
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

/// Starts a session's thread and its publishing task.
pub(super) fn start(
    plan: Plan,
    session: SessionConfig,
    config: &Config,
    shared: &Shared,
) -> Result<Running> {
    let Shared { publisher, worker, journal, keeping, decisions } = shared.clone();
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
    if let Some(journal) = &journal {
        journal.add(&plan.session, plan.started(resumed.is_some()));
    }
    let handoff = Arc::new(Handoff::default());
    let (aside_tap, aside) = tap(readout.n_channels());
    let aside = Arc::new(Mutex::new(aside));
    if let Some(how) = &calibrates {
        bus.set_calibration(|c| c.seconds_needed = how.seconds);
        let calibrator = Calibrator {
            plan: plan.clone(),
            how: how.clone(),
            aside: aside.clone(),
            handoff: handoff.clone(),
            port: outlet.port.clone(),
            bus: bus.clone(),
            journal: journal.clone(),
            keep: keeping.as_ref().map(|k| k.folder.clone()),
        };
        calibrator.start()?;
    }
    let (sending, fetching) = HeapRb::new(OUTCOMES_WAITING).split();
    let link = Arc::new(Link::default());
    let port = outlet.port.clone();
    let n_channels = readout.n_channels();
    let (probe, counts_tap) = Probe::new(plan.model.clone(), n_channels);
    let owner = Owner {
        engine,
        counts_tap,
        aside_tap,
        handoff: handoff.clone(),
        resets_before: 0,
        swaps: 0,
        outlet,
        sending,
        link: link.clone(),
        raw: vec![0; n_channels],
        counts: vec![0.0; n_channels],
        active: vec![true; n_channels],
        bin: 0,
        place: place.clone(),
        fingerprint,
        since_state: 0,
        resumed_after: resumed.map(|r| r.sequence),
        gap_bins_max: config.gap_bins_max as u64,
    };
    let thread = std::thread::Builder::new()
        .name(format!("session-{}", plan.session))
        .spawn(move || owner.run())
        .context("cannot start a session's thread")?;
    port.set_thread(thread.thread().clone());
    let (events, announced) = mpsc::unbounded_channel();
    let announcer = Announcer {
        bus: bus.clone(),
        topics: Topics::new(&plan.session),
        publisher: publisher.clone(),
        journal: journal.clone(),
    };
    let announcing = tokio::spawn(announcer.run(announced));
    let mut teller = Teller {
        metrics: plan.session_metrics(),
        wording: Arc::new(plan.wording()),
        topics: Topics::new(&plan.session),
        bus: bus.clone(),
        publisher,
        journal,
        events,
        event: 0,
        missing: None,
        gap_told_ns: 0,
        link: link.clone(),
        fetching,
        requests: worker.clone(),
        probe,
        latents: Vec::new(),
        rank: model.dims.rank,
        metrics_every: (1.0 / config.metrics_hz / model.bin_width_s).round().max(1.0) as u64,
        resets_told: 0,
        swaps: 0,
    };
    let assembly = Arc::new(Assembly::new(port.clone(), session.events));
    let mut entry = Entry { port: port.clone(), assembly: assembly.clone(), source: None };
    let attached = attach::attach(&session, &entry, &bus)?;
    entry.source = attached.status;
    let (mut sources, mut outs) = (attached.sources, attached.outs);
    if let (Some(place), Some(keeping)) = (place, keeping) {
        outs.push(tokio::spawn(resume::keep(place, bus.clone(), keeping.folder)));
    }
    if let Some((log, every)) = decisions {
        outs.push(tokio::spawn(recorder::run(bus.clone(), log, every)));
    }
    sources.push(tokio::spawn(async move { assembly.keep_closing().await }));
    Ok(Running {
        port,
        entry,
        config: session,
        handoff,
        aside,
        link,
        swaps: 0,
        seek: attached.seek,
        sources,
        outs,
        publishing: tokio::spawn(async move {
            teller.run().await;
            let bus = teller.bus.clone();
            drop(teller);
            let _ = announcing.await;
            bus.end();
        }),
        bus,
        plan,
    })
}

/// Owns the numbers. After the first bins it neither allocates nor awaits.
struct Owner {
    engine: Engine,
    counts_tap: CountsTap,
    /// For whoever calibrates, or warms up another engine; full while nobody does.
    aside_tap: CountsTap,
    handoff: Arc<Handoff>,
    /// Hypotheses that engines before this one lost.
    resets_before: u64,
    /// Models that the session had before this one.
    swaps: u32,
    outlet: Outlet,
    sending: Sending,
    link: Arc<Link>,
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
    /// Number of the newest bin of the state that it goes on from, until a bin has come.
    resumed_after: Option<u64>,
    gap_bins_max: u64,
}

impl Owner {
    fn run(mut self) {
        loop {
            // Asked before the ring is found empty: what came before closing is done.
            let closed = self.outlet.port.is_closed();
            match self.outlet.pop(&mut self.raw) {
                Some(header) => self.handle(&header),
                None if closed => break,
                // `unpark` before this returns at once: no wake-up is lost.
                None => {
                    self.take_over();
                    std::thread::park();
                }
            }
        }
        self.link.finished.store(true, Ordering::SeqCst);
        self.link.waker.wake();
    }

    fn handle(&mut self, header: &Header) {
        match header.kind {
            Kind::Start => {
                self.resumed_after = None;
                self.engine.restart();
                self.counts_tap.skip();
                self.aside_tap.skip();
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
        let mut changed = false;
        for ((count, active), &raw) in self.counts.iter_mut().zip(&mut self.active).zip(&self.raw) {
            let on = raw != MASKED;
            changed |= on != *active;
            *active = on;
            *count = if on { f32::from(raw) } else { 0.0 };
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
        self.send(outcome);
        if let Some(place) = &self.place {
            let (engine, since) = (&mut self.engine, &mut self.since_state);
            place.leave(engine, header.sequence, since, change.is_some(), &self.fingerprint);
        }
        // Once the decision is out.
        for tap in [&mut self.counts_tap, &mut self.aside_tap] {
            if seen {
                tap.push(&self.raw);
            } else {
                tap.skip();
            }
        }
    }

    fn send(&mut self, mut outcome: Outcome) {
        while let Err(back) = self.sending.try_push(outcome) {
            self.link.waker.wake();
            if back.change.is_none() {
                self.link.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            // A change is never dropped: counts wait in their ring, and overflow there is counted.
            outcome = back;
            std::thread::yield_now();
        }
        self.link.waker.wake();
    }
}

/// Turns outcomes into messages.
struct Teller {
    metrics: SessionMetrics,
    wording: Arc<Wording>,
    topics: Topics,
    bus: Arc<SessionBus>,
    publisher: Option<Arc<Publisher>>,
    journal: Option<Arc<Journal>>,
    /// Events, to be announced in order.
    events: mpsc::UnboundedSender<Numbered>,
    /// Number of the newest event where there is no journal.
    event: u64,
    /// Bins that never came and are not in the journal yet.
    missing: Option<Gap>,
    gap_told_ns: i64,
    link: Arc<Link>,
    fetching: Fetching,
    requests: MetricsWorker,
    probe: Arc<Mutex<Probe>>,
    /// Filtered latents since the last reading was asked for, `[bins, rank]`.
    latents: Vec<f32>,
    rank: usize,
    metrics_every: u64,
    resets_told: u64,
    swaps: u32,
}

impl Teller {
    async fn run(&mut self) {
        while let Some(outcome) = self.next().await {
            self.tell(&outcome).await;
        }
        self.tell_gap();
    }

    async fn next(&mut self) -> Option<Outcome> {
        std::future::poll_fn(|context| {
            if let Some(outcome) = self.fetching.try_pop() {
                return Poll::Ready(Some(outcome));
            }
            self.link.waker.register(context.waker());
            // What came between looking and registering has woken nobody: look again, and read
            // `finished` before the last look.
            let finished = self.link.finished.load(Ordering::SeqCst);
            match self.fetching.try_pop() {
                Some(outcome) => Poll::Ready(Some(outcome)),
                None if finished => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The first outcome of another model has come.
    fn rename(&mut self, o: &Outcome) {
        let mut waiting = self.link.renaming.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(renaming) = waiting.take_if(|r| r.swaps == o.swaps) else { return };
        drop(waiting);
        let plan = renaming.plan;
        self.swaps = o.swaps;
        self.wording = Arc::new(plan.wording());
        self.rank = plan.model.dims.rank;
        self.latents.clear();
        let mut probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        probe.swap(plan.model.clone(), plan.readout.n_channels());
        drop(probe);
        self.bus.forget_metrics();
        self.bus.set_facts(plan.facts());
        self.metrics.withdraw();
        self.metrics = plan.session_metrics();
        if let Some(label) = o.label {
            self.metrics.in_force(self.wording.label_index(label));
        }
    }

    async fn tell(&mut self, o: &Outcome) {
        if o.swaps != self.swaps {
            self.rename(o);
        }
        self.latents.extend(&o.latent[..self.rank]);
        if o.bin.is_multiple_of(self.metrics_every) {
            self.requests.ask(Request {
                bus: self.bus.clone(),
                wording: self.wording.clone(),
                probe: self.probe.clone(),
                outcome: *o,
                latents: std::mem::take(&mut self.latents),
            });
        }
        let newest = self.bus.metrics();
        let event = o.change.as_ref().and_then(|c| self.numbered(self.wording.event(o, c)));
        let number = event.as_ref().map_or(0, |(event, _)| event.event_sequence);
        let now_ns = Received::now().wall_ns;
        let decision = self.wording.decision(o, newest.clone(), number, now_ns);
        let strange = decision.novelty > 1.0;
        let update = Arc::new(Update::Decision(decision));
        self.bus.publish(update.clone());
        if let Some(publisher) = &self.publisher {
            publisher.publish(&self.topics, &update).await;
        }
        if let Some(event) = event {
            // An error says that the runtime is ending.
            let _ = self.events.send(event);
        }
        let vitals = &self.bus.vitals;
        vitals.filter_resets.store(o.filter_resets, Ordering::Relaxed);
        let run = vitals.strange_bins.load(Ordering::Relaxed) + 1;
        vitals.strange_bins.store(if strange { run } else { 0 }, Ordering::Relaxed);
        self.note_gap(o);
        self.measure(o, newest.as_ref());
    }

    /// Numbers an event, and hands it to the journal where there is one; `None` where that takes no more.
    fn numbered(&mut self, mut event: Event) -> Option<Numbered> {
        let Some(journal) = &self.journal else {
            self.event += 1;
            event.event_sequence = self.event;
            return Some((event, None));
        };
        let ticket = journal.add_event(&mut event);
        if ticket.is_none() {
            self.bus.vitals.events_dropped.fetch_add(1, Ordering::Relaxed);
        }
        Some((event, Some(ticket?)))
    }

    /// Gathers missing bins for the journal: a rig that loses many makes one record a second.
    fn note_gap(&mut self, o: &Outcome) {
        if self.journal.is_none() {
            return;
        }
        if o.predicted {
            let gap =
                self.missing.get_or_insert(Gap { first_sequence: o.sequence, ..Gap::default() });
            gap.bins += 1;
            gap.last_sequence = o.sequence;
        } else if self.missing.is_some()
            && o.received_wall_ns.saturating_sub(self.gap_told_ns).unsigned_abs() >= GAP_EVERY_NS
        {
            self.gap_told_ns = o.received_wall_ns;
            self.tell_gap();
        }
    }

    fn tell_gap(&mut self) {
        if let (Some(journal), Some(gap)) = (&self.journal, self.missing.take()) {
            journal.add(self.bus.name(), What::Gap(gap));
        }
    }

    /// Prometheus, after everybody was told.
    fn measure(&mut self, o: &Outcome, newest: Option<&crate::wire::Metrics>) {
        let m = &self.metrics;
        m.latency.record(o.latency_ns as f64 * 1e-9);
        m.compute.record(o.compute_ns as f64 * 1e-9);
        m.queue.set(f64::from(o.waiting));
        m.processed.increment(u64::from(!o.predicted));
        m.novelty.set(f64::from(o.novelty));
        m.unlabelled.set(f64::from(o.unlabelled));
        m.log_likelihood.set(f64::from(o.log_likelihood));
        m.participation.set(f64::from(o.participation_ratio));
        m.silent.set(f64::from(o.silent_channels));
        m.artefacts.increment(u64::from(o.artefact));
        m.posterior(self.wording.posterior(o));
        m.resets.increment(o.filter_resets - self.resets_told);
        self.resets_told = o.filter_resets;
        m.lost.increment(self.link.lost.swap(0, Ordering::Relaxed));
        if let Some(change) = &o.change {
            m.change(self.wording.label_index(change.to));
        }
        if let Some(s) = newest {
            m.dynamics.set(s);
            m.radius.set(f64::from(s.spectral_radius));
            m.abscissa.set(f64::from(s.spectral_abscissa_per_s));
            for (ends, of) in [
                (&m.radius_ends, s.spectral_radius_interval),
                (&m.abscissa_ends, s.spectral_abscissa_per_s_interval),
            ] {
                let Some(of) = of else { continue };
                ends[0].set(f64::from(of.low));
                ends[1].set(f64::from(of.high));
            }
            m.frequency.set(f64::from(s.leading_frequency_hz));
            m.time_constant.set(f64::from(s.leading_time_constant_s));
        }
    }
}
