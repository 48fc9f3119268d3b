//! `[journal]`.

use std::path::Path;
use std::time::Duration;

use super::section::Section;
use crate::journal::{Settings, Sync, WhenDiskFails};

/// Default size, MiB.
const SIZE_MAX_MIB: usize = 256;
/// Default size of recorded decisions, MiB.
const DECISIONS_SIZE_MAX_MIB: usize = 4096;
/// Recorded decisions are synced this often: as much is lost when the power fails.
const DECISIONS_SYNC: Duration = Duration::from_secs(1);
/// Default age, days.
const AGE_MAX_DAYS: f64 = 90.0;
/// Default time between two syncs where they are by time.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// Default time between two saved states of a session, seconds.
const STATE_EVERY_S: f64 = 1.0;
/// Default age beyond which a saved state is of no use, seconds.
const STATE_AGE_MAX_S: f64 = 60.0;

/// The journal, and the sessions' saved states next to it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalConfig {
    /// The journal itself.
    pub settings: Settings,
    /// Time between two saved states of a session, seconds; 0: none are saved.
    pub state_every_s: f64,
    /// Age beyond which a saved state is of no use, seconds.
    pub state_age_max_s: f64,
    /// Every n-th decision is recorded next to the journal; 0: none.
    pub decisions_every: usize,
    /// The log of decisions: folder, sync, bounds.
    pub decisions: Settings,
}

/// Folder of the recorded decisions in the journal's.
pub(crate) const DECISIONS: &str = "decisions";
/// Folder of the sessions' saved states in the journal's.
pub(crate) const STATE: &str = "state";

pub(super) fn journal(s: &mut Section<'_, '_>, path: &Path) -> Option<JournalConfig> {
    let folder = s.required_string("folder", "a folder").map(|(text, span)| {
        if text.is_empty() {
            s.fault(span, "folder", "expected a folder, found \"\"");
        }
        path.parent().unwrap_or(Path::new("")).join(text)
    });
    let by_time = s.word("sync", &[("commit", false), ("interval", true)]).unwrap_or(false);
    let interval = s.milliseconds("sync_interval_ms", 60_000.0).unwrap_or(SYNC_INTERVAL);
    let policies = [("hold", WhenDiskFails::Hold), ("announce", WhenDiskFails::Announce)];
    let when_disk_fails = s.word("when_disk_fails", &policies).unwrap_or(WhenDiskFails::Hold);
    let mib = s.whole("size_max_mib", 8, 1 << 30).unwrap_or(SIZE_MAX_MIB);
    let days = s.number("age_max_days", 0.01..36_500.0, "days from 0.01 to 36500");
    let every = s.number("state_every_s", 0.0..3600.0, "seconds from 0 (off) to 3600");
    let age = s.number("state_age_max_s", 0.0..1e6, "seconds from 0 to 1000000");
    let decisions_every = s.whole("decisions_every", 0, 1 << 20).unwrap_or(0);
    let decisions_mib = s.whole("decisions_size_max_mib", 8, 1 << 30);
    let folder = folder?;
    let age_max_s = days.unwrap_or(AGE_MAX_DAYS) * 86_400.0;
    Some(JournalConfig {
        decisions_every,
        decisions: Settings {
            name: "decisions",
            folder: folder.join(DECISIONS),
            sync: Sync::Interval(DECISIONS_SYNC),
            when_disk_fails: WhenDiskFails::Hold,
            bytes_max: (decisions_mib.unwrap_or(DECISIONS_SIZE_MAX_MIB) as u64) << 20,
            age_max_s,
        },
        settings: Settings {
            name: "journal",
            folder,
            sync: if by_time { Sync::Interval(interval) } else { Sync::Commit },
            when_disk_fails,
            bytes_max: (mib as u64) << 20,
            age_max_s,
        },
        state_every_s: every.unwrap_or(STATE_EVERY_S),
        state_age_max_s: age.unwrap_or(STATE_AGE_MAX_S),
    })
}
