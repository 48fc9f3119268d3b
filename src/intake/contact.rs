//! Last contact with a session's rig, and its clock.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rig_clock::Clock;
use crate::clock::Received;
use crate::telemetry::ContactMetrics;

/// When a session last heard from its rig, and how the rig's clock relates to ours.
pub(super) struct Contact {
    session: String,
    /// Updated once per message, not per bin.
    clock: Mutex<Clock>,
    /// Steady time of the last contact, ns; 0: never.
    last_ns: AtomicI64,
    /// Kept apart from the time, so that the stall is logged and counted once.
    stalled: AtomicBool,
    metrics: ContactMetrics,
}

impl Contact {
    /// Before the first contact.
    pub(super) fn new(session: &str) -> Self {
        Self {
            session: session.to_owned(),
            clock: Mutex::default(),
            last_ns: AtomicI64::new(0),
            stalled: AtomicBool::new(false),
            metrics: ContactMetrics::new(session),
        }
    }

    pub(super) fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message came in; with its time, where that is known (0: it is not).
    pub(super) fn note(&self, rig_time_ns: i64, received: Received) {
        self.last_ns.store(received.steady_ns(), Ordering::Relaxed);
        if self.stalled.swap(false, Ordering::Relaxed) {
            self.metrics.stalled.set(0.0);
            tracing::info!(session = self.session, "the rig is heard again");
        }
        if rig_time_ns == 0 {
            return;
        }
        let mut clock = self.clock();
        let observed = clock.observe(rig_time_ns, received.steady_ns());
        let offset_s = clock.offset_ns().map(|ns| ns as f64 * 1e-9);
        let delay_s = observed.delay_ns as f64 * 1e-9;
        self.metrics.clock((offset_s, clock.drift()), observed.jumped, delay_s);
    }

    /// Declares the rig stalled after `idle` without contact. A loss at the end of a stream leaves
    /// no gap in the numbers: this is the only sign of it.
    pub(super) fn watch(&self, idle: Duration) {
        let last = self.last_ns.load(Ordering::Relaxed);
        let silent = Received::now().steady_ns().saturating_sub(last);
        let stalled = last != 0 && silent > i64::try_from(idle.as_nanos()).unwrap_or(i64::MAX);
        if stalled && !self.stalled.swap(true, Ordering::Relaxed) {
            self.metrics.stalled.set(1.0);
            tracing::warn!(session = self.session, "nothing comes from the rig any more");
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}
