//! Question: what do a rig's troubles cost, and what does following them give back? Unseen tasks of
//! the built-in model's animals, a new regime every 3 s; the trouble begins after 30 s, and what
//! counts is the time from 40 s on. `with` follows gains, silent channels and artefacts, `without`
//! does not. No budget: the table says what to expect.
//!
//!     cargo bench --bench robustness [-- MODEL]

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, Poisson, StandardNormal};
use regimed::internals::checkpoint;
use regimed::internals::inference::Adaptation;
use regimed::internals::model::{Model, Readout};
use regimed::internals::recording::{Counts, in_bins};
use regimed::internals::regime::{ChangeScore, DecisionRule, Engine, Label, Score};
use regimed::internals::teacher::{Animal, AnimalSettings, Dwell, Regime, Simulation};
use regimed::internals::training::dispersion;

const ANIMALS: u64 = 3;
const SECONDS: f64 = 240.0;
const EVERY_S: f64 = 3.0;
const TROUBLE_S: f64 = 30.0;
const SCORED_FROM_S: f64 = 40.0;
const FIRST_TASK: u64 = 7_000;

/// A recording: counts per bin, truth per bin.
#[derive(Clone)]
struct Recorded {
    bins: Vec<Option<Vec<f32>>>,
    truth: Vec<usize>,
    bin_s: f64,
}

fn record(animal: u64, settings: AnimalSettings) -> Recorded {
    let animal = Animal::new(1, animal, settings);
    let n_bins = (SECONDS / settings.bin_width_s).round() as usize;
    let dwell = Dwell { from_s: EVERY_S, to_s: EVERY_S };
    let first = animal.task(Regime::StableFixedPoint, FIRST_TASK);
    let mut simulation = Simulation::new(animal.clone(), first, 99);
    let mut left = simulation.draw_switch(dwell).1;
    let mut counts = vec![0u16; animal.n_channels()];
    let mut recorded = Recorded { bins: vec![], truth: vec![], bin_s: settings.bin_width_s };
    let mut number = FIRST_TASK;
    for _ in 0..n_bins {
        if left == 0 {
            let (regime, bins) = simulation.draw_switch(dwell);
            number += 1;
            simulation.begin(animal.task(regime, number));
            left = bins;
        }
        left -= 1;
        simulation.bin(&mut counts);
        recorded.bins.push(Some(counts.iter().map(|&c| f32::from(c)).collect()));
        let now = simulation.task().regime;
        recorded.truth.push(Regime::ALL.iter().position(|r| *r == now).unwrap_or(0));
    }
    recorded
}

fn poisson(rate: f64, rng: &mut ChaCha8Rng) -> f32 {
    let drawn: f64 = Poisson::new(rate.max(1e-12)).map_or(0.0, |p| p.sample(rng));
    drawn as f32
}

/// Counts of a rate `gain` times as high: kept one by one, or joined by more.
fn scaled(count: f32, gain: f64, rng: &mut ChaCha8Rng) -> f32 {
    if gain <= 1.0 {
        (0..count as u32).map(|_| f32::from(u8::from(rng.random_bool(gain)))).sum()
    } else {
        // Exact for the mean; the additional spikes come as the observed ones do.
        count + poisson((gain - 1.0) * f64::from(count), rng)
    }
}

type FileDamage = fn(&mut Recorded, &mut ChaCha8Rng);

/// `log gain` per channel and bin, from the trouble's start on.
fn gains(r: &mut Recorded, rng: &mut ChaCha8Rng, log_gain: impl Fn(usize, f64) -> f64) {
    let start = (TROUBLE_S / r.bin_s) as usize;
    for t in start..r.bins.len() {
        let s = (t - start) as f64 * r.bin_s;
        if let Some(bin) = &mut r.bins[t] {
            for (i, c) in bin.iter_mut().enumerate() {
                *c = scaled(*c, log_gain(i, s).exp(), rng);
            }
        }
    }
}

fn normals(n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    (0..n).map(|_| rng.sample(StandardNormal)).collect()
}

fn channels(r: &Recorded) -> usize {
    r.bins.iter().flatten().next().map_or(0, Vec::len)
}

