//! Question: how well does the estimator in the binary read the largest driven Lyapunov exponent
//! off the counts of networks of kinds that it did not learn from, and what does it cost? Budgets,
//! for every kind, 60 s of 96 channels: mean error <= 0.40 /s (clipped to +-2), sign >= 0.95 where
//! the truth is beyond 0.25 /s, area under the curve of chaos >= 0.97, 90 % intervals hold 0.85 to
//! 0.95; stable networks with smooth strong input read as chaotic <= 3 %; a reading <= 5 ms.
//!
//!     cargo bench --bench edge [-- NETWORKS]
//!
//! Networks are 40 of each kind unless told otherwise. The ensemble of `regimed atlas` has none of
//! these kinds but the first, and of the inputs none but rhythms and steps (of its own drawing):
//! transfer functions, weights and inputs are others, and this code is its own.

use std::sync::Arc;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal, StudentT};
use regimed::internals::checkpoint::builtin_edge;
use regimed::internals::edge::{DrivenExponent, EdgeMeter, Estimator};

const STEP_S: f64 = 0.01;
const CHANNELS: usize = 96;
const SECONDS: f64 = 60.0;
const TRANSIENT_S: f64 = 5.0;
const CLIPPED_TO_PER_S: f64 = 2.0;
const SIGN_FROM_PER_S: f64 = 0.25;
const ERROR_MAX_PER_S: f64 = 0.4;
const SIGN_MIN: f64 = 0.95;
const AREA_MIN: f64 = 0.97;
const HELD: [f64; 2] = [0.85, 0.95];
const CONTROLS_MAX: f64 = 0.03;
const READING_MS_MAX: f64 = 5.0;

/// A kind of network: its name and what makes it.
struct Kind {
    name: &'static str,
    gain: [f64; 2],
    weights: Weights,
    /// Output and slope of a unit.
    transfer: fn(f64) -> [f64; 2],
    input: Input,
}

#[derive(Clone, Copy)]
enum Weights {
    Normal,
    /// Student's t with three degrees of freedom.
    Heavy,
    /// Four modules, thrice as strong within.
    Modules,
    /// Normal, and time constants that differ fivefold.
    ManyTimescales,
    /// A ring of local excitation, and normal weights.
    Local,
}

#[derive(Clone, Copy, PartialEq)]
enum Input {
    None,
    /// Three sinusoids of 0.3 to 3 Hz, on random patterns.
    Rhythms,
    /// A step to another pattern every second.
    Steps,
    /// Three sinusoids whose frequencies sweep from 0.3 to 3 Hz and back in 4 to 20 s.
    Chirps,
    /// What six units of another network do, that is chaotic.
    Network,
    /// Smoothed noise, strong.
    Smooth,
}

fn tanh(x: f64) -> [f64; 2] {
    let p = x.tanh();
    [p, 1.0 - p * p]
}

fn softsign(x: f64) -> [f64; 2] {
    let s = 1.0 + x.abs();
    [x / s, 1.0 / (s * s)]
}

fn arctangent(x: f64) -> [f64; 2] {
    let q = std::f64::consts::FRAC_PI_2;
    [(q * x).atan() / q, 1.0 / (1.0 + (q * x).powi(2))]
}

