//! `[[session.trigger]]`: what a session does about regimes.

use std::path::PathBuf;
use std::time::Duration;

use super::rigs;
use super::section::Section;
#[cfg(feature = "lsl")]
use super::section::set;
use crate::regime::Label;
use crate::triggers::{
    DAILY_MAX, HttpTarget, LATE, REFRACTORY, RedisTarget, SerialTarget, Settings, TRIGGERS_MAX,
    Target, UdpTarget, When,
};

/// Longest text of a trigger's own: it fits a datagram anywhere.
const MESSAGE_BYTES_MAX: usize = 1000;
/// Acts in 24 hours that may be asked for.
const DAILY_MOST: usize = 1_000_000;
/// Least time between two acts.
const REFRACTORY_MIN: Duration = Duration::from_millis(10);
/// Bits a second of a serial port, where nothing else is said.
const BAUD: usize = 115_200;

pub(super) fn triggers(s: &mut Section<'_, '_>) -> Vec<Settings> {
    let mut all: Vec<Settings> = Vec::new();
    s.tables("trigger", 0..=TRIGGERS_MAX, |s| {
        let Some(trigger) = one_trigger(s) else { return };
        if all.iter().any(|t| t.name == trigger.name) {
            let problem = format!("expected names that differ, found \"{}\" twice", trigger.name);
            let span = s.span.clone();
            s.fault(span, "name", problem);
        }
        all.push(trigger);
    });
    all
}

fn one_trigger(s: &mut Section<'_, '_>) -> Option<Settings> {
    let name = name(s);
    let regime = s.required_string("regime", "a regime of the model, or \"unknown\"");
    let when = when(s);
    if let (Some((Label::UNKNOWN, span)), Some(When::Above(_))) = (&regime, when) {
        let problem = "expected a regime with a probability, found \"unknown\" (when = \"begin\" \
                       waits for that label)";
        s.fault(span.clone(), "regime", problem);
    }
    let hold = s.milliseconds("for_ms", 3_600_000.0).unwrap_or_default();
    let repeat = s.boolean("repeat").unwrap_or(false);
    let refractory = s.milliseconds("refractory_ms", 86_400_000.0).unwrap_or(REFRACTORY);
    if refractory < REFRACTORY_MIN {
        let problem = format!("expected at least {} ms", REFRACTORY_MIN.as_millis());
        let span = s.span.clone();
        s.fault(span, "refractory_ms", problem);
    }
    let daily_max = s.whole("daily_max", 1, DAILY_MOST).unwrap_or(DAILY_MAX);
    let late = s.milliseconds("late_ms", 60_000.0).unwrap_or(LATE);
    let dry_run = s.boolean("dry_run").unwrap_or(false);
    let target = target(s);
    Some(Settings {
        name: name?,
        when: when?,
        regime: regime?.0.to_owned(),
        hold,
        repeat,
        refractory,
        daily_max,
        late,
        dry_run,
        target: target?,
    })
}

fn name(s: &mut Section<'_, '_>) -> Option<String> {
    let (name, span) = s.required_string("name", "the trigger's name")?;
    let sane = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(sane) {
        let problem = format!("expected 1 to 64 letters, digits or -_.:, found \"{name}\"");
        s.fault(span, "name", problem);
        return None;
    }
    Some(name.to_owned())
}

fn when(s: &mut Section<'_, '_>) -> Option<When> {
    #[derive(Clone, Copy)]
    enum Word {
        Begin,
        End,
        Above,
    }
    let probability = s.number("probability", 0.0..1.0, "a probability from 0 and below 1");
    if !s.known_table("when") {
        s.known.push("when");
        let span = s.span.clone();
        s.fault(span, "when", "expected \"begin\", \"end\" or \"above\", found nothing");
        return None;
    }
    let words = [("begin", Word::Begin), ("end", Word::End), ("above", Word::Above)];
    let word = s.word("when", &words)?;
    let problem = match (word, probability) {
        (Word::Begin, None) => return Some(When::Begin),
        (Word::End, None) => return Some(When::End),
        (Word::Above, Some(p)) => return Some(When::Above(p as f32)),
        (Word::Above, None) => "expected a probability for when = \"above\", found nothing",
        _ => "expected a probability with when = \"above\" alone",
    };
    let span = s.span.clone();
    s.fault(span, "probability", problem);
    None
}

