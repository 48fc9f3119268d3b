//! The journal: what happened, on disk before anybody is told. docs/journal.md has the format and what is promised.

pub mod format;
mod log;
mod reader;
mod snapshot;
mod storage;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::sync::watch;

use crate::telemetry::{JournalMetrics, wall_ns};
use crate::wire::journal_record::What;
use crate::wire::{Bounds, Event, JournalRecord};
use log::{Log, Parts};
use storage::Folder;

pub use log::Recovery;
pub use reader::{Reading, Trouble, read};
pub use snapshot::{Snapshot, SnapshotError};

/// Bytes of records that wait for a disk that fails; beyond, what comes is dropped and counted.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Bytes written at once.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Between attempts on a disk that fails.
const RETRY: Duration = Duration::from_millis(250);
/// Between looks at size and age.
const RETAIN_EVERY: Duration = Duration::from_secs(10);
/// What keeping a record costs beside its bytes, about.
const RECORD_COST: usize = 64;

/// When a record counts as kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Once it is synced to the disk: nothing announced is lost, whatever happens. Records that come while a sync
    /// runs share the next.
    Commit,
    /// Once the system has it: nothing announced is lost when the process dies, up to this much when the power fails.
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
    /// Where.
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

/// A place in the journal's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

struct Waiting {
    records: VecDeque<(u64, Bytes)>,
    bytes: usize,
    next: u64,
    /// Newest event number that was given, per session.
    events: BTreeMap<String, u64>,
    closed: bool,
}

struct Shared {
    settings: Settings,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// All records up to this one are kept.
    kept: watch::Sender<u64>,
    /// Why the disk fails, while it does.
    failing: watch::Sender<Option<String>>,
    /// The wall clock was set: nothing is removed for its age.
    age_suspended: std::sync::atomic::AtomicBool,
    parts: Parts,
    id: String,
    metrics: JournalMetrics,
}

/// A journal that is kept. Everything but reading is done by a thread of its own.
pub struct Journal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held while the journal is open.
    _lock: File,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An identity that no other journal or run has.
#[must_use]
pub fn new_id() -> String {
    format!("{:x}-{:x}", wall_ns(), std::process::id())
}

