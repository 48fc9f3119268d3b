//! `regimed simulate`: labelled recordings of teachers, with their truth.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::progress::Progress;
use crate::recording;
use crate::recording::{DynamicsTruth, Recording, Trial, in_bins};
use crate::teacher::{
    Animal, AnimalSettings, Dwell, REGIME_NAMES, Regime, Simulation, Task, Truth, truth,
};

/// Make labelled recordings of simulated networks with known truth
#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// File to write (.npz)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Animals: sessions named 0, 1, ...
    #[arg(long, default_value_t = 3)]
    pub animals: u64,
    /// First animal's number
    #[arg(long, default_value_t = 0)]
    pub first_animal: u64,
    /// Tasks per animal and regime
    #[arg(long, default_value_t = 24)]
    pub tasks: u64,
    /// First task's number: above what a model was trained on, all tasks are new to it
    #[arg(long, default_value_t = 0)]
    pub first_task: u64,
    /// Trials per task
    #[arg(long, default_value_t = 2)]
    pub trials: u64,
    /// Length of a trial, seconds; with --switch-every, of an animal's whole recording
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// One recording per animal in which a new task of another regime begins every N seconds
    #[arg(long, value_name = "SECONDS")]
    pub switch_every: Option<f64>,
    /// Width of a bin, milliseconds
    #[arg(long, default_value_t = 10.0)]
    pub bin_ms: f64,
    /// Channels recorded, of 256 units
    #[arg(long, default_value_t = AnimalSettings::default().channels)]
    pub channels: usize,
    /// Mean rate at rest, spikes per second
    #[arg(long, default_value_t = AnimalSettings::default().rate_hz)]
    pub rate_hz: f64,
    /// Seed
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Record the animals on another day: three in ten channels have another unit, rates have
    /// drifted; sessions are named 0-day1, 1-day1, ...
    #[arg(long, value_name = "N")]
    pub day: Option<u64>,
    /// Leave out the truth (Lyapunov exponents, frequencies): most of the time is spent on it
    #[arg(long)]
    pub no_truth: bool,
}

/// Runs the command.
///
/// # Errors
/// Flags out of range; a file that cannot be written.
pub fn run(args: &SimulateArgs) -> Result<()> {
    let positive = |flag: &str, x: f64, max: f64| {
        if x > 0.0 && x <= max {
            Ok(())
        } else {
            bail!("{flag}: expected above 0 and at most {max}, found {x}")
        }
    };
    positive("--bin-ms", args.bin_ms, 1000.0)?;
    positive("--seconds", args.seconds, 86_400.0)?;
    positive("--rate-hz", args.rate_hz, 1000.0)?;
    positive("--switch-every", args.switch_every.unwrap_or(1.0), 86_400.0)?;
    positive("--channels", args.channels as f64, AnimalSettings::default().units as f64)?;
    positive("--animals", args.animals as f64, 1e3)?;
    positive("--tasks", args.tasks as f64, 9_999.0)?;
    positive("--trials", args.trials as f64, 1e5)?;
    // Checked before the work, not after it.
    let folder = args.out.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|f| !f.is_dir()) {
        bail!(
            "--out {}: expected a folder that exists, found no {}",
            args.out.display(),
            folder.display()
        );
    }
    let recording = simulated(args);
    recording::write(&recording, &args.out)?;
    println!(
        "{}: {} trials, {} bins of {} ms, {} channels",
        args.out.display(),
        recording.trials.len(),
        recording.n_bins(),
        args.bin_ms,
        args.channels
    );
    Ok(())
}

/// The recording asked for.
pub(super) fn simulated(args: &SimulateArgs) -> Recording {
    let settings = AnimalSettings {
        channels: args.channels,
        rate_hz: args.rate_hz,
        bin_width_s: args.bin_ms / 1e3,
        ..AnimalSettings::default()
    };
    let mut trials = Vec::new();
    let total = args.animals as usize * if args.switch_every.is_some() { 1 } else { 5 };
    let mut progress = Progress::new("simulate", total, 0);
    for index in args.first_animal..args.first_animal + args.animals {
        let animal = Animal::new(args.seed, index, settings);
        let animal = args.day.map_or_else(|| animal.clone(), |day| animal.on_day(day));
        if let Some(seconds) = args.switch_every {
            trials.push(switching(args, &animal, index, seconds));
            progress.at(trials.len(), || format!("animal {index}"));
            continue;
        }
        for (r, regime) in Regime::ALL.into_iter().enumerate() {
            trials.extend(of_regime(args, &animal, index, (r, regime)));
            progress.at((index - args.first_animal) as usize * 5 + r + 1, || {
                format!("animal {index}, {}", REGIME_NAMES[r])
            });
        }
    }
    progress.finish();
    Recording {
        path: args.out.clone(),
        n_channels: args.channels,
        channels: None,
        bin_width_s: settings.bin_width_s,
        regime_names: REGIME_NAMES.map(str::to_owned).to_vec(),
        trials,
        continuous: args.switch_every.is_some(),
    }
}

