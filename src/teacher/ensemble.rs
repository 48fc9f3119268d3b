//! Networks of many kinds with exact exponents: what the estimator of the edge of chaos learns
//! from, and is examined on.
//!
//! `tau dx/dt = -x + J phi(x) + U u(t) + xi` with a connectivity, a transfer function and an input
//! drawn at random; channels are units whose firing rate is a sigmoid of `x`. The gain of `J` goes
//! from far below to far above the edge, with every kind of input: a stable network that follows a
//! smooth input moves as smoothly as a chaotic one.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};

use super::connectivity::{Architecture, connectivity};
use super::drive::{Drive, Input};
use super::flow::{Flow, Transfer};

/// Units, unless more are recorded.
const UNITS: std::ops::Range<usize> = 150..320;
/// Channels.
const CHANNELS: [f64; 2] = [16.0, 512.0];
/// Mean rate over channels, spikes per second.
const RATE_HZ: [f64; 2] = [1.0, 50.0];
/// Widths of bins, seconds.
const BIN_WIDTHS_S: [f64; 4] = [0.005, 0.01, 0.02, 0.05];
/// Of the ensemble, this share has bins of 10 ms.
const USUAL_WIDTH_SHARE: f64 = 0.4;
/// Longest step of the integration, seconds.
const STEP_S_MAX: f64 = 0.01;
/// Membrane time constant, seconds.
const TAU_S: [f64; 2] = [0.06, 0.18];
/// Standard deviation of the units' own noise, at rest without recurrence times the root of two.
const NOISE: [f64; 2] = [0.02, 0.35];
/// Gain of the connectivity.
const GAIN: [f64; 2] = [0.2, 2.6];
/// Time that a recording lasts, and before it, seconds.
const RECORDED_S: f64 = 120.0;
const TRANSIENT_S: f64 = 4.0;
/// The exponent without noise and input: time before, and measured, seconds.
const SETTLED_S: f64 = 10.0;
const MEASURED_S: f64 = 60.0;
/// Share of the networks with an input beside their noise.
const DRIVEN_SHARE: f64 = 0.55;
/// Share of the networks with another transfer function than tanh.
const OTHER_TRANSFER_SHARE: f64 = 0.25;
/// Most spikes in a bin.
const COUNT_MAX: f64 = 255.0;

/// What a network is, for tables of errors by kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Kind {
    pub(crate) architecture: Architecture,
    pub(crate) transfer: Transfer,
    pub(crate) input: Input,
}

/// A recording of a network, and its exponents.
#[derive(Debug, Clone)]
pub(crate) struct Specimen {
    pub(crate) kind: Kind,
    /// Width of a bin, seconds.
    pub(crate) bin_width_s: f64,
    /// `[bins, channels]`.
    pub(crate) counts: Vec<u16>,
    pub(crate) channels: usize,
    /// Largest Lyapunov exponent along the recorded path, conditional on noise and input, 1/s
    /// (Benettin et al. 1980).
    pub(crate) driven_per_s: f64,
    /// The same of the network alone, without noise and input, 1/s.
    pub(crate) noise_free_per_s: f64,
}

fn log_uniform([low, high]: [f64; 2], rng: &mut ChaCha8Rng) -> f64 {
    rng.random_range(low.ln()..high.ln()).exp()
}

/// Draws the kind of a network.
fn draw_kind(rng: &mut ChaCha8Rng) -> Kind {
    let architecture = match rng.random_range(0.0..1.0) {
        x if x < 0.3 => Architecture::Random,
        x if x < 0.55 => Architecture::LowRank,
        x if x < 0.75 => Architecture::SparseExcitatoryInhibitory,
        _ => Architecture::Structured,
    };
    let transfer = if rng.random_bool(OTHER_TRANSFER_SHARE) {
        [Transfer::Clipped, Transfer::Algebraic, Transfer::Rectified][rng.random_range(0..3)]
    } else {
        Transfer::Tanh
    };
    let input = if rng.random_bool(DRIVEN_SHARE) {
        [Input::White, Input::OrnsteinUhlenbeck, Input::Smooth, Input::Trials]
            [rng.random_range(0..4)]
    } else {
        Input::None
    };
    Kind { architecture, transfer, input }
}

