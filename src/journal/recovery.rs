//! What a log holds when it is opened: which numbers were given, and what a crash or a damaged disk
//! has left.

use std::collections::BTreeMap;
use std::io;

use super::format::{FRAME_BYTES, Found, Frames, HEADER_BYTES};
use super::numbers::Kept;
use super::part::{Part, file_name};
use super::record::record;
use super::storage::Storage;
use crate::wire::Bounds;
use crate::wire::journal_record::What;

/// An event's frame is not shorter.
const EVENT_FRAME_BYTES: usize = FRAME_BYTES + 20;

/// What a log holds when it is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Number of the newest frame; 0 where there is none.
    pub last: u64,
    /// Number of the newest event of every session.
    pub events: BTreeMap<String, u64>,
    /// The journal's identity; empty where it is new.
    pub id: String,
    /// Newest time in it, ns since the Unix epoch.
    pub time_ns: i64,
    /// The last record is the daemon's stop, or the log is new.
    pub ended: bool,
    /// Bytes at the end that a crash left; nothing in them was announced.
    pub torn_bytes: u64,
    /// Numbers that are damaged, first and last.
    pub lost: Option<(u64, u64)>,
    /// Descriptions of damage, to show.
    pub damage: Vec<String>,
    /// Time by which records are removed for their age, as it was when the journal was written
    /// last, and what the wall clock showed then, ns; `None` where neither is known.
    pub timeline: Option<(i64, i64)>,
}

/// Reads the last files, from the newest one whose head gives the bounds before it.
pub(super) fn recover<S: Storage>(
    storage: &S,
    parts: &[Part],
    kept: &Kept,
) -> io::Result<Recovery> {
    let mut from = parts.len().saturating_sub(1);
    while from > 0 && parts[from].head.is_none() {
        from -= 1;
    }
    let mut scan = Scan {
        found: Recovery { ended: parts.is_empty(), ..Recovery::default() },
        suspect: 0,
        known: kept.newest.as_ref().map_or(0, |(kept, _)| kept.last_record),
    };
    for (i, part) in parts.iter().enumerate().skip(from) {
        scan.head(part);
        let bytes = storage.read(part.first, u64::MAX)?;
        let damaged = scan.frames(&bytes, i + 1 == parts.len());
        if damaged > 0 {
            // The next file's head gives its first number.
            let next = parts.get(i + 1).map_or(u64::MAX, |p| p.first.saturating_sub(1));
            scan.damaged_end(damaged, part.first, next);
        }
    }
    let Scan { mut found, suspect, .. } = scan;
    if let Some(newest) = &kept.newest {
        found.hold_against(newest, parts);
    }
    // Any of the lost records may have been an event of any session: no session gives a number
    // again that it may have given.
    found.events.values_mut().for_each(|last| *last += suspect);
    if let Some((first, last)) = found.lost {
        found.damage.push(format!("records {first} to {last} are damaged or lost"));
    }
    Ok(found)
}

/// A log as it is read after a start.
struct Scan {
    found: Recovery,
    /// Number of lost records that the second copy of the numbers does not cover: every session's
    /// next event number is raised by it.
    suspect: u64,
    /// Newest record that the second place of the numbers knows.
    known: u64,
}

impl Scan {
    /// Takes over the bounds in a file's head.
    fn head(&mut self, part: &Part) {
        let found = &mut self.found;
        if let Some((bounds, time_ns)) = &part.head {
            found.id.clone_from(&bounds.journal_id);
            found.time_ns = found.time_ns.max(*time_ns);
            for (session, last) in &bounds.last_event_sequence {
                let known = found.events.entry(session.clone()).or_default();
                *known = (*known).max(*last);
            }
        }
        found.last = found.last.max(part.first.saturating_sub(1));
    }

    /// Numbers from `first` to `last` are lost.
    fn lose(&mut self, first: u64, last: u64) {
        self.suspect += last.saturating_sub(self.known.max(first - 1));
        let from = self.found.lost.map_or(first, |l| l.0);
        self.found.lost = Some((from, last));
    }

    /// A file's frames; returns the bytes that are damaged behind the last sound one.
    fn frames(&mut self, bytes: &[u8], is_newest: bool) -> usize {
        let mut damaged = 0usize;
        for frame in Frames::new(bytes, HEADER_BYTES) {
            let (number, payload) = match frame {
                Found::Frame { number, payload } => (number, payload),
                Found::Damage { bytes, torn: true } => {
                    if is_newest {
                        self.found.torn_bytes += bytes.len() as u64;
                    }
                    continue;
                }
                Found::Damage { bytes, torn: false } => {
                    damaged += bytes.len();
                    continue;
                }
            };
            // A group that failed halfway is written again, into the next file.
            if number <= self.found.last {
                continue;
            }
            if number > self.found.last + 1 {
                self.lose(self.found.last + 1, number - 1);
            }
            damaged = 0;
            let found = &mut self.found;
            found.last = number;
            let Some(record) = record(number, &bytes[payload]) else { continue };
            found.time_ns = found.time_ns.max(record.time_ns);
            found.ended = matches!(record.what, Some(What::DaemonStopped(_)));
            if let Some(What::Event(event)) = record.what {
                let known = found.events.entry(event.session).or_default();
                *known = (*known).max(event.event_sequence);
            }
        }
        damaged
    }

    /// Frames behind the last sound one were whole once, and may have been announced: as many as
    /// are known to have been there, or where nothing is known as many as the bytes can hold.
    fn damaged_end(&mut self, damaged: usize, file: u64, next: u64) {
        let last = self.found.last;
        let by_size = (damaged / EVENT_FRAME_BYTES).max(1) as u64;
        let by_number = self.known.saturating_sub(last);
        let at_most = if by_number > 0 { by_number } else { by_size };
        let at_most = at_most.min(next.saturating_sub(last));
        if at_most == 0 {
            let damage = format!("{damaged} bytes at the end of file {}", file_name(file));
            self.found.damage.push(damage);
            return;
        }
        self.lose(last + 1, last + at_most);
        self.found.last += at_most;
    }
}

impl Recovery {
    /// Compares the log with the second copy of the numbers.
    fn hold_against(&mut self, (kept, time_ns): &(Bounds, i64), parts: &[Part]) {
        self.timeline = Some((kept.timeline_ns, *time_ns));
        if self.id.is_empty() {
            self.id.clone_from(&kept.journal_id);
        }
        if kept.file > 0 && parts.iter().all(|p| p.first != kept.file) {
            self.damage.push(format!("file {} is gone", file_name(kept.file)));
        }
        if kept.last_record > self.last {
            let first = self.lost.map_or(self.last + 1, |l| l.0);
            self.last = kept.last_record;
            self.lost = Some((first, self.last));
            self.ended = false;
        }
        for (session, last) in &kept.last_event_sequence {
            let known = self.events.entry(session.clone()).or_default();
            if *known < *last {
                self.damage.push(format!(
                    "'{session}' had {last} events, of which the files hold those to {known}"
                ));
                *known = *last;
            }
        }
    }
}
