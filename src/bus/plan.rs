//! What a session runs on: a model of a checkpoint, at the session's bin width, with a readout and
//! a decision rule.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ndarray::{Array1, Array2};

use super::wording::Wording;
use crate::checkpoint::{Checkpoint, sha256_hex};
use crate::inference::{Adaptation, BankError};
use crate::model::{BinWidthError, EXPERT_NAMES, EmbeddingMap, Model, Readout, whole_ratio};
use crate::regime::{DecisionRule, Engine, Label, NoSigns};
use crate::telemetry::SessionMetrics;
use crate::wire::journal_record::What;
use crate::wire::{ModelChanged, SessionStarted};

/// Counts that a session gathers to calibrate itself at most.
const COUNTS_GATHERED_MAX: f64 = 1e8;
/// Rate of a channel that is not known yet, Hz. No label depends on it: the loadings are 0, and the
/// posterior stays at the prior until the session is calibrated.
const BLANK_RATE_HZ: f64 = 5.0;

/// Where a session's model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// The model in the binary.
    Builtin,
    /// A model directory.
    Directory(PathBuf),
}

impl ModelSource {
    /// What the model in the binary is called.
    pub(crate) const BUILTIN: &str = "builtin";
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str(Self::BUILTIN),
            Self::Directory(directory) => directory.display().fmt(f),
        }
    }
}

/// From where a session's own readout is to come.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfCalibration {
    /// Seconds of counts that are gathered.
    pub seconds: f64,
    /// The model's session that this one is another day of; `None`: a new animal.
    pub from: Option<String>,
}

/// The model that a session asks for, and how it is to decide.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelChoice {
    /// Where its model comes from.
    pub source: ModelSource,
    /// Session of the model that the readout is taken from.
    pub readout: String,
    /// How the session calibrates itself on its first counts, where it does.
    pub calibration: Option<SelfCalibration>,
    /// Channels the rig will send, where stated: checked against the model.
    pub channels: Option<usize>,
    /// Bin width the rig will send, ms, where stated: checked against the model.
    pub bin_ms: Option<f64>,
    /// Time that a regime lasts on average, seconds, where it is not as in training.
    pub mean_dwell_s: Option<f64>,
    /// False changes per minute that the decision rule may make, by the model's operating points.
    pub false_changes_per_min: Option<f64>,
    /// Posterior probability that a new label must reach, instead of the operating points' value.
    pub probability_min: Option<f64>,
    /// Time for which it must hold it, ms.
    pub dwell_ms: Option<f64>,
    /// Whether the label may be `unknown`.
    pub unknown: bool,
    /// Share of the known bins that may be called `unknown`, where not the usual one.
    pub unknown_rate: Option<f64>,
    /// What is tracked in addition to the dynamics.
    pub adaptation: Adaptation,
}

impl ModelChoice {
    /// A readout of a model, everything else by default.
    #[must_use]
    pub fn new(source: ModelSource, readout: &str) -> Self {
        Self {
            source,
            readout: readout.to_owned(),
            calibration: None,
            channels: None,
            bin_ms: None,
            mean_dwell_s: None,
            false_changes_per_min: None,
            probability_min: None,
            dwell_ms: None,
            unknown: true,
            unknown_rate: None,
            adaptation: Adaptation::default(),
        }
    }
}

/// What a session is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SessionFacts {
    /// The session's name: a topic and a label.
    pub name: String,
    /// Number of channels, as in the readout.
    pub n_channels: usize,
    /// Bin width, seconds.
    pub bin_width_s: f64,
    pub regime_names: Vec<String>,
    /// The model's identity.
    pub model: String,
    /// What the model learned of where its regimes lie.
    pub map: Arc<EmbeddingMap>,
    /// False changes per minute that the rule may make, where not as the model chose.
    pub false_changes_per_min: Option<f64>,
}

