//! Readings of the sessions' dynamics, on a thread of their own: they never delay a bin.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::bus::{CountsReader, CountsTap, Outcome, SessionHandle, Wording, dynamics, tap};
use crate::checkpoint::builtin_edge;
use crate::dynamics::{Monitor, Position};
use crate::edge::{EdgeMeter, EdgeReading, Estimator, SECONDS_MAX};
use crate::intake::MASKED;
use crate::model::Model;
use crate::regime::Label;

/// Counts that are taken between two yields: some 0.1 ms at hundreds of channels.
const BINS_AT_ONCE: usize = 8;

/// A session's monitor with what feeds it.
pub(super) struct Probe {
    monitor: Monitor,
    /// `None` for bins that are too wide for it.
    edge: Option<EdgeMeter>,
    edge_reading: Option<EdgeReading>,
    model: Arc<Model>,
    /// Models that the session had before this one.
    swaps: u32,
    reader: CountsReader,
    counts: Vec<f32>,
}

impl Probe {
    fn new(
        model: Arc<Model>,
        channels: usize,
        estimator: Arc<Estimator>,
    ) -> (Arc<Mutex<Self>>, CountsTap) {
        let (tap, reader) = tap(channels);
        let width_s = model.bin_width_s;
        let probe = Self {
            monitor: Monitor::new(&model, channels),
            edge: EdgeMeter::new(estimator, channels, width_s, SECONDS_MAX),
            edge_reading: None,
            model,
            swaps: 0,
            reader,
            counts: vec![0.0; channels],
        };
        (Arc::new(Mutex::new(probe)), tap)
    }

    /// The session has another model, after `swaps` others: forgets what the former one showed.
    fn swap(&mut self, model: &Arc<Model>, swaps: u32) {
        self.monitor = Monitor::new(model, self.counts.len());
        (self.model, self.swaps) = (model.clone(), swaps);
    }

    fn take_counts(&mut self) {
        let Self { monitor, edge, reader, counts, .. } = self;
        let mut bins = 0usize;
        reader.each(|gap, bin| {
            if bins.is_multiple_of(BINS_AT_ONCE) {
                std::thread::yield_now();
            }
            bins += 1;
            if gap {
                monitor.push_counts(None);
                edge.iter_mut().for_each(EdgeMeter::gap);
            }
            for (to, &from) in counts.iter_mut().zip(bin) {
                *to = if from == MASKED { 0.0 } else { f32::from(from) };
            }
            monitor.push_counts(Some(counts));
            edge.iter_mut().for_each(|e| e.push(counts));
        });
        if let Some(reading) = edge.as_mut().and_then(EdgeMeter::due) {
            self.edge_reading = Some(reading);
        }
    }
}

/// A state to describe.
pub(super) struct Request {
    pub(super) session: Arc<SessionHandle>,
    pub(super) wording: Arc<Wording>,
    /// Locked by the worker alone: it yields to everybody, and nobody may wait for it.
    pub(super) probe: Arc<Mutex<Probe>>,
    /// The model that made the outcome.
    pub(super) model: Arc<Model>,
    pub(super) outcome: Outcome,
}

/// The way to the worker; it ends with the last of these.
#[derive(Clone)]
pub(super) struct MetricsWorker {
    requests: SyncSender<Request>,
    estimator: Arc<Estimator>,
}

impl MetricsWorker {
    pub(super) fn start(sessions: usize) -> Result<Self> {
        let (sender, receiver) = sync_channel(2 * sessions.max(1));
        std::thread::Builder::new()
            .name("metrics".into())
            // It gives way by yielding within: docs/decisions/0016.
            .spawn(move || work(&receiver))
            .context("cannot start the metrics' thread")?;
        let estimator = Arc::new(builtin_edge().context("the estimator in the binary")?);
        Ok(Self { requests: sender, estimator })
    }

    /// What a session is read with; the tap is its thread's.
    pub(super) fn probe(
        &self,
        model: Arc<Model>,
        channels: usize,
    ) -> (Arc<Mutex<Probe>>, CountsTap) {
        Probe::new(model, channels, self.estimator.clone())
    }

    /// Asks for a reading of a state. Where the worker is behind, the state is passed over, because
    /// the next one is newer.
    pub(super) fn ask(&self, request: Request) {
        let _ = self.requests.try_send(request);
    }
}

fn work(requests: &Receiver<Request>) {
    while let Ok(r) = requests.recv() {
        // A panic elsewhere has ended the program.
        let mut probe = r.probe.lock().unwrap_or_else(PoisonError::into_inner);
        probe.take_counts();
        if r.outcome.swaps > probe.swaps {
            probe.swap(&r.model, r.outcome.swaps);
        }
        let Probe { monitor, model, edge_reading, .. } = &mut *probe;
        let at = Position {
            state: r.wording.state(&r.outcome),
            label: r.outcome.label.and_then(Label::regime),
        };
        if let Some(reading) = monitor.refresh(model, &at) {
            r.session.set_metrics(dynamics::metrics(&r.outcome, &reading, edge_reading.as_ref()));
        }
    }
}
