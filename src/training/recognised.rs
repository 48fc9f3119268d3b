//! A new animal's calibration: by its own labels, or by regimes recognised in its counts.

use std::sync::Arc;

use super::calibration::{Calibration, calibrate};
use super::data::{Dataset, DatasetError};
use super::error::FinishError;
use super::own_regimes::SESSIONS_MIN;
use super::settings::TrainingSettings;
use super::wide::{Wide, bin_of, together, wide};
use crate::inference::{Adaptation, BankError};
use crate::model::{Model, Readout};
use crate::recogniser::{BIN_S, Recognised, Recogniser};
use crate::recording::Recording;
use crate::regime::{DecisionRule, Engine};
use crate::teacher::REGIME_NAMES;

/// A bin is labelled where its regime has this probability.
const LABELLED_FROM: f32 = 0.5;
/// A regime has occurred where it is clear for so long in all, seconds, and for such a share of the
/// time: with this probability.
const OCCURRED_S: f64 = 4.0;
const OCCURRED_SHARE: f64 = 0.05;
const OCCURRED_FROM: f32 = 0.6;
/// Fewer regimes do not show how they differ from each other.
const REGIMES_MIN: usize = 3;
/// Mean probability of the most probable regime, at least.
const CERTAINTY_MIN: f64 = 0.65;
/// The calibrated model must agree with what was recognised in this share of the bins...
pub(crate) const AGREEMENT_MIN: f64 = 0.7;
/// ...that lie so long after a change, seconds.
const SETTLED_S: f64 = 1.0;
/// Such bins, seconds, at least.
const SETTLED_SEEN_S: f64 = 5.0;

/// Where a calibration's regimes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Regimes {
    /// The recording's labels.
    Given,
    /// Recognised in its counts.
    Recognised {
        /// Mean probability of the most probable regime.
        certainty: f64,
        /// Share of the bins in which the calibrated model says the same.
        agreement: f64,
        /// Time of each of the model's regimes, seconds.
        seconds: Vec<f64>,
    },
    /// None is named: labels are not to be trusted.
    Unknown(Unrecognised),
}

/// Why a new animal cannot be calibrated.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A recording that cannot be learned from.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A training that came to nothing.
    #[error(transparent)]
    Finish(#[from] FinishError),
}

/// Learns the readout of a recording's one session for `model`: with its labels, or, where it has
/// none, with the regimes that a recogniser sees in it. Where these are not clear, or the
/// calibrated model says something else, the readout is not to be trusted. `each` as in
/// [`calibrate`].
///
/// # Errors
/// A recording that cannot be learned from, a training that came to nothing.
pub fn calibrate_animal(
    model: &Model,
    recording: &Recording,
    recogniser: &Recogniser,
    settings: TrainingSettings,
    mut each: impl FnMut(usize, f64) -> bool,
) -> Result<(Calibration, Regimes), CalibrateError> {
    let labelled = recording.trials.iter().any(|t| t.regime.iter().any(Option::is_some));
    let recognition = (!labelled).then(|| recognise(recogniser, model, recording));
    let of = match &recognition {
        Some(Ok(recognition)) => &recognition.recording,
        _ => recording,
    };
    let data = Arc::new(Dataset::for_calibration(of)?);
    let mut going = true;
    let each = |done, score| {
        going = each(done, score);
        going
    };
    let mut found = calibrate(model, &data, settings, each)?;
    let regimes = match recognition {
        None if found.labelled => Regimes::Given,
        Some(Err(why)) => Regimes::Unknown(why),
        _ if !going => Regimes::Unknown(Unrecognised::Stopped),
        None => given(model, &found.readout, recording),
        Some(Ok(recognition)) => match confirm(model, &found.readout, &recognition.recording) {
            Ok(agreement) => {
                let Recognition { certainty, seconds, .. } = recognition;
                Regimes::Recognised { certainty, agreement, seconds }
            }
            Err(why) => Regimes::Unknown(why),
        },
    };
    found.readout.trusted = !matches!(regimes, Regimes::Unknown(_));
    Ok((found, regimes))
}