const KINDS: [Kind; 11] = [
    Kind {
        name: "random, no input",
        gain: [0.4, 2.6],
        weights: Weights::Normal,
        transfer: tanh,
        input: Input::None,
    },
    Kind {
        name: "softsign",
        gain: [0.4, 2.6],
        weights: Weights::Normal,
        transfer: softsign,
        input: Input::None,
    },
    Kind {
        name: "arctangent",
        gain: [0.4, 2.6],
        weights: Weights::Normal,
        transfer: arctangent,
        input: Input::None,
    },
    Kind {
        name: "heavy-tailed weights",
        gain: [0.4, 2.6],
        weights: Weights::Heavy,
        transfer: tanh,
        input: Input::None,
    },
    Kind {
        name: "modules",
        gain: [0.4, 2.6],
        weights: Weights::Modules,
        transfer: tanh,
        input: Input::None,
    },
    Kind {
        name: "many timescales",
        gain: [0.4, 2.6],
        weights: Weights::ManyTimescales,
        transfer: tanh,
        input: Input::None,
    },
    Kind {
        name: "local excitation",
        gain: [0.4, 2.2],
        weights: Weights::Local,
        transfer: tanh,
        input: Input::None,
    },
    Kind {
        name: "rhythms as input",
        gain: [0.4, 2.6],
        weights: Weights::Normal,
        transfer: tanh,
        input: Input::Rhythms,
    },
    Kind {
        name: "steps as input",
        gain: [0.4, 2.6],
        weights: Weights::Normal,
        transfer: tanh,
        input: Input::Steps,
    },
    Kind {
        name: "chirps as input",
        gain: [0.4, 2.6],
        weights: Weights::Normal,
        transfer: tanh,
        input: Input::Chirps,
    },
    Kind {
        name: "a chaotic network as input",
        gain: [0.4, 2.6],
        weights: Weights::Normal,
        transfer: tanh,
        input: Input::Network,
    },
];
/// Stable whatever the input.
const CONTROL: Kind = Kind {
    name: "control: stable, smooth strong input",
    gain: [0.3, 0.85],
    weights: Weights::Normal,
    transfer: softsign,
    input: Input::Smooth,
};

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// `[units, units]`, spectral radius about the gain.
fn weights(kind: Weights, units: usize, gain: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let scale = gain / (units as f64).sqrt();
    let heavy = StudentT::new(3.0).expect("degrees of freedom");
    let module = |i: usize| 4 * i / units;
    let mut w: Vec<f64> = (0..units * units)
        .map(|at| {
            let (i, j) = (at / units, at % units);
            match kind {
                // Of variance 3.
                Weights::Heavy => scale * heavy.sample(rng) / 3f64.sqrt(),
                Weights::Modules => {
                    let within = if module(i) == module(j) { 3.0 } else { 1.0 };
                    scale * within * normal(rng) / 3f64.sqrt()
                }
                _ => scale * normal(rng),
            }
        })
        .collect();
    if let Weights::Local = kind {
        for (at, w) in w.iter_mut().enumerate() {
            let apart = (at / units).abs_diff(at % units);
            let apart = apart.min(units - apart) as f64 / units as f64;
            *w += 1.3 * (20.0 * ((std::f64::consts::TAU * apart).cos() - 1.0)).exp()
                / (0.09 * units as f64)
                - 0.5 / units as f64;
        }
    }
    w
}

/// What units get from outside, `[units]` at each step.
struct Drive {
    kind: Input,
    patterns: Vec<Vec<f64>>,
    hz: Vec<f64>,
    strength: f64,
    course: Vec<Vec<f64>>,
}

/// White noise through two filters of 0.1 s, of variance 1, `[steps][n]`.
fn smooth(n: usize, steps: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut x = vec![[0.0f64; 2]; n];
    let mut one = |x: &mut [f64; 2]| {
        x[0] += STEP_S / 0.1 * (normal(rng) - x[0]);
        x[1] += STEP_S / 0.1 * (x[0] - x[1]);
        x[1] / 0.16
    };
    (0..steps).map(|_| x.iter_mut().map(&mut one).collect()).collect()
}

/// Twice the output of `n` units of a network of 80 with a gain of 2 and 0.12 s, `[steps][n]`.
fn other_network(n: usize, steps: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    const UNITS: usize = 80;
    let j = weights(Weights::Normal, UNITS, 2.0, rng);
    let mut x: Vec<f64> = (0..UNITS).map(|_| normal(rng)).collect();
    let mut step = || {
        let outputs: Vec<f64> = x.iter().map(|x| x.tanh()).collect();
        for (x, row) in x.iter_mut().zip(j.chunks_exact(UNITS)) {
            let to: f64 = row.iter().zip(&outputs).map(|(w, y)| w * y).sum();
            *x += STEP_S / 0.12 * (to - *x);
        }
        outputs[..n].iter().map(|y| 2.0 * y).collect()
    };
    (0..steps).map(|_| step()).collect()
}

