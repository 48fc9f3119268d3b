//! How a journal is kept.

use std::path::PathBuf;
use std::time::Duration;

/// When a record counts as kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Once it is synced to the disk: nothing announced is lost, whatever happens. Records that
    /// come while a sync runs share the next.
    Commit,
    /// Once the system has it: nothing announced is lost when the process dies, up to this much
    /// when the power or a sync fails.
    Interval(Duration),
}

/// What becomes of events while the disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDiskFails {
    /// They are announced when they are kept.
    Hold,
    /// They are announced at once, marked as not durable.
    Announce,
}

/// How a journal is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its name in metrics.
    pub name: &'static str,
    /// Folder of the files.
    pub folder: PathBuf,
    /// When a record counts as kept.
    pub sync: Sync,
    /// What becomes of events while the disk fails.
    pub when_disk_fails: WhenDiskFails,
    /// Bytes kept; the oldest files go first.
    pub bytes_max: u64,
    /// Time that records are kept, seconds.
    pub age_max_s: f64,
}
