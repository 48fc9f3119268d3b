//! Random counts to learn from, and what a step of training takes.
#![allow(dead_code)] // not every bench asks for all of it

use std::path::PathBuf;
use std::time::Instant;

use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regimed::internals::model::Dimensions;
use regimed::internals::recording::{DynamicsTruth, Recording, Spool, Trial};
use regimed::internals::training::{Gathering, Trainer, TrainingSettings};

pub(crate) const STEPS: usize = 12;
pub(crate) const WARM_UP: usize = 2;

/// Random counts: `tasks` tasks of each of two regimes, `bins` bins each.
pub(crate) fn recording(
    name: &str,
    tasks: usize,
    bins: usize,
    channels: usize,
    seed: u64,
) -> Recording {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let trial = |i: usize| Trial {
        session: name.to_owned(),
        counts: Array2::from_shape_simple_fn((bins, channels), || {
            u16::from(rng.random_range(0..8) == 0)
        }),
        task: vec![(i / 2) as i64; bins],
        regime: vec![Some(i % 2); bins],
        truth: DynamicsTruth::default(),
    };
    Recording {
        path: PathBuf::from(name),
        n_channels: channels,
        channels: None,
        bin_width_s: 0.01,
        regime_names: vec!["a".into(), "b".into()],
        trials: (0..2 * tasks).map(trial).collect(),
        continuous: false,
    }
}

pub(crate) fn settings(rank: usize) -> TrainingSettings {
    TrainingSettings {
        dims: Dimensions { rank, ..Dimensions::default() },
        ..TrainingSettings::default()
    }
}

/// Milliseconds of a step.
pub(crate) fn step_ms(recordings: &[Recording], rank: usize) -> f64 {
    step_ms_of(recordings, settings(rank))
}

/// The same with given settings.
pub(crate) fn step_ms_of(recordings: &[Recording], settings: TrainingSettings) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::in_folder(folder.path()).expect("a spool");
    let mut gathering = Gathering::new(Some(spool));
    recordings.iter().for_each(|r| gathering.add(r).expect("recordings that go together"));
    let data = gathering.finish().expect("a dataset").serving().clone();
    let mut trainer = Trainer::new(data, settings).expect("a trainer");
    let mut times: Vec<f64> = (0..STEPS)
        .map(|_| {
            let began = Instant::now();
            trainer.step().expect("a step");
            began.elapsed().as_secs_f64() * 1e3
        })
        .skip(WARM_UP)
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