/// Sinusoids whose frequencies sweep, `[steps][n]`.
fn chirps(n: usize, steps: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut of: Vec<[f64; 3]> =
        (0..n).map(|_| [rng.random_range(4.0..20.0), rng.random_range(0.0..1.0), 0.0]).collect();
    let mut one = |[sweep_s, at, phase]: &mut [f64; 3]| {
        *at = (*at + STEP_S / *sweep_s) % 1.0;
        let up = 1.0 - (2.0 * *at - 1.0).abs();
        *phase += std::f64::consts::TAU * STEP_S * 0.3 * 10f64.powf(up);
        phase.sin()
    };
    (0..steps).map(|_| of.iter_mut().map(&mut one).collect()).collect()
}

impl Drive {
    fn new(kind: Input, units: usize, steps: usize, rng: &mut ChaCha8Rng) -> Self {
        let n = match kind {
            Input::None => 0,
            Input::Rhythms => 3,
            Input::Steps => 8,
            Input::Chirps => 3,
            Input::Network | Input::Smooth => 6,
        };
        let patterns = (0..n).map(|_| (0..units).map(|_| normal(rng)).collect()).collect();
        let course = match kind {
            Input::Smooth => smooth(n, steps, rng),
            Input::Network => other_network(n, steps, rng),
            Input::Chirps => chirps(n, steps, rng),
            _ => Vec::new(),
        };
        let hz = (0..n).map(|_| rng.random_range(0.3f64.ln()..3f64.ln()).exp()).collect();
        let strength = if kind == Input::Smooth {
            rng.random_range(0.6..1.5)
        } else {
            rng.random_range(0.2f64.ln()..1.2f64.ln()).exp()
        };
        Self { kind, patterns, hz, strength, course }
    }

    fn add(&self, step: usize, to: &mut [f64]) {
        let seconds = step as f64 * STEP_S;
        for (k, pattern) in self.patterns.iter().enumerate() {
            let now = match self.kind {
                Input::None => 0.0,
                Input::Rhythms => (std::f64::consts::TAU * self.hz[k] * seconds).sin(),
                Input::Steps => f64::from(u8::from(seconds as usize * 5 % 8 == k)),
                Input::Chirps => self.course[step][k],
                _ => self.course[step][k] / (self.patterns.len() as f64).sqrt(),
            };
            to.iter_mut().zip(pattern).for_each(|(x, p)| *x += self.strength * now * p);
        }
    }
}

