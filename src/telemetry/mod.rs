//! Metrics and the log: every metric is declared once (`declared.rs`, `readings.rs`).

mod declared;
mod handles;
mod readings;

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use declared::*;
pub use declared::{GROUPS, Group, Kind, Metric};
pub use handles::*;
use readings::READING;
pub use readings::{Readings, readings};

/// Upper bounds of the latency histograms, seconds.
const BUCKETS_S: [f64; 14] = [
    10e-6, 25e-6, 50e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3,
    100e-3,
];

/// Readings of the dynamics stand behind so many groups.
const READINGS_AT: usize = 4;

/// Every metric of the daemon's own, by group, as on `/metrics`.
#[must_use]
pub fn declared() -> Vec<(Group, Vec<(String, String)>)> {
    let named = |m: &Metric| (m.name.to_owned(), m.help.to_owned());
    let mut groups: Vec<_> =
        GROUPS.iter().map(|g| (*g, g.metrics.iter().map(named).collect())).collect();
    let about = "At the filtered state, refreshed beside the stream; NaN where not known (yet).";
    let group = Group { title: "Edge of chaos", about, metrics: &[READING] };
    groups.insert(READINGS_AT, (group, readings()));
    groups
}

/// Installs the recorder once per process and returns its handle.
///
/// # Panics
/// Where another recorder was installed before: a bug.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(build).clone()
}

fn build() -> PrometheusHandle {
    let metrics = || GROUPS.iter().flat_map(|g| g.metrics);
    let mut builder = PrometheusBuilder::new();
    for metric in metrics().filter(|m| m.kind == Kind::Histogram) {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &BUCKETS_S)
            .expect("buckets are not empty");
    }
    let handle = builder.install_recorder().expect("one recorder per process");
    for Metric { name, kind, help, .. } in metrics() {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
    for (name, help) in readings() {
        metrics::describe_gauge!(name, help);
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "commit" => env!("REGIMED_GIT_COMMIT"))
        .set(1.0);
    handles::begin();
    handle
}

/// What `/metrics` answers: the daemon's own figures, and those of its process.
#[must_use]
pub fn render(handle: &PrometheusHandle) -> String {
    static PROCESS: OnceLock<metrics_process::Collector> = OnceLock::new();
    let process = PROCESS.get_or_init(|| {
        let collector = metrics_process::Collector::default();
        collector.describe();
        collector
    });
    process.collect();
    handle.render()
}

/// The wall clock, nanoseconds since the Unix epoch.
#[must_use]
pub fn wall_ns() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX)
}

/// Lets one line through per second and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// `Some(lines held back since the last one)` when a line may be written now.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|t| now.duration_since(t) < Duration::from_secs(1)) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

/// Logs to standard error; `REGIMED_LOG` chooses levels (default `info`).
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("REGIMED_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second daemon in one process keeps the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
