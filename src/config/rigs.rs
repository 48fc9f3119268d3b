//! The tables of a session's rig and of its Redis stream.

use std::path::Path;

use super::section::{Beyond, Section, set};
#[cfg(feature = "lsl")]
use crate::rigs::lsl;
use crate::rigs::{blackrock, brand, intan, open_ephys, redis, replay};

/// A rig that the daemon connects to.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceConfig {
    /// The Open Ephys GUI's ZMQ Interface.
    OpenEphys(open_ephys::Settings),
    /// A BRAND graph's stream of binned counts.
    Brand(brand::Settings),
    /// Blackrock's processors.
    Blackrock(blackrock::Settings),
    /// Intan's RHX software.
    Intan(intan::Settings),
    /// A recording.
    Replay(replay::Settings),
    /// A stream of the Lab Streaming Layer.
    #[cfg(feature = "lsl")]
    Lsl(lsl::Settings),
}

const ZEROMQ: [&str; 2] = ["tcp://", "ipc://"];
pub(super) const REDIS: [&str; 2] = ["redis://", "unix://"];

/// The one rig of a session.
pub(super) fn source(s: &mut Section<'_, '_>, path: &Path) -> Option<SourceConfig> {
    let mut found = Vec::new();
    found.extend(s.section("open_ephys", open_ephys_table).map(SourceConfig::OpenEphys));
    found.extend(s.section("brand", brand_table).map(SourceConfig::Brand));
    found.extend(s.section("blackrock", blackrock_table).map(SourceConfig::Blackrock));
    found.extend(s.section("intan", intan_table).map(SourceConfig::Intan));
    let replayed = s.section("replay", |s| replay_table(s, path)).flatten();
    found.extend(replayed.map(SourceConfig::Replay));
    found.extend(lsl(s));
    if found.len() > 1 {
        let problem = "expected one rig of open_ephys, brand, blackrock, intan, lsl and replay, \
                       found several";
        let span = s.span.clone();
        s.fault(span, "name", problem);
    }
    found.pop()
}

fn open_ephys_table(s: &mut Section<'_, '_>) -> open_ephys::Settings {
    let mut to = open_ephys::Settings::default();
    set(&mut to.endpoint, s.endpoint("endpoint", &ZEROMQ));
    to.heartbeat = s.endpoint("heartbeat", &ZEROMQ);
    to.stream = s.string("stream").map(|t| t.0.to_owned());
    to.sample_rate_hz = s.number("sample_rate_hz", 1.0..1e6, "Hz from 1 to below 1000000");
    set(&mut to.reorder_ms, s.number("reorder_ms", 0.0..10_000.0, "milliseconds from 0"));
    set(&mut to.split_sorted, s.boolean("split_sorted"));
    set(&mut to.electrodes, s.strings("electrodes"));
    to.blank_line = s.whole("blank_line", 0, 255).map(|line| line as u8);
    to.threshold_sd = s.number("threshold_sd", -100.0..0.0, "standard deviations, below 0");
    set(&mut to.high_pass_hz, s.number("high_pass_hz", 0.0..20_000.0, "Hz from 0 (off)"));
    to.network_events = s.section("network_events", network_events);
    to
}

/// Open Ephys' Network Events plugin.
pub(super) fn network_events(s: &mut Section<'_, '_>) -> open_ephys::NetworkEvents {
    let mut to = open_ephys::NetworkEvents::default();
    set(&mut to.endpoint, s.endpoint("endpoint", &ZEROMQ));
    set(&mut to.line, s.whole("line", 1, 256));
    set(&mut to.pulse, s.milliseconds("pulse_ms", 10_000.0));
    to
}

fn brand_table(s: &mut Section<'_, '_>) -> brand::Settings {
    let mut to = brand::Settings::default();
    set(&mut to.url, s.endpoint("redis", &REDIS));
    set(&mut to.stream, s.string("stream").map(|t| t.0.to_owned()));
    set(&mut to.dtype, s.word("dtype", &brand::Dtype::WORDS));
    set(&mut to.crossings_first, s.boolean("crossings_first"));
    to.output_stream = s.string("output_stream").map(|t| t.0.to_owned());
    to
}

fn blackrock_table(s: &mut Section<'_, '_>) -> blackrock::Settings {
    let mut to = blackrock::Settings::default();
    let plaintext = s.boolean("allow_plaintext").unwrap_or(false);
    if let Some(Some(address)) = s.address("listen", Beyond::Plaintext(plaintext)) {
        to.listen = address;
    }
    set(&mut to.protocol, s.word("protocol", &blackrock::Protocol::WORDS));
    set(&mut to.ticks_per_s, s.number("ticks_per_s", 1000.0..1e10, "ticks a second from 1000"));
    set(&mut to.reorder_ms, s.number("reorder_ms", 0.0..10_000.0, "milliseconds from 0"));
    set(&mut to.split_sorted, s.boolean("split_sorted"));
    set(&mut to.electrodes, s.strings("electrodes"));
    set(&mut to.noise, s.boolean("noise"));
    to
}

