//! Animals in switching regimes, and what the recogniser learns from them.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use ndarray::Array2;

use super::super::progress::{Interrupt, Progress};
use crate::checkpoint;
use crate::recogniser::{BIN_S, Lesson, Recogniser, Score};
use crate::teacher::{Animal, AnimalSettings, Dwell, Family, Regime, Simulation, wandering};

/// Parts of the animals that are asked about in turn.
const FOLDS: usize = 3;
/// A regime's probability is certain above this.
const CERTAIN: f32 = 0.9;
/// Bins of probability that calibration is judged in.
const JUDGED_IN: usize = 10;
/// Animals of `regimed simulate` that the result is tried on, their seed, and their dwell, seconds.
const TRIED: u64 = 20;
const TRIED_SEED: u64 = 1;
const TRIED_FIRST: u64 = 20;
const TRIED_DWELL_S: f64 = 3.0;
const TRIED_S: f64 = 60.0;
/// Fewer regimes do not show how they differ.
const REGIMES_MIN: usize = 3;

/// Simulates the animals, learns, and writes the recogniser.
pub(super) fn run(out: &Path, seed: u64, animals: u64, interrupt: &Interrupt) -> Result<()> {
    let stopped = || bail!("stopped before the recogniser was learned");
    let Some((families, lessons)) = simulate(seed, animals, interrupt) else { return stopped() };
    let in_turn: Vec<usize> = (0..lessons.len()).map(|i| i % FOLDS).collect();
    let by_family: Vec<usize> =
        families.iter().map(|f| Family::ALL.iter().position(|a| a == f).unwrap_or(0)).collect();
    let steps = FOLDS + Family::ALL.len() + 1;
    let mut progress = Progress::new("recogniser", steps, 0);
    let fitted = Recogniser::fit(&lessons, &[in_turn, by_family], |done| {
        let step = ((steps as f64 * done).round() as usize).min(steps);
        progress.at(step, || format!("{} animals", lessons.len()));
        !interrupt.raised()
    });
    progress.finish();
    let Some((recogniser, scores)) = fitted else { return stopped() };
    let mut said = String::new();
    let ways = [
        "Animals that were not learned from, of families that were:",
        "Animals of a family that was not learned from:",
    ];
    for (way, scores) in ways.iter().zip(&scores) {
        said.push_str(&format!("{way}\n\n{}\n", table(&families, scores)));
    }
    let lessons: Vec<Lesson> = (TRIED_FIRST..TRIED_FIRST + TRIED).filter_map(simulated).collect();
    let scores = recogniser.examine(&lessons);
    said.push_str("New animals of `regimed simulate`:\n\n");
    said.push_str(&table(&vec![Family::Turned; scores.len()], &scores));
    print!("{said}");
    let path = out.join("recogniser.safetensors");
    checkpoint::write_recogniser(&path, &recogniser)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let card = out.join("recogniser.md");
    std::fs::write(&card, said).with_context(|| format!("cannot write {}", card.display()))?;
    println!("recogniser written to {}", path.display());
    Ok(())
}

/// `None` where it was interrupted.
fn simulate(seed: u64, animals: u64, interrupt: &Interrupt) -> Option<(Vec<Family>, Vec<Lesson>)> {
    let mut progress = Progress::new("animals", animals as usize, 0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut own = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= animals as usize || interrupt.raised() {
                return own;
            }
            own.push((number, lesson(seed, number as u64)));
        }
    };
    let mut found: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        while workers.iter().any(|w| !w.is_finished()) {
            std::thread::sleep(std::time::Duration::from_millis(200));
            let done = next.load(Ordering::Relaxed).min(animals as usize);
            progress.at(done, || format!("{done} animals"));
        }
        // A panic there has ended the program already.
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    progress.finish();
    found.sort_by_key(|(number, _)| *number);
    let of = found.into_iter().filter_map(|(_, (family, lesson))| Some((family, lesson?)));
    (!interrupt.raised()).then(|| of.unzip())
}

