//! A session's publishing task: outcomes become messages, in the order in which they come.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::metrics_worker::{MetricsWorker, Probe, Request};
use super::outcomes::Fetching;
use super::shared::Shared;
use crate::api::zeromq::publisher::{Publisher, Topics};
use crate::bus::{Numbered, Outcome, Plan, SessionHandle, Update, Wording};
use crate::clock::wall_ns;
use crate::journal::Journal;
use crate::model::Model;
use crate::telemetry::SessionMetrics;
use crate::wire::journal_record::What;
use crate::wire::{Encoded, Gap};

/// Gaps are gathered this long into one record, ns.
const GAP_EVERY_NS: u64 = 1_000_000_000;

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

/// Turns outcomes into messages.
pub(super) struct PublishingTask {
    metrics: SessionMetrics,
    wording: Arc<Wording>,
    topics: Topics,
    session: Arc<SessionHandle>,
    publisher: Option<Arc<Publisher>>,
    journal: Option<Arc<Journal>>,
    /// Events, to be announced in order.
    events: mpsc::UnboundedSender<Numbered>,
    /// Bins that never came and are not in the journal yet.
    missing: Option<Gap>,
    gap_noted_ns: i64,
    fetching: Fetching<Outcome>,
    requests: MetricsWorker,
    probe: Arc<Mutex<Probe>>,
    model: Arc<Model>,
    metrics_every: u64,
    resets_shown: u64,
    swaps: u32,
}

/// What a publishing task has to itself.
pub(super) struct PublishingParts {
    pub(super) fetching: Fetching<Outcome>,
    pub(super) probe: Arc<Mutex<Probe>>,
    /// Rate of the metrics, Hz.
    pub(super) metrics_hz: f64,
}

impl PublishingTask {
    /// The task of a session that runs on `plan`; its events go to `events`.
    pub(super) fn new(
        session: Arc<SessionHandle>,
        plan: &Plan,
        parts: PublishingParts,
        shared: &Shared,
        events: mpsc::UnboundedSender<Numbered>,
    ) -> Self {
        let every = 1.0 / parts.metrics_hz / plan.model.bin_width_s;
        Self {
            metrics: plan.session_metrics(),
            wording: Arc::new(plan.wording()),
            topics: Topics::new(&plan.session),
            session,
            publisher: shared.publisher.clone(),
            journal: shared.journal.clone(),
            events,
            missing: None,
            gap_noted_ns: 0,
            fetching: parts.fetching,
            requests: shared.worker.clone(),
            probe: parts.probe,
            model: plan.model.clone(),
            metrics_every: every.round().max(1.0) as u64,
            resets_shown: 0,
            swaps: 0,
        }
    }

    /// Publishes until the thread has ended and everything it sent is published.
    pub(super) async fn run(mut self) {
        while let Some(outcome) = self.fetching.next().await {
            self.publish(&outcome).await;
        }
        self.record_gap();
    }

    /// Switches to another model, at its first outcome.
    fn rename(&mut self, o: &Outcome) {
        let session = self.session.clone();
        session.rename(o.swaps, |plan| {
            self.swaps = o.swaps;
            self.wording = Arc::new(plan.wording());
            self.model = plan.model.clone();
            self.metrics.withdraw();
            self.metrics = plan.session_metrics();
            if let Some(label) = o.label {
                self.metrics.in_force(self.wording.label_index(label));
            }
        });
    }

    async fn publish(&mut self, o: &Outcome) {
        // An outcome is worded by the model that made it.
        if o.swaps != self.swaps {
            self.rename(o);
        }
        if o.bin.is_multiple_of(self.metrics_every) {
            self.requests.ask(Request {
                session: self.session.clone(),
                wording: self.wording.clone(),
                probe: self.probe.clone(),
                model: self.model.clone(),
                outcome: *o,
            });
        }
        let newest = self.session.metrics();
        // Numbered before the decision is published, because the decision carries the number of its
        // event.
        let event =
            o.change.as_ref().and_then(|c| self.session.events.number(self.wording.event(o, c)));
        let number = event.as_ref().map_or(0, |numbered| numbered.event.event_sequence);
        let now_ns = wall_ns();
        let decision = self.wording.decision(o, newest.clone(), number, now_ns);
        let strange = decision.novelty > 1.0;
        let update = Arc::new(Update::Decision(Encoded::new(decision)));
        self.session.set_covariance(self.wording.state(o).embedding_covariance);
        self.session.publish(&update);
        if let Some(publisher) = &self.publisher {
            publisher.publish(&self.topics, &update).await;
        }
        let published_ns = wall_ns();
        if let Some(event) = event {
            // Fails only while the runtime shuts down.
            let _ = self.events.send(event);
        }
        let vitals = &self.session.vitals;
        vitals.filter_resets.store(o.filter_resets, Ordering::Relaxed);
        let run = vitals.strange_bins.load(Ordering::Relaxed) + 1;
        vitals.strange_bins.store(if strange { run } else { 0 }, Ordering::Relaxed);
        self.note_gap(o);
        self.measure(o, newest.as_ref(), published_ns);
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
            && o.received_wall_ns.saturating_sub(self.gap_noted_ns).unsigned_abs() >= GAP_EVERY_NS
        {
            self.gap_noted_ns = o.received_wall_ns;
            self.record_gap();
        }
    }

    fn record_gap(&mut self) {
        if let (Some(journal), Some(gap)) = (&self.journal, self.missing.take()) {
            journal.add(self.session.name(), What::Gap(gap));
        }
    }

    /// Metrics, once everybody has the decision.
    fn measure(&mut self, o: &Outcome, newest: Option<&crate::wire::Metrics>, published_ns: i64) {
        let m = &self.metrics;
        let decided_ns = o.received_wall_ns.saturating_add_unsigned(o.latency_ns);
        let publish_ns = u64::try_from(published_ns.saturating_sub(decided_ns)).unwrap_or(0);
        m.latency.record(seconds(o.latency_ns));
        m.end_to_end.record(seconds(o.latency_ns + publish_ns));
        let queue_ns = o.latency_ns.saturating_sub(o.compute_ns);
        for (stage, ns) in m.stages.iter().zip([queue_ns, o.compute_ns, publish_ns]) {
            stage.record(seconds(ns));
        }
        m.queue.set(f64::from(o.waiting));
        m.processed.increment(u64::from(!o.predicted));
        m.artefacts.increment(u64::from(o.artefact));
        m.resets.increment(o.filter_resets - self.resets_shown);
        self.resets_shown = o.filter_resets;
        if let Some(change) = &o.change {
            m.change(self.wording.label_index(change.to));
        }
        // The rest is shown as often as there are readings.
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
        m.experts(self.wording.experts(o).map(|(.., posterior)| posterior));
        if let Some(s) = newest {
            m.readings.set(s);
        }
    }
}