/// Of labels that do not show every regime of the model, so that the session has the model's prior
/// and none of its own.
fn given(model: &Model, readout: &Readout, recording: &Recording) -> Regimes {
    let has = |name: &String| {
        let index = recording.regime_names.iter().position(|n| n == name);
        index.is_some() && recording.trials.iter().any(|t| t.regime.contains(&index))
    };
    let (known, other): (Vec<&String>, Vec<&String>) = recording
        .regime_names
        .iter()
        .filter(|n| has(n))
        .partition(|n| model.regime_names.contains(n));
    if !other.is_empty() {
        let names = other.into_iter().cloned().collect();
        return Regimes::Unknown(Unrecognised::OtherNames(names));
    }
    match confirm(model, readout, recording) {
        Ok(_) => Regimes::Given,
        Err(_) => {
            let missing = model.regime_names.iter().filter(|n| !known.contains(n)).cloned();
            Regimes::Unknown(Unrecognised::Missing(missing.collect()))
        }
    }
}

/// Why no regime is named.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unrecognised {
    /// The fit was stopped.
    #[error("the calibration was stopped before its end")]
    Stopped,
    /// Labels that the model does not know.
    #[error("expected labels of the model's regimes, found others: {}", .0.join(", "))]
    OtherNames(Vec<String>),
    /// Labels that leave regimes of the model out, and a model that does not agree with them.
    #[error(
        "expected bins of every regime of the model, found none of {}, and without them the \
         calibrated model does not agree with the labels",
        .0.join(", ")
    )]
    Missing(Vec<String>),
    /// A model with regimes of its own.
    #[error(
        "the model's regimes are its own, and those that can be recognised without labels are \
         {}: give labels, calibrate another day of a known animal, or pretrain on \
         {SESSIONS_MIN} sessions or more, from which its own are learned",
        REGIME_NAMES.join(", ")
    )]
    Names,
    /// Bins too wide to see how activity moves.
    #[error(
        "expected bins that make {:.0} ms together, or a quarter less or more, found {found_ms} ms",
        1e3 * BIN_S
    )]
    Bins {
        /// Width of the model's bins, milliseconds.
        found_ms: f64,
    },
    /// Not enough without a gap.
    #[error(
        "not enough seen: expected 20 s in pieces of a second or more, of 8 channels that fire 0.3 \
         times a second or more, found less"
    )]
    TooShort,
    /// Changes too soon after each other, or trials too short, to check anything.
    #[error(
        "not enough seen: expected {SETTLED_SEEN_S} s that lie {SETTLED_S} s or more after a \
         change of regime or a trial's begin, found {found_s:.0} s"
    )]
    Brief {
        /// What was found, seconds.
        found_s: f64,
    },
    /// Too few regimes in it to tell them from each other.
    #[error(
        "not enough seen: expected {expected} regimes or more, {OCCURRED_S} s of each, found \
         {found} that are clear; a longer recording may show more"
    )]
    TooFew {
        /// Regimes that are asked for.
        expected: usize,
        /// Regimes that occurred clearly.
        found: usize,
    },
    /// The recogniser is not certain of what it saw.
    #[error(
        "what it shows is not clear: regimes have a probability of {found:.2} on average, \
         {CERTAINTY_MIN} is asked for; more channels, more spikes or labels help"
    )]
    Unclear {
        /// Mean probability of the most probable regime.
        found: f64,
    },
    /// The calibrated model says something else.
    #[error(
        "the calibrated model agrees with what was recognised in {:.0} % of the bins, {:.0} % are \
         asked for",
        100.0 * found,
        100.0 * AGREEMENT_MIN
    )]
    Disagreed {
        /// Share of the bins in which both say the same.
        found: f64,
    },
}

/// Regimes recognised in a recording.
#[derive(Debug, Clone)]
pub struct Recognition {
    /// The recording with the recognised regimes for labels, one trial a stream.
    pub recording: Recording,
    /// Mean probability of the most probable regime.
    certainty: f64,
    /// Time of each of the model's regimes, seconds.
    seconds: Vec<f64>,
}

