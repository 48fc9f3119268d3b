//! A second copy of the journal's numbers. The newest record and event numbers are written here
//! before anything is announced: a log that is damaged, cut short or gone is noticed by them, and
//! no number is given again.
//!
//! Two files, `numbers.0` and `numbers.1`, are written in turn, each with one frame (`format.rs`)
//! whose number counts the writes and whose payload is a `JournalRecord` with `Bounds`. They are
//! not synced: after a loss of power the log, which is, has what they lack.

use std::io;

use super::format;
use super::format::{Found, Frames};
use super::record::{payload, record};
use super::storage::Storage;
use crate::wire::journal_record::What;
use crate::wire::{Bounds, JournalRecord};

/// Files that are written in turn.
pub(super) const SLOTS: usize = 2;

/// Size of a write that is atomic with respect to a kill of the process.
const PAGE_BYTES: usize = 4096;

/// The copies as found.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Writes so far.
    pub(super) writes: u64,
    /// The newest: its numbers, and the wall clock's time of it, ns since the Unix epoch.
    pub(super) newest: Option<(Bounds, i64)>,
    /// Files that are damaged.
    pub(super) damaged: Vec<usize>,
}

fn read(bytes: &[u8]) -> Option<(u64, Bounds, i64)> {
    // Bytes after the frame are left from an earlier, longer record.
    let Some(Found::Frame { number, payload }) = Frames::new(bytes, 0).next() else { return None };
    let record = record(number, &bytes[payload])?;
    match record.what {
        Some(What::Bounds(bounds)) => Some((number, bounds, record.time_ns)),
        _ => None,
    }
}

/// Reads both files of numbers: the newer one that is sound counts.
///
/// # Errors
/// Errors of the storage.
pub(super) fn find(storage: &impl Storage) -> io::Result<Kept> {
    let mut kept = Kept::default();
    let mut damaged = Vec::new();
    for slot in 0..SLOTS {
        let Some(bytes) = storage.numbers(slot)? else { continue };
        match read(&bytes) {
            Some((writes, bounds, time_ns)) if writes >= kept.writes => {
                (kept.writes, kept.newest) = (writes, Some((bounds, time_ns)));
            }
            Some(_) => {}
            None => damaged.push((slot, bytes.len())),
        }
    }
    // A kill can interrupt a write of more than a page; the other copy then holds the announced
    // numbers.
    damaged.retain(|(_, bytes)| kept.newest.is_none() || *bytes <= PAGE_BYTES);
    kept.damaged = damaged.into_iter().map(|(slot, _)| slot).collect();
    Ok(kept)
}

/// Writes the newest numbers, in place of those before the last.
///
/// # Errors
/// Errors of the storage.
pub(super) fn keep(
    storage: &mut impl Storage,
    writes: &mut u64,
    record: &JournalRecord,
) -> io::Result<()> {
    *writes += 1;
    let mut bytes = Vec::new();
    format::push(&mut bytes, *writes, &payload(record));
    storage.write_numbers((*writes % SLOTS as u64) as usize, &bytes)
}
