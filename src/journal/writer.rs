//! The thread that writes records in groups, and keeps the files within their bounds.
//!
//! Group commit: a sync of the disk takes milliseconds and covers everything written before it. So
//! records that come while one sync runs wait, and the next group takes all of them at once: under
//! load there are fewer syncs per record, and a single record never waits for company. Records
//! leave the queue only after their group is kept; one that fails is written again, into a new
//! file, because what a failed write has left in the old one is not known. Readers drop the copy by
//! its number.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::log::Log;
use super::record::record;
use super::recovery::Recovery;
use super::settings::Sync;
use super::shared::{RECORD_COST, Shared};
use super::storage::Folder;
use crate::clock::wall_ns;
use crate::sync::locked;
use crate::wire::journal_record::What;
use crate::wire::{Bounds, JournalRecord};

/// Bytes written at once.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Between attempts on a disk that fails.
const RETRY: Duration = Duration::from_millis(250);
/// Between looks at size and age.
const RETAIN_EVERY: Duration = Duration::from_secs(10);
/// The numbers are written to their second place at least this often.
const NUMBERS_EVERY: Duration = Duration::from_secs(600);
/// Time between two runs that counts at most for the age of records, ns.
const AWAY_MAX_NS: i64 = 7 * 86_400 * 1_000_000_000;

/// The time by which records expire. The wall clock may be years off at a start, or be set while
/// the daemon runs, so it is not used: what counts is time on the steady clock, plus at most
/// [`AWAY_MAX_NS`] between two runs. A record is therefore never taken for older than it is by more
/// than that for each start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeline {
    from_ns: i64,
    began: Instant,
}

impl Timeline {
    pub(super) fn after(found: &Recovery, wall_ns: i64) -> Self {
        // A journal of before this was kept has its newest record's time.
        let before = found.timeline.filter(|(timeline, _)| *timeline != 0);
        let newest = (found.time_ns != 0).then_some((found.time_ns, found.time_ns));
        let from_ns = match before.or(newest) {
            Some((timeline, wall)) => {
                let away = wall_ns.saturating_sub(wall).clamp(0, AWAY_MAX_NS);
                timeline.saturating_add(away)
            }
            None => wall_ns,
        };
        Self { from_ns, began: Instant::now() }
    }

    pub(super) fn now_ns(&self) -> i64 {
        let ran = i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.from_ns.saturating_add(ran)
    }
}

/// Owns the files.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Log<Folder>,
    /// Newest written event number per session.
    pub(super) bounds: BTreeMap<String, u64>,
    /// Number of the newest record that was written.
    pub(super) last: u64,
    pub(super) timeline: Timeline,
    /// When the numbers were kept in their second place.
    pub(super) numbers_kept: Option<Instant>,
    pub(super) numbers_failing: bool,
    /// Since when something is written and not synced.
    pub(super) unsynced: Option<Instant>,
    pub(super) retained: Instant,
}

impl Writer {
    pub(super) fn run(mut self) {
        // Before there is a file that is to be held against them.
        self.keep_numbers();
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
                // At least one record, however long it is.
                let before = bytes;
                bytes += payload.len();
                before < GROUP_BYTES_MAX
            })
            .cloned()
            .collect();
        (group, waiting.closed)
    }

    fn keep(&mut self, group: &[(u64, Bytes)]) -> std::io::Result<()> {
        // The head of a new file holds the bounds before it.
        let bounds =
            if self.log.begins_file() { self.numbers(0) } else { JournalRecord::default() };
        self.log.write(group, || bounds)?;
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

    /// The newest numbers; `file` is that of the file which is written.
    fn numbers(&self, file: u64) -> JournalRecord {
        JournalRecord {
            number: 0,
            time_ns: wall_ns(),
            session: String::new(),
            what: Some(What::Bounds(Bounds {
                last_event_sequence: self.bounds.iter().map(|(s, n)| (s.clone(), *n)).collect(),
                journal_id: self.shared.id.clone(),
                timeline_ns: self.timeline.now_ns(),
                last_record: self.last,
                file,
            })),
        }
    }

    /// Keeps the newest numbers in their second place.
    fn keep_numbers(&mut self) {
        let record = self.numbers(self.log.file());
        let failed = self.log.keep_numbers(&record).err();
        self.numbers_kept = Some(Instant::now());
        // The records are in the log already, so nothing waits for this. Logged once, until it
        // works again.
        if let Some(e) = &failed
            && !self.numbers_failing
        {
            tracing::warn!("the journal's numbers are in one place alone: {e}");
        }
        self.numbers_failing = failed.is_some();
    }

    fn kept(&mut self, group: &[(u64, Bytes)], began: Instant) {
        let Some((last, _)) = group.last() else { return };
        for (_, payload) in group {
            let Some(record) = record(0, payload) else { continue };
            if let Some(What::Event(event)) = record.what {
                self.bounds.insert(event.session, event.event_sequence);
            }
        }
        self.last = *last;
        // Before anything is announced.
        self.keep_numbers();
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
        // The group that failed stays in the queue and is written again. With `Sync::Interval`,
        // groups before it that were not synced yet had left the queue when the system had them,
        // and are not.
        self.unsynced = None;
        self.shared.metrics.failures.increment(1);
        let reason = error.to_string();
        self.shared.failing.send_if_modified(|failing| {
            if failing.as_ref() == Some(&reason) {
                return false;
            }
            self.shared.metrics.failing.set(1.0);
            tracing::error!(
                "the journal cannot be written: {reason}; it is tried again until it can"
            );
            *failing = Some(reason.clone());
            true
        });
    }

    fn retain(&mut self) {
        if self.retained.elapsed() < RETAIN_EVERY && !self.log.begins_file() {
            return;
        }
        self.retained = Instant::now();
        // So that the next start knows how far time has come.
        if self.numbers_kept.is_none_or(|t| t.elapsed() > NUMBERS_EVERY) {
            self.keep_numbers();
        }
        let settings = &self.shared.settings;
        let older = self.timeline.now_ns().saturating_sub((settings.age_max_s * 1e9) as i64);
        match self.log.retain(settings.bytes_max, older) {
            Ok(0) => {}
            Ok(files) => tracing::debug!(files, "old files of the journal removed"),
            Err(e) => tracing::warn!("old files of the journal cannot be removed: {e}"),
        }
        let parts = self.shared.parts.read().unwrap_or_else(PoisonError::into_inner);
        self.shared.metrics.bytes.set(parts.iter().map(|p| p.bytes as f64).sum::<f64>());
    }
}
