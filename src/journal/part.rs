//! One file of a log, and its head.

use std::sync::{Arc, RwLock};

use super::format;
use super::format::{Found, Frames, HEADER_BYTES};
use super::record::record;
use crate::wire::Bounds;
use crate::wire::journal_record::What;

/// One file.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Number of its first frame.
    pub first: u64,
    /// Its length.
    pub bytes: u64,
    /// Bounds before this file, and its time of creation, ns since the Unix epoch; `None` where
    /// that is damaged.
    pub head: Option<(Bounds, i64)>,
}

/// The files, shared with readers while they are written.
pub(super) type Parts = Arc<RwLock<Vec<Part>>>;

/// Ending of a journal's files.
pub(super) const ENDING: &str = "rgj";

/// Name of the file whose first record has the number `first`.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:020}.{ENDING}")
}

/// Reads the head of a file.
pub(super) fn head(bytes: &[u8], first: u64) -> Option<(Bounds, i64)> {
    if format::first_number(bytes) != Some(first) {
        return None;
    }
    match Frames::new(bytes, HEADER_BYTES).next()? {
        Found::Frame { number: 0, payload } => {
            let record = record(0, &bytes[payload])?;
            match record.what {
                Some(What::Bounds(bounds)) => Some((bounds, record.time_ns)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether an unreadable head is what a crash leaves of a file during its creation.
pub(super) fn is_begun(bytes: &[u8]) -> bool {
    match bytes.get(..HEADER_BYTES) {
        None => true,
        Some(header) if header.iter().all(|b| *b == 0) => bytes.iter().all(|b| *b == 0),
        Some(_) => {
            let next = Frames::new(bytes, HEADER_BYTES).next();
            format::first_number(bytes).is_some()
                && matches!(next, None | Some(Found::Damage { torn: true, .. }))
        }
    }
}
