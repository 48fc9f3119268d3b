//! Animals in switching regimes, and what the recogniser learns from them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use ndarray::Array2;

use super::super::progress::{Interrupt, Progress};
use super::args::{AtlasArgs, Shard};
use crate::checkpoint::{self, TrainingState};
use crate::recogniser::{
    BIN_S, Lesson, Recogniser, School, Score, Use, calibration_error, share_right,
};
use crate::teacher::{
    Animal, AnimalSettings, Dwell, Family, REGIME_NAMES, Regime, Simulation, wandering,
};

/// Of how animals are simulated and looked at: files of another edition are of other animals.
const EDITION: u32 = 2;
/// Animals in a file.
const TOGETHER: u64 = 100;
/// Every so many are asked about.
const ASKED_EVERY: u64 = 4;
/// Parts of the animals that are asked about in turn.
const FOLDS: usize = 3;
/// A regime's probability is certain above this.
const CERTAIN: f32 = 0.9;
/// Animals of `regimed simulate` that the result is tried on, their seed, and their dwell, seconds.
const TRIED: u64 = 20;
const TRIED_SEED: u64 = 1;
const TRIED_FIRST: u64 = 20;
const TRIED_DWELL_S: f64 = 3.0;
const TRIED_S: f64 = 60.0;
/// Fewer regimes do not show how they differ.
const REGIMES_MIN: usize = 3;

/// Animals of one file.
fn groups(args: &AtlasArgs, shard: Shard) -> impl Iterator<Item = Range<u64>> {
    let of = args.animals.div_ceil(TOGETHER);
    let animals = args.animals;
    (shard.index..of)
        .step_by(shard.of as usize)
        .map(move |g| g * TOGETHER..((g + 1) * TOGETHER).min(animals))
}

fn path(args: &AtlasArgs, group: &Range<u64>) -> PathBuf {
    args.out.join(format!("animals-{:06}.safetensors", group.start))
}

fn identity(args: &AtlasArgs, group: &Range<u64>) -> String {
    let (from, to) = (group.start, group.end);
    format!("seed {}, animals {from} to {to}, edition {EDITION}", args.seed)
}

/// Simulates what is missing of a part of the animals; false where it was interrupted.
///
/// # Errors
/// Files that cannot be written, or are of other animals.
pub(super) fn simulate(args: &AtlasArgs, interrupt: &Interrupt) -> Result<bool> {
    let mut missing = Vec::new();
    let mut done = 0;
    let mut all = 0;
    for group in groups(args, args.shard) {
        let n = (group.end - group.start) as usize;
        all += n;
        match read(args, &group)? {
            Some(_) => done += n,
            None => missing.push(group),
        }
    }
    let mut progress = Progress::new("animals", all, done);
    for group in missing {
        let n = (group.end - group.start) as usize;
        let show = |progress: &mut Progress, more| {
            let done = done + more;
            progress.at(done, || format!("{done} animals"));
        };
        let Some(found) = together(args.seed, &group, interrupt, |more| show(&mut progress, more))
        else {
            progress.finish();
            return Ok(false);
        };
        write(args, &group, &found)?;
        done += n;
        progress.at(done, || format!("{done} animals"));
    }
    progress.finish();
    Ok(true)
}

/// `None` where it was interrupted.
fn together(
    seed: u64,
    group: &Range<u64>,
    interrupt: &Interrupt,
    mut show: impl FnMut(usize),
) -> Option<Vec<(Family, Lesson)>> {
    let n = (group.end - group.start) as usize;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut own = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n || interrupt.raised() {
                return own;
            }
            own.push((i, lesson(seed, group.start + i as u64)));
        }
    };
    let mut found: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        while workers.iter().any(|w| !w.is_finished()) {
            std::thread::sleep(std::time::Duration::from_millis(20));
            // The group's last one is told of once it is in its file.
            show(next.load(Ordering::Relaxed).min(n - 1));
        }
        // A panic there has ended the program already.
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    found.sort_by_key(|(i, _)| *i);
    let of = found.into_iter().filter_map(|(_, (family, lesson))| Some((family, lesson?)));
    (!interrupt.raised()).then(|| of.collect())
}

fn lesson(seed: u64, number: u64) -> (Family, Option<Lesson>) {
    let of = wandering(seed, number);
    let counts = of.counts.iter().map(|c| f32::from(*c)).collect();
    let counts = Array2::from_shape_vec((of.regimes.len(), of.channels), counts);
    let regimes: Vec<Option<u8>> = of.regimes.iter().map(|r| Some(*r)).collect();
    let what = if number.is_multiple_of(ASKED_EVERY) { Use::Asked } else { Use::Learned };
    let all = 0..regimes.len();
    let lesson = counts
        .ok()
        .and_then(|counts| Lesson::new(&counts, std::slice::from_ref(&all), &regimes, what));
    (of.family, lesson)
}

fn write(args: &AtlasArgs, group: &Range<u64>, found: &[(Family, Lesson)]) -> Result<()> {
    let number = |f: &Family| Family::ALL.iter().position(|a| a == f).unwrap_or(0) as f32;
    let families = found.iter().map(|(family, _)| number(family)).collect();
    let lessons = found.iter().flat_map(|(_, lesson)| lesson.to_values()).collect();
    let state = TrainingState {
        steps: found.len(),
        identity: identity(args, group),
        arrays: [("families".to_owned(), families), ("lessons".to_owned(), lessons)].into(),
    };
    let path = path(args, group);
    state.write(&path).with_context(|| format!("cannot write {}", path.display()))
}

