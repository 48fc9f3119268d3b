//! What all sessions share.

use std::sync::Arc;

use super::metrics_worker::MetricsWorker;
use super::resume::Keeping;
use crate::api::zeromq::publisher::Publisher;
use crate::journal::Journal;

/// What all sessions share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) publisher: Option<Arc<Publisher>>,
    pub(super) worker: MetricsWorker,
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) keeping: Option<Keeping>,
    /// Where decisions are recorded, and every how many of them.
    pub(super) decisions: Option<(Arc<Journal>, u64)>,
}
