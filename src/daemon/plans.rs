//! Which model each session runs, checked before anything starts.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::bus::{ModelChoice, ModelSource, Plan};
use crate::checkpoint;
use crate::checkpoint::Checkpoint;
use crate::config::Config;

/// Loads every session's model and checks that it fits.
///
/// # Errors
/// Every session that does not fit, each with what was expected and what was found.
pub(crate) fn plan(config: &Config) -> Result<Vec<Plan>> {
    let mut loaded: HashMap<&ModelSource, Arc<Checkpoint>> = HashMap::new();
    let mut plans = Vec::new();
    let mut faults = Vec::new();
    for session in &config.sessions {
        let checkpoint = match loaded.get(&session.choice.source) {
            Some(checkpoint) => Ok(checkpoint.clone()),
            None => load(&session.choice.source).map(Arc::new),
        };
        match checkpoint.and_then(|c| Ok(Plan::fit(&session.name, session.choice.clone(), c)?)) {
            Ok(plan) => {
                loaded.insert(&session.choice.source, plan.checkpoint.clone());
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
pub(super) fn plan_one(session: &str, choice: ModelChoice) -> Result<Plan> {
    let checkpoint = load(&choice.source)?;
    Ok(Plan::fit(session, choice, Arc::new(checkpoint))?)
}

fn load(source: &ModelSource) -> Result<Checkpoint> {
    match source {
        ModelSource::Builtin => Ok(checkpoint::builtin()?),
        ModelSource::Directory(dir) => checkpoint::load(dir).context("cannot use the model"),
    }
}