/// Recognises regimes in a recording without labels.
///
/// # Errors
/// Why none can be named.
pub fn recognise(
    recogniser: &Recogniser,
    model: &Model,
    recording: &Recording,
) -> Result<Recognition, Unrecognised> {
    let regime = |name: &String| model.regime_names.iter().position(|n| n == name);
    let names: Option<Vec<usize>> = recogniser.names().iter().map(regime).collect();
    let names = names.ok_or(Unrecognised::Names)?;
    let width = recording.bin_width_s;
    let together = together(width).ok_or(Unrecognised::Bins { found_ms: 1e3 * width })?;
    let Wide { counts, pieces, .. } = wide(recording, together);
    let found = recogniser.recognise(&counts, &pieces);
    if found.is_empty() {
        return Err(Unrecognised::TooShort);
    }
    judge(&found, names.len(), together as f64 * width)?;
    let mut labelled = Recording {
        path: recording.path.clone(),
        n_channels: recording.n_channels,
        channels: recording.channels.clone(),
        bin_width_s: width,
        regime_names: model.regime_names.clone(),
        trials: recording.streams(),
        continuous: false,
    };
    let mut seconds = vec![0.0; model.regime_names.len()];
    for (trial, piece) in labelled.trials.iter_mut().zip(&pieces) {
        let mut task = 0;
        for t in 0..trial.n_bins() {
            let label = label(&found, bin_of(piece, t, together)).map(|r| names[r]);
            if t > 0 && label != trial.regime[t - 1] {
                task += 1;
            }
            (trial.regime[t], trial.task[t]) = (label, task);
            if let Some(r) = label {
                seconds[r] += width;
            }
        }
    }
    // Each stream's stretches are its own.
    let mut before = 0;
    for trial in &mut labelled.trials {
        trial.task.iter_mut().for_each(|t| *t += before);
        before = trial.task.last().map_or(before, |t| t + 1);
    }
    let settled = settled(&labelled).count() as f64 * width;
    if settled < SETTLED_SEEN_S {
        return Err(Unrecognised::Brief { found_s: settled });
    }
    Ok(Recognition { recording: labelled, certainty: certainty(&found), seconds })
}

/// Trials and bins with a label that lie a while after a change.
fn settled(recording: &Recording) -> impl Iterator<Item = (usize, usize)> {
    let least = (SETTLED_S / recording.bin_width_s).round() as usize;
    recording.trials.iter().enumerate().flat_map(move |(i, trial)| {
        let mut since = 0;
        (0..trial.n_bins()).filter_map(move |t| {
            since = if t > 0 && trial.task[t] == trial.task[t - 1] { since + 1 } else { 0 };
            (trial.regime[t].is_some() && since >= least).then_some((i, t))
        })
    })
}

/// Each step's most probable regime with its probability.
fn best(found: &[Recognised], bin: usize) -> Option<(usize, f32)> {
    // Pieces come in their order.
    let at = found.partition_point(|f| f.bins.end <= bin);
    let of = found.get(at).filter(|f| f.bins.contains(&bin))?;
    of.at(bin).iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
}

fn label(found: &[Recognised], bin: usize) -> Option<usize> {
    best(found, bin).filter(|(_, p)| *p >= LABELLED_FROM).map(|(r, _)| r)
}

fn all(found: &[Recognised]) -> impl Iterator<Item = (usize, f32)> {
    found.iter().flat_map(move |f| f.bins.clone()).filter_map(move |bin| best(found, bin))
}

fn certainty(found: &[Recognised]) -> f64 {
    let n = all(found).count().max(1) as f64;
    all(found).map(|(_, p)| f64::from(p)).sum::<f64>() / n
}

/// Whether what was found is clear, and enough to tell regimes from each other.
fn judge(found: &[Recognised], regimes: usize, width_s: f64) -> Result<(), Unrecognised> {
    let mut clear = vec![0.0; regimes];
    for (regime, p) in all(found) {
        clear[regime] += if p >= OCCURRED_FROM { width_s } else { 0.0 };
    }
    let seconds = all(found).count() as f64 * width_s;
    let least = OCCURRED_S.max(OCCURRED_SHARE * seconds);
    let occurred = clear.iter().filter(|s| **s >= least).count();
    let expected = REGIMES_MIN.min(regimes);
    if occurred < expected {
        return Err(Unrecognised::TooFew { expected, found: occurred });
    }
    let found = certainty(found);
    if found < CERTAINTY_MIN { Err(Unrecognised::Unclear { found }) } else { Ok(()) }
}

