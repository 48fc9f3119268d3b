//! The daemon's configuration: TOML in, every fault at once, a validated [`Config`] out.

mod access;
mod defaults;
mod environment;
mod fault;
mod journal;
mod rigs;
mod runtime;
mod section;
mod session;
mod triggers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::files;
use crate::security::{Limits, TlsFiles, TokenFile};
pub(crate) use defaults::*;
pub(crate) use environment::Supervision;
pub(crate) use fault::{ConfigError, Fault};
pub(crate) use journal::{DECISIONS, JournalConfig, STATE};
pub(crate) use rigs::SourceConfig;
pub(crate) use runtime::RuntimeConfig;
use section::{Beyond, Faults, Section, set};
pub(crate) use session::{FALSE_CHANGES_PER_MIN, SessionConfig};

/// Longest configuration.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A validated configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Address of gRPC; `None` where it is off.
    pub grpc_listen: Option<SocketAddr>,
    /// Unix socket of gRPC, in addition to its address or instead of it.
    pub grpc_unix: Option<PathBuf>,
    /// Address of ZeroMQ counts in (PULL).
    pub zeromq_pull: Option<SocketAddr>,
    /// Unix socket of the same.
    pub zeromq_pull_ipc: Option<PathBuf>,
    /// Endpoints of rigs that publish counts (SUB connects).
    pub zeromq_subscribe: Vec<String>,
    /// Address of ZeroMQ out (PUB).
    pub zeromq_publish: Option<SocketAddr>,
    /// Unix socket of the same.
    pub zeromq_publish_ipc: Option<PathBuf>,
    /// Address of HTTP.
    pub http_listen: Option<SocketAddr>,
    /// Largest message, bytes.
    pub message_bytes_max: usize,
    /// TLS of gRPC and HTTP over TCP.
    pub tls: Option<TlsFiles>,
    /// Tokens that gRPC and HTTP over TCP ask for; none: nothing is asked.
    pub tokens: Vec<TokenFile>,
    /// Connections to each port.
    pub connections: Limits,
    /// gRPC calls that run at once on one connection.
    pub streams_per_connection_max: usize,
    /// Most sessions at once.
    pub sessions_max: usize,
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
    /// How its threads run.
    pub(crate) runtime: RuntimeConfig,
    /// The journal, where one is kept.
    pub journal: Option<JournalConfig>,
    /// Sessions that start with the daemon.
    pub sessions: Vec<SessionConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let address = |text: &str| text.parse().ok();
        Self {
            grpc_listen: address(GRPC_LISTEN),
            zeromq_pull: address(ZEROMQ_PULL),
            grpc_unix: None,
            zeromq_pull_ipc: None,
            zeromq_publish_ipc: None,
            zeromq_subscribe: Vec::new(),
            zeromq_publish: address(ZEROMQ_PUBLISH),
            http_listen: address(HTTP_LISTEN),
            message_bytes_max: MESSAGE_BYTES_MAX,
            tls: None,
            tokens: Vec::new(),
            connections: Limits {
                connections: CONNECTIONS_MAX,
                per_peer: CONNECTIONS_PER_PEER_MAX,
            },
            streams_per_connection_max: STREAMS_PER_CONNECTION_MAX,
            sessions_max: SESSIONS_MAX,
            queue_bins: QUEUE_BINS,
            gap_bins_max: GAP_BINS_MAX,
            events_kept: EVENTS_KEPT,
            drain_s: DRAIN_S,
            metrics_hz: METRICS_HZ,
            runtime: RuntimeConfig::default(),
            journal: None,
            sessions: Vec::new(),
        }
    }
}

