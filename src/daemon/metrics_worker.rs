//! Spectra, on a thread of their own: they never delay a bin.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result};

use crate::model::Model;
use crate::dynamics::spectrum;
use crate::publish::SessionBus;
use crate::wire::Metrics;

/// A state to describe.
pub(super) struct Request {
    pub(super) bus: Arc<SessionBus>,
    pub(super) model: Arc<Model>,
    pub(super) bin: u64,
    pub(super) embedding: Vec<f32>,
    pub(super) latent: Vec<f32>,
    pub(super) participation_ratio: f32,
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
        let Some(s) = spectrum(&r.model, &r.embedding, &r.latent) else { continue };
        r.bus.set_metrics(Metrics {
            bin: r.bin,
            spectral_radius: s.spectral_radius as f32,
            spectral_abscissa_per_s: s.spectral_abscissa_per_s as f32,
            leading_frequency_hz: s.leading_frequency_hz as f32,
            leading_time_constant_s: s.leading_time_constant_s as f32,
            participation_ratio: r.participation_ratio,
        });
    }
}
