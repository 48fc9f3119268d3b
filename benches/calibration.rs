//! Question: how many seconds of a new session does a calibration need: the same animal on another
//! day without labels, a new animal with labels, and a new animal without? Budget: accuracy two
//! seconds into unseen tasks >= 0.97 (another day, 30 s without labels), >= 0.90 (new animal, 60 s
//! with labels), >= 0.90 (new animal, 60 s without).
//!
//! And how well are regimes recognised in a minute that nobody labelled? Budget: right >= 0.90 of
//! the time (mean of 20 animals of `regimed simulate`), >= 0.80 for the worst of them; >= 0.80 with
//! a tenth of the spikes, and for a family that was not learned from (networks whose units adapt);
//! probabilities off by <= 0.05; of minutes with fewer than three regimes none is named.
//!
//!     cargo bench --bench calibration [-- MODEL [SECONDS]]
//!
//! With 0 for SECONDS, the second part alone.

#[path = "support/minutes.rs"]
mod minutes;
#[path = "support/recognised.rs"]
mod recognised;

use std::path::{Path, PathBuf};

use std::time::Instant;

use regimed::internals::checkpoint;
use regimed::internals::inference::Adaptation;
use regimed::internals::model::{Model, Readout};
use regimed::internals::recogniser::Recogniser;
use regimed::internals::recording::{DynamicsTruth, Recording, Trial, in_bins};
use regimed::internals::regime::{DecisionRule, Engine};
use regimed::internals::teacher::{
    Animal, AnimalSettings, Dwell, REGIME_NAMES, Regime, Simulation,
};
use regimed::internals::training::{
    Dataset, Regimes, TrainingSettings, calibrate_animal, recalibrate,
};

const SECONDS: [f64; 5] = [5.0, 15.0, 30.0, 60.0, 120.0];
const SWITCH_EVERY_S: f64 = 3.0;
/// Unseen tasks per regime that a calibration is tried on, and when its label is asked for.
const TASKS: u64 = 8;
const TRIED_FIRST_TASK: u64 = 8_000;
const ASKED_AFTER_S: f64 = 2.0;
const STEPS: usize = 400;
/// New animals: the first, and how many where it counts.
const FIRST_NEW: u64 = 60;
const JUDGED_AT_S: f64 = 60.0;
const JUDGED: u64 = 8;

fn recording(animal: &Animal, seconds: f64, labelled: bool, seed: u64) -> Recording {
    let bins = (seconds / animal.settings().bin_width_s).round() as usize;
    let n = animal.n_channels();
    let dwell = Dwell { from_s: SWITCH_EVERY_S, to_s: SWITCH_EVERY_S };
    let mut number = 7_000 + 50 * seed;
    let first = animal.task(Regime::StableFixedPoint, number);
    let mut simulation = Simulation::new(animal.clone(), first, seed);
    let mut left = simulation.draw_switch(dwell).1;
    let (mut counts, mut task, mut regime) = (vec![0u16; bins * n], Vec::new(), Vec::new());
    for bin in counts.chunks_exact_mut(n) {
        if left == 0 {
            let (next, bins) = simulation.draw_switch(dwell);
            number += 1;
            simulation.begin(animal.task(next, number));
            left = bins;
        }
        left -= 1;
        simulation.bin(bin);
        let now = simulation.task();
        task.push(if labelled { now.number } else { 0 });
        let index = Regime::ALL.iter().position(|r| *r == now.regime);
        regime.push(index.filter(|_| labelled));
    }
    Recording {
        path: PathBuf::from("simulated"),
        n_channels: n,
        channels: None,
        bin_width_s: animal.settings().bin_width_s,
        regime_names: REGIME_NAMES.map(str::to_owned).to_vec(),
        trials: vec![Trial {
            session: "new".into(),
            counts: in_bins(counts, animal.n_channels()),
            task,
            regime,
            truth: DynamicsTruth::default(),
        }],
        continuous: true,
    }
}

