//! The journal: events and faults on disk, before they are announced. docs/journal.md specifies the
//! format and the promises.

pub mod format;
mod log;
mod numbers;
mod part;
mod reader;
mod record;
mod recovery;
mod settings;
mod shared;
mod snapshot;
mod storage;
mod writer;

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::sync::watch;

use crate::clock::wall_ns;
use crate::sync::locked;
use crate::telemetry::JournalMetrics;
use crate::wire::journal_record::What;
use crate::wire::{Event, JournalRecord};
use log::Log;
use record::payload;
use shared::{RECORD_COST, Shared, Waiting};
use storage::Folder;
use writer::{Timeline, Writer};

pub(crate) use part::file_name;
pub(crate) use reader::NotRetained;
pub use reader::{Reading, read};
pub use recovery::Recovery;
pub use settings::{Settings, Sync, WhenDiskFails};
pub use snapshot::Snapshot;
pub(crate) use snapshot::SnapshotError;

/// Most bytes of records that wait for a failing disk; beyond, new records are dropped and counted.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A place in the journal's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// An open journal. All writing is done by its own thread.
pub struct Journal {
    shared: Arc<Shared>,
    /// Taken by the first `close`, which waits for the thread; later ones find nothing to wait for.
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held while the journal is open.
    _lock: File,
}

/// An identity that no other journal or run has.
#[must_use]
pub(crate) fn new_id() -> String {
    format!("{:x}-{:x}", wall_ns(), std::process::id())
}

/// Takes the folder for this process: the folder itself is locked, as any file in it can be removed
/// by somebody who tidies up.
fn lock(folder: &Path) -> Result<File> {
    let file = File::open(folder).context("cannot open it")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("expected a journal that nobody has open, found another regimed at it")
        }
        Err(std::fs::TryLockError::Error(e)) => Err(e).context("cannot lock it"),
    }
}

impl Journal {
    /// Opens or begins a journal.
    ///
    /// # Errors
    /// When the folder cannot be made or read, or another process has it. A disk that takes no
    /// writes is no error here: [`Self::failing`] reports it, and records wait.
    pub fn open(settings: Settings) -> Result<(Self, Recovery)> {
        Self::open_at(settings, wall_ns())
    }

