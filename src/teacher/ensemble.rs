//! Networks of many kinds with exact exponents: what the estimator of the edge of chaos learns
//! from, and is examined on.
//!
//! `tau dx/dt = -x + J phi(x) + U u(t) + xi` with a connectivity, a transfer function and an input
//! drawn at random; channels are units whose firing rate is a sigmoid of `x`. The gain of `J` goes
//! from far below to far above the edge, with every kind of input: a stable network that follows a
//! smooth input moves as smoothly as a chaotic one.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson};

use super::connectivity::{Architecture, connectivity};
use super::draws::log_uniform;
use super::drive::{Drive, Input};
use super::flow::{Flow, Transfer};

/// Units, unless more are recorded.
const UNITS: std::ops::Range<usize> = 150..320;
/// Channels; many more in a few networks.
const CHANNELS: [f64; 2] = [16.0, 320.0];
const MANY_CHANNELS: std::ops::Range<usize> = 320..513;
const MANY_CHANNELS_SHARE: f64 = 0.05;
/// Mean rate over channels, spikes per second.
const RATE_HZ: [f64; 2] = [1.0, 50.0];
/// Each network is recorded so often: other channels, rates and bins.
const VIEWS: usize = 2;
/// Widths of bins, seconds.
const BIN_WIDTHS_S: [f64; 5] = [0.005, 0.01, 0.02, 0.05, 0.1];
/// Of the views, this share has bins of 10 ms.
const USUAL_WIDTH_SHARE: f64 = 0.4;
/// Steps of the integration, seconds, and the share of the networks with the shorter.
const STEPS_S: [f64; 2] = [0.005, 0.01];
const SHORT_STEP_SHARE: f64 = 0.25;
/// Membrane time constant, seconds.
const TAU_S: [f64; 2] = [0.06, 0.18];
/// Standard deviation of the units' own noise, at rest without recurrence times the root of two.
const NOISE: [f64; 2] = [0.02, 0.35];
/// Gain of the connectivity.
const GAIN: [f64; 2] = [0.2, 2.7];
/// Time that a recording lasts, and before it, seconds.
const RECORDED_S: f64 = 120.0;
const TRANSIENT_S: f64 = 4.0;
/// The exponent without noise and input: time before, and measured, seconds.
const SETTLED_S: f64 = 10.0;
const MEASURED_S: f64 = 60.0;
/// Share of the networks with an input beside their noise.
const DRIVEN_SHARE: f64 = 0.65;
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

/// Recordings of a network, and its exponents.
#[derive(Debug, Clone)]
pub(crate) struct Specimen {
    pub(crate) kind: Kind,
    /// Of the same time, by other channels.
    pub(crate) views: Vec<View>,
    /// Largest Lyapunov exponent along the recorded path, conditional on noise and input, 1/s
    /// (Benettin et al. 1980).
    pub(crate) driven_per_s: f64,
    /// The same of the network alone, without noise and input, 1/s.
    pub(crate) noise_free_per_s: f64,
}

/// Counts of some of a network's units.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Width of a bin, seconds.
    pub(crate) bin_width_s: f64,
    pub(crate) channels: usize,
    /// `[bins, channels]`.
    pub(crate) counts: Vec<u16>,
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
        Input::ALL[rng.random_range(1..Input::ALL.len())]
    } else {
        Input::None
    };
    Kind { architecture, transfer, input }
}

/// Network `number` of the ensemble of a seed, recorded.
#[must_use]
pub(crate) fn specimen(seed: u64, number: u64) -> Specimen {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    let kind = draw_kind(&mut rng);
    let channels: Vec<usize> = (0..VIEWS).map(|_| draw_channels(&mut rng)).collect();
    let most = channels.iter().copied().max().unwrap_or(0);
    let units = rng.random_range(UNITS).max(most);
    let step_s = STEPS_S[usize::from(!rng.random_bool(SHORT_STEP_SHARE))];
    let leak = (step_s / log_uniform(TAU_S, &mut rng)) as f32;
    let gain = rng.random_range(GAIN[0]..GAIN[1]);
    let noise = log_uniform(NOISE, &mut rng) as f32;
    let j = connectivity(kind.architecture, units, gain, &mut rng);
    let steps = |seconds: f64| (seconds / step_s).round() as usize;
    let (transient, recorded) = (steps(TRANSIENT_S), steps(RECORDED_S));
    let drive = Drive::new(kind.input, units, transient + recorded, step_s, &mut rng);
    let mut flow = Flow::new(&j, kind.transfer, leak, &mut rng);
    for t in 0..transient {
        flow.step(noise, drive.at(t), &mut rng);
    }
    flow.start_measuring();
    let mut states = Vec::with_capacity(recorded * units);
    for t in 0..recorded {
        flow.step(noise, drive.at(transient + t), &mut rng);
        states.extend_from_slice(flow.state());
    }
    let driven_per_s = flow.exponent() / step_s;
    let views = channels.into_iter().map(|n| view(&states, units, n, step_s, &mut rng)).collect();
    let silent = Drive::new(Input::None, units, 0, step_s, &mut rng);
    let mut alone = Flow::new(&j, kind.transfer, leak, &mut rng);
    for t in 0..steps(SETTLED_S + MEASURED_S) {
        if t == steps(SETTLED_S) {
            alone.start_measuring();
        }
        alone.step(0.0, silent.at(t), &mut rng);
    }
    let noise_free_per_s = alone.exponent() / step_s;
    Specimen { kind, views, driven_per_s, noise_free_per_s }
}

fn draw_channels(rng: &mut ChaCha8Rng) -> usize {
    if rng.random_bool(MANY_CHANNELS_SHARE) {
        return rng.random_range(MANY_CHANNELS);
    }
    log_uniform(CHANNELS, rng).round() as usize
}

/// Counts of `channels` of the units, from their states `[steps, units]`.
fn view(states: &[f32], units: usize, channels: usize, step_s: f64, rng: &mut ChaCha8Rng) -> View {
    let bin_width_s = match rng.random_bool(USUAL_WIDTH_SHARE) {
        true => 0.01,
        false => BIN_WIDTHS_S[rng.random_range(0..BIN_WIDTHS_S.len())].max(step_s),
    };
    let steps = (bin_width_s / step_s).round() as usize;
    let recorded = distinct(units, channels, rng);
    let readout = Sigmoids::new(channels, rng);
    let bins = states.len() / units / steps;
    let mut expected = vec![0.0f32; bins * channels];
    for (rates, states) in
        expected.chunks_exact_mut(channels).zip(states.chunks_exact(steps * units))
    {
        for state in states.chunks_exact(units) {
            readout.add_rates(state, &recorded, rates);
        }
    }
    let scale = scale_of(&expected, bin_width_s, rng);
    let counts = expected.iter().map(|e| spikes(f64::from(*e) * scale, rng)).collect();
    View { bin_width_s, channels, counts }
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
            height: (0..channels).map(|_| (rng.random_range(0.25..1.0) * height) as f32).collect(),
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
