//! What the teachers teach: recordings to learn from, and unseen tasks with the true rates of every
//! bin.

use ndarray::Array2;
use std::path::PathBuf;

use crate::recording::{DynamicsTruth, Recording, Trial};
use crate::teacher::{
    Animal, AnimalSettings, PLANAR_NAMES, PlanarKind, PlanarReadout, PlanarTask, REGIME_NAMES,
    Regime, Simulation,
};

/// Bins of all families, seconds.
pub(super) const BIN_WIDTH_S: f64 = 0.01;
/// Bins that rates are forecast ahead...
pub(super) const AHEAD_BINS: usize = 30;
/// ...from here on in a trial...
const FORECAST_FROM_BIN: usize = 50;
/// ...at this interval, bins.
const FORECAST_EVERY_BINS: usize = 10;
/// Length of a trial.
const TRIAL_BINS: usize = 200;
/// Mean rate at rest, Hz.
const RATE_HZ: f64 = 14.0;
const PLANAR_CHANNELS: usize = 96;
/// Trials of a task that is learned.
const TRIALS: u64 = 3;
/// First of the tasks that no student learns.
pub(super) const UNSEEN: u64 = 5_000;
/// Units of random networks of low rank, as in the paper.
const LOW_RANK_UNITS: usize = 200;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// Tasks per animal and label to learn.
    pub(super) tasks: u64,
    /// Unseen tasks per animal and label.
    pub(super) unseen: u64,
    /// Trials of an unseen task to learn it from at most.
    pub(super) shots: usize,
    /// Trials of it on which forecasts are scored.
    pub(super) scored: usize,
    /// Animals that are learned.
    pub(super) animals: u64,
}

/// A trial whose truth is known.
#[derive(Debug, Clone)]
pub(super) struct TestTrial {
    /// `[bins, channels]`.
    pub(super) counts: Array2<f32>,
    /// Counts expected, `[bins, channels]`.
    pub(super) rates: Array2<f32>,
    /// `(bin, the teacher's own forecast from its true state there, without noise)`: no forecast
    /// that does not know the noise to come does much better.
    pub(super) ahead: Vec<(usize, Vec<f32>)>,
}

/// An unseen task.
#[derive(Debug, Clone)]
pub(super) struct TestTask {
    pub(super) session: String,
    pub(super) label: usize,
    /// The system, where it is planar.
    pub(super) planar: Option<PlanarTask>,
    /// Trials, those to learn from first.
    pub(super) trials: Vec<TestTrial>,
}

/// Recordings to learn from, and unseen tasks.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) recording: Recording,
    pub(super) unseen: Vec<TestTask>,
    /// Tasks of an animal that was not learned.
    pub(super) new_animal: Vec<TestTask>,
}

/// Bins of a trial from which rates are forecast.
fn forecast_starts(bins: usize) -> impl Iterator<Item = usize> {
    (FORECAST_FROM_BIN..bins.saturating_sub(AHEAD_BINS)).step_by(FORECAST_EVERY_BINS)
}

fn recording(name: &str, channels: usize, regime_names: &[&str], trials: Vec<Trial>) -> Recording {
    Recording {
        path: PathBuf::from(name),
        n_channels: channels,
        channels: None,
        bin_width_s: BIN_WIDTH_S,
        regime_names: regime_names.iter().map(|n| (*n).to_owned()).collect(),
        trials,
        continuous: false,
    }
}

/// Values of a trial, one bin after the other, as `[bins, channels]`.
fn in_trial<T>(values: Vec<T>) -> Array2<T> {
    let channels = values.len() / TRIAL_BINS;
    Array2::from_shape_vec((TRIAL_BINS, channels), values).expect("bins of equal length")
}

fn trial(session: &str, counts: Vec<u16>, task: i64, label: usize) -> Trial {
    Trial {
        session: session.to_owned(),
        counts: in_trial(counts),
        task: vec![task; TRIAL_BINS],
        regime: vec![Some(label); TRIAL_BINS],
        truth: DynamicsTruth::default(),
    }
}