/// Share of unseen tasks whose most probable label is right after two seconds.
fn accuracy(model: &Model, readout: &Readout, animal: &Animal) -> f64 {
    let bins = (ASKED_AFTER_S / model.bin_width_s).round() as usize;
    let mut raw = vec![0u16; animal.n_channels()];
    let (mut right, mut all) = (0, 0);
    for (r, regime) in Regime::ALL.into_iter().enumerate() {
        for task in TRIED_FIRST_TASK..TRIED_FIRST_TASK + TASKS {
            let rule = DecisionRule::of(model, None);
            let mut engine =
                Engine::new(model, readout, rule, Adaptation::default()).expect("an engine");
            let seed = task ^ ((r as u64) << 20);
            let mut simulation = Simulation::new(animal.clone(), animal.task(regime, task), seed);
            for _ in 0..bins {
                simulation.bin(&mut raw);
                let counts: Vec<f32> = raw.iter().map(|&c| f32::from(c)).collect();
                engine.push(Some(&counts));
            }
            let posterior = &engine.estimate().posterior;
            let most_probable =
                (0..posterior.len()).max_by(|&a, &b| posterior[a].total_cmp(&posterior[b]));
            right += usize::from(most_probable == Some(r));
            all += 1;
        }
    }
    f64::from(right as u32) / f64::from(all)
}

fn learned(
    model: &Model,
    recogniser: &Recogniser,
    recording: &Recording,
    seed: u64,
) -> Option<(Readout, Regimes)> {
    let settings = TrainingSettings {
        steps: STEPS,
        batch: 16,
        learning_rate: 1e-2,
        seed,
        log_rate_bounds: model.online.log_rate_bounds,
        ..TrainingSettings::default()
    };
    let found = calibrate_animal(model, recording, recogniser, settings, |_, _| true);
    found.ok().map(|(c, regimes)| (c.readout, regimes))
}

fn main() {
    let dir = std::env::args().nth(1).filter(|a| !a.starts_with("--"));
    let dir = dir.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/models/default").into());
    let model = checkpoint::load(Path::new(&dir)).expect("a model").model;
    let recogniser = checkpoint::builtin_recogniser().expect("the recogniser in the binary");
    let settings = AnimalSettings::default();
    println!(
        "accuracy {ASKED_AFTER_S} s into unseen tasks, {} of each animal, three animals a cell \
         ({JUDGED} new ones at {JUDGED_AT_S} s)",
        5 * TASKS
    );
    println!(
        "seconds  another day  (as it was)  new animal, labelled  new animal, unlabelled (named)"
    );
    let began = Instant::now();
    let only: Option<f64> = std::env::args().nth(2).and_then(|s| s.parse().ok());
    for seconds in SECONDS.into_iter().filter(|s| only.is_none_or(|o| o == *s)) {
        let (mut mean, mut right) = ([0.0; 4], Vec::new());
        for k in 0..3u64 {
            let before = &model.readouts[k as usize % model.readouts.len()];
            let index: u64 = before.session.parse().expect("sessions named by animals");
            let day = Animal::new(1, index, settings).on_day(k + 1);
            let data = Dataset::for_calibration(&recording(&day, seconds, false, k)).expect("data");
            let found = recalibrate(&model, before, &data, "new", |_, _| true).expect("a readout");
            mean[0] += accuracy(&model, &found.readout, &day) / 3.0;
            mean[1] += accuracy(&model, before, &day) / 3.0;
        }
        let animals = if seconds == JUDGED_AT_S { JUDGED } else { 3 };
        for k in 0..animals {
            let new = Animal::new(1, FIRST_NEW + k, settings);
            for labelled in [true, false] {
                let found = learned(&model, &recogniser, &recording(&new, seconds, labelled, k), k);
                let Some((readout, regimes)) = found else { continue };
                if labelled {
                    mean[2] += accuracy(&model, &readout, &new) / animals as f64;
                } else if !matches!(regimes, Regimes::Unknown(_)) {
                    right.push(accuracy(&model, &readout, &new));
                }
            }
        }
        // Of those that are named at all.
        mean[3] = right.iter().sum::<f64>() / right.len() as f64;
        println!(
            "{seconds:>7}  {:>11.3}  {:>11.3}  {:>20.3}  {:>13.3} ({} of {animals})",
            mean[0],
            mean[1],
            mean[2],
            mean[3],
            right.len()
        );
        for (what, at, found, budget) in [
            ("another day", 30.0, mean[0], 0.97),
            ("new animal, labelled", 60.0, mean[2], 0.90),
            ("new animal, unlabelled", 60.0, mean[3], 0.90),
        ] {
            if seconds == at {
                let ratio = found / budget;
                println!("         {what}: {found:.3}, budget {budget}, ratio {ratio:.2}");
            }
        }
    }
    recognised::report(&recogniser, &model);
    recognised::report_own();
    println!("{:.0} s", began.elapsed().as_secs_f64());
}
