//! Streams recordings through the engine that serves, and scores them.

use anyhow::{Result, bail};

use super::blocks::Blocks;
use super::decisions::Decisions;
use super::dynamics::ByLabel;
use super::report::{Report, Scored};
use super::stream;
use super::stream::{Tally, Timeline};
use crate::checkpoint::Checkpoint;
use crate::commands::progress::Progress;
use crate::commands::scoreboard::Durations;
use crate::model::nearly_equal;
use crate::recording::{Recording, Trial};
use crate::regime::{ChangeScore, DecisionRule, Score};

/// Streams recordings through the engine.
pub(super) fn score(
    checkpoint: &Checkpoint,
    recordings: &[Recording],
    rule: DecisionRule,
    decisions: Option<Decisions>,
) -> Result<Scored> {
    let model = &checkpoint.model;
    let mut tally = Tally {
        rule,
        score: Score::new(model.regime_names.len(), model.bin_width_s),
        changes: ChangeScore::default(),
        blocks: Blocks::new(model.regime_names.len(), model.bin_width_s),
        sessions: Vec::new(),
        compute: Durations::default(),
        unknown_bins: 0,
        bins: 0,
        log_likelihood: 0.0,
        by_label: ByLabel::default(),
        compared: Vec::new(),
        ends: Vec::new(),
        reading: Durations::default(),
        skill: Vec::new(),
        decisions,
    };
    let mut timeline = Timeline::default();
    let mut n_streams = 0;
    let total: usize = recordings.iter().map(Recording::n_bins).sum();
    let trials = recordings.iter().map(|r| r.streams().len()).sum::<usize>().max(1);
    let mut progress = Progress::new("evaluate", total, 0);
    for recording in recordings {
        check(checkpoint, recording)?;
        let regimes: Vec<Option<usize>> = recording
            .regime_names
            .iter()
            .map(|n| model.regime_names.iter().position(|m| m == n))
            .collect();
        for trial in recording.streams() {
            let mut trial: Trial = trial;
            for r in &mut trial.regime {
                *r = r.and_then(|r| regimes[r]);
            }
            let seen = tally.run(model, &trial)?;
            // Streams spread over all recordings make the plot.
            if n_streams % total.div_ceil(stream::TIMELINE_BINS).min(trials) == 0 {
                timeline.extend(&seen);
            }
            n_streams += 1;
            progress.at(tally.bins as usize, || format!("session {}", trial.session));
        }
    }
    progress.finish();
    let report = Report::of(checkpoint, recordings, &tally, n_streams);
    Ok(Scored { report, timeline, tally })
}

/// Puts a recording's channels in the order of the readouts that its sessions are read by, where
/// both have names.
pub(super) fn arrange(checkpoint: &Checkpoint, recording: &mut Recording) -> Result<()> {
    let of = |t: &Trial| checkpoint.model.readout(&t.session)?.channels.clone();
    let Some(names) = recording.trials.first().and_then(of) else { return Ok(()) };
    if recording.trials.iter().any(|t| of(t).as_ref() != Some(&names)) {
        bail!(
            "{}: expected one order of channels for all its sessions, found several readouts with \
             different ones",
            recording.path.display()
        );
    }
    Ok(recording.arrange(&names)?)
}

fn check(checkpoint: &Checkpoint, recording: &Recording) -> Result<()> {
    let model = &checkpoint.model;
    let path = recording.path.display();
    let (expected, found) = (model.bin_width_s * 1e3, recording.bin_width_s * 1e3);
    if !nearly_equal(found, expected) {
        bail!(
            "{path}: expected bins of {expected} ms as the first recording's, found {found} ms \
             (see --bin-ms)"
        );
    }
    for trial in &recording.trials {
        let Some(readout) = model.readout(&trial.session) else {
            bail!(
                "{path}: expected sessions of the model ({}), found '{}' (--session NAME says \
                 which it is like; `regimed calibrate` adds it to the model)",
                model.session_names().join(", "),
                trial.session
            );
        };
        if readout.n_channels() != recording.n_channels {
            bail!(
                "{path}: session '{}': expected {} channels as the model's, found {}",
                trial.session,
                readout.n_channels(),
                recording.n_channels
            );
        }
    }
    Ok(())
}
