//! Readings of the sessions' dynamics, on a thread of their own: they never delay a bin.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use ringbuf::HeapRb;
use ringbuf::traits::{Consumer, Observer, Producer, Split};

use crate::dynamics::{Monitor, Position};
use crate::model::Model;
use crate::publish::{Outcome, SessionBus, Wording, dynamics};
use crate::regime::Label;

/// Bins of counts that wait for the worker at most, and values of them.
const COUNTS_WAITING_BINS: usize = 512;
const COUNTS_WAITING: usize = 1 << 20;

type Sending = <HeapRb<u16> as Split>::Prod;
type Fetching = <HeapRb<u16> as Split>::Cons;

/// Where a session's thread puts its counts for the worker. Where the worker is behind, bins are left out
/// and what is summed over neighbouring bins begins anew behind the gap.
pub(super) struct CountsTap {
    sending: Sending,
    gap: bool,
}

impl CountsTap {
    /// A bin's counts; masked ones count as none.
    pub(super) fn push(&mut self, counts: &[u16]) {
        if self.sending.vacant_len() <= counts.len() {
            self.gap = true;
            return;
        }
        let flag = u16::from(std::mem::take(&mut self.gap));
        let _ = self.sending.try_push(flag);
        self.sending.push_slice(counts);
    }

    /// A bin that is missing.
    pub(super) fn skip(&mut self) {
        self.gap = true;
    }
}

/// A session's monitor with what feeds it.
pub(super) struct Probe {
    monitor: Monitor,
    model: Arc<Model>,
    fetching: Fetching,
    bin: Vec<u16>,
    counts: Vec<f32>,
}

impl Probe {
    /// For a session; the other half is its thread's.
    pub(super) fn new(model: Arc<Model>, channels: usize) -> (Arc<Mutex<Self>>, CountsTap) {
        let bins = (COUNTS_WAITING / (channels + 1)).clamp(16, COUNTS_WAITING_BINS);
        let (sending, fetching) = HeapRb::new(bins * (channels + 1)).split();
        let probe = Self {
            monitor: Monitor::new(&model, channels),
            model,
            fetching,
            bin: vec![0; channels + 1],
            counts: vec![0.0; channels],
        };
        (Arc::new(Mutex::new(probe)), CountsTap { sending, gap: false })
    }

    fn take_counts(&mut self, masked: u16) {
        while self.fetching.occupied_len() >= self.bin.len() {
            self.fetching.pop_slice(&mut self.bin);
            if self.bin[0] != 0 {
                self.monitor.push_counts(None);
            }
            for (to, &from) in self.counts.iter_mut().zip(&self.bin[1..]) {
                *to = if from == masked { 0.0 } else { f32::from(from) };
            }
            self.monitor.push_counts(Some(&self.counts));
        }
    }
}

/// A state to describe.
pub(super) struct Request {
    pub(super) bus: Arc<SessionBus>,
    pub(super) wording: Arc<Wording>,
    pub(super) probe: Arc<Mutex<Probe>>,
    pub(super) outcome: Outcome,
    /// Filtered latents since the request before, `[bins, rank]`.
    pub(super) latents: Vec<f32>,
}

/// The way to the worker; it ends with the last of these.
#[derive(Clone)]
pub(super) struct MetricsWorker(SyncSender<Request>);

impl MetricsWorker {
    pub(super) fn start(sessions: usize) -> Result<Self> {
        let (sender, receiver) = sync_channel(2 * sessions.max(1));
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || work(&receiver))
            .context("cannot start the metrics' thread")?;
        Ok(Self(sender))
    }

    /// Asks for a reading of a state. Where the worker is behind, the state is passed over: the next
    /// one is newer.
    pub(super) fn ask(&self, request: Request) {
        let _ = self.0.try_send(request);
    }
}

fn work(requests: &Receiver<Request>) {
    while let Ok(r) = requests.recv() {
        // A panic elsewhere has ended the program.
        let mut probe = r.probe.lock().unwrap_or_else(PoisonError::into_inner);
        probe.take_counts(crate::source::MASKED);
        let Probe { monitor, model, .. } = &mut *probe;
        for latent in r.latents.chunks_exact(model.dims.rank) {
            monitor.push_latent(latent);
        }
        let at = Position {
            state: r.wording.state(&r.outcome),
            posterior: r.wording.posterior(&r.outcome),
            label: r.outcome.label.and_then(Label::regime),
        };
        if let Some(reading) = monitor.refresh(model, &at) {
            r.bus.set_metrics(dynamics::metrics(&r.outcome, &reading));
        }
    }
}