fn lesson(seed: u64, number: u64) -> (Family, Option<Lesson>) {
    let of = wandering(seed, number);
    let counts = of.counts.iter().map(|c| f32::from(*c)).collect();
    let counts = Array2::from_shape_vec((of.regimes.len(), of.channels), counts);
    (of.family, counts.ok().and_then(|counts| Lesson::new(&counts, of.regimes)))
}

/// An animal of `regimed simulate`.
fn simulated(index: u64) -> Option<Lesson> {
    let animal = Animal::new(TRIED_SEED, index, AnimalSettings::default());
    let dwell = Dwell { from_s: TRIED_DWELL_S, to_s: TRIED_DWELL_S };
    let (n, width) = (animal.n_channels(), animal.settings().bin_width_s);
    let together = (BIN_S / width).round() as usize;
    let first = animal.task(Regime::StableFixedPoint, 7_000);
    let mut simulation = Simulation::new(animal.clone(), first, index);
    let mut left = simulation.draw_switch(dwell).1;
    let mut counts = Array2::<f32>::zeros(((TRIED_S / BIN_S).round() as usize, n));
    let (mut regimes, mut bin, mut number) = (Vec::new(), vec![0u16; n], 7_000);
    for mut row in counts.rows_mut() {
        if left < together {
            let (next, bins) = simulation.draw_switch(dwell);
            number += 1;
            simulation.begin(animal.task(next, number));
            left = bins;
        }
        for _ in 0..together {
            simulation.bin(&mut bin);
            row.iter_mut().zip(&bin).for_each(|(c, b)| *c += f32::from(*b));
        }
        left -= together;
        let now = simulation.task().regime;
        regimes.push(Regime::ALL.iter().position(|r| *r == now).unwrap_or(0) as u8);
    }
    Lesson::new(&counts, regimes)
}

/// Scores by family.
fn table(families: &[Family], scores: &[Score]) -> String {
    let mut out = String::from(
        "| animals | number | right | from 1.5 s on | worst tenth | error of its probabilities | \
         certain | right where certain |\n|---|---|---|---|---|---|---|---|\n",
    );
    let mut line = |name: String, is: &dyn Fn(usize) -> bool| {
        let of: Vec<&Score> = (0..scores.len()).filter(|&i| is(i)).map(|i| &scores[i]).collect();
        if !of.is_empty() {
            out.push_str(&row(&name, &of));
        }
    };
    let enough = |i: usize| scores[i].regimes >= REGIMES_MIN;
    line("all with three regimes or more".into(), &enough);
    for family in Family::ALL {
        line(family.name().into(), &|i| families[i] == family && enough(i));
    }
    line("all with fewer".into(), &|i| !enough(i));
    out
}

fn row(name: &str, of: &[&Score]) -> String {
    let share = |bins: &[(f32, bool)]| {
        bins.iter().filter(|b| b.1).count() as f64 / bins.len().max(1) as f64
    };
    let mut each: Vec<f64> = of.iter().map(|s| share(&s.bins)).collect();
    each.sort_by(f64::total_cmp);
    let all: Vec<(f32, bool)> = of.iter().flat_map(|s| s.bins.iter().copied()).collect();
    let certain: Vec<(f32, bool)> = all.iter().filter(|b| b.0 > CERTAIN).copied().collect();
    let error: f64 = (0..JUDGED_IN)
        .map(|k| {
            let within = |p: f32| ((p * JUDGED_IN as f32) as usize).min(JUDGED_IN - 1) == k;
            let bins: Vec<(f32, bool)> = all.iter().filter(|b| within(b.0)).copied().collect();
            let said: f64 = bins.iter().map(|b| f64::from(b.0)).sum();
            (said - share(&bins) * bins.len() as f64).abs()
        })
        .sum();
    let settled: Vec<bool> = of.iter().flat_map(|s| s.settled.iter().copied()).collect();
    let after = settled.iter().filter(|s| **s).count() as f64 / settled.len().max(1) as f64;
    let worst = each[each.len() / 10];
    format!(
        "| {name} | {} | {:.3} | {after:.3} | {worst:.3} | {:.3} | {:.3} | {:.3} |\n",
        of.len(),
        share(&all),
        error / all.len().max(1) as f64,
        certain.len() as f64 / all.len().max(1) as f64,
        share(&certain),
    )
}
