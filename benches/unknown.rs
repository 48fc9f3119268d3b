//! Question: how well does novelty tell dynamics outside a model's training from unseen tasks
//! inside it, beside other scores that could be used? Budgets, for every family: AUROC >= 0.95, at
//! least half of the bins after 2 s called unknown; at most 2 % of the known ones.
//!
//!     cargo bench --bench unknown [-- MODEL [KNOWN.npz [STRANGERS.npz]]]
//!
//! Without files, what is known are unseen tasks of the animals of `regimed simulate`: for the
//! built-in model, or for one that was pretrained on them. With KNOWN.npz, its streams are, cut
//! into pieces of 6 s; STRANGERS.npz is one more family. The families' rates are the model's own.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};
use regimed::internals::checkpoint;
use regimed::internals::inference::Adaptation;
use regimed::internals::model::Model;
use regimed::internals::recording;
use regimed::internals::regime::{DecisionRule, Engine, Label};
use regimed::internals::teacher::{Animal, AnimalSettings, Regime, Simulation};

const ANIMALS: u64 = 3;
const TASKS: u64 = 16;
const FIRST_TASK: u64 = 5_000;
const SECONDS: f64 = 6.0;
const SCORED_FROM_S: f64 = 2.0;
const AUROC_MIN: f64 = 0.95;
const UNKNOWN_MIN: f64 = 0.5;
const KNOWN_UNKNOWN_MAX: f64 = 0.02;
const RECORDINGS_PER_FAMILY: u64 = 40;
const FAMILIES: [&str; 14] = [
    "lorenz",
    "roessler",
    "poisson",
    "silence-and-noise",
    "ramps",
    "bursts",
    "shuffled",
    "ornstein-uhlenbeck",
    "telegraph",
    "relaxation",
    "rhythm",
    "walk",
    "avalanches",
    "sequence",
];

type Counts = Vec<Vec<f32>>;

fn poisson(rate: f64, rng: &mut ChaCha8Rng) -> f32 {
    let drawn: f64 = Poisson::new(rate.clamp(1e-9, 200.0)).map_or(0.0, |p| p.sample(rng));
    drawn as f32
}

fn known(animal: &Animal, regime: Regime, task: u64, bins: usize) -> Counts {
    let seed = task ^ ((regime as u64) << 32);
    let mut simulation = Simulation::new(animal.clone(), animal.task(regime, task), seed);
    let mut counts = vec![0u16; animal.n_channels()];
    (0..bins)
        .map(|_| {
            simulation.bin(&mut counts);
            counts.iter().map(|&c| f32::from(c)).collect()
        })
        .collect()
}

/// A chaotic flow, each variable scaled to about unit variance, `[bins][3]`.
fn flow(lorenz: bool, bins: usize, bin_s: f64, rng: &mut ChaCha8Rng) -> Vec<[f64; 3]> {
    let mut x = [0, 1, 2].map(|_| rng.random_range(-1.0..1.0f64));
    x[2] += if lorenz { 20.0 } else { 0.5 };
    // Time units per second: oscillations of 1 to 2 Hz.
    let speed = rng.random_range(1.0..2.0) * if lorenz { 0.8 } else { 6.0 };
    let rate = |x: [f64; 3]| {
        if lorenz {
            [10.0 * (x[1] - x[0]), x[0] * (28.0 - x[2]) - x[1], x[0] * x[1] - 8.0 / 3.0 * x[2]]
        } else {
            [-x[1] - x[2], x[0] + 0.2 * x[1], 0.2 + x[2] * (x[0] - 5.7)]
        }
    };
    let steps = 20;
    let dt = speed * bin_s / f64::from(steps);
    let mut out = Vec::with_capacity(bins);
    for bin in 0..bins + 500 {
        for _ in 0..steps {
            let k = rate(x);
            let mid = rate([0, 1, 2].map(|i| x[i] + 0.5 * dt * k[i]));
            x = [0, 1, 2].map(|i| x[i] + dt * mid[i]);
        }
        if bin >= 500 {
            let (mean, sd) = if lorenz {
                ([0.0, 0.0, 23.5], [8.0, 9.0, 8.6])
            } else {
                ([0.0, 0.0, 1.0], [5.0, 4.8, 3.0])
            };
            out.push([0, 1, 2].map(|i| (x[i] - mean[i]) / sd[i]));
        }
    }
    out
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}