/// Counts `[bins][CHANNELS]`, and the exponent along the path, 1/s.
fn record(kind: &Kind, seed: u64) -> (Vec<Vec<f32>>, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let units = rng.random_range(160..260);
    let gain = rng.random_range(kind.gain[0]..kind.gain[1]);
    let j = weights(kind.weights, units, gain, &mut rng);
    let tau = rng.random_range(0.07..0.16);
    let leak: Vec<f64> = (0..units)
        .map(|_| match kind.weights {
            Weights::ManyTimescales => STEP_S / (tau * rng.random_range(0.45f64..2.2)),
            _ => STEP_S / tau,
        })
        .collect();
    let noise: f64 = rng.random_range(0.03f64.ln()..0.3f64.ln()).exp();
    let [transient, bins] = [TRANSIENT_S, SECONDS].map(|s| (s / STEP_S).round() as usize);
    let drive = Drive::new(kind.input, units, transient + bins, &mut rng);
    let mean_hz = rng.random_range(5.0..20.0);
    let slope = rng.random_range(0.8..2.2);
    let mut x: Vec<f64> = (0..units).map(|_| normal(&mut rng)).collect();
    let mut v: Vec<f64> = (0..units).map(|_| normal(&mut rng)).collect();
    let mut rates = Vec::with_capacity(bins);
    let mut growth = 0.0;
    for step in 0..transient + bins {
        let [outputs, slopes]: [Vec<f64>; 2] =
            [0, 1].map(|i| x.iter().map(|&x| (kind.transfer)(x)[i]).collect());
        let pushed: Vec<f64> = slopes.iter().zip(&v).map(|(s, v)| s * v).collect();
        let mut drift = vec![0.0; units];
        drive.add(step, &mut drift);
        for i in 0..units {
            let row = &j[i * units..(i + 1) * units];
            let dot = |y: &[f64]| row.iter().zip(y).map(|(w, y)| w * y).sum::<f64>();
            let (to, along) = (dot(&outputs) + drift[i], dot(&pushed));
            x[i] += leak[i] * (to - x[i]) + leak[i].sqrt() * noise * normal(&mut rng);
            v[i] += leak[i] * (along - v[i]);
        }
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-300);
        v.iter_mut().for_each(|v| *v /= norm);
        if step >= transient {
            growth += norm.ln();
            let rate = |x: &f64| 0.1 + 1.0 / (1.0 + (-slope * x).exp());
            rates.push(x[..CHANNELS].iter().map(rate).collect::<Vec<f64>>());
        }
    }
    let mean = rates.iter().flatten().sum::<f64>() / (bins * CHANNELS) as f64;
    let scale = mean_hz * STEP_S / mean;
    let mut spikes = |r: f64| -> f32 {
        let drawn: f64 = Poisson::new(r * scale).expect("a rate").sample(&mut rng);
        drawn as f32
    };
    let counts = rates.iter().map(|bin| bin.iter().map(|&r| spikes(r)).collect()).collect();
    (counts, growth / (bins as f64 * STEP_S))
}

/// Truth, clipped, and what was read of each network; `None` where it was not resolved.
fn examine(
    kind: &Kind,
    networks: u64,
    estimator: &Arc<Estimator>,
) -> Vec<(f64, Option<DrivenExponent>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let one = |seed: u64| {
        let (counts, truth) = record(kind, seed);
        let mut meter = EdgeMeter::new(estimator.clone(), CHANNELS, STEP_S, SECONDS).expect("bins");
        let mut newest = None;
        for bin in &counts {
            meter.push(bin);
            newest = meter.due().or(newest);
        }
        let clipped = truth.clamp(-CLIPPED_TO_PER_S, CLIPPED_TO_PER_S);
        (clipped, newest.and_then(|reading| reading.exponent))
    };
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|t| {
                scope.spawn(move || {
                    (t..networks).step_by(threads as usize).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        parts.into_iter().for_each(|p| all.extend(p.join().expect("a thread")));
    });
    all
}

fn share(of: impl Iterator<Item = bool>) -> f64 {
    let all: Vec<bool> = of.collect();
    all.iter().filter(|x| **x).count() as f64 / all.len().max(1) as f64
}

/// Area under the curve of the probability of chaos.
fn area(read: &[(f64, DrivenExponent)]) -> f64 {
    let of = |chaotic: bool| -> Vec<f64> {
        read.iter().filter(|(t, _)| (*t > 0.0) == chaotic).map(|(_, e)| e.p_chaos).collect()
    };
    let (chaotic, ordered) = (of(true), of(false));
    let mut wins = 0.0;
    for c in &chaotic {
        for o in &ordered {
            wins += f64::from(u8::from(c > o)) + 0.5 * f64::from(u8::from(c == o));
        }
    }
    wins / (chaotic.len() * ordered.len()) as f64
}

fn verdict(held: bool) -> &'static str {
    if held { "" } else { " !" }
}

