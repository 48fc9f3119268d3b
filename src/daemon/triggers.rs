//! A session's triggers: checked against its model and the daemon's tokens, and what they have used
//! up.

use anyhow::{Result, bail};

use crate::bus::{Plan, can_wait_for};
use crate::clock::wall_ns;
use crate::config::{Config, SessionConfig};
use crate::journal;
use crate::security::Role;
use crate::triggers::DAY_NS;
use crate::wire::TriggerOutcome;
use crate::wire::journal_record::What;

/// Checks a session's triggers.
///
/// # Errors
/// A regime that the model does not have; triggers that act, where nobody could arm them by a
/// token.
pub(crate) fn check_triggers(session: &SessionConfig, plan: &Plan, config: &Config) -> Result<()> {
    let names = &plan.model.regime_names;
    for trigger in &session.triggers {
        let (name, regime) = (&trigger.name, &trigger.regime);
        if !can_wait_for(regime, names) {
            let known = names.join(", ");
            bail!("trigger '{name}': expected a regime of the model ({known}), found '{regime}'");
        }
        let controlled = config.tokens.iter().any(|t| t.roles.0.contains(&Role::Control));
        if !trigger.dry_run && !controlled {
            bail!(
                "trigger '{name}': expected a [[token]] with the role control, by which it is \
                 armed, found none (or say dry_run = true; docs/triggers.md)"
            );
        }
    }
    Ok(())
}

/// When each of a session's triggers acted in the last 24 hours, by the journal: oldest first, ns
/// since the Unix epoch.
pub(super) fn acted_before(session: &SessionConfig, config: &Config) -> Vec<Vec<i64>> {
    let mut before = vec![Vec::new(); session.triggers.len()];
    let Some(kept) = config.journal.as_ref().filter(|_| !before.is_empty()) else { return before };
    let from = wall_ns().saturating_sub(DAY_NS);
    let read = journal::read(&kept.settings.folder, |record| {
        let Some(What::Triggered(t)) = record.what else { return };
        if record.session != session.name || t.decision_time_ns < from {
            return;
        }
        for (trigger, acts) in session.triggers.iter().zip(&mut before) {
            let acted = match t.outcome() {
                TriggerOutcome::Sent => true,
                TriggerOutcome::DryRun => trigger.dry_run,
                _ => false,
            };
            if acted && trigger.name == t.trigger {
                acts.push(t.decision_time_ns);
            }
        }
    });
    if let Err(e) = read {
        let session = &session.name;
        tracing::warn!(session, "how often triggers acted today is not known: {e:#}");
    }
    before
}