/// Whether a model says the same in enough of the labelled bins, a while after each change.
///
/// # Errors
/// Where it does not.
fn confirm(model: &Model, readout: &Readout, recording: &Recording) -> Result<f64, Unrecognised> {
    let disagreed = |found: f64| Unrecognised::Disagreed { found };
    let mut engine = believing(model, readout).map_err(|_| disagreed(0.0))?;
    let found = agreement(&mut engine, model, recording, Engine::restart);
    if found < AGREEMENT_MIN { Err(disagreed(found)) } else { Ok(found) }
}

/// In which share of the labelled bins, a while after each change, a session that has run for a
/// while says the same: with channels' gains as the recording has them.
///
/// # Errors
/// Where the model and the readout make no engine.
pub(crate) fn still_agrees(
    model: &Model,
    readout: &Readout,
    recording: &Recording,
) -> Result<f64, BankError> {
    let mut engine = believing(model, readout)?;
    let gap = |engine: &mut Engine| {
        engine.push(None);
    };
    agreement(&mut engine, model, recording, gap);
    Ok(agreement(&mut engine, model, recording, gap))
}

/// An engine that names regimes whether they are trusted or not.
fn believing(model: &Model, readout: &Readout) -> Result<Engine, BankError> {
    let readout = Readout { trusted: true, ..readout.clone() };
    Engine::new(model, &readout, DecisionRule::of(model, None), Adaptation::default())
}

/// Runs over a recording, with something done before each trial.
fn agreement(
    engine: &mut Engine,
    model: &Model,
    recording: &Recording,
    before: impl Fn(&mut Engine),
) -> f64 {
    let name = |r: usize| recording.regime_names.get(r);
    let mut asked = settled(recording).peekable();
    let (mut same, mut all) = (0usize, 0usize);
    for (i, trial) in recording.trials.iter().enumerate() {
        before(engine);
        for (t, counts) in trial.counts.rows().into_iter().enumerate() {
            let counts: Vec<f32> = counts.iter().map(|c| f32::from(*c)).collect();
            engine.push(Some(&counts));
            if asked.next_if_eq(&(i, t)).is_some() {
                let posterior = &engine.estimate().posterior;
                let most =
                    (0..posterior.len()).max_by(|&a, &b| posterior[a].total_cmp(&posterior[b]));
                let most = most.and_then(|r| model.regime_names.get(r));
                same += usize::from(most == trial.regime[t].and_then(name));
                all += 1;
            }
        }
    }
    same as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{builtin, builtin_recogniser};
    use crate::recording::{Trial, in_bins};

    /// Of channels that each fire all the same, or never.
    fn recording(pieces: &[usize], channels: usize, bin_width_s: f64) -> Recording {
        let counts = |n: usize| (0..n * channels).map(|i| (i % 5 % 3) as u16).collect();
        let trial = |n: &usize| Trial::unlabelled("s", in_bins(counts(*n), channels));
        Recording {
            n_channels: channels,
            bin_width_s,
            trials: pieces.iter().map(trial).collect(),
            ..Recording::default()
        }
    }

    #[test]
    fn what_cannot_be_recognised_says_what_is_missing() {
        let (recogniser, mut model) =
            (builtin_recogniser().expect("one"), builtin().expect("a model").model);
        let why = |model: &Model, recording: &Recording| {
            recognise(&recogniser, model, recording).expect_err("nothing").to_string()
        };
        let short = why(&model, &recording(&[1500, 300], 20, 0.01));
        assert!(short.contains("not enough seen: expected 20 s"), "{short}");
        let wide = why(&model, &recording(&[900], 20, 0.05));
        assert!(wide.contains("make 20 ms together") && wide.contains("found 50 ms"), "{wide}");
        let few = why(&model, &recording(&[3000], 10, 0.01));
        assert!(few.contains("of 8 channels that fire"), "{few}");
        let still = why(&model, &recording(&[3000], 20, 0.01));
        assert!(still.contains("expected 3 regimes or more"), "{still}");
        model.regime_names[1] = "reach".into();
        let own = why(&model, &recording(&[3000], 20, 0.01));
        assert!(own.contains("regimes are its own") && own.contains("bistable"), "{own}");
    }
}