/// Network `number` of the ensemble of a seed, recorded. `kind` is drawn where none is given.
#[must_use]
pub(crate) fn specimen(seed: u64, number: u64, kind: Option<Kind>) -> Specimen {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    let kind = kind.unwrap_or_else(|| draw_kind(&mut rng));
    let channels = log_uniform(CHANNELS, &mut rng).round() as usize;
    let units = rng.random_range(UNITS).max(channels);
    let bin_width_s = match rng.random_bool(USUAL_WIDTH_SHARE) {
        true => 0.01,
        false => BIN_WIDTHS_S[rng.random_range(0..BIN_WIDTHS_S.len())],
    };
    let step_s = bin_width_s.min(STEP_S_MAX);
    let steps_per_bin = (bin_width_s / step_s).round() as usize;
    let leak = (step_s / log_uniform(TAU_S, &mut rng)) as f32;
    let gain = rng.random_range(GAIN[0]..GAIN[1]);
    let noise = log_uniform(NOISE, &mut rng) as f32;
    let j = connectivity(kind.architecture, units, gain, &mut rng);
    let steps = |seconds: f64| (seconds / step_s).round() as usize;
    let transient = steps(TRANSIENT_S);
    let bins = (RECORDED_S / bin_width_s).round() as usize;
    let total = transient + bins * steps_per_bin;
    let drive = Drive::new(kind.input, units, total, step_s, &mut rng);
    let mut flow = Flow::new(&j, kind.transfer, leak, &mut rng);
    let recorded = distinct(units, channels, &mut rng);
    let readout = Sigmoids::new(channels, &mut rng);
    let mut expected = Vec::with_capacity(bins * channels);
    for t in 0..transient {
        flow.step(noise, drive.at(t), &mut rng);
    }
    flow.start_measuring();
    for bin in 0..bins {
        let from = expected.len();
        expected.resize(from + channels, 0.0f32);
        for s in 0..steps_per_bin {
            flow.step(noise, drive.at(transient + bin * steps_per_bin + s), &mut rng);
            readout.add_rates(flow.state(), &recorded, &mut expected[from..]);
        }
    }
    let driven_per_s = flow.exponent() / step_s;
    let scale = scale_of(&expected, bin_width_s, &mut rng);
    let counts = expected.iter().map(|e| spikes(f64::from(*e) * scale, &mut rng)).collect();
    let silent = Drive::new(Input::None, units, 0, step_s, &mut rng);
    let mut alone = Flow::new(&j, kind.transfer, leak, &mut rng);
    for t in 0..steps(SETTLED_S + MEASURED_S) {
        if t == steps(SETTLED_S) {
            alone.start_measuring();
        }
        alone.step(0.0, silent.at(t), &mut rng);
    }
    let noise_free_per_s = alone.exponent() / step_s;
    Specimen { kind, bin_width_s, counts, channels, driven_per_s, noise_free_per_s }
}

/// `n` of `of` different numbers.
fn distinct(of: usize, n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..of).collect();
    for i in 0..n {
        let other = rng.random_range(i..of);
        all.swap(i, other);
    }
    all.truncate(n);
    all
}

/// Channels' rates: a base and a sigmoid of the unit's state.
struct Sigmoids {
    base: Vec<f32>,
    height: Vec<f32>,
    slope: f32,
}

impl Sigmoids {
    fn new(channels: usize, rng: &mut ChaCha8Rng) -> Self {
        let height = log_uniform([10.0, 50.0], rng);
        Self {
            base: (0..channels).map(|_| rng.random_range(0.5..5.0)).collect(),
            height: (0..channels)
                .map(|_| (rng.random_range(0.25..1.0) * height) as f32)
                .collect(),
            slope: rng.random_range(0.8..2.2),
        }
    }

    fn add_rates(&self, state: &[f32], recorded: &[usize], rates: &mut [f32]) {
        let of = self.base.iter().zip(&self.height).zip(recorded);
        for (rate, ((base, height), &unit)) in rates.iter_mut().zip(of) {
            *rate += base + height / (1.0 + (-self.slope * state[unit]).exp());
        }
    }
}

/// Factor that makes of summed rates expected counts with a mean rate drawn for the recording.
fn scale_of(expected: &[f32], bin_width_s: f64, rng: &mut ChaCha8Rng) -> f64 {
    let mean = expected.iter().map(|e| f64::from(*e)).sum::<f64>() / expected.len() as f64;
    log_uniform(RATE_HZ, rng) * bin_width_s / mean.max(1e-12)
}

fn spikes(expected: f64, rng: &mut ChaCha8Rng) -> u16 {
    Poisson::new(expected).map_or(0.0, |p| p.sample(rng)).min(COUNT_MAX) as u16
}

/// Standard normal variates.
pub(super) fn normals(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| StandardNormal.sample(rng)).collect()
}
