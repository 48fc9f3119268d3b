//! One animal: its network's shared structure, its recorded channels, and its tasks.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::draws::{orthonormal, shuffle};

/// The regimes, in the order of recordings' `regime_names`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regime {
    /// Every state decays to the same point.
    StableFixedPoint,
    /// Two stable fixed points.
    Bistable,
    /// A planar oscillation, 1 to several Hz.
    LimitCycle,
    /// A ring of marginally stable points.
    RingAttractor,
    /// Chaos of a random network.
    Chaotic,
    /// Whatever a random network of low rank does: not one of [`Self::ALL`].
    RandomLowRank,
}

impl Regime {
    /// All regimes in order.
    pub const ALL: [Self; 5] = [
        Self::StableFixedPoint,
        Self::Bistable,
        Self::LimitCycle,
        Self::RingAttractor,
        Self::Chaotic,
    ];
}

/// Names of [`Regime::ALL`].
pub const REGIME_NAMES: [&str; 5] =
    ["stable_fixed_point", "bistable", "limit_cycle", "ring_attractor", "chaotic"];

/// Dimensions of the structured part of the connectivity: normal columns, then the ring's two.
const LATENTS: usize = 6;
/// Of these, normal columns.
const NORMAL: usize = 4;
/// Membrane time constant, seconds.
const TAU_S: f64 = 0.1;
/// Integration step, seconds, at most.
const STEP_S_MAX: f64 = 0.005;
/// Weight of the random part outside the chaotic regime.
const RANDOM_GAIN: f32 = 0.3;
/// Frequencies of limit cycles, Hz.
const FREQUENCY_HZ: [f64; 2] = [0.7, 4.0];
/// Angle by which tasks turn a regime's plane, radians (standard deviation).
const PLANE_TURN: f64 = 0.25;

/// Rank of random networks of low rank (the scale of JEDI's synthetic teachers, arXiv 2603.10489).
const LOW_RANK: usize = 5;
/// Number of matrices that these networks are mixtures of.
const LOW_RANK_PATTERNS: usize = 3;
/// Usual gain `g` of these networks, [`Regime::RandomLowRank`].
const LOW_RANK_GAIN: f64 = 1.8;

/// From one day to another: share of channels that record another unit, standard deviations of the
/// others' log rates and log gains.
const UNITS_LOST_PER_DAY: f64 = 0.3;
const RATE_DRIFT: f64 = 0.2;
const GAIN_DRIFT: f64 = 0.1;

/// Size of the network and of the recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnimalSettings {
    /// Units of the network.
    pub units: usize,
    /// Units recorded, at most all.
    pub channels: usize,
    /// Mean rate over channels at rest, spikes per second.
    pub rate_hz: f64,
    /// Width of a bin, seconds.
    pub bin_width_s: f64,
}

impl Default for AnimalSettings {
    fn default() -> Self {
        Self { units: 256, channels: 96, rate_hz: 14.0, bin_width_s: 0.01 }
    }
}

/// One animal: its network's shared structure and its recorded channels.
#[derive(Debug, Clone)]
pub struct Animal {
    pub(super) settings: AnimalSettings,
    seed: u64,
    /// Seed of what all its animals share.
    family: u64,
    /// `M`, `[units, LATENTS]`. Its last two columns are `sqrt(2) cos` and `sqrt(2) sin` of evenly
    /// spaced angles: with normal ones the ring would have gaps of finite size.
    pub(super) m: Vec<f32>,
    /// `chi / sqrt(N)`, `[units, units]`.
    chi: Vec<f32>,
    /// An orthonormal frame of the normal latents for each regime, `[NORMAL][NORMAL]`.
    frames: [Vec<Vec<f64>>; 5],
    /// Units recorded.
    pub(super) observed: Vec<usize>,
    /// Log counts per bin at rest, and how strongly a unit's rate drives them, `[channels]`.
    pub(super) log_base: Vec<f32>,
    pub(super) gain: Vec<f32>,
}

/// A task: one network of an animal.
#[derive(Debug, Clone)]
pub struct Task {
    pub regime: Regime,
    /// Number of the task: unique over an animal's regimes.
    pub number: i64,
    /// Frequency that the connectivity was made for, Hz; 0 where it is no limit cycle.
    pub design_frequency_hz: f64,
    /// `J`, `[units, units]`.
    pub(super) j: Vec<f32>,
    /// `c`, `[units]`.
    pub(super) input: Vec<f32>,
    /// Latent directions (orthonormal) in which a limit cycle turns, `[2][LATENTS]`.
    pub(super) plane: [Vec<f64>; 2],
}

fn normals(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| StandardNormal.sample(rng)).collect()
}