fn of_regime(
    args: &SimulateArgs,
    animal: &Animal,
    index: u64,
    (r, regime): (usize, Regime),
) -> Vec<Trial> {
    let numbers: Vec<u64> = (args.first_task..args.first_task + args.tasks).collect();
    let one = |&number: &u64| {
        let task = animal.task(regime, number);
        let truth = (!args.no_truth).then(|| truth(animal, &task, args.seed ^ number));
        (0..args.trials)
            .map(|t| trial(args, animal, (index, r), &task, truth, number * 1000 + t))
            .collect::<Vec<_>>()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let chunk = numbers.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = numbers
            .chunks(chunk)
            .map(|part| scope.spawn(|| part.iter().flat_map(one).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    })
}

fn trial(
    args: &SimulateArgs,
    animal: &Animal,
    (index, r): (u64, usize),
    task: &Task,
    truth: Option<Truth>,
    number: u64,
) -> Trial {
    let bins = (args.seconds / animal.settings().bin_width_s).round().max(1.0) as usize;
    let seed = args.seed.wrapping_mul(1_000_003) ^ (index << 48) ^ ((r as u64) << 40) ^ number;
    let mut simulation = Simulation::new(animal.clone(), task.clone(), seed);
    let n = animal.n_channels();
    let mut counts = vec![0u16; bins * n];
    counts.chunks_exact_mut(n).for_each(|bin| simulation.bin(bin));
    Trial {
        session: session_name(args, index),
        counts: in_bins(counts, n),
        task: vec![task.number; bins],
        regime: vec![Some(r); bins],
        truth: truth.map_or_else(DynamicsTruth::default, dynamics_truth),
    }
}

fn session_name(args: &SimulateArgs, index: u64) -> String {
    args.day.map_or_else(|| index.to_string(), |day| format!("{index}-day{day}"))
}

fn dynamics_truth(truth: Truth) -> DynamicsTruth {
    let count = |n: Option<usize>| n.map(|n| n as f64);
    DynamicsTruth {
        lyapunov_max_per_s: Some(truth.lyapunov_max_per_s),
        lyapunov_max_noise_free_per_s: Some(truth.lyapunov_max_noise_free_per_s),
        frequency_hz: Some(truth.frequency_hz),
        stable_points: count(truth.stable_points),
        unstable_points: count(truth.unstable_points),
    }
}

fn switching(args: &SimulateArgs, animal: &Animal, index: u64, every_s: f64) -> Trial {
    let bins = (args.seconds / animal.settings().bin_width_s).round().max(1.0) as usize;
    let n = animal.n_channels();
    let dwell = Dwell { from_s: every_s, to_s: every_s };
    let mut drawn = args.first_task;
    let mut next_task = |regime: Regime| {
        let task = animal.task(regime, drawn);
        drawn = args.first_task + (drawn - args.first_task + 1) % args.tasks;
        task
    };
    let seed = args.seed.wrapping_mul(7_368_787) ^ (index << 48);
    let first = next_task(Regime::StableFixedPoint);
    let mut simulation = Simulation::new(animal.clone(), first, seed);
    let mut left = simulation.draw_switch(dwell).1;
    let mut trial = Trial {
        session: session_name(args, index),
        counts: in_bins(vec![0; bins * n], n),
        task: Vec::with_capacity(bins),
        regime: Vec::with_capacity(bins),
        truth: DynamicsTruth::default(),
    };
    for bin in 0..bins {
        if left == 0 {
            let (regime, dwell_bins) = simulation.draw_switch(dwell);
            simulation.begin(next_task(regime));
            left = dwell_bins;
        }
        left -= 1;
        let now = simulation.task();
        trial.task.push(now.number);
        trial.regime.push(Regime::ALL.iter().position(|r| *r == now.regime));
        simulation.bin(trial.counts.row_mut(bin).as_slice_mut().expect("a row of its own"));
    }
    trial
}
