//! What became of a session's bins, counted once for messages and metrics alike.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

use super::refusal::{Refusal, reason_name};
use crate::telemetry::IntakeMetrics;
use crate::wire::RejectReason;

/// What became of a session's bins so far. `received = accepted + late + rejected`; of the accepted
/// ones, those that do not wait any more were processed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bins in messages for the session.
    pub received: u64,
    /// Bins taken.
    pub accepted: u64,
    /// Bins that never came and were predicted through; not among the received ones.
    pub missing: u64,
    /// Bins that came twice or too late.
    pub late: u64,
    /// Bins refused, for want of room or for any other reason.
    pub rejected: u64,
    /// Of these, for want of room alone.
    pub overloaded: u64,
    /// Bins that wait for the session's thread.
    pub waiting: u64,
}

/// A count that can be read, which the metrics' own cannot, with the metric that shows it.
struct Count {
    total: AtomicU64,
    shown: Counter,
}

impl Count {
    fn new(shown: &Counter) -> Self {
        Self { total: AtomicU64::new(0), shown: shown.clone() }
    }

    fn add(&self, n: u64) {
        self.total.fetch_add(n, Ordering::Release);
        self.shown.increment(n);
    }

    fn get(&self) -> u64 {
        self.total.load(Ordering::Acquire)
    }
}

/// What a session's port has received, taken and refused, in numbers.
pub(super) struct Accounts {
    received: Count,
    accepted: Count,
    missing: Count,
    late: Count,
    rejected: AtomicU64,
    overloaded: AtomicU64,
    metrics: IntakeMetrics,
}

impl Accounts {
    pub(super) fn new(session: &str, queue_bins: usize) -> Self {
        let metrics = IntakeMetrics::new(session, queue_bins);
        Self {
            received: Count::new(&metrics.received),
            accepted: Count::new(&metrics.bins),
            missing: Count::new(&metrics.missing),
            late: Count::new(&metrics.late),
            rejected: AtomicU64::new(0),
            overloaded: AtomicU64::new(0),
            metrics,
        }
    }

    /// `n` bins came in.
    pub(super) fn received(&self, n: u64) {
        self.received.add(n);
    }

    /// Of those that came in, `n` were refused.
    pub(super) fn refused(&self, refusal: &Refusal, n: u64) {
        if refusal.reason == RejectReason::DuplicateOrLate {
            self.late.add(n);
            return;
        }
        self.rejected.fetch_add(n, Ordering::Release);
        self.metrics.rejected(reason_name(refusal.reason), n);
        if refusal.reason == RejectReason::Overload {
            self.overloaded.fetch_add(n, Ordering::Release);
        }
    }

    /// Of those that came in, `accepted` were taken and `late` had been taken before; `missing`
    /// never came.
    pub(super) fn taken(&self, accepted: u64, late: u64, missing: u64) {
        self.accepted.add(accepted);
        self.late.add(late);
        self.missing.add(missing);
    }

    /// Another recording begins.
    pub(super) fn started(&self) {
        self.metrics.starts.increment(1);
    }

    /// A message was for the session.
    pub(super) fn message(&self, accepted: bool) {
        let IntakeMetrics { messages, messages_rejected, .. } = &self.metrics;
        (if accepted { messages } else { messages_rejected }).increment(1);
    }

    /// Current totals, with `waiting` bins in the ring.
    pub(super) fn totals(&self, waiting: usize) -> Totals {
        // Received is read last and counted first: a bin between the two is seen as received with
        // its fate to come, and never the other way round.
        let (accepted, missing, late) = (self.accepted.get(), self.missing.get(), self.late.get());
        let (overloaded, rejected) = (&self.overloaded, &self.rejected);
        let overloaded = overloaded.load(Ordering::Acquire);
        let rejected = rejected.load(Ordering::Acquire);
        let received = self.received.get();
        Totals { received, accepted, missing, late, rejected, overloaded, waiting: waiting as u64 }
    }
}