fn row(kind: &Kind, found: &[(f64, Option<DrivenExponent>)]) {
    let read: Vec<(f64, DrivenExponent)> =
        found.iter().filter_map(|(t, e)| Some((*t, (*e)?))).collect();
    let n = read.len().max(1) as f64;
    let error = read.iter().map(|(t, e)| (t - e.per_s).abs()).sum::<f64>() / n;
    let sign = share(
        read.iter()
            .filter(|(t, _)| t.abs() > SIGN_FROM_PER_S)
            .map(|(t, e)| t.signum() == e.per_s.signum()),
    );
    let area = area(&read);
    let held = share(read.iter().map(|(t, e)| (e.low..=e.high).contains(t)));
    println!(
        "| {} | {} of {} | {error:.2}{} | {sign:.2}{} | {area:.2}{} | {held:.2}{} |",
        kind.name,
        read.len(),
        found.len(),
        verdict(error <= ERROR_MAX_PER_S),
        verdict(sign >= SIGN_MIN),
        verdict(area >= AREA_MIN || area.is_nan()),
        verdict((HELD[0]..=HELD[1]).contains(&held)),
    );
}

/// Time of a bin and of a reading of a full window, 256 channels at 10 Hz.
fn cost(estimator: &Arc<Estimator>) {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let spikes = Poisson::new(0.1f64).expect("a rate");
    let mut shared = 0.0f64;
    let bins: Vec<Vec<f32>> = (0..24_000)
        .map(|_| {
            shared = 0.95 * shared + 0.3 * normal(&mut rng);
            let up = f64::from(u8::from(shared > 0.0));
            (0..256)
                .map(|i| {
                    let drawn: f64 = spikes.sample(&mut rng);
                    (drawn * if i % 2 == 0 { 0.5 + up } else { 1.0 }).round() as f32
                })
                .collect()
        })
        .collect();
    let mut meter = EdgeMeter::new(estimator.clone(), 256, STEP_S, 120.0).expect("bins");
    let (mut of_bins, mut of_readings) = (Vec::new(), Vec::new());
    for bin in &bins {
        let began = Instant::now();
        meter.push(bin);
        of_bins.push(began.elapsed().as_secs_f64() * 1e6);
        let began = Instant::now();
        if meter.due().is_some_and(|r| r.seconds > 119.0) {
            of_readings.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let middle = |of: &mut Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    };
    let reading = middle(&mut of_readings);
    println!(
        "256 channels at 10 Hz, 120 s: a bin {:.1} us, a reading {reading:.2} ms (budget \
         {READING_MS_MAX} ms, ratio {:.2})",
        middle(&mut of_bins),
        reading / READING_MS_MAX
    );
}

fn main() {
    let argument = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let networks = argument.and_then(|n| n.parse().ok()).unwrap_or(40u64);
    let estimator = Arc::new(builtin_edge().expect("the estimator in the binary"));
    cost(&estimator);
    println!(
        "\n{SECONDS} s of {CHANNELS} channels, none of these kinds learned; '!' misses its \
         budget: error <= {ERROR_MAX_PER_S}, sign >= {SIGN_MIN}, area >= {AREA_MIN}, 90 % hold {} \
         to {}\n",
        HELD[0], HELD[1]
    );
    println!("| networks | resolved | mean error /s | sign right | area, chaos | 90 % hold |");
    println!("|---|---|---|---|---|---|");
    for kind in &KINDS {
        row(kind, &examine(kind, networks, &estimator));
    }
    let controls = examine(&CONTROL, networks, &estimator);
    let chaotic = share(controls.iter().map(|(_, e)| e.is_some_and(|e| e.per_s > 0.0)));
    let sure = share(controls.iter().map(|(_, e)| e.is_some_and(|e| e.low > 0.0)));
    row(&CONTROL, &controls);
    println!(
        "\n{}: read as chaotic {chaotic:.3} (budget {CONTROLS_MAX}){}, with an interval above 0 \
         {sure:.3}",
        CONTROL.name,
        verdict(chaotic <= CONTROLS_MAX)
    );
}
