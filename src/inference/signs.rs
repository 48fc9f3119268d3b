//! Signs by which dynamics are compared with those that the model knows, each smoothed over a
//! second.
//!
//! Residuals of single channels drown in Poisson noise. So the residuals of a bin are projected
//! onto the latents: the score `s = C^T (y - lambda)`, whose variance is `L + L P L` where the
//! model holds, with `L = C^T diag(lambda) C` the bin's information and `P` the covariance of the
//! prediction, both over all hypotheses. With `L + L P L = G G^T` (Cholesky), `z = G^-1 s` is white
//! of variance 1; of it, `w = z - G^-1 L G^-T z` is what the filter takes for noise of the state.

use super::tape::Tape;
use crate::model::{KnownDynamics, SIGNS};

/// Added where a logarithm is taken: below these a sign says no more.
const FLOORS: [f32; SIGNS] = [1e-6, 1e-6, 1e-6, 1e-6, 1e-3, 1e-3, 1e-5, 0.0];
/// Places of the signs.
const VARIANCE: usize = 0;
const SHAPE: usize = 1;
const STATE_NOISE: usize = 2;
const RUNS: usize = 3;
const DISTANCE: usize = 4;
const POWER: usize = 5;
const SPEED: usize = 6;
const EXCESS: usize = 7;

/// What a bin shows.
pub(super) struct Shown<'a> {
    /// `s`, `[rank]`, and `L` and `P`, `[rank, rank]`.
    pub(super) score: &'a [f32],
    pub(super) information: &'a [f32],
    pub(super) predicted: &'a [f32],
    /// Filtered latents, `[rank]`.
    pub(super) latent: &'a [f32],
    /// `sum (y - lambda)^2 - y` and `sum lambda^2` over the channels.
    pub(super) excess: [f32; 2],
}

/// The signs of one session's bank:
///
/// * `innovation_variance`: log of the mean of `z^2` over the latents;
/// * `innovation_shape`: log of the squared distance of `E[z z^T]` from the unit matrix;
/// * `state_noise`: log of the mean of `w^2`;
/// * `innovation_runs`, `embedding_distance`: logs of these two, see [`super::Estimate`];
/// * `latent_power`, `latent_speed`: logs of the mean squared latents, and of their steps;
/// * `excess_variance`: `sum (y - lambda)^2 - y` over `sum lambda^2`: 0 for Poisson counts.
#[derive(Debug)]
pub(super) struct Signs {
    rank: usize,
    rate: f32,
    /// Where the smoothed values start: at those of known dynamics.
    start: [f32; SIGNS],
    /// `E[z z^T]`, `[rank, rank]`.
    second: Vec<f32>,
    /// Of `w`, latents and steps, and the two parts of the excess.
    state_noise: f32,
    power: f32,
    speed: f32,
    excess: [f32; 2],
    excess_start: f32,
    /// Latents after the bin before, `[rank]`.
    before: Vec<f32>,
    root: Vec<f32>,
    white: Vec<f32>,
    turned: Vec<f32>,
    noise: Vec<f32>,
}

impl Signs {
    /// `squared_rates` is `sum lambda^2` at the readout's baseline.
    pub(super) fn new(
        rank: usize,
        rate: f32,
        known: Option<&KnownDynamics>,
        squared_rates: f32,
    ) -> Self {
        let start = std::array::from_fn(|i| match (known, i) {
            (Some(k), EXCESS) => k.signs[i].median,
            (Some(k), _) => (k.signs[i].median.exp() - FLOORS[i]).max(0.0),
            (None, EXCESS) => 0.0,
            (None, _) => 1.0,
        });
        let mut signs = Self {
            rank,
            rate,
            start,
            second: vec![0.0; rank * rank],
            state_noise: 0.0,
            power: 0.0,
            speed: 0.0,
            excess: [0.0; 2],
            excess_start: squared_rates.max(f32::MIN_POSITIVE),
            before: vec![0.0; rank],
            root: vec![0.0; rank * rank],
            white: vec![0.0; rank],
            turned: vec![0.0; rank * rank],
            noise: vec![0.0; rank],
        };
        signs.reset();
        signs
    }

    /// Another recording begins.
    pub(super) fn reset(&mut self) {
        self.second.fill(0.0);
        for r in 0..self.rank {
            self.second[r * self.rank + r] = 1.0;
        }
        self.state_noise = self.start[STATE_NOISE];
        self.power = self.start[POWER];
        self.speed = self.start[SPEED];
        self.excess = [self.start[EXCESS] * self.excess_start, self.excess_start];
        self.before.fill(0.0);
    }