/// Reads and checks a file.
///
/// # Errors
/// Every fault at once.
pub(crate) fn read(path: &Path) -> Result<Config, ConfigError> {
    match files::read_text(path, FILE_BYTES_MAX) {
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

fn top<'a>(table: &'a DeTable<'a>, path: &Path, faults: &mut Faults<'a>) -> Config {
    let mut config = Config::default();
    let mut section =
        Section { table, span: 0..0, prefix: String::new(), known: Vec::new(), faults };
    config.tls = section.section("tls", |s| access::tls(s, path)).flatten();
    config.tokens = access::tokens(&mut section, path);
    // Faults in these are reported by their own sections.
    let guarded = Beyond::Guarded {
        tls: config.tls.is_some() || section.known_table("tls"),
        tokens: section.known_table("token"),
    };
    section.section("grpc", |s| {
        set(&mut config.grpc_listen, s.address("listen", guarded));
        config.grpc_unix = s.socket_path("unix");
    });
    section.section("http", |s| {
        set(&mut config.http_listen, s.address("listen", guarded));
    });
    section.section("zeromq", |s| zeromq(s, &mut config));
    section.section("limits", |s| limits(s, &mut config));
    section.section("metrics", |s| {
        set(&mut config.metrics_hz, s.number("rate_hz", 0.1..100.1, "Hz from 0.1 to 100"));
    });
    set(&mut config.runtime, section.section("runtime", runtime::runtime));
    config.journal = section.section("journal", |s| journal::journal(s, path)).flatten();
    sessions(&mut section, path, &mut config);
    exclusive_ports(&config, &mut section);
    let nothing_in = config.grpc_listen.is_none()
        && config.grpc_unix.is_none()
        && config.zeromq_pull.is_none()
        && config.zeromq_pull_ipc.is_none()
        && config.zeromq_subscribe.is_empty()
        && config.sessions.iter().all(|s| s.source.is_none());
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

fn zeromq(s: &mut Section<'_, '_>, config: &mut Config) {
    let plaintext = Beyond::Plaintext(s.boolean("allow_plaintext").unwrap_or(false));
    set(&mut config.zeromq_pull, s.address("pull", plaintext));
    set(&mut config.zeromq_publish, s.address("publish", plaintext));
    config.zeromq_pull_ipc = s.socket_path("pull_ipc");
    config.zeromq_publish_ipc = s.socket_path("publish_ipc");
    let Some(value) = s.value("subscribe") else { return };
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

fn limits(s: &mut Section<'_, '_>, config: &mut Config) {
    set(&mut config.message_bytes_max, s.whole("message_bytes_max", 1024, 1 << 30));
    set(&mut config.queue_bins, s.whole("queue_bins", 2, 1 << 20));
    set(&mut config.gap_bins_max, s.whole("gap_bins_max", 0, 1 << 20));
    set(&mut config.events_kept, s.whole("events_kept", 1, 10_000_000));
    set(&mut config.sessions_max, s.whole("sessions_max", 1, SESSIONS_MAX));
    let connections = s.whole("connections_max", 1, 1 << 20);
    set(&mut config.connections.connections, connections);
    let per_peer = s.whole("connections_per_peer_max", 1, 1 << 20);
    set(&mut config.connections.per_peer, per_peer);
    let streams = s.whole("streams_per_connection_max", 1, 1 << 16);
    set(&mut config.streams_per_connection_max, streams);
    set(&mut config.drain_s, s.number("drain_s", 0.0..3600.0, "seconds from 0 to 3600"));
}

/// Every port, and every socket's path, is one's alone. (Port 0 is one of the system's choosing.)
fn exclusive_ports(config: &Config, section: &mut Section<'_, '_>) {
    let mut taken: Vec<(String, String)> = Vec::new();
    let mut take = |key: String, place: String| {
        if let Some((other, _)) = taken.iter().find(|(_, p)| *p == place) {
            let problem = format!("expected a place of its own, found {place}, as {other} has it");
            section.fault(0..0, &key, problem);
        }
        taken.push((key, place));
    };
    let tcp = [
        ("grpc.listen", config.grpc_listen),
        ("http.listen", config.http_listen),
        ("zeromq.pull", config.zeromq_pull),
        ("zeromq.publish", config.zeromq_publish),
    ];
    for (key, address) in tcp {
        if let Some(address) = address.filter(|a| a.port() != 0) {
            take(key.into(), format!("tcp {address}"));
        }
    }
    let paths = [
        ("grpc.unix", &config.grpc_unix),
        ("zeromq.pull_ipc", &config.zeromq_pull_ipc),
        ("zeromq.publish_ipc", &config.zeromq_publish_ipc),
    ];
    for (key, path) in paths {
        if let Some(path) = path {
            take(key.into(), path.display().to_string());
        }
    }
    for (i, session) in config.sessions.iter().enumerate() {
        if let Some(SourceConfig::Blackrock(settings)) = &session.source
            && settings.listen.port() != 0
        {
            take(format!("session[{i}].blackrock.listen"), format!("udp {}", settings.listen));
        }
    }
}

/// Checks a text with one `[[session]]` table; relative paths are taken from the working directory.
///
/// # Errors
/// Every fault at once.
pub fn parse_session(text: &str) -> Result<SessionConfig, ConfigError> {
    let path = Path::new("session");
    let mut config = parse(path, text)?;
    if config.sessions.len() != 1
        || config != (Config { sessions: config.sessions.clone(), ..Config::default() })
    {
        let problem = format!(
            "expected one [[session]] and nothing else, found {} and other tables, or several",
            config.sessions.len()
        );
        let fault = Fault { line: 0, key: "session".into(), problem };
        return Err(ConfigError { path: path.to_owned(), faults: vec![fault] });
    }
    Ok(config.sessions.remove(0))
}

fn sessions(section: &mut Section<'_, '_>, path: &Path, config: &mut Config) {
    if !section.known_table("session") {
        section.known.push("session");
        section.fault(0..0, "session", "expected at least one [[session]], found none");
        return;
    }
    let sessions = &mut config.sessions;
    section.tables("session", 1..=config.sessions_max, |s| {
        sessions.extend(session::one_session(s, path, sessions));
    });
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
                    drain_s = -1\n[[session]]\nname = \"a b\"\nmodel = 3\n[[session]]\nmodel = \
                    \"x\"\n";
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
    fn threads_run_where_it_is_said_and_none_spins_before_everybody() {
        let of = |keys: &str| {
            format!("[runtime]\n{keys}\n[[session]]\nname = \"rig\"\nmodel = \"builtin\"\n")
        };
        let text = of("io_threads = 2\ncores = [0, 3]\npriority = 20");
        let runtime = parse(Path::new("x"), &text).expect("good").runtime;
        assert_eq!((runtime.io_threads, runtime.placement.priority), (2, 20));
        assert_eq!(runtime.placement.cores, [0, 3]);
        let spinning = parse(Path::new("x"), &of("spin_us = 200")).expect("good").runtime.spin;
        assert_eq!(spinning.as_micros(), 200);
        let wrong = ["priority = 20\nspin_us = 200", "spin_us = 20000", "cores = [-1]"];
        for (keys, key) in wrong.iter().zip(["spin_us", "spin_us", "cores"]) {
            assert_eq!(faults(&of(keys))[0].1, format!("runtime.{key}"), "{keys}");
        }
    }

    #[test]
    fn a_session_that_calibrates_itself_says_of_what() {
        let of = |keys: &str| format!("[[session]]\nname = \"rig\"\nmodel = \"builtin\"\n{keys}\n");
        let parsed = |keys: &str| parse(Path::new("x"), &of(keys)).expect(keys).sessions[0].clone();
        let day = parsed("calibrate_from = \"0\"");
        let own = |session: &SessionConfig| {
            let calibration = session.choice.calibration.clone().expect("it calibrates itself");
            (calibration.seconds, calibration.from)
        };
        assert_eq!(own(&day), (60.0, Some("0".into())));
        let new = parsed("calibrate_s = 30\nchannels = 64");
        assert_eq!(own(&new), (30.0, None));
        for (keys, key) in [
            ("calibrate_s = 30", "session[0].channels"),
            ("calibrate_s = 1\nchannels = 64", "session[0].calibrate_s"),
            ("calibrate_from = \"0\"\nreadout = \"0\"", "session[0].readout"),
        ] {
            assert!(faults(&of(keys)).iter().any(|f| f.1 == key), "{keys}");
        }
    }

    #[test]
    fn two_on_one_port_are_a_fault() {
        let session = |name: &str| {
            format!(
                "[[session]]\nname = \"{name}\"\nmodel = \"builtin\"\nreadout = \
                 \"0\"\n[session.blackrock]\n"
            )
        };
        let two = session("a") + &session("b");
        assert!(faults(&two).iter().any(|f| f.1 == "session[1].blackrock.listen"));
        let own = session("a") + &session("b") + "listen = \"127.0.0.1:51003\"\n";
        assert!(parse(Path::new("x"), &own).is_ok());
        let same = "[http]\nlisten = \"127.0.0.1:7733\"\n".to_owned() + &session("a");
        assert!(faults(&same).iter().any(|f| f.1 == "http.listen"));
    }

    #[test]
    fn broken_toml_and_a_missing_session_are_faults() {
        assert!(faults("[grpc\n").iter().any(|(line, key)| *line == 1 && key == "syntax"));
        assert_eq!(faults(""), [(1, "session".to_owned())]);
    }

    #[test]
    fn defaults_stand_and_models_are_beside_the_file() {
        let text = "[zeromq]\npublish = \"\"\n[[session]]\nname = \"rig\"\nmodel = \"m\"\nreadout \
                    = \"0\"\n";
        let config = parse(Path::new("/etc/regimed.toml"), text).expect("a good file");
        assert_eq!(config.zeromq_publish, None);
        assert_eq!(config.grpc_listen, GRPC_LISTEN.parse().ok());
        let session = &config.sessions[0];
        assert_eq!(session.choice.source, crate::bus::ModelSource::Directory("/etc/m".into()));
        assert_eq!((session.choice.readout.as_str(), session.choice.unknown), ("0", true));
        assert_eq!(session.choice.unknown_rate, None);
        let rate = |rate: &str| parse(Path::new("x"), &format!("{text}unknown_rate = {rate}\n"));
        let own = rate("0.05").expect("a good file").sessions[0].choice.unknown_rate;
        assert_eq!(own, Some(0.05));
        assert!(rate("0.5").is_err() && rate("0").is_err());
    }
}
