//! Connection state of the rig that the daemon connects to.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::locked;
use crate::telemetry::SourceMetrics;

/// What a source's accounts of losses are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossAccounting {
    /// Every message is numbered: losses are known, except for a tail after which nothing comes.
    Exact,
    /// Nothing is numbered: losses are inferred from times.
    Estimated,
    /// Nothing can be lost.
    None,
}

impl LossAccounting {
    /// Its value of the metrics' label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Estimated => "estimated",
            Self::None => "none",
        }
    }
}

/// What a rig has shown of itself, whatever the session expects of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    /// Channels of its bins, or the highest channel of its events.
    pub(crate) channels: usize,
    /// Names of its channels in the order in which they were learned.
    pub(crate) names: Vec<String>,
    /// Samples a second.
    pub(crate) sample_rate_hz: Option<f64>,
    /// Width of its bins, seconds.
    pub(crate) bin_width_s: Option<f64>,
    /// The stream that is read, where it has several.
    pub(crate) stream: Option<String>,
}

/// The connection of a session to its rig.
pub struct Status {
    /// Kind and address of the rig, to show.
    pub what: String,
    /// What its accounts of losses are worth.
    pub loss: LossAccounting,
    /// Its counters.
    pub metrics: SourceMetrics,
    /// Read by `ListSessions`; the gauge of the same name cannot be read.
    connected: AtomicBool,
    /// Changed when something new is seen, which is seldom.
    seen: Mutex<Seen>,
}

impl Status {
    /// A source that is not connected yet.
    #[must_use]
    pub fn new(session: &str, what: impl Into<String>, loss: LossAccounting) -> Self {
        Self {
            what: what.into(),
            loss,
            metrics: SourceMetrics::new(session),
            connected: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// What the rig has shown so far.
    #[must_use]
    pub(crate) fn seen(&self) -> Seen {
        locked(&self.seen).clone()
    }

    /// It has shown something new.
    pub(crate) fn see(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut locked(&self.seen));
    }

    #[must_use]
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// It is, or is not any more; logged when that changes.
    pub fn connected(&self, connected: bool) {
        if self.connected.swap(connected, Ordering::Relaxed) != connected {
            self.metrics.connected(connected);
            if connected {
                tracing::info!(source = self.what, "connected to the rig");
            } else {
                tracing::warn!(source = self.what, "the rig's connection is lost");
            }
        }
    }
}
