//! A running teacher: state, noise and spikes, bin by bin.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};

use super::animal::{Animal, Regime, Task};

/// Standard deviation of each unit's own noise at equilibrium without recurrence.
const UNIT_NOISE: f32 = 0.1;
/// The same along each latent direction.
const LATENT_NOISE: f64 = 0.1;
/// Kick along the latents when a task begins.
const KICK: f64 = 0.6;
/// Most spikes in a bin: a refractory population does not fire more.
const SIMULATED_COUNT_MAX: f64 = 255.0;

/// How long a regime lasts in a switching simulation, seconds: drawn evenly between the two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dwell {
    /// Shortest, seconds.
    pub from_s: f64,
    /// Longest, seconds.
    pub to_s: f64,
}

/// A teacher that runs.
#[derive(Debug, Clone)]
pub struct Simulation {
    animal: Animal,
    task: Task,
    rng: ChaCha8Rng,
    /// `r`, `[units]`.
    state: Vec<f32>,
    phi: Vec<f32>,
    drive: Vec<f32>,
}

impl Simulation {
    /// Starts an animal in a task, from a random state.
    #[must_use]
    pub fn new(animal: Animal, task: Task, seed: u64) -> Self {
        let n = animal.settings.units;
        let mut simulation = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            state: vec![0.0; n],
            phi: vec![0.0; n],
            drive: vec![0.0; n],
            animal,
            task: task.clone(),
        };
        simulation.begin(task);
        simulation
    }

    /// The task in force.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The animal whose network runs.
    #[must_use]
    pub fn animal(&self) -> &Animal {
        &self.animal
    }

    /// Another task takes over from the state reached, with a kick.
    pub fn begin(&mut self, task: Task) {
        let kick = self.animal.kick(KICK, &mut self.rng);
        self.state.iter_mut().zip(kick).for_each(|(r, k)| *r += k);
        self.task = task;
    }

    /// Draws a regime other than the one in force and a dwell in bins.
    pub fn draw_switch(&mut self, dwell: Dwell) -> (Regime, usize) {
        let others: Vec<Regime> =
            Regime::ALL.into_iter().filter(|r| *r != self.task.regime).collect();
        let regime = others[self.rng.random_range(0..others.len())];
        let seconds = if dwell.to_s > dwell.from_s {
            self.rng.random_range(dwell.from_s..dwell.to_s)
        } else {
            dwell.from_s
        };
        let bins = (seconds / self.animal.settings.bin_width_s).round().max(1.0);
        (regime, bins as usize)
    }

    /// One bin of counts, `[channels]`.
    pub fn bin(&mut self, counts: &mut [u16]) {
        self.advance();
        for (channel, count) in counts.iter_mut().enumerate() {
            let rate = self.rate(channel);
            let drawn = Poisson::new(rate).map_or(0.0, |p| p.sample(&mut self.rng));
            *count = drawn.min(SIMULATED_COUNT_MAX) as u16;
        }
    }

    /// Counts that a channel is expected to have in the newest bin.
    #[must_use]
    pub fn rate(&self, channel: usize) -> f64 {
        let unit = self.state[self.animal.observed[channel]];
        f64::from((self.animal.log_base[channel] + self.animal.gain[channel] * unit.tanh()).exp())
    }

    /// One bin of time with noise.
    fn advance(&mut self) {
        let (steps, a) = self.animal.stepping();
        let unit_noise = UNIT_NOISE * (2.0 * a).sqrt();
        let latent_noise = LATENT_NOISE * f64::from(2.0 * a).sqrt();
        for _ in 0..steps {
            step(&self.task, a, &mut self.state, &mut self.phi, &mut self.drive);
            let common = self.animal.kick(latent_noise, &mut self.rng);
            for (r, k) in self.state.iter_mut().zip(common) {
                let own: f32 = StandardNormal.sample(&mut self.rng);
                *r += k + unit_noise * own;
            }
        }
    }

    /// The state, `[units]`.
    pub(super) fn state(&self) -> &[f32] {
        &self.state
    }

    /// One bin of time without noise, and without counts.
    pub(crate) fn advance_noise_free(&mut self) {
        let (steps, a) = self.animal.stepping();
        for _ in 0..steps {
            step(&self.task, a, &mut self.state, &mut self.phi, &mut self.drive);
        }
    }

    /// One step with noise of the state, and of a tangent vector along it: for Lyapunov exponents.
    pub(super) fn bin_with_tangent(&mut self, tangent: &mut [f32], noisy: bool) {
        let (steps, a) = self.animal.stepping();
        for _ in 0..steps {
            let mut pushed = vec![0.0f32; tangent.len()];
            for (p, r) in self.phi.iter_mut().zip(&self.state) {
                *p = 1.0 - r.tanh().powi(2);
            }
            let weighted: Vec<f32> = tangent.iter().zip(&self.phi).map(|(v, d)| v * d).collect();
            multiply(&self.task.j, &weighted, &mut pushed);
            tangent.iter_mut().zip(&pushed).for_each(|(v, p)| *v += a * (p - *v));
            step(&self.task, a, &mut self.state, &mut self.phi, &mut self.drive);
            if noisy {
                let unit_noise = UNIT_NOISE * (2.0 * a).sqrt();
                let common =
                    self.animal.kick(LATENT_NOISE * f64::from(2.0 * a).sqrt(), &mut self.rng);
                for (r, k) in self.state.iter_mut().zip(common) {
                    let own: f32 = StandardNormal.sample(&mut self.rng);
                    *r += k + unit_noise * own;
                }
            }
        }
    }

    /// The state projected on the task's plane.
    pub(super) fn in_plane(&self) -> [f64; 2] {
        [0, 1].map(|i| {
            let direction = self.animal.along(&self.task.plane[i], 1.0);
            direction.iter().zip(&self.state).map(|(d, r)| f64::from(d * r)).sum()
        })
    }
}

/// `r <- r + a (-r + J tanh(r) + c)`.
fn step(task: &Task, a: f32, state: &mut [f32], phi: &mut [f32], drive: &mut [f32]) {
    for (p, r) in phi.iter_mut().zip(state.iter()) {
        *p = r.tanh();
    }
    multiply(&task.j, phi, drive);
    for ((r, d), c) in state.iter_mut().zip(drive.iter()).zip(&task.input) {
        *r += a * (d + c - *r);
    }
}

/// `out = J x` for a square `J`, in sixteen running sums.
fn multiply(j: &[f32], x: &[f32], out: &mut [f32]) {
    for (out, row) in out.iter_mut().zip(j.chunks_exact(x.len())) {
        let mut lanes = [0.0f32; 16];
        let (rows, xs) = (row.chunks_exact(16), x.chunks_exact(16));
        let tail: f32 = rows.remainder().iter().zip(xs.remainder()).map(|(a, b)| a * b).sum();
        for (a, b) in rows.zip(xs) {
            for l in 0..16 {
                lanes[l] += a[l] * b[l];
            }
        }
        *out = tail + lanes.iter().sum::<f32>();
    }
}