/// A text of the trigger's own, short enough.
fn message(s: &mut Section<'_, '_>) -> Option<String> {
    let (text, span) = s.string("message")?;
    if text.is_empty() || text.len() > MESSAGE_BYTES_MAX {
        let problem = format!("expected 1 to {MESSAGE_BYTES_MAX} bytes, found {}", text.len());
        s.fault(span, "message", problem);
    }
    Some(text.to_owned())
}

fn target(s: &mut Section<'_, '_>) -> Option<Target> {
    let mut found: Vec<Option<Target>> = Vec::new();
    found.extend(s.section("udp", udp));
    found.extend(s.section("serial", serial));
    found.extend(
        s.section("network_events", |s| Some(Target::NetworkEvents(rigs::network_events(s)))),
    );
    found.extend(s.section("redis", |s| {
        let url = s.endpoint("url", &rigs::REDIS).unwrap_or_else(|| crate::rigs::redis::URL.into());
        let stream = s.string("stream").map(|t| t.0.to_owned());
        Some(Target::Redis(RedisTarget { url, stream }))
    }));
    found.extend(s.section("http", http));
    found.extend(lsl(s));
    if found.len() != 1 {
        let problem = format!(
            "expected one of the tables udp, serial, network_events, redis, http and lsl, found {}",
            found.len()
        );
        let span = s.span.clone();
        s.fault(span, "target", problem);
    }
    found.pop().flatten()
}

fn udp(s: &mut Section<'_, '_>) -> Option<Target> {
    let text = s.required_string("address", "an address such as \"127.0.0.1:9000\"");
    let message = message(s);
    let (text, span) = text?;
    let Ok(address) = text.parse() else {
        let problem = format!("expected an address such as \"127.0.0.1:9000\", found \"{text}\"");
        s.fault(span, "address", problem);
        return None;
    };
    Some(Target::Udp(UdpTarget { address, message }))
}

fn serial(s: &mut Section<'_, '_>) -> Option<Target> {
    let device = s.required_string("device", "a serial port such as \"/dev/ttyACM0\"");
    let baud = s.whole("baud", 110, 4_000_000).unwrap_or(BAUD) as u32;
    let message = message(s);
    let device = PathBuf::from(device?.0);
    Some(Target::Serial(SerialTarget { device, baud, message }))
}

fn http(s: &mut Section<'_, '_>) -> Option<Target> {
    let (url, span) = s.required_string("url", "an address such as \"http://127.0.0.1:8000/x\"")?;
    let parsed = url.parse::<axum::http::Uri>().ok();
    let good = parsed.is_some_and(|u| u.scheme_str() == Some("http") && u.host().is_some());
    if !good {
        let problem = format!("expected http://HOST[:PORT]/PATH (no TLS), found \"{url}\"");
        s.fault(span, "url", problem);
    }
    Some(Target::Http(HttpTarget { url: url.to_owned() }))
}

#[cfg(feature = "lsl")]
fn lsl(s: &mut Section<'_, '_>) -> Option<Option<Target>> {
    s.section("lsl", |s| {
        let mut to = crate::triggers::LslTarget {
            listen: std::net::Ipv4Addr::LOCALHOST.into(),
            message: message(s),
        };
        set(&mut to.listen, rigs::lsl_listen(s));
        Some(Target::Lsl(to))
    })
}

#[cfg(not(feature = "lsl"))]
fn lsl(s: &mut Section<'_, '_>) -> Option<Option<Target>> {
    rigs::no_lsl(s, "lsl");
    None
}
