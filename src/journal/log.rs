//! Files of frames, one after another: written in groups, bounded in size and age, read again after
//! a crash.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::part::{Part, Parts, file_name, head, is_begun};
use super::record::payload;
use super::recovery::{Recovery, recover};
use super::storage::Storage;
use super::{format, numbers};
use crate::wire::JournalRecord;
use crate::wire::journal_record::What;

/// Longest file; the next is started beyond.
pub(super) const FILE_BYTES: u64 = 4 << 20;
/// Bytes in which a file's first frame is looked for.
const HEAD_BYTES: u64 = 64 << 10;

/// A log that is written.
pub(super) struct Log<S: Storage> {
    storage: S,
    parts: Parts,
    out: Option<S::Out>,
    /// Bytes of the file that is written.
    bytes: u64,
    buffer: Vec<u8>,
    /// Times that the numbers were written to their second place.
    numbers_written: u64,
}

impl<S: Storage> Log<S> {
    /// Reads what exists, without changing it; new records go into a new file.
    ///
    /// # Errors
    /// Errors of the storage.
    pub(super) fn open(storage: S) -> io::Result<(Self, Recovery)> {
        let mut parts = Vec::new();
        let mut damage = Vec::new();
        let list = storage.list()?;
        for (i, &first) in list.iter().enumerate() {
            let bytes = storage.read(first, HEAD_BYTES)?;
            let head = head(&bytes, first);
            if head.is_none() && !(i + 1 == list.len() && is_begun(&bytes)) {
                damage.push(format!("the head of file {}", file_name(first)));
            }
            parts.push(Part { first, bytes: storage.len(first)?, head });
        }
        let kept = numbers::find(&storage)?;
        damage.extend(kept.damaged.iter().map(|slot| format!("file numbers.{slot}")));
        // The numbers are written before any file with a timeline is created.
        let expected = parts.iter().any(|p| p.head.as_ref().is_some_and(|h| h.0.timeline_ns != 0));
        if expected && kept.newest.is_none() && kept.damaged.is_empty() {
            damage.push("files numbers.0 and numbers.1 are gone".into());
        }
        let mut recovery = recover(&storage, &parts, &kept)?;
        damage.append(&mut recovery.damage);
        recovery.damage = damage;
        let log = Self {
            storage,
            parts: Arc::new(RwLock::new(parts)),
            out: None,
            bytes: 0,
            buffer: Vec::new(),
            numbers_written: kept.writes,
        };
        Ok((log, recovery))
    }

    /// Keeps the newest numbers in their second place; `record` holds `Bounds`.
    ///
    /// # Errors
    /// Errors of the storage.
    pub(super) fn keep_numbers(&mut self, record: &JournalRecord) -> io::Result<()> {
        numbers::keep(&mut self.storage, &mut self.numbers_written, record)
    }

    /// Number of the first record of the file that is written; 0 where none is.
    #[must_use]
    pub(super) fn file(&self) -> u64 {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.last().filter(|_| self.out.is_some()).map_or(0, |p| p.first)
    }

    /// The files of the journal, oldest first.
    #[must_use]
    pub(super) fn parts(&self) -> Parts {
        self.parts.clone()
    }

    /// Whether the next frame begins a file, which needs its bounds.
    #[must_use]
    pub(super) fn begins_file(&self) -> bool {
        self.out.is_none() || self.bytes >= FILE_BYTES
    }

