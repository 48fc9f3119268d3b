//! A trigger whose condition was met, on its way from the session's thread to the trigger's worker.

use std::time::Instant;

use crate::wire::TriggerOutcome;

/// What the session's thread made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The worker is to act.
    Due,
    /// Sent after so many nanoseconds.
    Sent(u64),
    /// Could not be sent.
    Failed(std::io::ErrorKind),
    /// Held back, or a dry run.
    Held(TriggerOutcome),
}

/// One time that a condition was met. Of fixed size: it crosses to the worker without an
/// allocation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Firing {
    pub(super) fate: Fate,
    pub(super) bin: u64,
    pub(super) sequence: u64,
    pub(super) rig_time_ns: i64,
    /// When it was decided, on both clocks.
    pub(super) decided: Instant,
    pub(super) decided_wall_ns: i64,
    pub(super) probability: f32,
}