/// Takes the folder for this process.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    // A file system that has become read-only still says who holds the lock.
    let file = file.or_else(|_| File::open(&path)).context("cannot open its lock")?;
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
    /// When the folder cannot be made or read, or another process has it. A disk on which nothing can be written does
    /// not count: that is told by [`Self::failing`], and records wait.
    pub fn open(settings: Settings) -> Result<(Self, Recovery)> {
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
            age_suspended: std::sync::atomic::AtomicBool::new(false),
            parts: log.parts(),
            id,
            metrics: JournalMetrics::new(settings.name),
            settings,
        });
        let writer = Writer {
            shared: shared.clone(),
            bounds: recovery.events.clone(),
            log,
            unsynced: None,
            retained: Instant::now(),
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
    pub fn newest_event(&self, session: &str) -> u64 {
        locked(&self.shared.waiting).events.get(session).copied().unwrap_or(0)
    }

    /// Why the disk fails, while it does.
    #[must_use]
    pub fn failing(&self) -> watch::Receiver<Option<String>> {
        self.shared.failing.subscribe()
    }

    /// Nothing is removed for its age while the wall clock is not to be believed.
    pub fn suspend_age(&self) {
        self.shared.age_suspended.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes a record; `None` where too much waits for a disk that fails: it is dropped, and counted.
    pub fn add(&self, session: &str, what: What) -> Option<Ticket> {
        self.push(session, |_| what)
    }

    /// Takes an event and numbers it.
    pub fn add_event(&self, event: &mut Event) -> Option<Ticket> {
        let session = event.session.clone();
        self.push(&session, |waiting| {
            let newest = waiting.events.entry(session.clone()).or_default();
            *newest += 1;
            event.event_sequence = *newest;
            What::Event(event.clone())
        })
    }

    fn push(&self, session: &str, what: impl FnOnce(&mut Waiting) -> What) -> Option<Ticket> {
        let mut waiting = locked(&self.shared.waiting);
        if waiting.bytes >= WAITING_BYTES_MAX || waiting.closed {
            self.shared.metrics.dropped.increment(1);
            return None;
        }
        let what = Some(what(&mut waiting));
        let record =
            JournalRecord { number: 0, time_ns: wall_ns(), session: session.to_owned(), what };
        let payload = Bytes::from(log::payload(&record));
        if payload.len() > format::PAYLOAD_BYTES_MAX {
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

    /// Resolves when what was taken may be announced: true when it is kept, false where the disk fails and it is not to
    /// be waited for.
    pub async fn announceable(&self, ticket: Ticket) -> bool {
        let mut kept = self.shared.kept.subscribe();
        let mut failing = self.shared.failing.subscribe();
        let announce = self.shared.settings.when_disk_fails == WhenDiskFails::Announce;
        let is_kept = kept.wait_for(|kept| *kept >= ticket.0);
        if !announce {
            return is_kept.await.is_ok();
        }
        tokio::select! {
            biased;
            kept = is_kept => kept.is_ok(),
            _ = failing.wait_for(Option::is_some) => false,
        }
    }

    /// Events of a session after a number, at most so many; for a number that the disk has lost, one that says so.
    ///
    /// # Errors
    /// The oldest number after which nothing would be skipped, where that is later.
    pub fn events_after(&self, session: &str, after: u64, max: usize) -> Result<Vec<Event>, u64> {
        let parts = self.shared.parts.read().unwrap_or_else(PoisonError::into_inner).clone();
        let kept = *self.shared.kept.borrow();
        reader::events_after(&self.shared.settings.folder, &parts, kept, (session, after), max)
    }

    /// Waits until all that was taken is kept, and ends; false where the disk fails and some is not.
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

/// Owns the files.
struct Writer {
    shared: Arc<Shared>,
    log: Log<Folder>,
    /// Newest event number per session among what was written.
    bounds: BTreeMap<String, u64>,
    /// Since when something is written and not synced.
    unsynced: Option<Instant>,
    retained: Instant,
}

impl Writer {
    fn run(mut self) {
        loop {
            let (group, closed) = self.next_group();
            if group.is_empty() && closed {
                let _ = self.log.sync();
                return;
            }
            let began = Instant::now();
            match self.keep(&group) {
                Ok(()) => self.kept(&group, began),
                Err(e) => {
                    self.failed(&e);
                    if closed {
                        return;
                    }
                    std::thread::sleep(RETRY);
                }
            }
            self.retain();
        }
    }

    /// What waits, up to a bound; empty where only time has passed.
    fn next_group(&self) -> (Vec<(u64, Bytes)>, bool) {
        let patience = match self.shared.settings.sync {
            Sync::Interval(every) if self.unsynced.is_some() => every,
            _ => RETAIN_EVERY,
        };
        let mut waiting = locked(&self.shared.waiting);
        if waiting.records.is_empty() && !waiting.closed {
            let waited = self.shared.wake.wait_timeout(waiting, patience);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut bytes = 0;
        let group = waiting
            .records
            .iter()
            .take_while(|(_, payload)| {
                let before = bytes;
                bytes += payload.len();
                before < GROUP_BYTES_MAX
            })
            .cloned()
            .collect();
        (group, waiting.closed)
    }

    fn keep(&mut self, group: &[(u64, Bytes)]) -> std::io::Result<()> {
        let (bounds, id) = (&self.bounds, &self.shared.id);
        self.log.write(group, || JournalRecord {
            number: 0,
            time_ns: wall_ns(),
            session: String::new(),
            what: Some(What::Bounds(Bounds {
                last_event_sequence: bounds.iter().map(|(s, n)| (s.clone(), *n)).collect(),
                journal_id: id.clone(),
            })),
        })?;
        if !group.is_empty() {
            self.unsynced.get_or_insert_with(Instant::now);
        }
        let due = match (self.shared.settings.sync, self.unsynced) {
            (_, None) => false,
            (Sync::Commit, Some(_)) => true,
            (Sync::Interval(every), Some(since)) => since.elapsed() >= every,
        };
        if due {
            self.log.sync()?;
            self.unsynced = None;
        }
        Ok(())
    }

    fn kept(&mut self, group: &[(u64, Bytes)], began: Instant) {
        let Some((last, _)) = group.last() else { return };
        for (_, payload) in group {
            let Some(record) = log::record(0, payload) else { continue };
            if let Some(What::Event(event)) = record.what {
                self.bounds.insert(event.session, event.event_sequence);
            }
        }
        let mut waiting = locked(&self.shared.waiting);
        let bytes: usize = group.iter().map(|(_, p)| p.len() + RECORD_COST).sum();
        waiting.records.drain(..group.len());
        waiting.bytes -= bytes;
        let left = waiting.records.len();
        drop(waiting);
        let metrics = &self.shared.metrics;
        metrics.waiting.set(left as f64);
        metrics.records.increment(group.len() as u64);
        metrics.commit.record(began.elapsed().as_secs_f64());
        self.shared.kept.send_replace(*last);
        self.shared.failing.send_if_modified(|failing| {
            let was = failing.take().is_some();
            if was {
                metrics.failing.set(0.0);
                tracing::info!("the journal's disk works again");
            }
            was
        });
    }

    fn failed(&mut self, error: &std::io::Error) {
        // What was not synced is written again.
        self.unsynced = None;
        self.shared.metrics.failures.increment(1);
        let told = error.to_string();
        self.shared.failing.send_if_modified(|failing| {
            if failing.as_ref() == Some(&told) {
                return false;
            }
            self.shared.metrics.failing.set(1.0);
            tracing::error!(
                "the journal cannot be written: {told}; it is tried again until it can"
            );
            *failing = Some(told.clone());
            true
        });
    }

    fn retain(&mut self) {
        if self.retained.elapsed() < RETAIN_EVERY && !self.log.begins_file() {
            return;
        }
        self.retained = Instant::now();
        let settings = &self.shared.settings;
        let suspended = self.shared.age_suspended.load(std::sync::atomic::Ordering::Relaxed);
        let older = (!suspended).then(|| wall_ns() - (settings.age_max_s * 1e9) as i64);
        match self.log.retain(settings.bytes_max, older) {
            Ok(0) => {}
            Ok(files) => tracing::debug!(files, "old files of the journal removed"),
            Err(e) => tracing::warn!("old files of the journal cannot be removed: {e}"),
        }
        let parts = self.shared.parts.read().unwrap_or_else(PoisonError::into_inner);
        self.shared.metrics.bytes.set(parts.iter().map(|p| p.bytes as f64).sum::<f64>());
    }
}
