//! Which model each session runs, checked before anything starts.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::calibrator::SelfCalibration;
use super::resume;
use crate::checkpoint::{self, Checkpoint};
use crate::config::{Config, ModelSource, SessionConfig};
use crate::inference::Adaptation;
use crate::model::{Model, Readout};
use crate::publish::page::EmbeddingMap;
use crate::publish::{SessionFacts, Wording};
use crate::regime::{DecisionRule, Engine, Label};
use crate::telemetry::SessionMetrics;
use crate::wire::journal_record::What;
use crate::wire::{ModelChanged, SessionStarted};

const BUILTIN_CARD: &[u8] = include_bytes!("../../models/default/model.json");
const BUILTIN_WEIGHTS: &[u8] = include_bytes!("../../models/default/model.safetensors");

/// Counts that a session gathers to calibrate itself at most.
const COUNTS_GATHERED_MAX: f64 = 1e8;
/// Rate of a channel that is not known yet, Hz.
const BLANK_RATE_HZ: f64 = 5.0;

/// The model in the binary.
///
/// # Errors
/// Where it was damaged before the build.
pub fn builtin_model() -> Result<Checkpoint> {
    Ok(checkpoint::from_bytes(Path::new("(builtin)"), BUILTIN_CARD, BUILTIN_WEIGHTS)?)
}

/// A session with its model.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name.
    pub session: String,
    /// The model's checkpoint, shared among sessions that name the same.
    pub checkpoint: Arc<Checkpoint>,
    /// Its model, at the session's bin width.
    pub model: Arc<Model>,
    /// The readout; where the session is yet to calibrate itself, one that is not trusted.
    pub readout: Readout,
    /// How it calibrates itself.
    pub calibration: Option<SelfCalibration>,
    /// When the label changes.
    pub rule: DecisionRule,
    /// What is followed beside the dynamics.
    pub adaptation: Adaptation,
}

impl Plan {
    /// The model that the session is calibrated on, and how many of the session's bins one of its bins is: the
    /// checkpoint's own where it is that many times wider.
    #[must_use]
    pub fn calibration_model(&self) -> (&Model, usize) {
        let own = &self.checkpoint.model;
        let ratio = own.bin_width_s / self.model.bin_width_s;
        let factor = ratio.round();
        if factor >= 2.0 && (ratio - factor).abs() < 1e-6 * factor {
            (own, factor as usize)
        } else {
            (&self.model, 1)
        }
    }

    /// Whether its readout is learned with the channels as they come: no other order is known of them.
    #[must_use]
    pub fn is_new_animal(&self) -> bool {
        self.calibration.as_ref().is_some_and(|c| c.from.is_none())
    }

    /// What the session is.
    #[must_use]
    pub fn facts(&self) -> SessionFacts {
        SessionFacts {
            name: self.session.clone(),
            n_channels: self.readout.n_channels(),
            bin_width_s: self.model.bin_width_s,
            regime_names: self.model.regime_names.clone(),
            model: self.checkpoint.weights_sha256[..12].to_owned(),
            map: Arc::new(EmbeddingMap::of(&self.readout.prior)),
        }
    }

    /// That it has begun, for the journal.
    #[must_use]
    pub fn started(&self, resumed: bool) -> What {
        let facts = self.facts();
        What::SessionStarted(SessionStarted {
            n_channels: facts.n_channels as u32,
            bin_width_s: facts.bin_width_s,
            regime_names: facts.regime_names,
            model: facts.model,
            resumed,
        })
    }

    /// That it has this model now, for the journal.
    #[must_use]
    pub fn changed(&self, calibrated: bool) -> What {
        let facts = self.facts();
        What::ModelChanged(ModelChanged {
            model: facts.model,
            regime_names: facts.regime_names,
            calibrated,
        })
    }

    /// How its outcomes are worded.
    #[must_use]
    pub fn wording(&self) -> Wording {
        Wording {
            session: self.session.clone(),
            regime_names: self.model.regime_names.clone(),
            embedding: self.model.dims.embedding,
            rank: self.model.dims.rank,
        }
    }

    /// Its gauges.
    #[must_use]
    pub fn session_metrics(&self) -> SessionMetrics {
        let names = self.model.regime_names.iter().map(String::as_str);
        let labels: Vec<&str> = names.chain([Label::UNKNOWN]).collect();
        SessionMetrics::new(&self.session, &labels)
    }

