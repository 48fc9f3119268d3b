//! The recorder behind every metric: the daemon's own series in one registry, those of each session
//! in a registry of the session's, which goes with it. (The exporter can only drop series that were
//! not written for a while, which would take the gauges of a quiet session too.)

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use super::BUCKETS_S;
use super::declared::{GROUPS, Kind};

/// Series of an ended session are kept for this long: several scrapes see its end.
pub(super) const KEPT_AFTER_END: Duration = Duration::from_secs(120);

/// Label by which series are a session's.
const SESSION: &str = "session";

struct OfSession {
    recorder: Arc<PrometheusRecorder>,
    /// When the session ended; `None` while it runs.
    ended: Option<Instant>,
}

struct Registries {
    own: PrometheusRecorder,
    /// Read for every new handle, written when a session comes or is forgotten; a registered handle
    /// needs no lock.
    sessions: RwLock<HashMap<String, OfSession>>,
    /// Each metric's meaning, by name.
    help: HashMap<String, String>,
}

/// All series, to be exported.
#[derive(Clone)]
pub(crate) struct Series(Arc<Registries>);

fn recorder() -> PrometheusRecorder {
    let mut builder = PrometheusBuilder::new();
    let metrics = GROUPS.iter().flat_map(|g| g.metrics);
    for metric in metrics.filter(|m| m.kind == Kind::Histogram) {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &BUCKETS_S)
            .expect("buckets are not empty");
    }
    builder.build_recorder()
}

impl Series {
    /// Empty; `help` holds each metric's meaning.
    pub(super) fn new(help: HashMap<String, String>) -> Self {
        Self(Arc::new(Registries { own: recorder(), sessions: RwLock::default(), help }))
    }

    /// A session runs under this name. Without this its series are kept nowhere.
    pub(crate) fn begin(&self, session: &str) {
        let of_session = || OfSession { recorder: Arc::new(recorder()), ended: None };
        self.sessions().entry(session.to_owned()).or_insert_with(of_session).ended = None;
    }

    /// A session has ended: its series go after [`KEPT_AFTER_END`].
    pub(crate) fn end(&self, session: &str, now: Instant) {
        if let Some(known) = self.sessions().get_mut(session) {
            known.ended = Some(now);
        }
    }

    /// To be called every few seconds: folds recorded samples together, and drops ended sessions.
    pub(crate) fn upkeep(&self, now: Instant) {
        self.0.own.handle().run_upkeep();
        let mut sessions = self.sessions();
        sessions.retain(|_, s| s.ended.is_none_or(|t| now.duration_since(t) < KEPT_AFTER_END));
        let handles: Vec<_> = sessions.values().map(|s| s.recorder.handle()).collect();
        drop(sessions);
        handles.iter().for_each(metrics_exporter_prometheus::PrometheusHandle::run_upkeep);
    }

    /// Everything in Prometheus' text format: each metric's lines together, whatever registry they
    /// are of.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let handles: Vec<_> = self.sessions().values().map(|s| s.recorder.handle()).collect();
        let mut merged = Merged::default();
        merged.add(&self.0.own.handle().render());
        handles.iter().for_each(|handle| merged.add(&handle.render()));
        merged.text(&self.0.help)
    }

    fn sessions(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, OfSession>> {
        self.0.sessions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers with the registry that a key belongs to.
    fn at<T>(&self, key: &Key, register: impl Fn(&PrometheusRecorder) -> T) -> Option<T> {
        let session = key.labels().find(|l| l.key() == SESSION).map(metrics::Label::value);
        let Some(session) = session.filter(|s| !s.is_empty()) else {
            return Some(register(&self.0.own));
        };
        let sessions = self.0.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.get(session).map(|known| register(&known.recorder))
    }
}

impl Recorder for Series {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.0.own.describe_counter(key, unit, help);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.0.own.describe_gauge(key, unit, help);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.0.own.describe_histogram(key, unit, help);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let of = self.at(key, |recorder| recorder.register_counter(key, metadata));
        of.unwrap_or_else(Counter::noop)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.at(key, |recorder| recorder.register_gauge(key, metadata)).unwrap_or_else(Gauge::noop)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let of = self.at(key, |recorder| recorder.register_histogram(key, metadata));
        of.unwrap_or_else(Histogram::noop)
    }
}

/// Texts of several registries, put together by metric.
#[derive(Default)]
struct Merged {
    metrics: BTreeMap<String, Lines>,
}

#[derive(Default)]
struct Lines {
    help: Option<String>,
    kind: String,
    samples: String,
}

impl Merged {
    fn add(&mut self, text: &str) {
        let mut current: Option<&str> = None;
        let mut help: Option<&str> = None;
        for line in text.lines() {
            if line.starts_with("# HELP ") {
                help = Some(line);
            } else if let Some(of) = line.strip_prefix("# TYPE ") {
                let name = of.split(' ').next().unwrap_or_default();
                let lines = self.metrics.entry(name.to_owned()).or_default();
                line.clone_into(&mut lines.kind);
                if let Some(help) = help.take() {
                    lines.help = Some(help.to_owned());
                }
                current = Some(name);
            } else if let Some(lines) = current.and_then(|name| self.metrics.get_mut(name))
                && !line.is_empty()
            {
                lines.samples.push_str(line);
                lines.samples.push('\n');
            }
        }
    }

    fn text(self, help: &HashMap<String, String>) -> String {
        let mut text = String::new();
        for (name, lines) in self.metrics {
            let help_line =
                lines.help.or_else(|| Some(format!("# HELP {name} {}", help.get(&name)?)));
            for line in help_line.iter().chain([&lines.kind]) {
                text.push_str(line);
                text.push('\n');
            }
            text.push_str(&lines.samples);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_s_series_go_with_it_after_a_while_and_others_stay() {
        let series = Series::new(HashMap::from([("bins".to_owned(), "Bins.".to_owned())]));
        ["one", "two"].iter().for_each(|s| series.begin(s));
        metrics::with_local_recorder(&series, || {
            // A late sample of an ended session keeps nothing alive.
            metrics::counter!("bins", "session" => "gone").increment(3);
            for session in ["one", "two", ""] {
                metrics::counter!("bins", "session" => session).increment(3);
                metrics::histogram!("seconds", "session" => session).record(0.1);
            }
            metrics::gauge!("viewers").set(1.0);
        });
        let of = |text: &str, what: &str| text.lines().filter(|l| l.contains(what)).count();
        let text = series.render();
        assert!(of(&text, "session=\"one\"") > 2 && of(&text, "session=\"two\"") > 2, "{text}");
        assert_eq!(of(&text, "session=\"gone\""), 0, "{text}");
        // A metric's lines are together, after one head.
        assert_eq!((of(&text, "# TYPE bins "), of(&text, "# HELP bins Bins.")), (1, 1), "{text}");
        let began = Instant::now();
        series.end("one", began);
        series.upkeep(began + KEPT_AFTER_END / 2);
        assert!(of(&series.render(), "session=\"one\"") > 2, "how it ended is seen");
        series.upkeep(began + KEPT_AFTER_END);
        let text = series.render();
        assert_eq!(of(&text, "session=\"one\""), 0, "{text}");
        assert!(of(&text, "session=\"two\"") > 2 && of(&text, "viewers 1") == 1, "{text}");
        // One that runs again under its name keeps its series.
        series.end("two", began);
        series.begin("two");
        series.upkeep(began + 2 * KEPT_AFTER_END);
        assert!(of(&series.render(), "session=\"two\"") > 2);
    }
}
