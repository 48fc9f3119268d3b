//! How well regimes are recognised in minutes that nobody labelled.

use std::time::Instant;

use regimed::internals::model::Model;
use regimed::internals::recogniser::{BIN_S, Recogniser, calibration_error, share_right};
use regimed::internals::recording::{Recording, Trial};
use regimed::internals::training::{
    OwnLessons, Regimes, TrainingSettings, calibrate_animal, recognise,
};

use super::minutes::{Minute, adapting, simulated};

const ANIMALS: u64 = 20;
const FIRST: u64 = 40;
const CERTAIN: f32 = 0.9;
const ALL: [usize; 5] = [0, 1, 2, 3, 4];
/// A lab's regimes: a stable point, a limit cycle, chaos; animals that it has labelled, and others.
const OWN: [usize; 3] = [0, 2, 4];
const OWN_ANIMALS: [u64; 4] = [4, 8, 16, 32];
const OWN_FIRST: u64 = 200;
const OWN_ASKED: u64 = 20;
const OWN_ASKED_FIRST: u64 = 300;

/// Most probable regime's probability, and whether it is right, bin by bin; whether labels would be
/// made of it, and whether the model that is calibrated with them agrees.
struct Judged {
    bins: Vec<(f32, bool)>,
    named: bool,
    agreed: bool,
}

fn judged(recogniser: &Recogniser, model: &Model, (counts, regimes): &Minute) -> Judged {
    let bins = 0..regimes.len();
    let found = recogniser.recognise(counts, std::slice::from_ref(&bins));
    let of = |bin: usize| {
        let chances = found.first()?.at(bin);
        let best = chances.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((best.1, best.0 == regimes[bin]))
    };
    let recording = Recording {
        n_channels: counts.ncols(),
        bin_width_s: BIN_S,
        trials: vec![Trial::unlabelled("new", counts.mapv(|c| c as u16))],
        ..Recording::default()
    };
    let named = recognise(recogniser, model, &recording).is_ok();
    let settings = TrainingSettings {
        log_rate_bounds: model.online.log_rate_bounds,
        threads: 1,
        ..TrainingSettings::for_calibration()
    };
    let agreed = named && {
        let found = calibrate_animal(model, &recording, recogniser, settings, |_, _| true);
        found.is_ok_and(|(_, regimes)| matches!(regimes, Regimes::Recognised { .. }))
    };
    Judged { bins: bins.filter_map(of).collect(), named, agreed }
}

fn verdict(held: bool) -> &'static str {
    if held { "" } else { " !" }
}

fn row(name: &str, minutes: &[Judged], least: f64, worst_least: f64) {
    let each: Vec<f64> = minutes.iter().map(|m| share_right(&m.bins)).collect();
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    let worst = each.iter().copied().fold(1.0, f64::min);
    let all: Vec<(f32, bool)> = minutes.iter().flat_map(|m| m.bins.iter().copied()).collect();
    let named = minutes.iter().filter(|m| m.named).count();
    let agreed = minutes.iter().filter(|m| m.agreed).count();
    let certain: Vec<(f32, bool)> = all.iter().filter(|b| b.0 > CERTAIN).copied().collect();
    let off = calibration_error(&all);
    println!(
        "| {name} | {mean:.3}{} | {worst:.3}{} | {off:.3}{} | {:.3} | {:.3} | \
         {named} of {} | {agreed} |",
        verdict(mean >= least),
        verdict(worst >= worst_least),
        verdict(off <= 0.05),
        certain.len() as f64 / all.len().max(1) as f64,
        share_right(&certain),
        minutes.len(),
    );
}

pub(crate) fn report(recogniser: &Recogniser, model: &Model) {
    println!(
        "\n{ANIMALS} animals each, 60 s without labels, another regime every 3 s; '!' misses its \
         budget\n\n| minutes | right | worst animal | probabilities off by | certain | right where \
         certain | named | and the model agrees |\n|---|---|---|---|---|---|---|---|"
    );
    let model = &model.at_bin_width(BIN_S).expect("a width that the model can have");
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let all = |minute: &(dyn Fn(u64) -> Minute + Sync)| -> Vec<Judged> {
        let mut found = Vec::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|t| {
                    let one = move |i| judged(recogniser, model, &minute(i));
                    let own = (FIRST + t..FIRST + ANIMALS).step_by(threads as usize);
                    scope.spawn(move || own.map(one).collect::<Vec<_>>())
                })
                .collect();
            workers.into_iter().for_each(|w| found.extend(w.join().expect("a thread")));
        });
        found
    };
    row("animals of `simulate`", &all(&|i| simulated(i, &ALL, 1.0)), 0.9, 0.8);
    row("the same, a tenth of the spikes", &all(&|i| simulated(i, &ALL, 0.1)), 0.8, 0.0);
    row("networks whose units adapt", &all(&adapting), 0.8, 0.0);
    let few = |n: usize| {
        move |i: u64| {
            let of: Vec<usize> = (0..n).map(|k| (i as usize + 2 * k) % 5).collect();
            simulated(i, &of, 1.0)
        }
    };
    row("two regimes alone", &all(&few(2)), 0.0, 0.0);
    row("one regime alone", &all(&few(1)), 0.0, 0.0);
}

/// A lab's three regimes, as animals of `simulate` have them, learned from so many animals.
pub(crate) fn report_own() {
    println!(
        "\na lab's own regimes, a labelled minute of each animal, {OWN_ASKED} others asked\n\n\
         | animals | by itself, on sessions left out | right in others | probabilities off by \
         | s |\n|---|---|---|---|---|"
    );
    for animals in OWN_ANIMALS {
        let began = Instant::now();
        let mut lessons = OwnLessons::default();
        for i in 0..animals {
            let (counts, regimes) = simulated(OWN_FIRST + i, &OWN, 1.0);
            let mut trial = Trial::unlabelled(&format!("animal{i}"), counts.mapv(|c| c as u16));
            trial.regime = regimes.iter().map(|r| OWN.iter().position(|own| own == r)).collect();
            lessons.add(&Recording {
                n_channels: counts.ncols(),
                bin_width_s: BIN_S,
                regime_names: ["rest", "reach", "drowsy"].map(str::to_owned).to_vec(),
                trials: vec![trial],
                ..Recording::default()
            });
        }
        let recogniser = match lessons.learn(|_| true) {
            Ok(recogniser) => recogniser,
            Err(why) => {
                println!(
                    "| {animals} | not kept: {why} | | | {:.0} |",
                    began.elapsed().as_secs_f64()
                );
                continue;
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        let name = |own: usize| ["rest", "reach", "drowsy"][own];
        let mut all = Vec::new();
        for i in 0..OWN_ASKED {
            let (counts, regimes) = simulated(OWN_ASKED_FIRST + i, &OWN, 1.0);
            let found = recogniser.recognise(&counts, std::slice::from_ref(&(0..regimes.len())));
            for (bin, regime) in regimes.iter().enumerate() {
                let Some(of) = found.first().map(|f| f.at(bin)) else { continue };
                let best = (0..of.len()).max_by(|&a, &b| of[a].total_cmp(&of[b])).unwrap_or(0);
                let truth = OWN.iter().position(|own| own == regime).map(name);
                all.push((of[best], Some(recogniser.names()[best].as_str()) == truth));
            }
        }
        let judged = recogniser.judged().expect("it was judged");
        println!(
            "| {animals} | {:.3}, off by {:.3} | {:.3} | {:.3} | {seconds:.0} |",
            judged.right,
            judged.off,
            share_right(&all),
            calibration_error(&all),
        );
    }
}