    /// Writes frames, without a sync. `bounds` heads a new file; see [`Self::begins_file`].
    ///
    /// # Errors
    /// Errors of the storage. The frames must then be written again: into another file, or into
    /// this one where none of it was kept.
    pub(super) fn write(
        &mut self,
        frames: &[(u64, Bytes)],
        bounds: impl FnOnce() -> JournalRecord,
    ) -> io::Result<()> {
        let Some((first, _)) = frames.first() else { return Ok(()) };
        self.buffer.clear();
        let begins = self.begins_file();
        if begins {
            let bounds = bounds();
            self.out = None;
            let out = self.storage.create(*first)?;
            self.out = Some(out);
            self.bytes = 0;
            self.buffer.extend_from_slice(&format::header(*first));
            format::push(&mut self.buffer, 0, &payload(&bounds));
            let time_ns = bounds.time_ns;
            let head = match bounds.what {
                Some(What::Bounds(bounds)) => Some((bounds, time_ns)),
                _ => None,
            };
            let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
            parts.retain(|p| p.first != *first);
            parts.push(Part { first: *first, bytes: 0, head });
        }
        for (number, payload) in frames {
            format::push(&mut self.buffer, *number, payload);
        }
        let Some(out) = &mut self.out else { return Ok(()) };
        if let Err(e) = self.storage.append(out, &self.buffer) {
            self.out = None;
            return Err(e);
        }
        self.bytes += self.buffer.len() as u64;
        let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = parts.last_mut() {
            last.bytes = self.bytes;
        }
        Ok(())
    }