/// Why a session and its model do not go together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The model has no such readout.
    #[error(
        "expected a readout of the model ({known}), found '{found}' (set `readout`, add it with \
         `regimed calibrate`, \
         or let the session calibrate itself: `calibrate_from`, `calibrate_s`)"
    )]
    Readout {
        /// Readouts that it has.
        known: String,
        /// The one asked for.
        found: String,
    },
    /// The readout is of other channels.
    #[error(
        "expected {expected} channels as in readout '{named}' of the model, found channels = \
         {found}"
    )]
    Channels {
        /// Channels of the readout.
        expected: usize,
        /// The readout.
        named: String,
        /// Channels stated.
        found: usize,
    },
    /// The model cannot serve such bins.
    #[error("bin_ms: {0}")]
    BinWidth(#[from] BinWidthError),
    /// Its calibration would hold too much in memory.
    #[error(
        "calibrate_s: expected at most {COUNTS_GATHERED_MAX:.0} counts to gather, found {found:.0}"
    )]
    Gather {
        /// Counts it would gather.
        found: f64,
    },
    /// The model cannot tell how often it calls known bins unknown.
    #[error("unknown_rate: {0}")]
    UnknownRate(#[from] NoSigns),
    /// The filter bank does not take the model.
    #[error(transparent)]
    Bank(#[from] BankError),
}

/// When the label changes, by a session's choice.
fn rule(
    model: &Model,
    own: Option<&Readout>,
    choice: &ModelChoice,
) -> Result<DecisionRule, PlanError> {
    let mut rule = DecisionRule::of(model, choice.false_changes_per_min);
    rule.unknown = choice.unknown;
    rule.unlabelled &= choice.unknown;
    if let Some(rate) = choice.unknown_rate {
        rule = rule.with_unknown_rate(model, own, rate)?;
    }
    if let Some(p) = choice.probability_min {
        rule.probability_min = p as f32;
    }
    if let Some(ms) = choice.dwell_ms {
        rule.dwell_bins = (ms / 1e3 / model.bin_width_s).ceil().max(1.0) as u32;
    }
    Ok(rule)
}

/// A session with its model.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The session's name: a topic and a label.
    pub session: String,
    /// The model's checkpoint, shared among sessions that name the same.
    pub checkpoint: Arc<Checkpoint>,
    /// Its model, at the session's bin width.
    pub model: Arc<Model>,
    /// The readout; where the session is yet to calibrate itself, one that is not trusted.
    pub readout: Readout,
    /// The configuration's choice.
    pub choice: ModelChoice,
    /// When the label changes.
    pub rule: DecisionRule,
}

impl Plan {
    /// Fits a session's choice to the model it names.
    ///
    /// # Errors
    /// What does not fit.
    pub fn fit(
        session: &str,
        choice: ModelChoice,
        checkpoint: Arc<Checkpoint>,
    ) -> Result<Self, PlanError> {
        let model = &checkpoint.model;
        let named =
            choice.calibration.as_ref().and_then(|c| c.from.as_ref()).unwrap_or(&choice.readout);
        let new_animal = choice.calibration.as_ref().is_some_and(|c| c.from.is_none());
        let channels = match (model.readout(named), choice.channels) {
            (_, Some(channels)) if new_animal => channels,
            (Some(readout), _) => readout.n_channels(),
            (None, _) => {
                let known = model.session_names().join(", ");
                return Err(PlanError::Readout { known, found: named.clone() });
            }
        };
        if let Some(found) = choice.channels.filter(|c| *c != channels) {
            return Err(PlanError::Channels { expected: channels, named: named.clone(), found });
        }
        let bin_width_s = choice.bin_ms.map_or(model.bin_width_s, |ms| ms / 1e3);
        let model = model.at_bin_width(bin_width_s)?;
        let model = match choice.mean_dwell_s {
            Some(seconds) => model.with_mean_dwell(seconds),
            None => model,
        };
        let own = model.readout(named).filter(|_| !new_animal);
        let rule = rule(&model, own, &choice)?;
        let gathered_s = choice.calibration.as_ref().map_or(0.0, |c| c.seconds);
        let of_bins = |m: &Model| (gathered_s / m.bin_width_s) * channels as f64;
        if of_bins(&model) > COUNTS_GATHERED_MAX {
            return Err(PlanError::Gather { found: of_bins(&model) });
        }
        let readout = match model.readout(named) {
            Some(readout) if !new_animal => readout.clone(),
            _ => blank(&model, channels),
        };
        let readout =
            Readout { trusted: readout.trusted && choice.calibration.is_none(), ..readout };
        Ok(Plan {
            session: session.to_owned(),
            readout,
            rule,
            choice,
            model: Arc::new(model),
            checkpoint,
        })
    }

    /// The same session with a rule that may make other false changes per minute. A threshold that
    /// was set by hand goes: it would leave the rate without effect.
    ///
    /// # Errors
    /// [`PlanError::UnknownRate`].
    pub(crate) fn with_false_changes(&self, per_min: f64) -> Result<Self, PlanError> {
        let choice = ModelChoice {
            false_changes_per_min: Some(per_min),
            probability_min: None,
            ..self.choice.clone()
        };
        let rule = rule(&self.model, Some(&self.readout), &choice)?;
        Ok(Self { rule, choice, ..self.clone() })
    }

    /// The model that the session is calibrated on, and how many of the session's bins one of its
    /// bins is: the checkpoint's own where it is that many times wider.
    #[must_use]
    pub(crate) fn calibration_model(&self) -> (&Model, usize) {
        let own = &self.checkpoint.model;
        match whole_ratio(own.bin_width_s, self.model.bin_width_s) {
            Some(factor) if factor >= 2 => (own, factor),
            _ => (&self.model, 1),
        }
    }

