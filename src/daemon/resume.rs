//! A session's state across a restart: saved about once a second and at every change, restored at
//! the start.
//!
//! Two things must agree after a restart: the engine's state, and what subscribers have seen. The
//! state is up to a second old, while events are on disk before they are announced. So the label in
//! force comes from the journal's newest event, not from the state; the state is predicted through
//! the bins that were missed before the session's first ([`Restored`]); and a state that is too
//! old, or of another model, readout, rule or setting (its fingerprint), is not used: a wrong prior
//! would be worse than none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::snapshot_slot::SnapshotSlot;
use crate::bus::{Plan, SessionHandle};
use crate::checkpoint;
use crate::checkpoint::Provenance;
use crate::clock::wall_ns;
use crate::journal::{Journal, Snapshot, SnapshotError};
use crate::model::{Model, Readout};
use crate::regime::{Engine, Label};

/// Interval of checks for a new state.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How sessions' states are kept.
#[derive(Debug, Clone)]
pub(super) struct Keeping {
    /// Folder of the saved states.
    pub(super) folder: PathBuf,
    /// Between two states of a session, seconds.
    pub(super) every_s: f64,
    /// States that are older are of no use, seconds.
    pub(super) age_max_s: f64,
}

/// Writes a session's state whenever there is a new one, until the session ends.
pub(super) async fn keep(slot: Arc<SnapshotSlot>, session: Arc<SessionHandle>, folder: PathBuf) {
    let mut failing = false;
    loop {
        let ended = session.is_ended();
        if let Some(found) = slot.take() {
            let snapshot = Snapshot {
                fingerprint: found.fingerprint,
                time_ns: wall_ns(),
                sequence: found.sequence,
                words: found.words,
            };
            let (folder, name) = (folder.clone(), session.name().to_owned());
            let write = move || snapshot.write(&folder, &name);
            let result = tokio::task::spawn_blocking(write).await;
            // Logged once until it works again; the journal's own condition covers the disk.
            match result {
                Ok(Err(e)) if !failing => {
                    tracing::warn!(session = session.name(), "its state cannot be saved: {e}");
                    failing = true;
                }
                Ok(Ok(())) => failing = false,
                _ => {}
            }
        }
        if ended {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A restored state, as the session's first bin finds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Restored {
    /// Number of its newest bin.
    pub(super) last: u64,
    /// Wall clock when it was saved, ns since the Unix epoch.
    pub(super) saved_ns: i64,
    /// A first bin that comes later than this finds the state too old, seconds.
    pub(super) age_max_s: f64,
}

impl Restored {
    /// Bins to predict through before the session's first bin, which has number `first` and came at
    /// `now_ns`; `None` where the state is too old by then.
    ///
    /// The rig's number tells how many were missed. Where it is not beyond the state's, the rig or
    /// what numbers for it began again, and the time that has passed is what is known.
    pub(super) fn missed(&self, first: u64, now_ns: i64, bin_width_s: f64) -> Option<u64> {
        let passed_s = now_ns.saturating_sub(self.saved_ns).max(0) as f64 * 1e-9;
        let missed = if first > self.last {
            first - self.last - 1
        } else {
            (passed_s / bin_width_s).round() as u64
        };
        let in_time = |seconds: f64| seconds <= self.age_max_s;
        (in_time(passed_s) && in_time(missed as f64 * bin_width_s)).then_some(missed)
    }
}

/// What a session begins with.
pub(super) struct Beginning {
    pub(super) engine: Engine,
    /// Fingerprint of model, readout and rule.
    pub(super) fingerprint: String,
    /// The state that was restored, where one was.
    pub(super) restored: Option<Restored>,
    /// Where the engine uses the readout that the session had found for itself before a restart:
    /// whether its labels are to be believed.
    pub(super) own_readout: Option<bool>,
}

/// The engine that a session starts with: restored where a usable state exists, else at the prior.
/// A readout from self-calibration is used only together with its own state.
///
/// # Errors
/// When the filter bank does not take the model.
pub(super) fn begin(
    plan: &Plan,
    keeping: Option<&Keeping>,
    journal: Option<&Journal>,
) -> Result<Beginning> {
    let fingerprint = plan.fingerprint(&plan.readout);
    let engine = Engine::new(&plan.model, &plan.readout, plan.rule, plan.choice.adaptation)?;
    let mut beginning = Beginning { engine, fingerprint, restored: None, own_readout: None };
    let (Some(keeping), Some(journal)) = (keeping, journal) else { return Ok(beginning) };
    if let Some((mut engine, fingerprint, trusted)) = calibrated(plan, &keeping.folder) {
        let restored = restore(&mut engine, plan, &fingerprint, keeping, journal);
        if restored.is_some() {
            return Ok(Beginning { engine, fingerprint, restored, own_readout: Some(trusted) });
        }
    }
    let Beginning { engine, fingerprint, restored, .. } = &mut beginning;
    *restored = restore(engine, plan, fingerprint, keeping, journal);
    Ok(beginning)
}

/// Restores a session's state into its engine, where one exists that is fresh and of this model.
/// The newest announced event's label is put in force, because subscribers have seen it.
fn restore(
    engine: &mut Engine,
    plan: &Plan,
    fingerprint: &str,
    keeping: &Keeping,
    journal: &Journal,
) -> Option<Restored> {
    let session = plan.session.as_str();
    let snapshot = match Snapshot::read(&keeping.folder, session) {
        Ok(snapshot) => snapshot,
        Err(SnapshotError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => {
            tracing::warn!(session, "its saved state is of no use: {e}");
            return None;
        }
    };
    let age_s = (wall_ns() - snapshot.time_ns) as f64 * 1e-9;
    // A clock that was set back a little does not invalidate a state.
    if !(-1.0..=keeping.age_max_s).contains(&age_s) {
        tracing::info!(session, age_s, "the saved state is too old: starts at the prior");
        return None;
    }
    if snapshot.fingerprint != fingerprint {
        tracing::info!(
            session,
            "the saved state is of another model, readout, rule or setting: starts at the prior"
        );
        return None;
    }
    let label = newest_label(journal, plan);
    if !engine.resume(&snapshot.words, label) {
        tracing::warn!(session, "the saved state does not fit: starts at the prior");
        return None;
    }
    tracing::info!(session, age_s, sequence = snapshot.sequence, "goes on from its saved state");
    let (last, saved_ns) = (snapshot.sequence, snapshot.time_ns);
    Some(Restored { last, saved_ns, age_max_s: keeping.age_max_s })
}

/// Label of the newest event in the journal.
fn newest_label(journal: &Journal, plan: &Plan) -> Option<Label> {
    let newest = journal.newest_event(&plan.session);
    let events = journal.events_after(&plan.session, newest.checked_sub(1)?, 1).ok()?;
    let name = &events.last()?.to;
    if name == Label::UNKNOWN {
        return Some(Label::Unknown);
    }
    plan.model.regime_names.iter().position(|n| n == name).map(Label::Regime)
}

/// Where a session's own calibration is kept.
fn calibrated_folder(folder: &Path, session: &str) -> PathBuf {
    folder.join(format!("{session}.model"))
}

/// Keeps the readout that a session has found for itself, with the model it was found on.
pub(super) fn save_calibrated(
    folder: &Path,
    session: &str,
    fitted_on: &Model,
    readout: Readout,
) -> Result<()> {
    let model = Model { readouts: vec![readout], ..fitted_on.clone() };
    let provenance = Provenance::of_this_program(0, 0, Vec::new());
    Ok(checkpoint::save(&calibrated_folder(folder, session), &model, &provenance)?)
}

/// The engine from the session's own calibration before the restart, its fingerprint, and whether
/// its labels are to be trusted; `None` where there was none, or on another model.
fn calibrated(plan: &Plan, folder: &Path) -> Option<(Engine, String, bool)> {
    plan.choice.calibration.as_ref()?;
    let saved = checkpoint::load(&calibrated_folder(folder, &plan.session)).ok()?.model;
    let (own, _) = plan.calibration_model();
    let same = saved.hypernetwork == own.hypernetwork && saved.network == own.network;
    let readout = saved.readouts.first().filter(|_| same)?.clone();
    if readout.n_channels() != plan.readout.n_channels() {
        return None;
    }
    let trusted = readout.trusted;
    let (engine, fingerprint) = plan.engine(own, readout).ok()?;
    Some((engine, fingerprint, trusted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_state_is_predicted_through_what_was_missed_unless_that_was_too_long() {
        let second = 1_000_000_000;
        let of = Restored { last: 500, saved_ns: 7 * second, age_max_s: 60.0 };
        let missed = |first, after_s: i64| of.missed(first, 7 * second + after_s * second, 0.01);
        assert_eq!(missed(501, 0), Some(0));
        // By number, though the messages came late.
        assert_eq!(missed(700, 5), Some(199));
        // Numbers that are not beyond the state's say nothing; the time does.
        assert_eq!(missed(0, 5), Some(500));
        assert_eq!(missed(500, 0), Some(0));
        // Too late, or too far ahead.
        assert_eq!(missed(501, 61), None);
        assert_eq!(missed(0, 61), None);
        assert_eq!(missed(501 + 6001, 1), None);
        // A clock that was set back.
        assert_eq!(missed(501, -3), Some(0));
    }
}