/// Latents of a family, `[bins][2 or 3]`, and the standard deviation of their loadings.
fn latents(
    family: &str,
    bins: usize,
    bin_s: f64,
    rng: &mut ChaCha8Rng,
) -> Option<(Vec<Vec<f64>>, f64)> {
    let circle = |phase: f64| vec![phase.sin(), phase.cos()];
    Some(match family {
        "lorenz" | "roessler" => {
            let flow = flow(family == "lorenz", bins, bin_s, rng);
            (flow.iter().map(|x| x.to_vec()).collect(), 0.4)
        }
        // Noise that forgets within 200 ms.
        "ornstein-uhlenbeck" => {
            let kept = (-bin_s / 0.2).exp();
            let mut x = vec![0.0; 3];
            let latents = (0..bins).map(|_| {
                x.iter_mut()
                    .for_each(|x| *x = kept * *x + (1.0 - kept * kept).sqrt() * normal(rng));
                x.clone()
            });
            (latents.collect(), 0.4)
        }
        // Slow charge, fast discharge, 1 to 2 times a second.
        "relaxation" => {
            let (rate, start) = (rng.random_range(1.0..2.0), rng.random_range(0.0..1.0));
            let latents = (0..bins).map(|t| {
                let phase = (t as f64 * bin_s * rate + start) % 1.0;
                match phase < 0.2 {
                    true => vec![1.5, 5.0 * phase],
                    false => vec![-0.4, 1.0 - 2.5 * (phase - 0.2)],
                }
            });
            (latents.collect(), 0.4)
        }
        "rhythm" => {
            let turn = std::f64::consts::TAU * bin_s * rng.random_range(8.0..12.0);
            ((0..bins).map(|t| circle(turn * t as f64)).collect(), 0.5)
        }
        "walk" => {
            let mut x = vec![0.0; 2];
            let latents = (0..bins).map(|_| {
                x.iter_mut().for_each(|x| *x += bin_s.sqrt() * normal(rng));
                x.clone()
            });
            (latents.collect(), 0.5)
        }
        _ => return None,
    })
}

/// A recording of dynamics that no teacher has, with a session's base rates; what is shuffled are
/// the channels of one that is known.
fn unknown(family: &str, baseline: &[f32], known: &Counts, number: u64, bin_s: f64) -> Counts {
    let mut rng = ChaCha8Rng::seed_from_u64(77 + number);
    let (bins, n) = (known.len(), baseline.len());
    let base: Vec<f64> = baseline.iter().map(|&d| f64::from(d)).collect();
    let draw = |log_rate: &dyn Fn(usize, usize) -> f64, rng: &mut ChaCha8Rng| -> Counts {
        (0..bins).map(|t| (0..n).map(|i| poisson(log_rate(t, i).exp(), rng)).collect()).collect()
    };
    if let Some((latents, scale)) = latents(family, bins, bin_s, &mut rng) {
        let loading: Vec<Vec<f64>> =
            (0..n).map(|_| latents[0].iter().map(|_| scale * normal(&mut rng)).collect()).collect();
        let log_rate = |t: usize, i: usize| {
            base[i] + loading[i].iter().zip(&latents[t]).map(|(c, x)| c * x).sum::<f64>()
        };
        return draw(&log_rate, &mut rng);
    }
    match family {
        "poisson" => draw(&|_, i| base[i], &mut rng),
        "silence-and-noise" => {
            let half: Vec<f64> = (0..n).map(|_| rng.random_range(-3.0..0.0)).collect();
            draw(&|_, i| base[i] + half[i], &mut rng)
        }
        "ramps" => {
            let slope: Vec<f64> = (0..n).map(|_| 0.8 * normal(&mut rng)).collect();
            draw(&|t, i| base[i] + slope[i] * (2.0 * t as f64 / bins as f64 - 1.0), &mut rng)
        }
        "bursts" => {
            let mut left = 0usize;
            let bursting: Vec<bool> = (0..bins)
                .map(|_| {
                    if left == 0 && rng.random_bool((2.0 * bin_s).min(1.0)) {
                        left = (0.1 / bin_s).ceil() as usize;
                    }
                    left = left.saturating_sub(1);
                    left > 0
                })
                .collect();
            draw(&|t, i| base[i] + if bursting[t] { 1.2 } else { -0.3 }, &mut rng)
        }
        // Four patterns of rates, another every 300 ms or so.
        "telegraph" => {
            let patterns: Vec<Vec<f64>> =
                (0..4).map(|_| (0..n).map(|_| 0.5 * normal(&mut rng)).collect()).collect();
            let mut now = 0;
            let of: Vec<usize> = (0..bins)
                .map(|_| {
                    if rng.random_bool((bin_s / 0.3).min(1.0)) {
                        now = rng.random_range(0..patterns.len());
                    }
                    now
                })
                .collect();
            draw(&|t, i| base[i] + patterns[of[t]][i], &mut rng)
        }
        // Each spike calls for nearly one more within 50 ms, anywhere.
        "avalanches" => {
            let kept = (-bin_s / 0.05).exp();
            let resting: f64 = base.iter().map(|b| b.exp()).sum();
            let mut trace = 0.0;
            (0..bins)
                .map(|_| {
                    let drive = 0.3 + trace * 0.7;
                    let bin: Vec<f32> =
                        base.iter().map(|b| poisson(b.exp() * drive, &mut rng)).collect();
                    let spikes = f64::from(bin.iter().sum::<f32>());
                    trace = kept * trace + (1.0 - kept) * spikes / resting;
                    bin
                })
                .collect()
        }
        // Channels fire one after the other, as a bump that goes round in 0.7 to 1.4 s.
        "sequence" => {
            let turn = rng.random_range(0.7..1.4) / bin_s;
            let place: Vec<f64> = (0..n).map(|_| rng.random_range(0.0..1.0)).collect();
            let log_rate = |t: usize, i: usize| {
                let off = (t as f64 / turn - place[i]).rem_euclid(1.0);
                let off = off.min(1.0 - off);
                base[i] - 0.4 + 2.0 * (-off * off / 0.005).exp()
            };
            draw(&log_rate, &mut rng)
        }
        _ => {
            let mut counts = known.clone();
            let mut order: Vec<usize> = (0..n).collect();
            for i in (1..n).rev() {
                order.swap(i, rng.random_range(0..=i));
            }
            for bin in &mut counts {
                *bin = order.iter().map(|&i| bin[i]).collect();
            }
            counts
        }
    }
}

