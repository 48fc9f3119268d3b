//! A session in the words of the wire: one place, for gRPC, HTTP and the page.

use crate::bus::{Calibration, CalibrationState, Conditions, SessionHandle};
use crate::wire;
use crate::wire::{Accounts, Clock, Session, SessionState, Source};

fn calibration(of: &Calibration) -> wire::Calibration {
    let state = match of.state {
        CalibrationState::Given => wire::CalibrationState::Given,
        CalibrationState::Gathering => wire::CalibrationState::Gathering,
        CalibrationState::Fitting => wire::CalibrationState::Fitting,
        CalibrationState::Done => wire::CalibrationState::Done,
        CalibrationState::NotTrusted => wire::CalibrationState::NotTrusted,
        CalibrationState::Failed => wire::CalibrationState::Failed,
    };
    wire::Calibration {
        state: state.into(),
        seconds_seen: of.seconds_seen,
        seconds_needed: of.seconds_needed,
        problem: of.problem.clone().unwrap_or_default(),
    }
}

/// The public description of a session, built from its handle.
#[must_use]
pub(crate) fn describe(session: &SessionHandle, conditions: &Conditions) -> Session {
    let facts = session.facts();
    let totals = session.port.totals();
    let (offset, drift, jumps) = session.port.clock();
    let state = if session.is_ended() {
        SessionState::Stopped
    } else if session.port.is_paused() {
        SessionState::Paused
    } else {
        SessionState::Running
    };
    Session {
        name: facts.name.clone(),
        n_channels: facts.n_channels as u32,
        bin_width_s: facts.bin_width_s,
        regime_names: facts.regime_names.clone(),
        model: facts.model.clone(),
        bins: session.bins(),
        bins_missing: totals.missing,
        last_event_sequence: session.events.newest(),
        calibration: Some(calibration(&session.calibration())),
        state: state.into(),
        source: session.source.as_ref().map(|s| Source {
            description: s.what.clone(),
            connected: s.is_connected(),
            loss_accounting: s.loss.name().to_owned(),
        }),
        accounts: Some(Accounts {
            bins_received: totals.received,
            bins_accepted: totals.accepted,
            bins_late: totals.late,
            bins_rejected: totals.rejected,
            bins_waiting: totals.waiting,
        }),
        conditions: conditions
            .holding()
            .into_iter()
            .filter(|held| held.session == facts.name)
            .map(|held| wire::Condition {
                name: held.condition.name().to_owned(),
                detail: held.detail,
                since_ns: held.since_ns,
                cure: held.condition.cure().to_owned(),
            })
            .collect(),
        triggers: session.triggers.describe(),
        triggers_armed: session.triggers.are_armed(),
        false_changes_per_min: facts.false_changes_per_min.unwrap_or(0.0),
        clock: offset.map(|offset_s| Clock { offset_s, drift, jumps }),
    }
}