const TROUBLES: [(&str, FileDamage); 15] = [
    ("none", |_, _| {}),
    ("rates drift apart, log sd 0.5 over 200 s", |r, rng| {
        let slope = normals(channels(r), rng);
        gains(r, rng, |i, s| 0.5 * slope[i] * s / 200.0);
    }),
    ("every channel's gain jumps, log sd 0.5", |r, rng| {
        let jump = normals(channels(r), rng);
        gains(r, rng, |i, _| 0.5 * jump[i]);
    }),
    ("all rates x 0.6", |r, rng| gains(r, rng, |_, _| 0.6f64.ln())),
    ("all rates x 1.5", |r, rng| gains(r, rng, |_, _| 1.5f64.ln())),
    ("10 % of channels die", |r, rng| {
        gains(r, rng, |i, _| if i % 10 == 3 { -20.0 } else { 0.0 });
    }),
    ("30 % of channels die", |r, rng| {
        gains(r, rng, |i, _| if i % 10 < 3 { -20.0 } else { 0.0 });
    }),
    ("20 % of channels appear (silent before)", |r, _| {
        let start = (TROUBLE_S / r.bin_s) as usize;
        for bin in r.bins[..start].iter_mut().flatten() {
            bin.iter_mut().step_by(5).for_each(|c| *c = 0.0);
        }
    }),
    ("10 % of channels swap places", |r, _| swap(r, 10)),
    ("20 % of channels swap places", |r, _| swap(r, 5)),
    ("10 % of bins missing", |r, rng| missing(r, 0.1, rng)),
    ("50 % of bins missing", |r, rng| missing(r, 0.5, rng)),
    ("line noise: 0.3 s in 5 s, 60 Hz on 80 % of channels", |r, rng| {
        let start = (TROUBLE_S / r.bin_s) as usize;
        for t in start..r.bins.len() {
            let s = t as f64 * r.bin_s;
            let cycles = |at: f64| (at * 60.0).floor();
            if s % 5.0 < 0.3 {
                let events = cycles(s + r.bin_s) - cycles(s);
                for c in r.bins[t].iter_mut().flatten() {
                    *c += if rng.random_bool(0.8) { events as f32 } else { 0.0 };
                }
            }
        }
    }),
    ("over-dispersed: each channel's rate gamma, alpha 1", |r, rng| over_disperse(r, 1.0, rng)),
    ("a spike brings half another (bursts)", |r, rng| gains(r, rng, |_, _| 1.5f64.ln())),
];

fn swap(r: &mut Recorded, one_in: usize) {
    let start = (TROUBLE_S / r.bin_s) as usize;
    for bin in r.bins[start..].iter_mut().flatten() {
        let first = bin[0];
        let moved: Vec<usize> = (0..bin.len()).step_by(one_in).collect();
        for pair in moved.windows(2) {
            bin[pair[0]] = bin[pair[1]];
        }
        if let Some(&last) = moved.last() {
            bin[last] = first;
        }
    }
}

fn missing(r: &mut Recorded, share: f64, rng: &mut ChaCha8Rng) {
    let start = (TROUBLE_S / r.bin_s) as usize;
    for bin in &mut r.bins[start..] {
        if rng.random_bool(share) {
            *bin = None;
        }
    }
}

/// Multiplies each count's rate by a gamma variable of mean 1 and variance `alpha`, from the start.
fn over_disperse(r: &mut Recorded, alpha: f64, rng: &mut ChaCha8Rng) {
    let Ok(gamma) = Gamma::new(1.0 / alpha, alpha) else { return };
    for c in r.bins.iter_mut().flatten().flatten() {
        let gain: f64 = gamma.sample(rng);
        *c = scaled(*c, gain.clamp(0.0, 50.0), rng);
    }
}

#[derive(Default)]
struct Found {
    after_1s: f64,
    delay_s: f64,
    false_per_min: f64,
    unknown: f64,
}

fn stream(
    model: &Model,
    readout: &Readout,
    recorded: &Recorded,
    adaptation: Adaptation,
    active: impl Fn(usize) -> bool,
) -> (Score, ChangeScore, f64) {
    let rule = DecisionRule::of(model, None);
    let mut engine = Engine::new(model, readout, rule, adaptation).expect("an engine");
    engine.set_active((0..readout.n_channels()).map(active));
    let mut score = Score::new(model.regime_names.len(), model.bin_width_s);
    let mut changes = ChangeScore::default();
    let from = (SCORED_FROM_S / model.bin_width_s) as usize;
    let mut unknown = 0usize;
    for (t, (bin, &truth)) in recorded.bins.iter().zip(&recorded.truth).enumerate() {
        let change = engine.push(bin.as_deref());
        if t < from {
            continue;
        }
        score.push(Some(truth), &engine.estimate().posterior);
        let label = match engine.label() {
            Some(Label::Regime(r)) => Some(r),
            Some(Label::Unknown) => {
                unknown += 1;
                None
            }
            None => None,
        };
        changes.push(Some(truth), label, change.as_ref());
    }
    (score, changes, unknown as f64 / (recorded.bins.len() - from) as f64)
}