const SCORES: [&str; 6] = [
    "novelty (published)",
    "innovation runs",
    "embedding distance",
    "against free rates of 0.3 s",
    "against free rates of 1 s",
    "surprise of the counts",
];

/// What a recording showed.
struct Seen {
    scores: [f64; SCORES.len()],
    /// Share of its bins that was called unknown.
    unknown: f64,
}

/// Candidate scores of a recording, means from [`SCORED_FROM_S`] on, and the share of the bins from
/// there whose label was `unknown`.
fn scores(model: &Model, session: usize, counts: &Counts) -> Seen {
    let readout = &model.readouts[session];
    let rule = DecisionRule::of(model, None);
    let mut engine = Engine::new(model, readout, rule, Adaptation::default()).expect("an engine");
    let n = readout.n_channels() as f64;
    let follow = [0.3, 1.0].map(|tau: f64| 1.0 - (-model.bin_width_s / tau).exp());
    let mut free: Vec<[f64; 2]> =
        readout.baseline.iter().map(|d| [f64::from(d.exp()); 2]).collect();
    let from = (SCORED_FROM_S / model.bin_width_s) as usize;
    let mut sums = [0.0f64; SCORES.len()];
    let mut unknown = 0;
    for (t, bin) in counts.iter().enumerate() {
        engine.push(Some(bin));
        let e = engine.estimate();
        let mut now = [0.0f64; SCORES.len()];
        now[0] = e.novelty.into();
        now[1] = e.innovation_runs.into();
        now[2] = e.embedding_distance.into();
        let mut variance = 0.0;
        for ((&y, &lambda), free) in bin.iter().zip(engine.expected_counts()).zip(&mut free) {
            let (y, lambda) = (f64::from(y), f64::from(lambda).max(1e-6));
            for (k, g) in follow.iter().enumerate() {
                let mu = free[k].max(1e-4);
                now[3 + k] -= (y * (lambda / mu).ln() - (lambda - mu)) / n;
                free[k] += g * (y - free[k]);
            }
            now[5] += (y - lambda) * -lambda.ln();
            variance += lambda * lambda.ln().powi(2);
        }
        now[5] /= variance.sqrt();
        if t >= from {
            unknown += usize::from(engine.label() == Some(Label::Unknown));
            sums.iter_mut().zip(now).for_each(|(s, x)| *s += x / (counts.len() - from) as f64);
        }
    }
    Seen { scores: sums, unknown: unknown as f64 / (counts.len() - from) as f64 }
}