    /// An engine that reads by a readout found on [`Self::calibration_model`], and its fingerprint.
    ///
    /// # Errors
    /// When the bank does not take it.
    pub(super) fn engine(&self, fitted_on: &Model, readout: Readout) -> Result<(Engine, String)> {
        let model = Model { readouts: vec![readout], ..fitted_on.clone() };
        let model = model.at_bin_width(self.model.bin_width_s).map_err(anyhow::Error::msg)?;
        let readout = &model.readouts[0];
        let engine = Engine::new(&self.model, readout, self.rule, self.adaptation)?;
        Ok((engine, resume::fingerprint(self, readout)))
    }
}

/// Loads every session's model and checks that it fits.
///
/// # Errors
/// Every session that does not fit, with what was expected and what was found.
pub fn plan(config: &Config) -> Result<Vec<Plan>> {
    let mut loaded: HashMap<&ModelSource, Arc<Checkpoint>> = HashMap::new();
    let mut plans = Vec::new();
    let mut faults = Vec::new();
    for session in &config.sessions {
        let checkpoint = match loaded.get(&session.model) {
            Some(checkpoint) => Ok(checkpoint.clone()),
            None => load(&session.model).map(Arc::new),
        };
        match checkpoint.and_then(|c| fit(session, c)) {
            Ok(plan) => {
                loaded.insert(&session.model, plan.checkpoint.clone());
                plans.push(plan);
            }
            Err(e) => faults.push(format!("session '{}': {e:#}", session.name)),
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(plans)
}

/// The same for one session.
///
/// # Errors
/// What does not fit.
pub(super) fn plan_one(session: &SessionConfig) -> Result<Plan> {
    fit(session, Arc::new(load(&session.model)?))
}

fn load(source: &ModelSource) -> Result<Checkpoint> {
    match source {
        ModelSource::Builtin => builtin_model(),
        ModelSource::Directory(dir) => checkpoint::load(dir).context("cannot use the model"),
    }
}

fn fit(session: &SessionConfig, checkpoint: Arc<Checkpoint>) -> Result<Plan> {
    let model = &checkpoint.model;
    let named = session.calibrate_from.as_ref().unwrap_or(&session.readout);
    let new_animal = session.calibrate_s.is_some() && session.calibrate_from.is_none();
    let channels = match (model.readout(named), session.channels) {
        (_, Some(channels)) if new_animal => channels,
        (Some(readout), _) => readout.n_channels(),
        (None, _) => bail!(
            "expected a readout of the model ({}), found '{named}' (set `readout`, add it with `regimed calibrate`, or let the session calibrate itself: `calibrate_from`, `calibrate_s`)",
            model.session_names().join(", "),
        ),
    };
    if let Some(found) = session.channels.filter(|c| *c != channels) {
        bail!(
            "expected {channels} channels as in readout '{named}' of the model, found channels = {found}",
        );
    }
    let bin_width_s = session.bin_ms.map_or(model.bin_width_s, |ms| ms / 1e3);
    let model = model.at_bin_width(bin_width_s).map_err(|e| anyhow::anyhow!("bin_ms: {e}"))?;
    let model = match session.mean_dwell_s {
        Some(seconds) => model.with_mean_dwell(seconds),
        None => model,
    };
    let mut rule = DecisionRule::of(&model, session.false_changes_per_min);
    rule.unknown = session.unknown;
    if let Some(p) = session.probability_min {
        rule.probability_min = p as f32;
    }
    if let Some(ms) = session.dwell_ms {
        rule.dwell_bins = (ms / 1e3 / bin_width_s).ceil().max(1.0) as u32;
    }
    let of_bins =
        |m: &Model| (session.calibrate_s.unwrap_or(0.0) / m.bin_width_s) * channels as f64;
    if of_bins(&model) > COUNTS_GATHERED_MAX {
        bail!(
            "calibrate_s: expected at most {COUNTS_GATHERED_MAX:.0} counts to gather, found {:.0}",
            of_bins(&model)
        );
    }
    let readout = match model.readout(named) {
        Some(readout) if !new_animal => readout.clone(),
        _ => blank(&model, channels),
    };
    let calibration = session
        .calibrate_s
        .map(|seconds| SelfCalibration { seconds, from: session.calibrate_from.clone() });
    let readout = Readout { trusted: readout.trusted && calibration.is_none(), ..readout };
    Ok(Plan {
        session: session.name.clone(),
        readout,
        calibration,
        rule,
        adaptation: session.adaptation,
        model: Arc::new(model),
        checkpoint,
    })
}

/// A readout that says nothing yet.
fn blank(model: &Model, channels: usize) -> Readout {
    Readout {
        session: "(new animal)".into(),
        loading: vec![0.0; channels * model.dims.rank],
        baseline: vec![(BLANK_RATE_HZ * model.bin_width_s).ln() as f32; channels],
        channels: None,
        dispersion: None,
        trusted: false,
        prior: model.prior.clone(),
    }
}