impl Animal {
    /// Animal number `index` of a seed.
    #[must_use]
    pub fn new(seed: u64, index: u64, settings: AnimalSettings) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index << 32);
        let n = settings.units;
        let mut angles: Vec<f64> =
            (0..n).map(|i| std::f64::consts::TAU * i as f64 / n as f64).collect();
        shuffle(&mut angles, n, &mut rng);
        let normal = normals(&mut rng, n * NORMAL);
        let m = normal
            .chunks_exact(NORMAL)
            .zip(&angles)
            .flat_map(|(row, angle)| {
                let ring = [angle.cos(), angle.sin()].map(|x| std::f64::consts::SQRT_2 * x);
                row.iter().copied().chain(ring).map(|x| x as f32).collect::<Vec<_>>()
            })
            .collect();
        let over = 1.0 / (n as f64).sqrt();
        let chi = normals(&mut rng, n * n).iter().map(|x| (x * over) as f32).collect();
        let frames =
            [(); 5].map(|()| orthonormal((0..NORMAL).map(|_| normals(&mut rng, NORMAL)).collect()));
        let channels = settings.channels.min(n);
        let mut observed: Vec<usize> = (0..n).collect();
        shuffle(&mut observed, channels, &mut rng);
        observed.truncate(channels);
        let base = (settings.rate_hz * settings.bin_width_s).ln();
        let log_base =
            normals(&mut rng, channels).iter().map(|x| (base + 0.5 * x) as f32).collect();
        let gain =
            normals(&mut rng, channels).iter().map(|x| (0.8 * (0.2 * x).exp()) as f32).collect();
        Self {
            settings,
            seed: seed ^ (index << 32),
            family: seed,
            m,
            chi,
            frames,
            observed,
            log_base,
            gain,
        }
    }

    /// The animal on another day: of its channels seven in ten keep their unit, the others record
    /// another one; rates have drifted (log rates by 0.2, their dependence on the unit's state by
    /// 10 %).
    #[must_use]
    pub fn on_day(&self, day: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((1 << 50) + day);
        let mut animal = self.clone();
        let mut spare: Vec<usize> =
            (0..self.settings.units).filter(|u| !self.observed.contains(u)).collect();
        let replaced = (self.observed.len() as f64 * UNITS_LOST_PER_DAY).round() as usize;
        let replaced = replaced.min(spare.len());
        shuffle(&mut spare, replaced, &mut rng);
        let mut channels: Vec<usize> = (0..self.observed.len()).collect();
        shuffle(&mut channels, replaced, &mut rng);
        let base = (self.settings.rate_hz * self.settings.bin_width_s).ln();
        for (&channel, unit) in channels.iter().zip(spare).take(replaced) {
            animal.observed[channel] = unit;
            let [b, g] = [normals(&mut rng, 1)[0], normals(&mut rng, 1)[0]];
            animal.log_base[channel] = (base + 0.5 * b) as f32;
            animal.gain[channel] = (0.8 * (0.2 * g).exp()) as f32;
        }
        for (log_base, gain) in animal.log_base.iter_mut().zip(&mut animal.gain) {
            let [b, g] = [normals(&mut rng, 1)[0], normals(&mut rng, 1)[0]];
            *log_base += (RATE_DRIFT * b) as f32;
            *gain *= (GAIN_DRIFT * g).exp() as f32;
        }
        animal
    }

    /// Recorded channels.
    #[must_use]
    pub fn n_channels(&self) -> usize {
        self.observed.len()
    }

    /// The settings that it was made with.
    #[must_use]
    pub fn settings(&self) -> &AnimalSettings {
        &self.settings
    }

    /// Task number `index` of a regime: the same for the same seed, whatever else is simulated.
    #[must_use]
    pub fn task(&self, regime: Regime, index: u64) -> Task {
        let at = Regime::ALL.iter().position(|r| *r == regime).unwrap_or(0);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(1 + ((at as u64) << 40) + index);
        let frame = self.frame(regime, at, &mut rng);
        let mut between = |low: f64, high: f64| rng.random_range(low..high);
        let mut frequency_hz = 0.0;
        // `A` as a sum of `weight * row^T column` over pairs of the frame's directions.
        let mut terms: Vec<(usize, usize, f64)> = Vec::new();
        let mut drive = 0.0;
        let mut random = f64::from(RANDOM_GAIN);
        match regime {
            Regime::StableFixedPoint => {
                let g = between(0.1, 0.6);
                let turn = between(-0.8, 0.8);
                terms.extend([(0, 0, g), (1, 1, g), (0, 1, -turn), (1, 0, turn)]);
                drive = between(0.5, 1.2);
            }
            Regime::Bistable => terms.push((0, 0, between(1.6, 2.4))),
            Regime::LimitCycle => {
                frequency_hz = between(FREQUENCY_HZ[0].ln(), FREQUENCY_HZ[1].ln()).exp();
                let g = between(1.7, 2.3);
                let turn = g * std::f64::consts::TAU * frequency_hz * TAU_S;
                terms.extend([(0, 0, g), (1, 1, g), (0, 1, -turn), (1, 0, turn)]);
            }
            Regime::RingAttractor => {
                let g = between(1.7, 2.4);
                terms.extend([(0, 0, g), (1, 1, g)]);
                random = 0.0;
            }
            Regime::Chaotic => random = between(1.8, 2.5),
            Regime::RandomLowRank => return self.low_rank_task(LOW_RANK_GAIN, index),
        }
        let direction = normals(&mut rng, 1)[0].signum();
        let mut a = [[0.0f64; LATENTS]; LATENTS];
        for (row, column, weight) in terms {
            for i in 0..LATENTS {
                for k in 0..LATENTS {
                    a[i][k] += weight * frame[row][i] * frame[column][k];
                }
            }
        }
        Task {
            regime,
            number: (at as i64) * 10_000 + index as i64,
            design_frequency_hz: frequency_hz,
            j: self.connectivity(&a, random as f32),
            input: self.along(&frame[2], (drive * direction) as f32),
            plane: [frame[0].clone(), frame[1].clone()],
        }
    }

    /// The directions of a task's structure, `[3, latents]`: a regime's own, turned a little by
    /// task; a ring's are fixed.
    fn frame(&self, regime: Regime, at: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
        let turned = self.frames[at].iter().map(|row| {
            let turn = normals(rng, NORMAL);
            row.iter().zip(turn).map(|(x, t)| x + PLANE_TURN * t / 2.0).collect::<Vec<f64>>()
        });
        let mut frame = orthonormal(turned.collect());
        frame.iter_mut().for_each(|row| row.resize(LATENTS, 0.0));
        if regime == Regime::RingAttractor {
            for (i, row) in frame.iter_mut().enumerate() {
                row.fill(0.0);
                row[(NORMAL + i) % LATENTS] = 1.0;
            }
        }
        frame
    }

    /// Task number `index` of the animal's random networks of rank 5 and gain `g`: `A` is a
    /// mixture, by a random unit vector, of [`LOW_RANK_PATTERNS`] normal matrices that the animals
    /// of a seed share.
    #[must_use]
    pub(crate) fn low_rank_task(&self, gain: f64, index: u64) -> Task {
        let mut a = [[0.0f64; LATENTS]; LATENTS];
        let mut rng = ChaCha8Rng::seed_from_u64(self.family);
        rng.set_stream((1 << 51) + index);
        let mixture = orthonormal(vec![normals(&mut rng, LOW_RANK_PATTERNS)]);
        let mut rng = ChaCha8Rng::seed_from_u64(self.family);
        rng.set_stream(1 << 52);
        for weight in &mixture[0] {
            let pattern = normals(&mut rng, LOW_RANK * LOW_RANK);
            for (i, x) in pattern.iter().enumerate() {
                a[i / LOW_RANK][i % LOW_RANK] += weight * gain * x / (LOW_RANK as f64).sqrt();
            }
        }
        let axis = |i: usize| (0..LATENTS).map(|k| f64::from(u8::from(k == i))).collect::<Vec<_>>();
        Task {
            regime: Regime::RandomLowRank,
            number: 50_000 + index as i64,
            design_frequency_hz: 0.0,
            j: self.connectivity(&a, 0.0),
            input: vec![0.0; self.settings.units],
            plane: [axis(0), axis(1)],
        }
    }

    /// `(1/N) M A M^T + random chi`.
    fn connectivity(&self, a: &[[f64; LATENTS]; LATENTS], random: f32) -> Vec<f32> {
        let n = self.settings.units;
        let mut j: Vec<f32> = self.chi.iter().map(|x| random * x).collect();
        for (row, m_row) in self.m.chunks_exact(LATENTS).enumerate() {
            let mut left = [0.0f32; LATENTS];
            for k in 0..LATENTS {
                left[k] = (0..LATENTS).map(|i| m_row[i] * a[i][k] as f32).sum::<f32>() / n as f32;
            }
            for (to, m_col) in
                j[row * n..(row + 1) * n].iter_mut().zip(self.m.chunks_exact(LATENTS))
            {
                *to += left.iter().zip(m_col).map(|(l, m)| l * m).sum::<f32>();
            }
        }
        j
    }

    /// `M` times a latent direction.
    pub(super) fn along(&self, direction: &[f64], scale: f32) -> Vec<f32> {
        self.m
            .chunks_exact(LATENTS)
            .map(|row| scale * row.iter().zip(direction).map(|(m, d)| m * *d as f32).sum::<f32>())
            .collect()
    }

    /// Steps per bin, and `a = step / tau`.
    pub(super) fn stepping(&self) -> (usize, f32) {
        let width = self.settings.bin_width_s;
        let steps = (width / STEP_S_MAX).ceil().max(1.0) as usize;
        (steps, (width / steps as f64 / TAU_S) as f32)
    }

    /// A random kick along the latents, `[units]`.
    pub(super) fn kick(&self, scale: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let direction = normals(rng, LATENTS);
        self.along(&direction, scale as f32)
    }
}
