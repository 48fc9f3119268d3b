//! Which model each session runs, checked before anything starts.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::checkpoint::{self, Checkpoint};
use crate::config::{Config, ModelSource, SessionConfig};
use crate::inference::Adaptation;
use crate::model::{Model, Readout};
use crate::regime::DecisionRule;

const BUILTIN_CARD: &[u8] = include_bytes!("../../models/default/model.json");
const BUILTIN_WEIGHTS: &[u8] = include_bytes!("../../models/default/model.safetensors");

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
    /// Index of the readout.
    pub readout: usize,
    /// When the label changes.
    pub rule: DecisionRule,
    /// What is followed beside the dynamics.
    pub adaptation: Adaptation,
}

impl Plan {
    /// The readout.
    #[must_use]
    pub fn readout(&self) -> &Readout {
        &self.model.readouts[self.readout]
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

fn load(source: &ModelSource) -> Result<Checkpoint> {
    match source {
        ModelSource::Builtin => builtin_model(),
        ModelSource::Directory(dir) => checkpoint::load(dir).context("cannot use the model"),
    }
}

fn fit(session: &SessionConfig, checkpoint: Arc<Checkpoint>) -> Result<Plan> {
    let model = &checkpoint.model;
    let names = model.session_names();
    let Some(readout) = names.iter().position(|n| *n == session.readout) else {
        bail!(
            "expected a readout of the model ({}), found '{}' (set `readout`, or add it with `regimed calibrate`)",
            names.join(", "),
            session.readout
        );
    };
    let channels = model.readouts[readout].n_channels();
    if let Some(found) = session.channels.filter(|c| *c != channels) {
        bail!(
            "expected {channels} channels as in readout '{}' of the model, found channels = {found}",
            session.readout
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
    Ok(Plan {
        session: session.name.clone(),
        readout,
        rule,
        adaptation: session.adaptation,
        model: Arc::new(model),
        checkpoint,
    })
}
