//! A session's numbers across a restart: taken down about once a second and at every change, taken up at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::models::Plan;
use super::state_place::StatePlace;
use crate::checkpoint::{self, Provenance, sha256_hex};
use crate::journal::{Journal, Snapshot, SnapshotError};
use crate::model::{Model, Readout};
use crate::publish::SessionBus;
use crate::regime::{Engine, Label};
use crate::telemetry::wall_ns;

/// Between looks for something new to write.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How sessions are taken down and up.
#[derive(Debug, Clone)]
pub(super) struct Keeping {
    /// Where.
    pub(super) folder: PathBuf,
    /// Between two states of a session, seconds.
    pub(super) every_s: f64,
    /// States that are older are of no use, seconds.
    pub(super) age_max_s: f64,
}

/// What numbers belong to: they are of use to the same model, readout and rule alone.
pub(super) fn fingerprint(plan: &Plan, readout: &Readout) -> String {
    let mut bytes = plan.checkpoint.weights_sha256.clone().into_bytes();
    bytes.extend(plan.model.bin_width_s.to_bits().to_le_bytes());
    bytes.extend(format!("{:?} {:?} {}", plan.rule, plan.adaptation, readout.trusted).bytes());
    let prior = &readout.prior.components;
    let floats = readout
        .loading
        .iter()
        .chain(&readout.baseline)
        .chain(readout.dispersion.iter().flatten())
        .chain(prior.iter().flat_map(|c| c.mean.iter().chain(&c.covariance).chain([&c.weight])));
    bytes.extend(floats.flat_map(|v| v.to_bits().to_le_bytes()));
    sha256_hex(&bytes)
}

/// Writes a session's state whenever there is a new one, until the session ends.
pub(super) async fn keep(place: Arc<StatePlace>, bus: Arc<SessionBus>, folder: PathBuf) {
    let mut failing = false;
    loop {
        let ended = bus.is_ended();
        if let Some(found) = place.take() {
            let snapshot = Snapshot {
                fingerprint: found.fingerprint,
                time_ns: wall_ns(),
                sequence: found.sequence,
                words: found.words,
            };
            let (folder, name) = (folder.clone(), bus.name().to_owned());
            let write = move || snapshot.write(&folder, &name);
            let result = tokio::task::spawn_blocking(write).await;
            // Told once, until it works again: the journal's own state tells of the disk.
            match result {
                Ok(Err(e)) if !failing => {
                    tracing::warn!(session = bus.name(), "its state cannot be saved: {e}");
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

/// What a session goes on from.
pub(super) struct Resumed {
    /// Number of the newest bin in it.
    pub(super) sequence: u64,
}

/// Takes a session's state up, where there is one that is fresh and of this model: the label of the newest event is
/// in force, as everybody was told.
pub(super) fn take_up(
    engine: &mut Engine,
    plan: &Plan,
    fingerprint: &str,
    keeping: &Keeping,
    journal: &Journal,
) -> Option<Resumed> {
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
    // A clock that was set back a little is no reason to begin anew.
    if !(-1.0..=keeping.age_max_s).contains(&age_s) {
        tracing::info!(session, age_s, "its saved state is too old: it begins anew");
        return None;
    }
    if snapshot.fingerprint != fingerprint {
        tracing::info!(session, "its saved state is of another model or readout: it begins anew");
        return None;
    }
    let label = newest_label(journal, plan);
    if !engine.resume(&snapshot.words, label) {
        tracing::warn!(session, "its saved state does not fit: it begins anew");
        return None;
    }
    tracing::info!(session, age_s, sequence = snapshot.sequence, "goes on from its saved state");
    Some(Resumed { sequence: snapshot.sequence })
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

/// The engine that a session had calibrated for itself before the restart, its fingerprint, and whether its labels are
/// to be believed; `None` where it had not, or on another model.
pub(super) fn calibrated(plan: &Plan, folder: &Path) -> Option<(Engine, String, bool)> {
    plan.calibration.as_ref()?;
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