    /// Its state for the tape.
    pub(super) fn state(&mut self, tape: &mut Tape) {
        tape.floats(&mut self.second);
        tape.floats(&mut self.before);
        let [excess, expected] = &mut self.excess;
        for value in [&mut self.state_noise, &mut self.power, &mut self.speed, excess, expected] {
            tape.float(value);
        }
    }

    /// Every number is one that could have come about.
    pub(super) fn is_sound(&self) -> bool {
        let means = [self.state_noise, self.power, self.speed];
        self.second.iter().chain(&self.before).chain(&self.excess).all(|v| v.is_finite())
            && means.iter().all(|v| v.is_finite() && *v >= 0.0)
            && self.excess[1] > 0.0
    }

    /// Takes a bin that informed.
    pub(super) fn take(&mut self, shown: &Shown<'_>) {
        let (n, g) = (self.rank, self.rate);
        let mean = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>() / n as f32;
        if self.whiten(shown) {
            for r in 0..n {
                for q in 0..n {
                    let c = &mut self.second[r * n + q];
                    *c += g * (self.white[r] * self.white[q] - *c);
                }
            }
            self.state_noise += g * (mean(&self.noise) - self.state_noise);
        }
        self.power += g * (mean(shown.latent) - self.power);
        let step = |(a, b): (&f32, &f32)| (a - b) * (a - b);
        let speed: f32 = shown.latent.iter().zip(&self.before).map(step).sum();
        self.speed += g * (speed / n as f32 - self.speed);
        self.before.copy_from_slice(shown.latent);
        for (smooth, now) in self.excess.iter_mut().zip(shown.excess) {
            *smooth += g * (now - *smooth);
        }
    }

    /// Takes a bin that did not inform: what moved meanwhile is no step of one bin.
    pub(super) fn skip(&mut self, latent: &[f32]) {
        self.before.copy_from_slice(latent);
    }

    /// `z` and `w` of a bin; `false` where the information is none.
    fn whiten(&mut self, shown: &Shown<'_>) -> bool {
        let n = self.rank;
        let (l, p) = (shown.information, shown.predicted);
        let turned = &mut self.turned;
        product(turned, p, l, n);
        product(&mut self.root, l, turned, n);
        for (sum, l) in self.root.iter_mut().zip(l) {
            *sum += l;
        }
        let largest = (0..n).map(|r| self.root[r * n + r]).fold(0.0f32, f32::max);
        for r in 0..n {
            // Latents that no channel shows, and rounding.
            self.root[r * n + r] += 1e-5 * largest;
        }
        if largest <= 0.0 || !factor(&mut self.root, n) {
            return false;
        }
        self.white.copy_from_slice(shown.score);
        forward(&self.root, &mut self.white, n);
        // G^-T z, then L times it, then G^-1 of that.
        let mut back = [0.0f32; crate::model::RANK_MAX];
        back[..n].copy_from_slice(&self.white);
        backward(&self.root, &mut back[..n], n);
        for r in 0..n {
            self.noise[r] = (0..n).map(|q| l[r * n + q] * back[q]).sum();
        }
        forward(&self.root, &mut self.noise, n);
        for (w, z) in self.noise.iter_mut().zip(&self.white) {
            *w = z - *w;
        }
        true
    }

    /// The signs now, given the bank's own two.
    pub(super) fn now(&self, runs: f32, distance: f32) -> [f32; SIGNS] {
        let n = self.rank;
        let mut shape = 0.0;
        let mut variance = 0.0;
        for r in 0..n {
            for q in 0..n {
                let unit = if r == q { 1.0 } else { 0.0 };
                shape += (self.second[r * n + q] - unit).powi(2);
            }
            variance += self.second[r * n + r];
        }
        let mut signs = [0.0; SIGNS];
        signs[VARIANCE] = variance / n as f32;
        signs[SHAPE] = shape;
        signs[STATE_NOISE] = self.state_noise;
        signs[RUNS] = runs;
        signs[DISTANCE] = distance;
        signs[POWER] = self.power;
        signs[SPEED] = self.speed;
        for (sign, floor) in signs.iter_mut().zip(FLOORS) {
            *sign = (*sign + floor).ln();
        }
        signs[EXCESS] = self.excess[0] / self.excess[1];
        signs
    }
}

fn product(out: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    for r in 0..n {
        for q in 0..n {
            out[r * n + q] = (0..n).map(|k| a[r * n + k] * b[k * n + q]).sum();
        }
    }
}

/// The lower Cholesky factor in place; `false` where there is none.
fn factor(a: &mut [f32], n: usize) -> bool {
    for r in 0..n {
        for q in 0..=r {
            let sum = a[r * n + q] - (0..q).map(|k| a[r * n + k] * a[q * n + k]).sum::<f32>();
            if r == q {
                if sum <= 0.0 || !sum.is_finite() {
                    return false;
                }
                a[r * n + r] = sum.sqrt();
            } else {
                a[r * n + q] = sum / a[q * n + q];
            }
        }
    }
    true
}