    /// Whether its readout is learned with the channels as they come: no other order is known of
    /// them.
    #[must_use]
    pub(crate) fn is_new_animal(&self) -> bool {
        self.choice.calibration.as_ref().is_some_and(|c| c.from.is_none())
    }

    /// What the session is.
    #[must_use]
    pub(crate) fn facts(&self) -> SessionFacts {
        SessionFacts {
            name: self.session.clone(),
            n_channels: self.readout.n_channels(),
            bin_width_s: self.model.bin_width_s,
            regime_names: self.model.regime_names.clone(),
            model: self.checkpoint.weights_sha256[..12].to_owned(),
            map: Arc::new(EmbeddingMap::of(&self.readout.prior)),
            false_changes_per_min: self.choice.false_changes_per_min,
        }
    }

    /// The journal's record of the start.
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
    pub(crate) fn wording(&self) -> Wording {
        Wording {
            session: self.session.clone(),
            regime_names: self.model.regime_names.clone(),
            embedding: self.model.dims.embedding,
            rank: self.model.dims.rank,
            weights: self.model.online.pool.weights,
        }
    }

    /// Registers the gauges of the session.
    #[must_use]
    pub(crate) fn session_metrics(&self) -> SessionMetrics {
        let names = self.model.regime_names.iter().map(String::as_str);
        let labels: Vec<&str> = names.chain([Label::UNKNOWN]).collect();
        let experts: &[&str] = if self.readout.experts.is_some() { &EXPERT_NAMES } else { &[] };
        SessionMetrics::new(&self.session, &labels, experts)
    }

    /// An engine that reads by a readout found on `Self::calibration_model`, and its fingerprint.
    ///
    /// # Errors
    /// When the bank does not take it.
    pub fn engine(
        &self,
        fitted_on: &Model,
        readout: Readout,
    ) -> Result<(Engine, String), PlanError> {
        let model = Model { readouts: vec![readout], ..fitted_on.clone() };
        let model = model.at_bin_width(self.model.bin_width_s)?;
        let readout = &model.readouts[0];
        let engine = Engine::new(&self.model, readout, self.rule, self.choice.adaptation)?;
        Ok((engine, self.fingerprint(readout)))
    }

    /// Fingerprint of model, readout and rule: a saved state is restored only where it is equal.
    #[must_use]
    pub fn fingerprint(&self, readout: &Readout) -> String {
        // Every bit counts, and the settings of the filter: a saved state continues exactly, or is
        // not used.
        let mut bytes = self.checkpoint.weights_sha256.clone().into_bytes();
        bytes.extend(self.model.bin_width_s.to_bits().to_le_bytes());
        bytes.extend(
            format!(
                "{:?} {:?} {:?} {}",
                self.model.online, self.rule, self.choice.adaptation, readout.trusted
            )
            .bytes(),
        );
        let prior = &readout.prior.components;
        let floats = readout
            .loading
            .iter()
            .chain(&readout.baseline)
            .chain(readout.dispersion.iter().flatten())
            .chain(
                prior.iter().flat_map(|c| c.mean.iter().chain(&c.covariance).chain([&c.weight])),
            );
        bytes.extend(floats.flat_map(|v| v.to_bits().to_le_bytes()));
        sha256_hex(&bytes)
    }
}

/// A readout without information: zero loadings.
fn blank(model: &Model, channels: usize) -> Readout {
    Readout {
        session: "(new animal)".into(),
        loading: Array2::zeros((channels, model.dims.rank)),
        baseline: Array1::from_elem(channels, (BLANK_RATE_HZ * model.bin_width_s).ln() as f32),
        channels: None,
        dispersion: None,
        trusted: false,
        prior: model.prior.clone(),
        experts: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Provenance;
    use crate::inference::example_model;

    #[test]
    fn a_state_is_of_one_model_readout_rule_and_setting() {
        let fingerprint = |model: Model| {
            let session = model.readouts[0].session.clone();
            let checkpoint = Checkpoint {
                model,
                provenance: Provenance::default(),
                weights_sha256: "0".repeat(64),
                recogniser: None,
            };
            let choice = ModelChoice::new(ModelSource::Builtin, &session);
            let plan = Plan::fit("rig", choice, Arc::new(checkpoint)).expect("a plan");
            plan.fingerprint(&plan.readout)
        };
        let own = fingerprint(example_model());
        assert_eq!(own, fingerprint(example_model()));
        let changes: [fn(&mut Model); 4] = [
            |m| m.readouts[0].baseline[0] += 1e-6,
            |m| m.online.temperature *= 1.5,
            |m| m.online.process_noise *= 2.0,
            |m| m.online.hazard_per_bin *= 0.5,
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut model = example_model();
            change(&mut model);
            assert_ne!(own, fingerprint(model), "change {i}");
        }
    }
}
