//! The daemon's configuration: TOML in, every fault at once, a validated [`Config`] out.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::inference::Adaptation;

/// Default address of gRPC.
pub const GRPC_LISTEN: &str = "127.0.0.1:7733";
/// Default address of ZeroMQ counts in (PULL).
pub const ZEROMQ_PULL: &str = "127.0.0.1:7734";
/// Default address of ZeroMQ decisions and events out (PUB).
pub const ZEROMQ_PUBLISH: &str = "127.0.0.1:7735";
/// Default address of `/metrics`, `/healthz`, `/readyz`.
pub const HTTP_LISTEN: &str = "127.0.0.1:9464";
/// Default largest message, bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Default bins that wait for a session.
pub const QUEUE_BINS: usize = 1024;
/// Default longest gap that is predicted through, bins; after a longer one the fit starts anew.
pub const GAP_BINS_MAX: usize = 1000;
/// Default number of events a session keeps for subscribers that resume.
pub const EVENTS_KEPT: usize = 10_000;
/// Default time for ending, seconds.
pub const DRAIN_S: f64 = 5.0;
/// Default time of counts on which a session calibrates itself, seconds.
pub const CALIBRATE_S: f64 = 60.0;
/// Default rate of the metrics, Hz.
pub const METRICS_HZ: f64 = 10.0;
/// Model that is part of the binary.
pub const BUILTIN_MODEL: &str = "builtin";
/// Most sessions of one daemon.
const SESSIONS_MAX: usize = 256;

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1; 0 where the fault is of the whole file.
    pub line: usize,
    /// Key as written, e.g. `session[1].model`.
    pub key: String,
    /// What was expected and what was found.
    pub problem: String,
}

/// Everything wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Each fault, in the file's order.
    pub faults: Vec<Fault>,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.faults.len();
        write!(f, "{}: {n} fault{}", self.path.display(), if n == 1 { "" } else { "s" })?;
        for fault in &self.faults {
            write!(f, "\n  line {}: {}: {}", fault.line, fault.key, fault.problem)?;
        }
        Ok(())
    }
}

/// Where a session's model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// The model in the binary.
    Builtin,
    /// A model directory.
    Directory(PathBuf),
}

/// One session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionConfig {
    /// Name that messages carry.
    pub name: String,
    /// Its model.
    pub model: ModelSource,
    /// Session of the model whose readout is used.
    pub readout: String,
    /// The session calibrates itself on so many seconds of its first counts.
    pub calibrate_s: Option<f64>,
    /// The model's session that it is another day of; without it, a new animal.
    pub calibrate_from: Option<String>,
    /// Channels the rig will send, where stated: checked against the model.
    pub channels: Option<usize>,
    /// Bin width the rig will send, ms, where stated: checked against the model.
    pub bin_ms: Option<f64>,
    /// Time that a regime lasts on average, seconds, where it is not as in training.
    pub mean_dwell_s: Option<f64>,
    /// False changes per minute that the decision rule may make, by the model's operating points.
    pub false_changes_per_min: Option<f64>,
    /// Posterior probability that a new label must reach, whatever the operating points say.
    pub probability_min: Option<f64>,
    /// Time for which it must hold it, ms.
    pub dwell_ms: Option<f64>,
    /// Whether `unknown` may be said.
    pub unknown: bool,
    /// What is followed beside the dynamics.
    pub adaptation: Adaptation,
}