/// Hopf and Duffing systems.
pub(super) fn planar(seed: u64, scale: &Scale) -> Family {
    let readout = |animal| PlanarReadout::new(seed, animal, PLANAR_CHANNELS, RATE_HZ, BIN_WIDTH_S);
    let number = |animal: u64, task: &PlanarTask, t: u64| {
        seed.wrapping_mul(9_176_263) ^ (animal << 48) ^ ((task.number as u64) << 16) ^ t
    };
    // Animals share systems in kind, not in number: each has its own.
    let task = |animal: u64, kind, index| PlanarTask::new(seed ^ (animal << 20), kind, index);
    let mut trials = Vec::new();
    for animal in 0..scale.animals {
        let readout = readout(animal);
        for (label, kind) in PlanarKind::ALL.into_iter().enumerate() {
            for index in 0..scale.tasks {
                let task = task(animal, kind, index);
                trials.extend((0..TRIALS).map(|t| {
                    let (_, counts) = readout.trial(&task, TRIAL_BINS, number(animal, &task, t));
                    trial(&animal.to_string(), counts, task.number, label)
                }));
            }
        }
    }
    let tests = |animal: u64| -> Vec<TestTask> {
        let readout = readout(animal);
        let kinds = PlanarKind::ALL.into_iter().enumerate();
        kinds
            .flat_map(|(label, kind)| {
                (UNSEEN..UNSEEN + scale.unseen).map(move |i| (label, kind, i))
            })
            .map(|(label, kind, index)| {
                let task = task(animal, kind, index);
                let one = |t: usize| {
                    let seed = number(animal, &task, t as u64);
                    let (path, counts) = readout.trial(&task, TRIAL_BINS, seed);
                    let ahead_s = AHEAD_BINS as f64 * BIN_WIDTH_S;
                    TestTrial {
                        counts: in_trial(counts).mapv(f32::from),
                        rates: in_trial(path.iter().flat_map(|&x| readout.rates(x)).collect()),
                        ahead: forecast_starts(TRIAL_BINS)
                            .map(|bin| (bin, readout.rates(task.ahead(path[bin], ahead_s))))
                            .collect(),
                    }
                };
                TestTask {
                    session: animal.to_string(),
                    label,
                    planar: Some(task),
                    trials: (0..scale.shots + scale.scored).map(one).collect(),
                }
            })
            .collect()
    };
    Family {
        recording: recording("planar teachers", PLANAR_CHANNELS, &PLANAR_NAMES, trials),
        unseen: (0..scale.animals).flat_map(tests).collect(),
        new_animal: tests(scale.animals),
    }
}

/// Random networks of low rank.
pub(super) fn low_rank(seed: u64, scale: &Scale) -> Family {
    let settings = AnimalSettings {
        units: LOW_RANK_UNITS,
        rate_hz: RATE_HZ,
        bin_width_s: BIN_WIDTH_S,
        ..AnimalSettings::default()
    };
    let mut trials = Vec::new();
    let mut unseen = Vec::new();
    for index in 0..scale.animals {
        let animal = Animal::new(seed, index, settings);
        // One label only: as many tasks as the other families have over theirs.
        for number in 0..4 * scale.tasks {
            for t in 0..TRIALS {
                let counts = spikes(&animal, (Regime::RandomLowRank, number), seed ^ t, false).0;
                trials.push(trial(&index.to_string(), counts, number as i64, 0));
            }
        }
        let numbers = UNSEEN..UNSEEN + 4 * scale.unseen;
        unseen.extend(numbers.map(|number| {
            let label = 0;
            networks(&animal, (Regime::RandomLowRank, number), label, (index, seed), scale)
        }));
    }
    Family {
        recording: recording("low-rank teachers", settings.channels, &["network"], trials),
        unseen,
        new_animal: Vec::new(),
    }
}

/// Unseen tasks of the animals that `simulate` makes.
pub(super) fn regimes_unseen(seed: u64, scale: &Scale) -> Vec<TestTask> {
    (0..scale.animals)
        .flat_map(|index| {
            let animal = Animal::new(seed, index, AnimalSettings::default());
            let labels = Regime::ALL.into_iter().enumerate().take(REGIME_NAMES.len());
            labels
                .flat_map(|(label, regime)| {
                    let numbers = UNSEEN..UNSEEN + scale.unseen;
                    numbers
                        .map(|number| {
                            networks(&animal, (regime, number), label, (index, seed), scale)
                        })
                        .collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

fn networks(
    animal: &Animal,
    task: (Regime, u64),
    label: usize,
    (index, seed): (u64, u64),
    scale: &Scale,
) -> TestTask {
    let one = |t: usize| {
        let (counts, rates, ahead) = spikes(animal, task, seed ^ (1 << 20) ^ t as u64, true);
        TestTrial { counts: in_trial(counts).mapv(f32::from), rates: in_trial(rates), ahead }
    };
    TestTask {
        session: index.to_string(),
        label,
        planar: None,
        trials: (0..scale.shots + scale.scored).map(one).collect(),
    }
}

/// Counts, rates and the teacher's own forecasts of a trial.
#[allow(clippy::type_complexity)]
fn spikes(
    animal: &Animal,
    (regime, number): (Regime, u64),
    seed: u64,
    forecasts: bool,
) -> (Vec<u16>, Vec<f32>, Vec<(usize, Vec<f32>)>) {
    let n = animal.n_channels();
    let mut simulation =
        Simulation::new(animal.clone(), animal.task(regime, number), seed ^ (number << 24));
    let rates_of = |s: &Simulation| (0..n).map(|c| s.rate(c) as f32).collect::<Vec<f32>>();
    let starts: Vec<usize> = forecast_starts(TRIAL_BINS).collect();
    let mut counts = vec![0u16; TRIAL_BINS * n];
    let (mut rates, mut ahead) = (Vec::with_capacity(TRIAL_BINS * n), Vec::new());
    for (bin, row) in counts.chunks_exact_mut(n).enumerate() {
        simulation.bin(row);
        rates.extend(rates_of(&simulation));
        if forecasts && starts.contains(&bin) {
            let mut free = simulation.clone();
            (0..AHEAD_BINS).for_each(|_| free.advance_noise_free());
            ahead.push((bin, rates_of(&free)));
        }
    }
    (counts, rates, ahead)
}