    fn open_at(settings: Settings, wall_ns: i64) -> Result<(Self, Recovery)> {
        let folder = Folder::open(&settings.folder)?;
        let lock = lock(&settings.folder)?;
        let (log, recovery) = Log::open(folder).context("cannot read it")?;
        let id = if recovery.id.is_empty() { new_id() } else { recovery.id.clone() };
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Waiting {
                records: VecDeque::new(),
                bytes: 0,
                next: recovery.last + 1,
                events: recovery.events.clone(),
                closed: false,
            }),
            wake: Condvar::new(),
            kept: watch::Sender::new(recovery.last),
            failing: watch::Sender::new(None),
            parts: log.parts(),
            id,
            metrics: JournalMetrics::new(settings.name),
            settings,
        });
        let writer = Writer {
            shared: shared.clone(),
            bounds: recovery.events.clone(),
            last: recovery.last,
            timeline: Timeline::after(&recovery, wall_ns),
            log,
            unsynced: None,
            retained: Instant::now(),
            numbers_kept: None,
            numbers_failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run())
            .context("cannot start the journal's thread")?;
        Ok((Self { shared, thread: Mutex::new(Some(thread)), _lock: lock }, recovery))
    }

    /// Its identity: numbers of events are its own.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Number of a session's newest event, announced or not.
    #[must_use]
    pub(crate) fn newest_event(&self, session: &str) -> u64 {
        locked(&self.shared.waiting).events.get(session).copied().unwrap_or(0)
    }

    /// Why the disk fails, while it does.
    #[must_use]
    pub(crate) fn failing(&self) -> watch::Receiver<Option<String>> {
        self.shared.failing.subscribe()
    }

    /// Takes a record; `None` where too much waits for a disk that fails: it is dropped, and
    /// counted.
    pub fn add(&self, session: &str, what: What) -> Option<Ticket> {
        self.push(session, |_| what)
    }

    /// Takes an event and numbers it.
    pub(crate) fn add_event(&self, event: &mut Event) -> Option<Ticket> {
        let session = event.session.clone();
        self.push(&session, |waiting| {
            let newest = waiting.events.entry(session.clone()).or_default();
            *newest += 1;
            event.event_sequence = *newest;
            What::Event(event.clone())
        })
    }

    fn push(&self, session: &str, what: impl FnOnce(&mut Waiting) -> What) -> Option<Ticket> {
        // Numbered under the lock that orders the queue: numbers are in the order of the file.
        let mut waiting = locked(&self.shared.waiting);
        if waiting.bytes >= WAITING_BYTES_MAX || waiting.closed {
            self.shared.metrics.dropped.increment(1);
            return None;
        }
        let what = Some(what(&mut waiting));
        let record =
            JournalRecord { number: 0, time_ns: wall_ns(), session: session.to_owned(), what };
        let payload = Bytes::from(payload(&record));
        if payload.len() > format::PAYLOAD_BYTES_MAX {
            if let (Some(What::Event(_)), Some(newest)) =
                (&record.what, waiting.events.get_mut(session))
            {
                // Its number was given under this lock, and goes to the next event.
                *newest -= 1;
            }
            self.shared.metrics.dropped.increment(1);
            return None;
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.bytes += payload.len() + RECORD_COST;
        waiting.records.push_back((number, payload));
        self.shared.metrics.waiting.set(waiting.records.len() as f64);
        drop(waiting);
        self.shared.wake.notify_one();
        Some(Ticket(number))
    }

    /// Resolves when a record may be announced: true once it is kept; false where the disk fails
    /// and the setting is not to wait.
    pub(crate) async fn announceable(&self, ticket: Ticket) -> bool {
        let mut kept = self.shared.kept.subscribe();
        let mut failing = self.shared.failing.subscribe();
        let announce = self.shared.settings.when_disk_fails == WhenDiskFails::Announce;
        let is_kept = kept.wait_for(|kept| *kept >= ticket.0);
        if !announce {
            return is_kept.await.is_ok();
        }
        tokio::select! {
            // A record that is kept is announced as kept, also while the disk fails.
            biased;
            kept = is_kept => kept.is_ok(),
            _ = failing.wait_for(Option::is_some) => false,
        }
    }

    /// At most `most` events of a session after a number. A number that the disk has lost is
    /// represented by an event with `lost` set.
    ///
    /// # Errors
    /// The oldest number after which nothing would be skipped, where that is later.
    pub(crate) fn events_after(
        &self,
        session: &str,
        after: u64,
        max: usize,
    ) -> Result<Vec<Event>, NotRetained> {
        let parts = self.shared.parts.read().unwrap_or_else(PoisonError::into_inner).clone();
        let kept = *self.shared.kept.borrow();
        reader::events_after(&self.shared.settings.folder, &parts, kept, (session, after), max)
    }

    /// Waits until all that was taken is kept, and ends; false where the disk fails and some is
    /// not.
    pub fn close(&self) -> bool {
        locked(&self.shared.waiting).closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
        locked(&self.shared.waiting).records.is_empty()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn settings(folder: &Path) -> Settings {
        Settings {
            name: "journal",
            folder: folder.to_owned(),
            sync: Sync::Commit,
            when_disk_fails: WhenDiskFails::Hold,
            bytes_max: 64 << 20,
            age_max_s: 90.0 * 86_400.0,
        }
    }

    /// Runs that each announce events of some sessions; the newest of each.
    fn filled(folder: &Path, runs: usize) -> BTreeMap<String, u64> {
        let mut announced = BTreeMap::new();
        for run in 0..runs {
            let (journal, found) = Journal::open(settings(folder)).expect("opened");
            assert_eq!(found.damage, Vec::<String>::new(), "run {run}");
            assert_eq!(found.events, announced, "run {run}");
            for i in 0..32 {
                // One session that ends with its run, and two that continue.
                let session = if run == 0 { "first" } else { ["a", "b"][i % 2] };
                let mut event = Event { session: session.into(), ..Event::default() };
                journal.add_event(&mut event).expect("taken");
                announced.insert(session.to_owned(), event.event_sequence);
            }
            assert!(journal.close());
        }
        announced
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut files: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
        files.sort();
        files
    }

    /// Changes one file in a random way; describes the change.
    fn damage(files: &[PathBuf], rng: &mut ChaCha8Rng) -> String {
        let file = &files[rng.random_range(0..files.len())];
        let mut bytes = std::fs::read(file).expect("bytes");
        let at = rng.random_range(0..bytes.len());
        let to = rng.random_range(at + 1..=bytes.len());
        let what = match rng.random_range(0..6) {
            0 => {
                bytes[at] ^= 1 << rng.random_range(0..8);
                format!("a bit at {at}")
            }
            1 => {
                bytes[at..to].iter_mut().for_each(|b| *b = !*b);
                format!("{at} to {to} changed")
            }
            2 if bytes[at..].iter().any(|b| *b != 0) => {
                bytes[at..].fill(0);
                format!("zeros from {at}")
            }
            3 => {
                bytes.truncate(at);
                format!("cut at {at}")
            }
            4 => {
                bytes.drain(at..to);
                format!("{at} to {to} left out")
            }
            _ => {
                std::fs::remove_file(file).expect("removed");
                return format!("{} removed", file.display());
            }
        };
        std::fs::write(file, bytes).expect("written");
        format!("{}: {what}", file.display())
    }

    #[test]
    fn an_event_that_is_too_long_uses_no_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, _) = Journal::open(settings(folder.path())).expect("opened");
        let event = |to: String| Event { session: "a".into(), to, ..Event::default() };
        journal.add_event(&mut event("first".into())).expect("taken");
        assert!(journal.add_event(&mut event("x".repeat(format::PAYLOAD_BYTES_MAX))).is_none());
        let mut next = event("second".into());
        journal.add_event(&mut next).expect("taken");
        assert_eq!((next.event_sequence, journal.newest_event("a")), (2, 2));
        assert!(journal.close());
    }

    #[test]
    fn the_newest_number_survives_any_single_damage_and_every_damage_is_told() {
        let base = tempfile::tempdir().expect("a folder");
        let announced = filled(base.path(), 4);
        let sound = files(base.path());
        let oldest = sound.iter().find(|f| f.extension().is_some_and(|e| e == "rgj")).cloned();
        let mut rng = ChaCha8Rng::seed_from_u64(18);
        for trial in 0..600 {
            let folder = tempfile::tempdir().expect("a folder");
            for file in &sound {
                let name = file.file_name().expect("a name");
                std::fs::copy(file, folder.path().join(name)).expect("copied");
            }
            let mut all = files(folder.path());
            if trial % 3 == 0 {
                // As if the first file had been removed for its age: only the others' heads
                // represent it.
                let gone = oldest.as_ref().and_then(|f| f.file_name()).expect("a name");
                std::fs::remove_file(folder.path().join(gone)).expect("removed");
                all.retain(|f| f.file_name() != Some(gone));
            }
            let what = format!("trial {trial}: {}", damage(&all, &mut rng));
            // The oldest file is removed for its age as well, and one of two copies is not needed.
            let gone = all.iter().position(|f| !f.exists());
            let may_go =
                gone.is_some_and(|i| i == 0 || all[i].to_string_lossy().contains("numbers"));
            let reading = read(folder.path(), |_| {}).expect("read");
            let (journal, found) = Journal::open(settings(folder.path())).expect("opened");
            for (session, last) in &announced {
                let newest = journal.newest_event(session);
                assert!(newest >= *last, "{what}: {session} at {newest}, {last} were announced");
                let mut event = Event { session: session.clone(), ..Event::default() };
                journal.add_event(&mut event).expect("taken");
                assert!(event.event_sequence > *last, "{what}");
            }
            let is_reported = !found.damage.is_empty()
                || reading.lost_untold > 0
                || !reading.numbers.is_empty()
                || reading.damaged_files.iter().any(|t| !t.torn);
            assert!(is_reported || may_go, "{what}: nothing is reported: {found:?}, {reading:?}");
        }
    }

    #[test]
    fn a_clock_that_is_years_off_at_a_start_removes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        filled(folder.path(), 3);
        let year = 365 * 86_400 * 1_000_000_000i64;
        let before = files(folder.path());
        for years in [10, -10, 10, 0, -10, 10] {
            let now = wall_ns() + years * year;
            let (journal, _) = Journal::open_at(settings(folder.path()), now).expect("opened");
            let mut event = Event { session: "a".into(), ..Event::default() };
            let ticket = journal.add_event(&mut event).expect("taken");
            while *journal.shared.kept.borrow() < ticket.0 {
                std::thread::yield_now();
            }
            journal.close();
            let (mut log, found) =
                Log::open(Folder::open(folder.path()).expect("a folder")).expect("a log");
            let timeline = Timeline::after(&found, now);
            let older = timeline.now_ns() - 90 * year / 365;
            assert_eq!(log.retain(u64::MAX, older).expect("done"), 0, "{years} years");
            assert!(before.iter().all(|f| f.exists()), "{years} years");
        }
        // Old by the journal's own timeline.
        let (mut log, found) =
            Log::open(Folder::open(folder.path()).expect("a folder")).expect("a log");
        let later = Timeline::after(&found, wall_ns()).now_ns();
        assert!(log.retain(u64::MAX, later).expect("done") >= 3);
    }

    #[test]
    fn a_folder_is_one_daemon_s_whatever_is_removed_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        filled(folder.path(), 1);
        let (journal, _) = Journal::open(settings(folder.path())).expect("opened");
        for file in files(folder.path()) {
            std::fs::remove_file(file).expect("removed");
        }
        let second = Journal::open(settings(folder.path())).err().expect("refused");
        assert!(format!("{second:#}").contains("another regimed"), "{second:#}");
        drop(journal);
        assert!(Journal::open(settings(folder.path())).is_ok());
        use std::os::unix::fs::PermissionsExt;
        for file in files(folder.path()) {
            let mode = std::fs::metadata(&file).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
    }
}