/// A validated configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Address of gRPC; `None` where it is off.
    pub grpc_listen: Option<SocketAddr>,
    /// Address of ZeroMQ counts in (PULL).
    pub zeromq_pull: Option<SocketAddr>,
    /// Endpoints of rigs that publish counts (SUB connects).
    pub zeromq_subscribe: Vec<String>,
    /// Address of ZeroMQ out (PUB).
    pub zeromq_publish: Option<SocketAddr>,
    /// Address of HTTP.
    pub http_listen: Option<SocketAddr>,
    /// Largest message, bytes.
    pub message_bytes_max: usize,
    /// Bins that wait for a session.
    pub queue_bins: usize,
    /// Longest gap predicted through, bins.
    pub gap_bins_max: usize,
    /// Events kept per session.
    pub events_kept: usize,
    /// Time for ending, seconds.
    pub drain_s: f64,
    /// Rate of the metrics, Hz.
    pub metrics_hz: f64,
    /// Sessions.
    pub sessions: Vec<SessionConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let address = |text: &str| text.parse().ok();
        Self {
            grpc_listen: address(GRPC_LISTEN),
            zeromq_pull: address(ZEROMQ_PULL),
            zeromq_subscribe: Vec::new(),
            zeromq_publish: address(ZEROMQ_PUBLISH),
            http_listen: address(HTTP_LISTEN),
            message_bytes_max: MESSAGE_BYTES_MAX,
            queue_bins: QUEUE_BINS,
            gap_bins_max: GAP_BINS_MAX,
            events_kept: EVENTS_KEPT,
            drain_s: DRAIN_S,
            metrics_hz: METRICS_HZ,
            sessions: Vec::new(),
        }
    }
}

/// Reads and checks a file.
///
/// # Errors
/// Every fault at once.
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(e) => {
            let problem = format!("cannot be read: {e}");
            let fault = Fault { line: 0, key: "file".into(), problem };
            Err(ConfigError { path: path.to_owned(), faults: vec![fault] })
        }
    }
}

/// Checks a text; relative model directories are taken from `path`'s directory.
///
/// # Errors
/// Every fault at once.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut faults = Faults { text, list: Vec::new() };
    for e in errors {
        faults.add(e.span().unwrap_or(0..0), "syntax", e.message().to_owned());
    }
    let config = top(table.get_ref(), path, &mut faults);
    if faults.list.is_empty() {
        return Ok(config);
    }
    faults.list.sort_by_key(|f| f.line);
    Err(ConfigError { path: path.to_owned(), faults: faults.list })
}

struct Faults<'a> {
    text: &'a str,
    list: Vec<Fault>,
}

impl Faults<'_> {
    fn add(&mut self, span: Range<usize>, key: impl Into<String>, problem: impl Into<String>) {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        self.list.push(Fault { line, key: key.into(), problem: problem.into() });
    }
}

/// A table that is read key by key; what is left over at the end is a fault.
struct Section<'a, 'b> {
    table: &'a DeTable<'a>,
    span: Range<usize>,
    prefix: String,
    known: Vec<&'static str>,
    faults: &'b mut Faults<'a>,
}

