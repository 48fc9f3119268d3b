//! Connection state of the rig that the daemon connects to.

use std::sync::atomic::{AtomicBool, Ordering};

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
        }
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
