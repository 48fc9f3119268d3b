//! One session's table.

use std::path::{Path, PathBuf};

use super::section::Section;
use super::{BUILTIN_MODEL, CALIBRATE_S, rigs, set};
use crate::inference::Adaptation;
#[cfg(feature = "lsl")]
use crate::source::lsl;
use crate::source::{
    AssemblySettings, FEEDS_MAX, blackrock, brand, intan, open_ephys, redis, replay,
};

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
    /// When bins that are put together from events close.
    pub events: AssemblySettings,
    /// The rig that the daemon goes to by itself; without it, rigs come over gRPC or ZeroMQ.
    pub source: Option<SourceConfig>,
    /// A Redis stream to which decisions and events are written.
    pub redis: Option<redis::OutSettings>,
}

impl SessionConfig {
    /// A session of the built-in model with every other setting as it is by default.
    #[must_use]
    pub fn new(name: &str, model: ModelSource, readout: &str) -> Self {
        Self {
            name: name.to_owned(),
            model,
            readout: readout.to_owned(),
            calibrate_s: None,
            calibrate_from: None,
            channels: None,
            bin_ms: None,
            mean_dwell_s: None,
            false_changes_per_min: None,
            probability_min: None,
            dwell_ms: None,
            unknown: true,
            adaptation: Adaptation::default(),
            events: AssemblySettings::default(),
            source: None,
            redis: None,
        }
    }
}

/// A rig that the daemon goes to.
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
    let events = events(s);
    let source = rigs::source(s, path);
    let redis = rigs::redis_out(s);
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
        events,
        source,
        redis,
        ..SessionConfig::new(name, model, readout.map_or(name, |r| r.0))
    })
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