fn over_animals(each: impl Fn(usize) -> (Score, ChangeScore, f64, f64) + Sync) -> Found {
    let mut found = Found::default();
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..ANIMALS as usize)
            .map(|a| {
                scope.spawn({
                    let each = &each;
                    move || each(a)
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("a worker")).collect()
    });
    for (score, changes, unknown, bin_s) in results {
        let verdict = changes.verdict(bin_s);
        let share = 1.0 / ANIMALS as f64;
        found.after_1s += share * score.verdict().accuracy_after_1s.unwrap_or(f64::NAN);
        found.delay_s += share * verdict.median_delay_s.unwrap_or(f64::NAN);
        found.false_per_min += share * verdict.false_changes_per_minute;
        found.unknown += share * unknown;
    }
    found
}

fn row(name: &str, columns: &[Found]) {
    print!("{name:52}");
    for f in columns {
        print!(
            "   {:.3} {:4.0} ms {:5.2} {:4.1} %",
            f.after_1s,
            1e3 * f.delay_s,
            f.false_per_min,
            100.0 * f.unknown
        );
    }
    println!();
}

fn main() {
    let model = match std::env::args().skip(1).find(|a| !a.starts_with('-')) {
        Some(dir) => checkpoint::load(Path::new(&dir)).expect("a model").model,
        None => regimed::internals::checkpoint::builtin().expect("the built-in model").model,
    };
    let ways = [Adaptation::default(), Adaptation::NONE];
    let clean: Vec<Recorded> = (0..ANIMALS).map(|a| record(a, AnimalSettings::default())).collect();
    println!(
        "right label 1 s after a change, median delay, false changes per minute, bins called \
         unknown"
    );
    println!("{:52}   {:30}   {:30}", "trouble", "with", "without");
    for (name, trouble) in TROUBLES {
        let troubled: Vec<Recorded> = clean
            .iter()
            .enumerate()
            .map(|(a, r)| {
                let mut r = r.clone();
                trouble(&mut r, &mut ChaCha8Rng::seed_from_u64(a as u64));
                r
            })
            .collect();
        let columns = ways.map(|way| {
            over_animals(|a| {
                let r = &troubled[a];
                let (s, c, u) = stream(&model, &model.readouts[a], r, way, |_| true);
                (s, c, u, r.bin_s)
            })
        });
        row(name, &columns);
        if name.starts_with("over-dispersed") {
            let columns = ways.map(|way| {
                over_animals(|a| {
                    let r = &troubled[a];
                    let first: Vec<u16> =
                        r.bins[..6000].iter().flatten().flatten().map(|&c| c as u16).collect();
                    let mut readout = model.readouts[a].clone();
                    let first = Counts::in_memory(in_bins(first, readout.n_channels()));
                    let found = dispersion(&model, &readout, std::iter::once(&first));
                    readout.dispersion = Some(found.expect("one"));
                    let (s, c, u) = stream(&model, &readout, r, way, |_| true);
                    (s, c, u, r.bin_s)
                })
            });
            row("  the same, negative binomial readout", &columns);
        }
    }
    for kept in [48, 24, 12] {
        let columns = ways.map(|way| {
            over_animals(|a| {
                let r = &clean[a];
                let (s, c, u) = stream(&model, &model.readouts[a], r, way, |i| i < kept);
                (s, c, u, r.bin_s)
            })
        });
        row(&format!("{kept} of 96 channels"), &columns);
    }
    for ms in [1.0, 2.0, 5.0, 20.0, 50.0] {
        let other = model.at_bin_width(ms / 1e3).expect("a model at that width");
        let settings = AnimalSettings { bin_width_s: ms / 1e3, ..AnimalSettings::default() };
        let recorded: Vec<Recorded> = (0..ANIMALS).map(|a| record(a, settings)).collect();
        let columns = ways.map(|way| {
            over_animals(|a| {
                let r = &recorded[a];
                let (s, c, u) = stream(&other, &other.readouts[a], r, way, |_| true);
                (s, c, u, r.bin_s)
            })
        });
        row(&format!("bins of {ms} ms, model trained on 10 ms"), &columns);
    }
}