impl<'a> Section<'a, '_> {
    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v)
    }

    fn fault(&mut self, span: Range<usize>, key: &str, problem: impl Into<String>) {
        let key = format!("{}{key}", self.prefix);
        self.faults.add(span, key, problem);
    }

    fn wrong(&mut self, at: &Spanned<DeValue<'_>>, key: &str, expected: &str) {
        let problem = format!("expected {expected}, found {}", shown(at.get_ref()));
        self.fault(at.span(), key, problem);
    }

    fn string(&mut self, key: &'static str) -> Option<(&'a str, Range<usize>)> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(s) => Some((s.as_ref(), value.span())),
            _ => {
                self.wrong(value, key, "a string");
                None
            }
        }
    }

    fn required_string(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Option<(&'a str, Range<usize>)> {
        if self.table.iter().any(|(k, _)| k.get_ref() == key) {
            return self.string(key);
        }
        self.known.push(key);
        let span = self.span.clone();
        self.fault(span, key, format!("expected {expected}, found nothing"));
        None
    }

    fn number(&mut self, key: &'static str, range: Range<f64>, what: &str) -> Option<f64> {
        let value = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(i) => i.as_str().parse::<f64>().ok(),
            DeValue::Float(f) => f.as_str().parse::<f64>().ok(),
            _ => None,
        };
        match number {
            Some(x) if range.contains(&x) => Some(x),
            _ => {
                self.wrong(value, key, what);
                None
            }
        }
    }

    fn whole(&mut self, key: &'static str, min: usize, max: usize) -> Option<usize> {
        let value = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(i) => {
                usize::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok()
            }
            _ => None,
        };
        match number {
            Some(n) if (min..=max).contains(&n) => Some(n),
            _ => {
                self.wrong(value, key, &format!("a whole number from {min} to {max}"));
                None
            }
        }
    }

    fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        if let DeValue::Boolean(b) = value.get_ref() {
            return Some(*b);
        }
        self.wrong(value, key, "true or false");
        None
    }

    /// An address, or `""` for off.
    fn address(
        &mut self,
        key: &'static str,
        plaintext_allowed: bool,
    ) -> Option<Option<SocketAddr>> {
        let (text, span) = self.string(key)?;
        if text.is_empty() {
            return Some(None);
        }
        let bare = text.strip_prefix("tcp://").unwrap_or(text);
        let Ok(address) = bare.parse::<SocketAddr>() else {
            let problem = format!(
                "expected an address such as \"127.0.0.1:7733\" (\"\" is off), found \"{text}\""
            );
            self.fault(span, key, problem);
            return None;
        };
        if !address.ip().is_loopback() && !plaintext_allowed {
            let problem = format!(
                "expected a loopback address: what is served here is neither encrypted nor \
                 authenticated; found {address} (tunnel it, or for ZeroMQ set zeromq.allow_plaintext)"
            );
            self.fault(span, key, problem);
            return None;
        }
        Some(Some(address))
    }

    fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'a, '_>)) {
        let Some(value) = self.value(key) else { return };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong(value, key, "a table");
            return;
        };
        let mut inner = Section {
            table,
            span: value.span(),
            prefix: format!("{}{key}.", self.prefix),
            known: Vec::new(),
            faults: self.faults,
        };
        read(&mut inner);
        inner.finish();
    }

    fn finish(self) {
        for key in self.table.keys() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                let name = format!("{}{}", self.prefix, key.get_ref());
                let problem = format!("unknown key; expected one of {}", self.known.join(", "));
                self.faults.add(key.span(), name, problem);
            }
        }
    }
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("\"{s}\""),
        DeValue::Integer(i) => i.as_str().to_owned(),
        DeValue::Float(f) => f.as_str().to_owned(),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => d.to_string(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn top<'a>(table: &'a DeTable<'a>, path: &Path, faults: &mut Faults<'a>) -> Config {
    let mut config = Config::default();
    let mut section =
        Section { table, span: 0..0, prefix: String::new(), known: Vec::new(), faults };
    section.section("grpc", |s| {
        set(&mut config.grpc_listen, s.address("listen", false));
    });
    section.section("http", |s| {
        set(&mut config.http_listen, s.address("listen", false));
    });
    section.section("zeromq", |s| {
        let plaintext = s.boolean("allow_plaintext").unwrap_or(false);
        set(&mut config.zeromq_pull, s.address("pull", plaintext));
        set(&mut config.zeromq_publish, s.address("publish", plaintext));
        if let Some(value) = s.value("subscribe") {
            let DeValue::Array(list) = value.get_ref() else {
                s.wrong(value, "subscribe", "an array of endpoints");
                return;
            };
            for item in list {
                match item.get_ref() {
                    DeValue::String(e) if e.starts_with("tcp://") || e.starts_with("ipc://") => {
                        config.zeromq_subscribe.push(e.to_string());
                    }
                    _ => s.wrong(item, "subscribe", "\"tcp://HOST:PORT\" or \"ipc://PATH\""),
                }
            }
        }
    });
    section.section("limits", |s| {
        set(&mut config.message_bytes_max, s.whole("message_bytes_max", 1024, 1 << 30));
        set(&mut config.queue_bins, s.whole("queue_bins", 2, 1 << 20));
        set(&mut config.gap_bins_max, s.whole("gap_bins_max", 0, 1 << 20));
        set(&mut config.events_kept, s.whole("events_kept", 1, 10_000_000));
        set(&mut config.drain_s, s.number("drain_s", 0.0..3600.0, "seconds from 0 to 3600"));
    });
    section.section("metrics", |s| {
        set(&mut config.metrics_hz, s.number("rate_hz", 0.1..100.1, "Hz from 0.1 to 100"));
    });
    sessions(&mut section, path, &mut config);
    let nothing_in = config.grpc_listen.is_none()
        && config.zeromq_pull.is_none()
        && config.zeromq_subscribe.is_empty();
    if nothing_in {
        section.fault(
            0..0,
            "grpc.listen",
            "expected one way for counts in at least, found gRPC and ZeroMQ both off",
        );
    }
    section.finish();
    config
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn sessions(section: &mut Section<'_, '_>, path: &Path, config: &mut Config) {
    let Some(value) = section.value("session") else {
        section.fault(0..0, "session", "expected at least one [[session]], found none");
        return;
    };
    let DeValue::Array(list) = value.get_ref() else {
        section.wrong(value, "session", "[[session]] tables");
        return;
    };
    if list.is_empty() || list.len() > SESSIONS_MAX {
        let problem = format!("expected 1 to {SESSIONS_MAX} sessions, found {}", list.len());
        section.fault(value.span(), "session", problem);
    }
    for (i, item) in list.iter().enumerate() {
        let DeValue::Table(table) = item.get_ref() else {
            section.wrong(item, "session", "a table");
            continue;
        };
        let mut s = Section {
            table,
            span: item.span(),
            prefix: format!("session[{i}]."),
            known: Vec::new(),
            faults: section.faults,
        };
        if let Some(session) = one_session(&mut s, path, &config.sessions) {
            config.sessions.push(session);
        }
        s.finish();
    }
}

fn one_session(
    s: &mut Section<'_, '_>,
    path: &Path,
    before: &[SessionConfig],
) -> Option<SessionConfig> {
    let name = s.required_string("name", "the session's name");
    let model = s.required_string("model", "a model directory, or \"builtin\"");
    let readout = s.string("readout");
    let channels = s.whole("channels", 1, crate::model::CHANNELS_MAX);
    let calibrate_from = s.string("calibrate_from");
    let calibrate_s = s.number("calibrate_s", 5.0..3600.1, "seconds from 5 to 3600");
    let calibrate_s = calibrate_s.or(calibrate_from.is_some().then_some(CALIBRATE_S));
    if let (Some((_, span)), true) = (&readout, calibrate_s.is_some()) {
        let problem = "expected either a readout or a session that calibrates itself, found both";
        s.fault(span.clone(), "readout", problem);
    }
    if calibrate_s.is_some() && calibrate_from.is_none() && channels.is_none() {
        let problem = "expected how many channels a new animal has (or calibrate_from, for another day of a known one), found nothing";
        s.fault(s.span.clone(), "channels", problem);
    }
    let bin_ms = s.number("bin_ms", 0.001..60_000.0, "milliseconds above 0");
    let probability_min = s.number("probability_min", 0.0..1.0, "a probability from 0 and below 1");
    let dwell_ms = s.number("dwell_ms", 0.0..600_000.0, "milliseconds from 0");
    let unknown = s.boolean("unknown").unwrap_or(true);
    let mean_dwell_s = s.number("mean_dwell_s", 0.001..1e9, "seconds above 0");
    let false_changes = "false changes per minute, above 0";
    let false_changes_per_min = s.number("false_changes_per_min", 1e-6..1e4, false_changes);
    let default = Adaptation::default();
    let gain_s = s.number("gain_time_constant_s", 0.0..1e6, "seconds, 0 for fixed gains");
    let adaptation = Adaptation {
        gain_time_constant_s: gain_s.or(default.gain_time_constant_s).filter(|s| *s > 0.0),
        silence: s.boolean("silent_channels").unwrap_or(default.silence),
        artefacts: s.boolean("artefacts").unwrap_or(default.artefacts),
    };
    let (name, span) = name?;
    let sane = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(sane) {
        let problem = format!(
            "expected 1 to 64 letters, digits or -_.: (names are topics and labels), found \"{name}\""
        );
        s.fault(span, "name", problem);
        return None;
    }
    if before.iter().any(|b| b.name == name) {
        s.fault(span, "name", format!("expected names that differ, found \"{name}\" twice"));
        return None;
    }
    let (model, _) = model?;
    let model = if model == BUILTIN_MODEL {
        ModelSource::Builtin
    } else {
        ModelSource::Directory(path.parent().unwrap_or(Path::new(".")).join(model))
    };
    Some(SessionConfig {
        name: name.to_owned(),
        model,
        readout: readout.map_or(name, |r| r.0).to_owned(),
        channels,
        calibrate_s,
        calibrate_from: calibrate_from.map(|f| f.0.to_owned()),
        bin_ms,
        probability_min,
        dwell_ms,
        unknown,
        mean_dwell_s,
        false_changes_per_min,
        adaptation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<(usize, String)> {
        match parse(Path::new("/etc/regimed.toml"), text) {
            Ok(config) => panic!("accepted: {config:?}"),
            Err(e) => e.faults.into_iter().map(|f| (f.line, f.key)).collect(),
        }
    }

    #[test]
    fn every_fault_at_once_with_key_and_line() {
        let text = "[grpc]\nlisten = \"0.0.0.0:1\"\nport = 3\n[limits]\nqueue_bins = \"many\"\n\
                    drain_s = -1\n[[session]]\nname = \"a b\"\nmodel = 3\n[[session]]\nmodel = \"x\"\n";
        let expected = [
            (2, "grpc.listen"),
            (3, "grpc.port"),
            (5, "limits.queue_bins"),
            (6, "limits.drain_s"),
            (8, "session[0].name"),
            (9, "session[0].model"),
            (10, "session[1].name"),
        ];
        let expected: Vec<_> = expected.map(|(l, k)| (l, k.to_owned())).to_vec();
        assert_eq!(faults(text), expected);
    }

    #[test]
    fn a_session_that_calibrates_itself_says_of_what() {
        let of = |keys: &str| format!("[[session]]\nname = \"rig\"\nmodel = \"builtin\"\n{keys}\n");
        let parsed = |keys: &str| parse(Path::new("x"), &of(keys)).expect(keys).sessions[0].clone();
        let day = parsed("calibrate_from = \"0\"");
        assert_eq!((day.calibrate_s, day.calibrate_from.as_deref()), (Some(60.0), Some("0")));
        let new = parsed("calibrate_s = 30\nchannels = 64");
        assert_eq!((new.calibrate_s, new.calibrate_from), (Some(30.0), None));
        for (keys, key) in [
            ("calibrate_s = 30", "session[0].channels"),
            ("calibrate_s = 1\nchannels = 64", "session[0].calibrate_s"),
            ("calibrate_from = \"0\"\nreadout = \"0\"", "session[0].readout"),
        ] {
            assert!(faults(&of(keys)).iter().any(|f| f.1 == key), "{keys}");
        }
    }

    #[test]
    fn broken_toml_and_a_missing_session_are_faults() {
        assert!(faults("[grpc\n").iter().any(|(line, key)| *line == 1 && key == "syntax"));
        assert_eq!(faults(""), [(1, "session".to_owned())]);
    }

    #[test]
    fn defaults_stand_and_models_are_beside_the_file() {
        let text = "[zeromq]\npublish = \"\"\n[[session]]\nname = \"rig\"\nmodel = \"m\"\nreadout = \"0\"\n";
        let config = parse(Path::new("/etc/regimed.toml"), text).expect("a good file");
        assert_eq!(config.zeromq_publish, None);
        assert_eq!(config.grpc_listen, GRPC_LISTEN.parse().ok());
        let session = &config.sessions[0];
        assert_eq!(session.model, ModelSource::Directory("/etc/m".into()));
        assert_eq!((session.readout.as_str(), session.unknown), ("0", true));
    }
}
