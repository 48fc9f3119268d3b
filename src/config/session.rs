//! One session's table.

use std::ops::Range;
use std::path::Path;

use super::defaults::{BUILTIN_MODEL, CALIBRATE_S};
use super::rigs;
use super::rigs::SourceConfig;
use super::section::{Section, set};
use super::triggers;
use crate::bus::{ModelChoice, ModelSource, SelfCalibration};
use crate::inference::{Adaptation, Gains};
use crate::intake::{AssemblySettings, FEEDS_MAX};
use crate::rigs::redis;
use crate::triggers::Settings as Trigger;

/// False changes per minute that a decision rule may be asked for.
pub(crate) const FALSE_CHANGES_PER_MIN: Range<f64> = 1e-6..1e4;

/// Where a session's notes come from, beside those that people write.
#[cfg(feature = "lsl")]
pub(crate) type Notes = Option<crate::rigs::lsl::Settings>;
#[cfg(not(feature = "lsl"))]
pub(crate) type Notes = Option<std::convert::Infallible>;

#[derive(Debug, Clone, PartialEq)]
pub struct SessionConfig {
    /// Name that messages carry.
    pub name: String,
    /// The model it asks for.
    pub choice: ModelChoice,
    /// When bins that are put together from events close.
    pub events: AssemblySettings,
    /// The rig that the daemon goes to by itself; without it, rigs come over gRPC or ZeroMQ.
    pub source: Option<SourceConfig>,
    /// Streams of markers that become its notes; nothing in a build without LSL.
    pub(crate) notes: Notes,
    /// A Redis stream to which decisions and events are written.
    pub redis: Option<redis::OutSettings>,
    /// What it does about regimes.
    pub(crate) triggers: Vec<Trigger>,
}

impl SessionConfig {
    /// A session of the built-in model, everything else by default.
    #[must_use]
    pub fn new(name: &str, model: ModelSource, readout: &str) -> Self {
        Self {
            name: name.to_owned(),
            choice: ModelChoice::new(model, readout),
            events: AssemblySettings::default(),
            source: None,
            notes: None,
            redis: None,
            triggers: Vec::new(),
        }
    }
}

pub(super) fn one_session(
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
        let problem = "expected how many channels a new animal has (or calibrate_from, for another \
                       day of a known one), found nothing";
        s.fault(s.span.clone(), "channels", problem);
    }
    let mut choice = ModelChoice::new(ModelSource::Builtin, "");
    rule(s, &mut choice);
    let events = events(s);
    let source = rigs::source(s, path);
    let notes = rigs::lsl_notes(s);
    let redis = rigs::redis_out(s);
    let triggers = triggers::triggers(s);
    let name = checked_name(s, name?, before)?;
    let (model, _) = model?;
    if model != BUILTIN_MODEL {
        let folder = path.parent().unwrap_or(Path::new("."));
        choice.source = ModelSource::Directory(folder.join(model));
    }
    choice.readout = readout.map_or(name, |r| r.0).to_owned();
    choice.channels = channels;
    choice.calibration = calibrate_s.map(|seconds| {
        let from = calibrate_from.map(|(from, _)| from.to_owned());
        SelfCalibration { seconds, from }
    });
    let name = name.to_owned();
    Some(SessionConfig { name, choice, events, source, notes, redis, triggers })
}

/// Keys of the decision rule and of the adaptation.
fn rule(s: &mut Section<'_, '_>, choice: &mut ModelChoice) {
    choice.bin_ms = s.number("bin_ms", 0.001..60_000.0, "milliseconds above 0");
    let probability = "a probability from 0 and below 1";
    choice.probability_min = s.number("probability_min", 0.0..1.0, probability);
    choice.dwell_ms = s.number("dwell_ms", 0.0..600_000.0, "milliseconds from 0");
    choice.unknown = s.boolean("unknown").unwrap_or(true);
    let share = "a share of the bins from 0.001 and below 0.2";
    choice.unknown_rate = s.number("unknown_rate", 0.001..0.2, share);
    choice.mean_dwell_s = s.number("mean_dwell_s", 0.001..1e9, "seconds above 0");
    let false_changes = "false changes per minute, above 0";
    choice.false_changes_per_min =
        s.number("false_changes_per_min", FALSE_CHANGES_PER_MIN, false_changes);
    let default = Adaptation::default();
    let gain_s = s.number("gain_time_constant_s", 0.0..1e6, "seconds, 0 for fixed gains");
    choice.adaptation = Adaptation {
        gains: match gain_s {
            None => default.gains,
            Some(0.0) => Gains::Fixed,
            Some(seconds) => Gains::Over(seconds),
        },
        silence: s.boolean("silent_channels").unwrap_or(default.silence),
        artefacts: s.boolean("artefacts").unwrap_or(default.artefacts),
    };
}

/// A session's name, where it can be a topic and a label and no session before has it.
fn checked_name<'a>(
    s: &mut Section<'_, '_>,
    (name, span): (&'a str, std::ops::Range<usize>),
    before: &[SessionConfig],
) -> Option<&'a str> {
    let sane = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let problem = if name.is_empty() || name.len() > 64 || !name.chars().all(sane) {
        format!(
            "expected 1 to 64 letters, digits or -_.: (names are topics and labels), found \
             \"{name}\""
        )
    } else if before.iter().any(|b| b.name == name) {
        format!("expected names that differ, found \"{name}\" twice")
    } else {
        return Some(name);
    };
    s.fault(span, "name", problem);
    None
}

fn events(s: &mut Section<'_, '_>) -> AssemblySettings {
    let mut settings = AssemblySettings::default();
    s.section("events", |s| {
        set(&mut settings.deadline, s.milliseconds("deadline_ms", 60_000.0));
        set(&mut settings.reorder, s.milliseconds("reorder_ms", 60_000.0));
        set(&mut settings.idle, s.milliseconds("idle_ms", 3_600_000.0));
        set(&mut settings.publishers, s.whole("publishers", 1, FEEDS_MAX));
    });
    settings
}