/// `x = G^-1 x`.
fn forward(root: &[f32], x: &mut [f32], n: usize) {
    for r in 0..n {
        let sum: f32 = (0..r).map(|k| root[r * n + k] * x[k]).sum();
        x[r] = (x[r] - sum) / root[r * n + r];
    }
}

/// `x = G^-T x`.
fn backward(root: &[f32], x: &mut [f32], n: usize) {
    for r in (0..n).rev() {
        let sum: f32 = (r + 1..n).map(|k| root[k * n + r] * x[k]).sum();
        x[r] = (x[r] - sum) / root[r * n + r];
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::{DMatrix, DVector};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;

    use super::*;

    const RANK: usize = 3;

    fn flat(m: &DMatrix<f64>) -> Vec<f32> {
        m.transpose().iter().map(|x| *x as f32).collect()
    }

    /// Bins whose scores have `scale` times the variance that the model predicts.
    fn after(scale: f64, bins: usize) -> ([f32; SIGNS], f64) {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let half = DMatrix::from_fn(RANK, 5, |_, _| rng.sample::<f64, _>(StandardNormal));
        let information = &half * half.transpose();
        let other = DMatrix::from_fn(RANK, 4, |_, _| 0.4 * rng.sample::<f64, _>(StandardNormal));
        let predicted = &other * other.transpose();
        let variance = &information + &information * &predicted * &information;
        let root = variance.clone().cholesky().expect("positive").l();
        let mut signs = Signs::new(RANK, 1e-3, None, 1.0);
        let (l, p) = (flat(&information), flat(&predicted));
        for _ in 0..bins {
            let noise = DVector::from_fn(RANK, |_, _| rng.sample::<f64, _>(StandardNormal));
            let score: Vec<f32> =
                (&root * noise * scale.sqrt()).iter().map(|x| *x as f32).collect();
            signs.take(&Shown {
                score: &score,
                information: &l,
                predicted: &p,
                latent: &[0.5, -0.5, 0.5],
                excess: [0.3, 2.0],
            });
        }
        // The share of the score's variance that is the state's, by the dense twin.
        let inverse = root.try_inverse().expect("positive");
        let share = DMatrix::identity(RANK, RANK) - &inverse * &information * inverse.transpose();
        (signs.now(1.0, 2.0), scale * (&share * share.transpose()).trace() / RANK as f64)
    }

    #[test]
    fn innovations_of_a_model_that_holds_are_white_and_others_are_not() {
        let (signs, state_noise) = after(1.0, 20_000);
        assert!(signs[VARIANCE].abs() < 0.1, "{signs:?}");
        assert!(signs[SHAPE] < -4.0, "{signs:?}");
        assert!((f64::from(signs[STATE_NOISE]) - state_noise.ln()).abs() < 0.15, "{signs:?}");
        assert!((signs[DISTANCE] - 2.001f32.ln()).abs() < 1e-5 && signs[RUNS].abs() < 1e-5);
        assert!((signs[POWER] - 0.251f32.ln()).abs() < 1e-3, "{signs:?}");
        assert!(signs[SPEED] < -10.0, "nothing moved: {signs:?}");
        assert!((signs[EXCESS] - 0.15).abs() < 1e-3, "{signs:?}");
        let (less, _) = after(0.25, 20_000);
        assert!((less[VARIANCE] - 0.25f32.ln()).abs() < 0.1, "{less:?}");
        assert!(less[SHAPE] > 0.0, "{less:?}");
    }

    #[test]
    fn signs_start_where_known_dynamics_are_and_gaps_are_no_steps() {
        let mut signs = Signs::new(RANK, 0.01, Some(&crate::model::example_known()), 1.0);
        let start = signs.now(1.0, 1.0);
        for place in [STATE_NOISE, POWER, SPEED, EXCESS] {
            assert!((start[place] - 1.0).abs() < 1e-4, "{start:?}");
        }
        let bin = |latent| Shown {
            score: &[0.0; RANK],
            information: &[0.0; RANK * RANK],
            predicted: &[1.0; RANK * RANK],
            latent,
            excess: [0.0; 2],
        };
        signs.skip(&[9.0; RANK]);
        signs.take(&bin(&[9.0; RANK]));
        let after = signs.now(1.0, 1.0);
        // No information: no innovations.
        assert_eq!([after[VARIANCE], after[SHAPE]], [start[VARIANCE], start[SHAPE]]);
        assert!(after[SPEED] < start[SPEED], "nothing moved in this bin: {after:?}");
        assert!(signs.is_sound());
    }
}