/// A file's animals, `None` where there is no such file.
fn read(args: &AtlasArgs, group: &Range<u64>) -> Result<Option<Vec<(Family, Lesson)>>> {
    let path = path(args, group);
    if !path.exists() {
        return Ok(None);
    }
    let mut state =
        TrainingState::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let expected = identity(args, group);
    if state.identity != expected {
        bail!("{}: expected {expected}, found {}", path.display(), state.identity);
    }
    let families = state.arrays.remove("families").unwrap_or_default();
    let values = state.arrays.remove("lessons").unwrap_or_default();
    let (mut found, mut at) = (Vec::new(), 0);
    for family in families {
        let lesson = values.get(at..).and_then(Lesson::from_values);
        let family = Family::ALL.get(family as usize).copied();
        let (Some((lesson, used)), Some(family)) = (lesson, family) else {
            bail!("{}: expected animals as this version looks at them", path.display());
        };
        at += used;
        found.push((family, lesson));
    }
    Ok(Some(found))
}

/// The first animals that no part has simulated so far, in words.
pub(super) fn missing(args: &AtlasArgs) -> Option<String> {
    let mut all = groups(args, Shard { index: 0, of: 1 });
    let group = all.find(|group| !path(args, group).exists())?;
    Some(format!("animals {} to {}", group.start, group.end - 1))
}

/// Learns from all animals, and writes the recogniser.
///
/// # Errors
/// Files that cannot be read or written.
pub(super) fn learn(args: &AtlasArgs, interrupt: &Interrupt) -> Result<()> {
    let (mut families, mut lessons) = (Vec::new(), Vec::new());
    for group in groups(args, Shard { index: 0, of: 1 }) {
        for (family, lesson) in read(args, &group)?.unwrap_or_default() {
            families.push(family);
            lessons.push(lesson);
        }
    }
    let in_turn: Vec<usize> = (0..lessons.len()).map(|i| i % FOLDS).collect();
    let by_family: Vec<usize> =
        families.iter().map(|f| Family::ALL.iter().position(|a| a == f).unwrap_or(0)).collect();
    let steps = FOLDS + Family::ALL.len() + 1;
    let mut progress = Progress::new("recogniser", steps, 0);
    let parts = [in_turn, by_family];
    let names = REGIME_NAMES.map(str::to_owned);
    let each: Vec<usize> = (0..lessons.len()).collect();
    let school = School { lessons: &lessons, animals: &each, names: &names, parts: &parts };
    let fitted = Recogniser::fit(school, |done| {
        let step = ((steps as f64 * done).round() as usize).min(steps);
        progress.at(step, || format!("{} animals", lessons.len()));
        !interrupt.raised()
    });
    progress.finish();
    let Some((recogniser, scores)) = fitted else {
        bail!("stopped before the recogniser was learned")
    };
    let mut said = String::new();
    let ways = [
        "Animals that were not learned from, of families that were:",
        "Animals of a family that was not learned from:",
    ];
    for (way, scores) in ways.iter().zip(&scores) {
        said.push_str(&format!("{way}\n\n{}\n", table(&families, scores)));
    }
    let tried: Vec<Lesson> = (TRIED_FIRST..TRIED_FIRST + TRIED).filter_map(simulated).collect();
    let scores = recogniser.examine(&tried);
    said.push_str("New animals of `regimed simulate`:\n\n");
    said.push_str(&table(&vec![Family::Turned; scores.len()], &scores));
    print!("{said}");
    finish(&args.out, &recogniser, &said)
}

fn finish(out: &Path, recogniser: &Recogniser, said: &str) -> Result<()> {
    let path = out.join("recogniser.safetensors");
    checkpoint::write_recogniser(&path, recogniser)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let card = out.join("recogniser.md");
    std::fs::write(&card, said).with_context(|| format!("cannot write {}", card.display()))?;
    println!("recogniser written to {}", path.display());
    Ok(())
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
        regimes.push(Some(Regime::ALL.iter().position(|r| *r == now).unwrap_or(0) as u8));
    }
    let all = 0..regimes.len();
    Lesson::new(&counts, std::slice::from_ref(&all), &regimes, Use::Asked)
}

/// Scores by family.
fn table(families: &[Family], scores: &[Score]) -> String {
    let mut out = String::from(
        "| animals | number | right | from 1.5 s on | worst tenth | error of its probabilities | \
         certain | right where certain |\n|---|---|---|---|---|---|---|---|\n",
    );
    let mut line = |name: String, is: &dyn Fn(usize) -> bool| {
        let of = (0..scores.len()).filter(|&i| !scores[i].bins.is_empty() && is(i));
        let of: Vec<&Score> = of.map(|i| &scores[i]).collect();
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
    let mut each: Vec<f64> = of.iter().map(|s| share_right(&s.bins)).collect();
    each.sort_by(f64::total_cmp);
    let all: Vec<(f32, bool)> = of.iter().flat_map(|s| s.bins.iter().copied()).collect();
    let certain: Vec<(f32, bool)> = all.iter().filter(|b| b.0 > CERTAIN).copied().collect();
    let settled: Vec<bool> = of.iter().flat_map(|s| s.settled.iter().copied()).collect();
    let after = settled.iter().filter(|s| **s).count() as f64 / settled.len().max(1) as f64;
    let worst = each[each.len() / 10];
    format!(
        "| {name} | {} | {:.3} | {after:.3} | {worst:.3} | {:.3} | {:.3} | {:.3} |\n",
        of.len(),
        share_right(&all),
        calibration_error(&all),
        certain.len() as f64 / all.len().max(1) as f64,
        share_right(&certain),
    )
}
