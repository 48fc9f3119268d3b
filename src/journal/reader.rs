//! Reads a journal, also while it is written.

use std::path::Path;

use super::format::{Found, Frames, HEADER_BYTES};
use super::part::Part;
use super::record::record;
use super::storage::{Folder, Storage};
use super::{format, numbers};
use crate::wire::journal_record::What;
use crate::wire::{Event, JournalRecord};

/// A record that is being written is whole after this time.
const READ_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Records of every file, in order and each once.
struct Records {
    folder: Folder,
    /// Number of the newest frame seen.
    last: u64,
}

/// A damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDamage {
    /// First number of the file.
    pub file: u64,
    /// Where in it, bytes from its begin.
    pub at: u64,
    /// Length, bytes.
    pub bytes: u64,
    /// Such as a crash leaves at a file's end: nothing in it was announced.
    pub torn: bool,
}

/// Result of reading a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Number of files read.
    pub files: usize,
    /// Sound records.
    pub records: u64,
    /// Numbers of which there is no sound record, from the first to the last that is known of.
    pub lost: u64,
    /// Lost numbers that no `lost` record covers.
    pub lost_untold: u64,
    /// Damage of the second copy of the numbers.
    pub numbers: Vec<String>,
    /// Damaged files, in order.
    pub damaged_files: Vec<FileDamage>,
}

impl Records {
    fn each(
        &mut self,
        first: u64,
        mut take: impl FnMut(JournalRecord) -> bool,
        mut damage: impl FnMut(FileDamage),
    ) -> std::io::Result<bool> {
        let bytes = self.folder.read(first, u64::MAX)?;
        if format::first_number(&bytes) != Some(first) && !bytes.is_empty() {
            let (length, torn) = (bytes.len().min(HEADER_BYTES), bytes.len() < HEADER_BYTES);
            damage(FileDamage { file: first, at: 0, bytes: length as u64, torn });
        }
        for found in Frames::new(&bytes, HEADER_BYTES) {
            match found {
                Found::Frame { number, payload } => {
                    // Number 0 heads a file; a group that was written again after a disk failure
                    // counts once.
                    if number <= self.last {
                        continue;
                    }
                    self.last = number;
                    if let Some(record) = record(number, &bytes[payload])
                        && !take(record)
                    {
                        return Ok(false);
                    }
                }
                Found::Damage { bytes, torn } => damage(FileDamage {
                    file: first,
                    at: bytes.start as u64,
                    bytes: bytes.len() as u64,
                    torn,
                }),
            }
        }
        Ok(true)
    }
}

/// Reads every record of a journal's folder, oldest first, and reports damage. The daemon may be
/// writing it.
///
/// # Errors
/// Errors of the file system.
pub fn read(folder: &Path, mut take: impl FnMut(JournalRecord)) -> std::io::Result<Reading> {
    let mut records = Records { folder: Folder::existing(folder), last: 0 };
    let mut reading = Reading::default();
    let mut seen = 0u64;
    let (mut oldest, mut reported) = (None, 0u64);
    for first in records.folder.list()? {
        let mut damaged_files = Vec::new();
        let result = records.each(
            first,
            |record| {
                oldest.get_or_insert(record.number);
                seen += 1;
                if let Some(What::Lost(lost)) = &record.what {
                    reported += (lost.last + 1).saturating_sub(lost.first);
                }
                take(record);
                true
            },
            |trouble| damaged_files.push(trouble),
        );
        match result {
            Ok(_) => {}
            // Removed for its age meanwhile, as all before it were.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                (oldest, seen, reported) = (None, 0, 0);
                continue;
            }
            Err(e) => return Err(e),
        }
        reading.files += 1;
        reading.damaged_files.append(&mut damaged_files);
    }
    reading.records = seen;
    let mut kept = numbers::find(&records.folder)?;
    if !kept.damaged.is_empty() {
        // It may have been read while it was written.
        std::thread::sleep(READ_AGAIN);
        kept = numbers::find(&records.folder)?;
    }
    reading.numbers.extend(kept.damaged.iter().map(|slot| format!("numbers.{slot} is damaged")));
    // While a daemon writes, the numbers may be ahead of the records that were read.
    reading.lost = oldest.map_or(0, |oldest| records.last - oldest + 1 - seen);
    reading.lost_untold = reading.lost.saturating_sub(reported);
    Ok(reading)
}

fn lost(session: &str, event_sequence: u64) -> Event {
    Event { session: session.to_owned(), event_sequence, lost: true, ..Event::default() }
}

/// Events after a number are not held any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events up to {oldest_resumable} are no longer held")]
pub(crate) struct NotRetained {
    /// Oldest number after which nothing would be skipped.
    pub(crate) oldest_resumable: u64,
}

/// Events of a session after a number, of records up to `kept`; see
/// [`super::Journal::events_after`].
pub(super) fn events_after(
    folder: &Path,
    parts: &[Part],
    kept: u64,
    (session, after): (&str, u64),
    max: usize,
) -> Result<Vec<Event>, NotRetained> {
    let before = |part: &Part| {
        part.head.as_ref().map(|(b, _)| b.last_event_sequence.get(session).copied().unwrap_or(0))
    };
    // Whatever came before the oldest file is not held any more.
    let gone = parts.first().and_then(before).unwrap_or(0);
    if after != 0 && after < gone {
        return Err(NotRetained { oldest_resumable: gone });
    }
    let mut after = after.max(gone);
    let from = parts.iter().rposition(|p| before(p).is_some_and(|b| b <= after)).unwrap_or(0);
    let mut records = Records { folder: Folder::existing(folder), last: 0 };
    let mut events = Vec::new();
    for part in &parts[from..] {
        let went_on = records.each(
            part.first,
            |record| {
                if record.number > kept {
                    return false;
                }
                let Some(What::Event(event)) = record.what else { return true };
                if event.session != session || event.event_sequence <= after {
                    return true;
                }
                while after + 1 < event.event_sequence && events.len() < max {
                    after += 1;
                    events.push(lost(session, after));
                }
                if events.len() < max {
                    after = event.event_sequence;
                    events.push(event);
                }
                events.len() < max
            },
            |_| {},
        );
        match went_on {
            Ok(true) => {}
            Ok(false) => break,
            Err(e) => {
                // Removed for its age meanwhile, or the disk fails: the next attempt shows which.
                tracing::warn!("the journal cannot be read: {e}");
                break;
            }
        }
    }
    Ok(events)
}