fn intan_table(s: &mut Section<'_, '_>) -> intan::Settings {
    let mut to = intan::Settings::default();
    set(&mut to.address, s.string("address").map(|t| t.0.to_owned()));
    set(&mut to.sample_rate_hz, s.number("sample_rate_hz", 1.0..1e6, "Hz from 1 to below 1000000"));
    set(&mut to.reorder_ms, s.number("reorder_ms", 0.0..10_000.0, "milliseconds from 0"));
    set(&mut to.split_sorted, s.boolean("split_sorted"));
    set(&mut to.electrodes, s.strings("electrodes"));
    to
}

fn replay_table(s: &mut Section<'_, '_>, path: &Path) -> Option<replay::Settings> {
    let (file, _) = s.required_string("file", "a recording (.npz, .nwb or a folder of Phy)")?;
    let mut to = replay::Settings::new(path.parent().unwrap_or(Path::new(".")).join(file));
    let speeds = "times real speed, from 0.001 to below 1000000, or 0 for as fast as possible";
    if let Some(speed) = s.number("speed", 0.0..1e6, speeds) {
        if speed == 0.0 || speed >= replay::SPEED_MIN {
            to.speed = speed;
        } else {
            let span = s.span.clone();
            s.fault(span, "speed", format!("expected {speeds}, found {speed}"));
        }
    }
    set(&mut to.repeat, s.boolean("loop"));
    set(&mut to.start_s, s.number("start_s", 0.0..1e9, "seconds from 0"));
    Some(to)
}

#[cfg(feature = "lsl")]
fn lsl(s: &mut Section<'_, '_>) -> Option<SourceConfig> {
    let read = |s: &mut Section<'_, '_>| {
        let mut to = lsl_stream(s);
        set(&mut to.outlets, s.boolean("outlets"));
        set(&mut to.listen, lsl_listen(s));
        SourceConfig::Lsl(to)
    };
    s.section("lsl", read)
}

/// A stream of markers that become notes.
#[cfg(feature = "lsl")]
pub(super) fn lsl_notes(s: &mut Section<'_, '_>) -> Option<lsl::Settings> {
    s.section("lsl_notes", lsl_stream)
}

/// Without LSL there are none.
#[cfg(not(feature = "lsl"))]
pub(super) fn lsl_notes(s: &mut Section<'_, '_>) -> Option<std::convert::Infallible> {
    no_lsl(s, "lsl_notes");
    None
}

/// Which stream.
#[cfg(feature = "lsl")]
fn lsl_stream(s: &mut Section<'_, '_>) -> lsl::Settings {
    let mut to = lsl::Settings::default();
    let mut quoted = None;
    for (key, place) in [
        ("name", &mut to.name),
        ("type", &mut to.kind),
        ("source_id", &mut to.source_id),
        ("session_id", &mut to.session_id),
    ] {
        let Some((text, span)) = s.string(key) else { continue };
        if text.contains('\'') {
            quoted = Some((span, key));
        }
        text.clone_into(place);
    }
    if let Some((span, key)) = quoted {
        s.fault(span, key, "expected text without ', which LSL's queries cannot quote");
    }
    if let Some(peers) = s.strings("known_peers") {
        to.known_peers = peers;
    }
    if to.name.is_empty() && to.kind.is_empty() && to.source_id.is_empty() {
        let span = s.span.clone();
        s.fault(span, "name", "expected a name, type or source_id of the stream, found none");
    }
    to
}

/// Where LSL's outlets are.
#[cfg(feature = "lsl")]
pub(super) fn lsl_listen(s: &mut Section<'_, '_>) -> Option<std::net::IpAddr> {
    let plaintext = s.boolean("allow_plaintext").unwrap_or(false);
    let (text, span) = s.string("listen")?;
    match text.parse::<std::net::IpAddr>() {
        Ok(address) if address.is_loopback() || plaintext => Some(address),
        _ => {
            let problem = format!(
                "expected a loopback address, or with allow_plaintext another: LSL neither \
                 encrypts nor authenticates; found \"{text}\""
            );
            s.fault(span, "listen", problem);
            None
        }
    }
}

#[cfg(not(feature = "lsl"))]
fn lsl(s: &mut Section<'_, '_>) -> Option<SourceConfig> {
    no_lsl(s, "lsl");
    None
}

/// That this build has no LSL, where it is asked for.
#[cfg(not(feature = "lsl"))]
pub(super) fn no_lsl(s: &mut Section<'_, '_>, key: &'static str) {
    if let Some(value) = s.value(key) {
        let problem =
            "expected a build with LSL (cargo build --release --features lsl), found one without";
        s.fault(value.span(), key, problem);
    }
}

/// Where a session's decisions and events go.
pub(super) fn redis_out(s: &mut Section<'_, '_>) -> Option<redis::OutSettings> {
    s.section("redis", |s| {
        let mut to = redis::OutSettings::default();
        set(&mut to.url, s.endpoint("url", &REDIS));
        to.stream = s.string("stream").map(|t| t.0.to_owned());
        set(&mut to.decisions_every, s.whole("decisions_every", 0, 1_000_000));
        set(&mut to.entries_max, s.whole("entries_max", 100, 1 << 30));
        set(&mut to.events_max, s.whole("events_max", 100, 1 << 30));
        to
    })
}