    /// Returns when everything written would survive the loss of power.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        // What a failed sync has left on the disk is not known: it is not tried again on the same
        // file.
        self.storage.sync(out).inspect_err(|_| self.out = None)
    }

    /// Removes the oldest files beyond `bytes_max`, and those that ended before `older_ns` of the
    /// timeline; how many. The file that is written stays.
    ///
    /// # Errors
    /// Errors of the storage.
    pub(super) fn retain(&mut self, bytes_max: u64, older_ns: i64) -> io::Result<usize> {
        let mut removed = 0;
        loop {
            let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
            let total: u64 = parts.iter().map(|p| p.bytes).sum();
            let [oldest, _, ..] = parts.as_slice() else { return Ok(removed) };
            // A file ends when the next begins; of one from before there was a timeline only this
            // is known: it ended before it.
            let timeline = |p: &Part| p.head.as_ref().map_or(0, |(bounds, _)| bounds.timeline_ns);
            let ended = parts[1..].iter().map(timeline).find(|t| *t != 0);
            let old = ended.is_some_and(|ended| ended < older_ns);
            if total <= bytes_max && !old {
                return Ok(removed);
            }
            let first = oldest.first;
            drop(parts);
            self.storage.remove(first)?;
            let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
            parts.retain(|p| p.first != first);
            removed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::super::format::{Found, Frames, HEADER_BYTES};
    use super::super::record::record;
    use super::*;
    use crate::wire::Bounds;
    use crate::wire::Event;
    use crate::wire::journal_record::What;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Bytes of a file: how many are safe from the loss of power.
    #[derive(Debug, Clone, Default)]
    struct Stored {
        bytes: Vec<u8>,
        synced: usize,
    }

    /// A disk that fails at the `fails_at`-th thing it is asked for.
    #[derive(Clone, Default)]
    struct Disk {
        files: Arc<Mutex<HashMap<u64, Stored>>>,
        numbers: Arc<Mutex<HashMap<usize, Vec<u8>>>>,
        asked: Arc<Mutex<usize>>,
        fails_at: usize,
        /// It fails once, and works again; otherwise it stays broken.
        once: bool,
    }

    impl Disk {
        fn ask(&self) -> io::Result<()> {
            let mut asked = self.asked.lock().expect("no panic");
            *asked += 1;
            let fails = if self.once { *asked == self.fails_at } else { *asked >= self.fails_at };
            if self.fails_at > 0 && fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        /// A disk after a power loss: any part of the unsynced bytes may be there.
        fn after_power_loss(&self, rng: &mut ChaCha8Rng) -> Self {
            let mut files = self.files.lock().expect("no panic").clone();
            for file in files.values_mut() {
                let unsynced = file.bytes.len() - file.synced;
                let kept = rng.random_range(0..=unsynced);
                file.bytes.truncate(file.synced + kept);
                if rng.random_bool(0.3) && kept > 0 {
                    // Blocks that were never filled.
                    let from = file.synced + rng.random_range(0..kept);
                    file.bytes[from..].fill(0);
                }
                file.synced = file.bytes.len();
            }
            Self { files: Arc::new(Mutex::new(files)), ..Self::default() }
        }
    }

    impl Storage for Disk {
        type Out = u64;

        fn list(&self) -> io::Result<Vec<u64>> {
            let mut list: Vec<u64> = self.files.lock().expect("no panic").keys().copied().collect();
            list.sort_unstable();
            Ok(list)
        }

        fn read(&self, first: u64, limit: u64) -> io::Result<Vec<u8>> {
            let files = self.files.lock().expect("no panic");
            let bytes = &files.get(&first).ok_or(io::ErrorKind::NotFound)?.bytes;
            Ok(bytes[..bytes.len().min(limit.try_into().unwrap_or(usize::MAX))].to_vec())
        }

        fn len(&self, first: u64) -> io::Result<u64> {
            Ok(self.read(first, u64::MAX)?.len() as u64)
        }

        fn create(&mut self, first: u64) -> io::Result<u64> {
            self.ask()?;
            self.files.lock().expect("no panic").insert(first, Stored::default());
            Ok(first)
        }

        fn append(&mut self, out: &mut u64, bytes: &[u8]) -> io::Result<()> {
            let fails = self.ask();
            let mut files = self.files.lock().expect("no panic");
            let file = files.get_mut(out).ok_or(io::ErrorKind::NotFound)?;
            // A disk that is full takes a part.
            let taken = if fails.is_ok() { bytes.len() } else { bytes.len() / 2 };
            file.bytes.extend_from_slice(&bytes[..taken]);
            fails
        }

        fn sync(&mut self, out: &mut u64) -> io::Result<()> {
            self.ask()?;
            let mut files = self.files.lock().expect("no panic");
            let file = files.get_mut(out).ok_or(io::ErrorKind::NotFound)?;
            file.synced = file.bytes.len();
            Ok(())
        }

        fn remove(&mut self, first: u64) -> io::Result<()> {
            self.ask()?;
            self.files.lock().expect("no panic").remove(&first);
            Ok(())
        }

        fn numbers(&self, slot: usize) -> io::Result<Option<Vec<u8>>> {
            Ok(self.numbers.lock().expect("no panic").get(&slot).cloned())
        }

        fn write_numbers(&mut self, slot: usize, bytes: &[u8]) -> io::Result<()> {
            self.numbers.lock().expect("no panic").insert(slot, bytes.to_vec());
            Ok(())
        }
    }

    fn event(number: u64) -> Bytes {
        let event = Event { session: "rig".into(), event_sequence: number, ..Event::default() };
        let what = Some(What::Event(event));
        payload(&JournalRecord { session: "rig".into(), what, ..JournalRecord::default() }).into()
    }

    fn bounds(last: u64) -> JournalRecord {
        let known = (last > 0).then(|| ("rig".to_owned(), last));
        let what = Bounds {
            last_event_sequence: known.into_iter().collect(),
            journal_id: "here".into(),
            ..Bounds::default()
        };
        JournalRecord { what: Some(What::Bounds(what)), ..JournalRecord::default() }
    }

    /// Writes groups of events until something fails or `groups` are done; the newest that is safe.
    fn fill(log: &mut Log<Disk>, mut next: u64, groups: usize) -> (u64, bool) {
        for group in 0..groups {
            let n = 1 + group as u64 % 3;
            let frames: Vec<_> = (next..next + n).map(|i| (i, event(i))).collect();
            if log.write(&frames, || bounds(next - 1)).and_then(|()| log.sync()).is_err() {
                return (next - 1, false);
            }
            next += n;
        }
        (next - 1, true)
    }

    /// Numbers of the events that can be read.
    fn readable(disk: &Disk) -> Vec<u64> {
        let mut numbers = Vec::new();
        for first in disk.list().expect("a list") {
            let bytes = disk.read(first, u64::MAX).expect("a file");
            for found in Frames::new(&bytes, HEADER_BYTES) {
                if let Found::Frame { number, payload } = found
                    && number > numbers.last().copied().unwrap_or(0)
                {
                    assert!(record(number, &bytes[payload]).is_some());
                    numbers.push(number);
                }
            }
        }
        numbers
    }

    #[test]
    fn power_lost_at_every_write_costs_nothing_that_was_safe() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for fails_at in 1..60 {
            let disk = Disk { fails_at, ..Disk::default() };
            let (mut log, _) = Log::open(disk.clone()).expect("opened");
            let (safe, _) = fill(&mut log, 1, 25);
            let after = disk.after_power_loss(&mut rng);
            let (mut log, recovery) = Log::open(after.clone()).expect("opened again");
            assert!(recovery.last >= safe, "failed at {fails_at}: {recovery:?}, {safe} were safe");
            assert_eq!(
                recovery.events.get("rig").copied().unwrap_or(0).max(recovery.last),
                recovery.last
            );
            let numbers = readable(&after);
            assert!((1..=safe).all(|n| numbers.contains(&n)), "{numbers:?}, {safe} were safe");
            // The log continues.
            let (last, whole) = fill(&mut log, recovery.last + 1, 5);
            assert!(whole);
            let numbers = readable(&after);
            assert!((recovery.last + 1..=last).all(|n| numbers.contains(&n)), "{numbers:?}");
        }
    }

    #[test]
    fn a_disk_that_fails_for_a_moment_leaves_no_hole_and_nothing_twice() {
        for fails_at in 1..40 {
            let disk = Disk { fails_at, once: true, ..Disk::default() };
            let (mut log, _) = Log::open(disk.clone()).expect("opened");
            let (safe, whole) = fill(&mut log, 1, 20);
            let last = if whole { safe } else { fill(&mut log, safe + 1, 5).0 };
            assert_eq!(readable(&disk), (1..=last).collect::<Vec<_>>(), "failed at {fails_at}");
            let (_, recovery) = Log::open(disk).expect("opened again");
            assert_eq!((recovery.last, recovery.events["rig"]), (last, last));
        }
    }

    #[test]
    fn a_changed_bit_anywhere_is_known_and_no_number_is_given_again() {
        let disk = Disk::default();
        let (mut log, _) = Log::open(disk.clone()).expect("opened");
        let (last, _) = fill(&mut log, 1, 12);
        let whole = disk.files.lock().expect("no panic")[&1].bytes.clone();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            let stored = Stored { synced: bytes.len(), bytes };
            let files = Arc::new(Mutex::new(HashMap::from([(1, stored)])));
            let damaged = Disk { files, ..Disk::default() };
            let (_, recovery) = Log::open(damaged.clone()).expect("opened");
            let numbers = readable(&damaged);
            assert!(numbers.len() + 1 >= last as usize, "byte {at}: {numbers:?}");
            let torn = recovery.torn_bytes > 0;
            if numbers.len() < last as usize && !torn {
                assert!(recovery.lost.is_some(), "byte {at}: {recovery:?}");
            }
            if !torn {
                assert!(recovery.last >= last && recovery.events["rig"] >= last, "byte {at}");
            }
        }
    }

    #[test]
    fn size_and_age_bound_what_is_kept() {
        let disk = Disk::default();
        let (mut log, _) = Log::open(disk.clone()).expect("opened");
        let payload = Bytes::from(vec![0u8; 1 << 20]);
        for n in 1..=40u64 {
            let mut at = bounds(0);
            if let Some(What::Bounds(bounds)) = &mut at.what {
                bounds.timeline_ns = n as i64;
            }
            log.write(&[(n, payload.clone())], || at).expect("written");
        }
        let files = disk.list().expect("a list");
        assert!(files.len() >= 9, "{files:?}");
        log.retain(20 << 20, 0).expect("removed");
        let total: usize =
            disk.files.lock().expect("no panic").values().map(|f| f.bytes.len()).sum();
        assert!(total <= 20 << 20 && total > 14 << 20, "{total}");
        let second = disk.list().expect("a list")[1];
        log.retain(u64::MAX, second as i64 + 1).expect("removed");
        assert_eq!(disk.list().expect("a list")[0], second);
        log.retain(0, i64::MAX).expect("removed");
        assert_eq!(disk.list().expect("a list").len(), 1, "the one that is written stays");
    }
}
