//! Metrics and the log: every metric is declared once (`declared.rs`, `readings.rs`).

mod declared;
mod handles;
mod log;
mod readings;
mod series;
mod session;

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::gauge;

pub use declared::Kind;
use declared::*;
pub(crate) use declared::{GROUPS, Group, Metric};
pub(crate) use handles::*;
pub(crate) use log::log_to_stderr;
pub use log::{drain_log, last_word};
use readings::READING;
pub(crate) use readings::readings;
pub(crate) use series::Series;
pub(crate) use session::SessionMetrics;

/// Upper bounds of the latency histograms, seconds.
const BUCKETS_S: [f64; 14] = [
    10e-6, 25e-6, 50e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3,
    100e-3,
];

/// Readings of the dynamics come after this many groups.
const READINGS_AT: usize = 4;

/// Every metric of the daemon's own, by group, as on `/metrics`.
#[must_use]
pub fn declared() -> Vec<(Group, Vec<(String, String)>)> {
    let named = |m: &Metric| (m.name.to_owned(), m.help.to_owned());
    let mut groups: Vec<_> =
        GROUPS.iter().map(|g| (*g, g.metrics.iter().map(named).collect())).collect();
    let about = "At the filtered state, refreshed ten times a second; NaN where not known yet.";
    let group = Group { title: "Edge of chaos", about, metrics: &[READING] };
    groups.insert(READINGS_AT, (group, readings()));
    groups
}

static SERIES: OnceLock<Series> = OnceLock::new();

/// Installs the recorder once per process and returns its series.
///
/// # Panics
/// Where another recorder was installed before: a bug.
pub(crate) fn install() -> Series {
    SERIES.get_or_init(build).clone()
}

fn build() -> Series {
    let metrics = || GROUPS.iter().flat_map(|g| g.metrics);
    let mut help: HashMap<_, _> =
        metrics().map(|m| (m.name.to_owned(), m.help.to_owned())).collect();
    help.extend(readings());
    let series = Series::new(help);
    metrics::set_global_recorder(series.clone()).expect("one recorder per process");
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("REGIMED_GIT_COMMIT"));
    gauge!(BUILD_INFO, "version" => version, "commit" => commit).set(1.0);
    handles::begin();
    series
}

/// A session runs under this name.
pub(crate) fn session_begins(session: &str) {
    if let Some(series) = SERIES.get() {
        series.begin(session);
    }
}

/// A session has ended: its series go after a while.
pub(crate) fn session_ends(session: &str) {
    if let Some(series) = SERIES.get() {
        series.end(session, Instant::now());
    }
}

/// What `/metrics` answers: the daemon's own figures, and those of its process.
#[must_use]
pub(crate) fn render(series: &Series) -> String {
    static PROCESS: OnceLock<metrics_process::Collector> = OnceLock::new();
    let process = PROCESS.get_or_init(|| {
        let collector = metrics_process::Collector::default();
        collector.describe();
        collector
    });
    process.collect();
    series.render()
}

/// Lets one line through per second and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// `Some(lines held back since the last one)` when a line may be written now.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|t| now.duration_since(t) < Duration::from_secs(1)) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}
