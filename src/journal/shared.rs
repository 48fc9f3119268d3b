//! What those who add records share with the thread that writes them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

use super::part::Parts;
use super::settings::Settings;
use crate::telemetry::JournalMetrics;

/// Approximate memory of keeping a record, in addition to its bytes.
pub(super) const RECORD_COST: usize = 64;

pub(super) struct Waiting {
    pub(super) records: VecDeque<(u64, Bytes)>,
    pub(super) bytes: usize,
    pub(super) next: u64,
    /// Newest event number that was given, per session.
    pub(super) events: BTreeMap<String, u64>,
    pub(super) closed: bool,
}

pub(super) struct Shared {
    pub(super) settings: Settings,
    /// The queue to the writer, and the numbers: a record gets its number under the same lock under
    /// which it is queued, so that the queue is in the order of the numbers. Never held over I/O.
    pub(super) waiting: Mutex<Waiting>,
    /// Wakes the writer when something was queued.
    pub(super) wake: Condvar,
    /// All records up to this one are kept.
    pub(super) kept: watch::Sender<u64>,
    /// Why the disk fails, while it does.
    pub(super) failing: watch::Sender<Option<String>>,
    pub(super) parts: Parts,
    pub(super) id: String,
    pub(super) metrics: JournalMetrics,
}
