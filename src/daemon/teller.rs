//! A session's publishing task: outcomes become messages, in the order in which they come.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::announcer::Numbered;
use super::metrics_worker::{MetricsWorker, Probe, Request};
use super::models::Plan;
use super::outcomes::Fetching;
use crate::journal::Journal;
use crate::publish::zeromq::{Publisher, Topics};
use crate::publish::{Outcome, SessionBus, Update, Wording};
use crate::source::Received;
use crate::telemetry::SessionMetrics;
use crate::wire::journal_record::What;
use crate::wire::{Event, Gap};

/// Gaps are gathered so long for one record, ns.
const GAP_EVERY_NS: u64 = 1_000_000_000;

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

/// Another model's words and gauges, for the publishing task to take up with the first outcome of which so many models
/// went before.
pub(super) type Renaming = Arc<Mutex<Option<(u32, Plan)>>>;

/// Turns outcomes into messages.
pub(super) struct Teller {
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
    renaming: Renaming,
    fetching: Fetching<Outcome>,
    requests: MetricsWorker,
    probe: Arc<Mutex<Probe>>,
    /// Filtered latents since the last reading was asked for, `[bins, rank]`.
    latents: Vec<f32>,
    rank: usize,
    metrics_every: u64,
    resets_told: u64,
    swaps: u32,
}

/// What a teller works with.
pub(super) struct Telling {
    pub(super) bus: Arc<SessionBus>,
    pub(super) publisher: Option<Arc<Publisher>>,
    pub(super) journal: Option<Arc<Journal>>,
    /// Events, to be announced in order.
    pub(super) events: mpsc::UnboundedSender<Numbered>,
    pub(super) renaming: Renaming,
    pub(super) fetching: Fetching<Outcome>,
    pub(super) requests: MetricsWorker,
    pub(super) probe: Arc<Mutex<Probe>>,
    /// Rate of the metrics, Hz.
    pub(super) metrics_hz: f64,
}

impl Teller {
    pub(super) fn new(plan: &Plan, with: Telling) -> Self {
        let every = 1.0 / with.metrics_hz / plan.model.bin_width_s;
        Self {
            metrics: plan.session_metrics(),
            wording: Arc::new(plan.wording()),
            topics: Topics::new(&plan.session),
            bus: with.bus,
            publisher: with.publisher,
            journal: with.journal,
            events: with.events,
            event: 0,
            missing: None,
            gap_told_ns: 0,
            renaming: with.renaming,
            fetching: with.fetching,
            requests: with.requests,
            probe: with.probe,
            latents: Vec::new(),
            rank: plan.model.dims.rank,
            metrics_every: every.round().max(1.0) as u64,
            resets_told: 0,
            swaps: 0,
        }
    }

    /// Tells until the session has ended.
    pub(super) async fn run(mut self) {
        while let Some(outcome) = self.fetching.next().await {
            self.tell(&outcome).await;
        }
        self.tell_gap();
    }

    /// The first outcome of another model has come.
    fn rename(&mut self, o: &Outcome) {
        let mut waiting = self.renaming.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, plan)) = waiting.take_if(|(swaps, _)| *swaps == o.swaps) else { return };
        drop(waiting);
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
        self.bus.set_covariance(self.wording.state(o).embedding_covariance);
        self.bus.publish(&update);
        if let Some(publisher) = &self.publisher {
            publisher.publish(&self.topics, &update).await;
        }
        let told_ns = Received::now().wall_ns;
        if let Some(event) = event {
            // An error says that the runtime is ending.
            let _ = self.events.send(event);
        }
        let vitals = &self.bus.vitals;
        vitals.filter_resets.store(o.filter_resets, Ordering::Relaxed);
        let run = vitals.strange_bins.load(Ordering::Relaxed) + 1;
        vitals.strange_bins.store(if strange { run } else { 0 }, Ordering::Relaxed);
        self.note_gap(o);
        self.measure(o, newest.as_ref(), told_ns);
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
    fn measure(&mut self, o: &Outcome, newest: Option<&crate::wire::Metrics>, told_ns: i64) {
        let m = &self.metrics;
        let decided_ns = o.received_wall_ns.saturating_add_unsigned(o.latency_ns);
        let publish_ns = u64::try_from(told_ns.saturating_sub(decided_ns)).unwrap_or(0);
        m.latency.record(seconds(o.latency_ns));
        m.end_to_end.record(seconds(o.latency_ns + publish_ns));
        let queue_ns = o.latency_ns.saturating_sub(o.compute_ns);
        for (stage, ns) in m.stages.iter().zip([queue_ns, o.compute_ns, publish_ns]) {
            stage.record(seconds(ns));
        }
        m.queue.set(f64::from(o.waiting));
        m.processed.increment(u64::from(!o.predicted));
        m.artefacts.increment(u64::from(o.artefact));
        m.resets.increment(o.filter_resets - self.resets_told);
        self.resets_told = o.filter_resets;
        if let Some(change) = &o.change {
            m.change(self.wording.label_index(change.to));
        }
        // The rest is looked at once a second or so: as often as there are readings.
        if !o.bin.is_multiple_of(self.metrics_every) {
            return;
        }
        m.novelty.set(f64::from(o.novelty));
        m.unlabelled.set(f64::from(o.unlabelled));
        m.log_likelihood.set(f64::from(o.log_likelihood));
        m.participation.set(f64::from(o.participation_ratio));
        m.embedding_sd.set(self.wording.embedding_width(o));
        m.silent.set(f64::from(o.silent_channels));
        m.posterior(self.wording.posterior(o));
        if let Some(s) = newest {
            m.readings.set(s);
        }
    }
}