/// Probability that a value of `positive` is above one of `negative`.
fn auroc(negative: &[f64], positive: &[f64]) -> f64 {
    let wins: f64 = positive
        .iter()
        .flat_map(|p| {
            negative
                .iter()
                .map(move |n| f64::from(u8::from(p > n)) + 0.5 * f64::from(u8::from(p == n)))
        })
        .sum();
    wins / (negative.len() * positive.len()) as f64
}

/// Pieces of a recording's streams, each with the readout of its session.
fn pieces(model: &Model, path: &str, bins: usize) -> Vec<(usize, Counts)> {
    let recording = recording::read(Path::new(path)).expect("a recording");
    let mut found = Vec::new();
    for stream in recording.streams() {
        let session = model.readouts.iter().position(|r| r.session == stream.session);
        let session = session.expect("a session of the model");
        let rows: Counts = stream
            .counts
            .rows()
            .into_iter()
            .map(|row| row.iter().map(|&c| f32::from(c)).collect())
            .collect();
        // A short stream is one piece.
        let whole = rows.chunks(bins).filter(|p| p.len() == bins || rows.len() < bins);
        found.extend(whole.map(|piece| (session, piece.to_vec())));
    }
    found
}

/// Unseen tasks of the simulator's animals.
fn simulated(bins: usize) -> Vec<(usize, Counts)> {
    let animals = (0..ANIMALS).map(|i| Animal::new(1, i, AnimalSettings::default()));
    let mut found = Vec::new();
    for (a, animal) in animals.enumerate() {
        for regime in Regime::ALL {
            found.extend((0..TASKS).map(|t| (a, known(&animal, regime, FIRST_TASK + t, bins))));
        }
    }
    found
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0.0, 0.0), |(n, sum), x| (n + 1.0, sum + x));
    sum / f64::max(n, 1.0)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let model = match args.first().map(String::as_str) {
        None | Some("builtin") => checkpoint::builtin().expect("the built-in model").model,
        Some(dir) => checkpoint::load(Path::new(dir)).expect("a model").model,
    };
    let bin_s = model.bin_width_s;
    let bins = (SECONDS / bin_s) as usize;
    let inside = match args.get(1) {
        Some(path) => pieces(&model, path, bins),
        None => simulated(bins),
    };
    let see = |of: &[(usize, Counts)]| -> Vec<Seen> {
        of.iter().map(|(session, counts)| scores(&model, *session, counts)).collect()
    };
    let mut outside: Vec<(String, Vec<Seen>)> = Vec::new();
    for family in FAMILIES {
        let of: Vec<(usize, Counts)> = (0..RECORDINGS_PER_FAMILY)
            .map(|i| {
                let (session, known) = &inside[(i as usize * 7) % inside.len()];
                let base = model.readouts[*session].baseline.as_slice().expect("a vector");
                (*session, unknown(family, base, known, i, bin_s))
            })
            .collect();
        outside.push((family.to_owned(), see(&of)));
    }
    if let Some(path) = args.get(2) {
        outside.push((path.clone(), see(&pieces(&model, path, bins))));
    }
    let inside = see(&inside);
    println!(
        "{} known recordings of {SECONDS} s, scored from {SCORED_FROM_S} s on; \
         {RECORDINGS_PER_FAMILY} of each family",
        inside.len()
    );
    let column = |of: &[Seen], s: usize| -> Vec<f64> { of.iter().map(|x| x.scores[s]).collect() };
    print!("{:24}", "AUROC");
    SCORES.iter().for_each(|name| print!(" {name:>28}"));
    println!(" {:>16}", "called unknown");
    let (mut least, mut said) = (f64::INFINITY, f64::INFINITY);
    for (family, seen) in &outside {
        print!("{family:24}");
        for s in 0..SCORES.len() {
            let found = auroc(&column(&inside, s), &column(seen, s));
            print!(" {found:>28.3}");
            if s == 0 {
                least = least.min(found);
            }
        }
        let unknown = mean(seen.iter().map(|x| x.unknown));
        said = said.min(unknown);
        println!(" {unknown:>16.3}");
    }
    let known_unknown = mean(inside.iter().map(|x| x.unknown));
    println!("least AUROC {least:.3} / {AUROC_MIN} = {:.2}", least / AUROC_MIN);
    println!(
        "least share of bins called unknown {said:.3} / {UNKNOWN_MIN} = {:.2}",
        said / UNKNOWN_MIN
    );
    println!(
        "known bins called unknown {known_unknown:.4} / {KNOWN_UNKNOWN_MAX} = {:.2}",
        known_unknown / KNOWN_UNKNOWN_MAX
    );
}
