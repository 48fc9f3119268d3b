//! Spectra, on a thread of their own: they never delay a bin.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result};

use crate::dynamics::spectrum_interval;
use crate::model::Model;
use crate::publish::{Outcome, SessionBus, Wording};
use crate::wire::{Interval, Metrics};

/// A state to describe.
pub(super) struct Request {
    pub(super) bus: Arc<SessionBus>,
    pub(super) model: Arc<Model>,
    pub(super) wording: Arc<Wording>,
    pub(super) outcome: Outcome,
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

    /// Asks for metrics of a state. Where the worker is behind, the state is passed over: the next
    /// one is newer.
    pub(super) fn ask(&self, request: Request) {
        let _ = self.0.try_send(request);
    }
}

fn work(requests: &Receiver<Request>) {
    while let Ok(r) = requests.recv() {
        let o = &r.outcome;
        let Some(s) = spectrum_interval(&r.model, r.wording.state(o)) else { continue };
        let told = |[low, high]: [f64; 2]| Some(Interval { low: low as f32, high: high as f32 });
        r.bus.set_metrics(Metrics {
            bin: o.bin,
            spectral_radius: s.mean.spectral_radius as f32,
            spectral_abscissa_per_s: s.mean.spectral_abscissa_per_s as f32,
            leading_frequency_hz: s.mean.leading_frequency_hz as f32,
            leading_time_constant_s: s.mean.leading_time_constant_s as f32,
            participation_ratio: o.participation_ratio,
            spectral_radius_interval: told(s.spectral_radius),
            spectral_abscissa_per_s_interval: told(s.spectral_abscissa_per_s),
            leading_frequency_hz_interval: told(s.leading_frequency_hz),
        });
    }
}
