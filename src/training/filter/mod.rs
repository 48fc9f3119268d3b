//! The filter's predictive likelihood with its hand-derived adjoint, one window of counts at a time.
//!
//! Forward, per bin: time update, one-step score, measurement update, exactly as the filter bank does
//! it for a known embedding (no `e` in the state):
//!
//! ```text
//! m- = (1-a) m + a (N^T tanh(M m + b) + c)       F = (1-a) I + a N^T D M      P- = F P F^T + Q
//! score = mean_i (y_i log rho_i - rho_i)         rho_i = exp(eta_i + v_i / 2), v_i = C_i P- C_i^T
//! W = (I + P- L)^-1,  P = W P-                   L = C^T diag(lambda) C, lambda = exp(eta)
//! m = m- + P C^T (y - lambda)
//! ```
//!
//! and from filtered states every few bins an open-loop forecast, scored alike without variance.
//! Backward is the adjoint of each line in reverse, checked against finite differences in `f64`.

mod adjoint;
mod exponent;

use crate::inference::kernels::{Real, invert};
use adjoint::StepRecord;
pub(crate) use exponent::{Exponent, ExponentFound};

/// Sizes and weights of the loss.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LossShape {
    pub(crate) rank: usize,
    pub(crate) units: usize,
    /// Bins at a window's start that are filtered but not scored.
    pub(crate) burn_in: usize,
    /// Bins of an open-loop forecast.
    pub(crate) horizon: usize,
    /// Bins between forecasts' starts.
    pub(crate) forecast_every: usize,
    /// Weight of the forecast score beside the one-step score.
    pub(crate) forecast_weight: f64,
    pub(crate) log_rate_bounds: [f32; 2],
}

/// Largest variance correction to a log rate: beyond it the log-normal mean is no help.
const VARIANCE_MAX: f32 = 2.0;

/// Parameters shared by all windows, and with the same layout their gradient.
#[derive(Debug, Clone)]
pub(crate) struct Shared<T> {
    /// `[rank, units]`.
    pub(crate) m: Vec<T>,
    /// `[units]`.
    pub(crate) offset: Vec<T>,
    /// `logit a`.
    pub(crate) logit_leak: T,
    /// `[rank]`.
    pub(crate) log_process: Vec<T>,
    /// `[rank]`.
    pub(crate) log_initial: Vec<T>,
}

impl<T: Real> Shared<T> {
    pub(crate) fn len(s: &LossShape) -> usize {
        s.units * s.rank + s.units + 1 + 2 * s.rank
    }

    pub(crate) fn unpack(s: &LossShape, flat: &[T]) -> Self {
        let (m, rest) = flat.split_at(s.units * s.rank);
        let (offset, rest) = rest.split_at(s.units);
        let (process, initial) = rest[1..].split_at(s.rank);
        Self {
            m: m.to_vec(),
            offset: offset.to_vec(),
            logit_leak: rest[0],
            log_process: process.to_vec(),
            log_initial: initial.to_vec(),
        }
    }

    pub(crate) fn pack(&self) -> Vec<T> {
        let parts: [&[T]; 5] =
            [&self.m, &self.offset, &[self.logit_leak], &self.log_process, &self.log_initial];
        parts.concat()
    }
}

/// A session's readout, transposed, with the products the filter asks for.
#[derive(Debug, Clone)]
pub(crate) struct SessionReadout<T> {
    pub(crate) channels: usize,
    /// `[rank, channels]`.
    pub(crate) loading: Vec<T>,
    /// `[channels]`.
    pub(crate) baseline: Vec<T>,
    /// `C_r C_s`, r <= s, `[pairs, channels]`.
    products: Vec<T>,
}

impl<T: Real> SessionReadout<T> {
    /// From `loading [rank, channels]` and `baseline [channels]`, one after the other.
    pub(crate) fn unpack(rank: usize, channels: usize, flat: &[T]) -> Self {
        let (loading, baseline) = flat.split_at(rank * channels);
        let mut products = Vec::with_capacity(rank * (rank + 1) / 2 * channels);
        for (r, q) in pairs(rank) {
            let (a, b) = (&loading[r * channels..], &loading[q * channels..]);
            products.extend((0..channels).map(|i| a[i] * b[i]));
        }
        Self { channels, loading: loading.to_vec(), baseline: baseline.to_vec(), products }
    }
}

fn pairs(rank: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rank).flat_map(move |r| (r..rank).map(move |q| (r, q)))
}

/// One window of counts with the factors in force at each bin.
#[derive(Debug, Clone)]
pub(crate) struct Window<'a, T> {
    /// `[bins, channels]`.
    pub(crate) counts: &'a [T],
    /// Row of `factors` for each bin.
    pub(crate) factor_of: &'a [usize],
    /// Weight of each bin's one-step score in the gradient; 0 leaves the bin unscored.
    pub(crate) weight: &'a [T],
    /// Whether open-loop forecasts are made and scored.
    pub(crate) forecasts: bool,
    /// A run whose exponent is known.
    pub(crate) exponent: Option<Exponent<T>>,
}

/// Gradients of one window's loss.
#[derive(Debug, Clone)]
pub(crate) struct Gradient<T> {
    /// `[n_factors, rank * units + rank]`.
    pub(crate) factors: Vec<T>,
    pub(crate) shared: Vec<T>,
    /// `[rank * channels + channels]`.
    pub(crate) readout: Vec<T>,
}

/// Scores of one window (log-likelihood up to the counts' factorials).
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Scores {
    /// One-step score of each bin, nats over all channels; 0 where unscored.
    pub(crate) one_step: Vec<f64>,
    /// Mean over the forecasts, nats per bin and channel.
    pub(crate) forecast: f64,
    /// What the run showed.
    pub(crate) exponent: Option<ExponentFound<f32>>,
}

#[inline(always)]
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); 16];
    let (ca, cb) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail = ca.remainder().iter().zip(cb.remainder()).fold(T::zero(), |s, (x, y)| s + *x * *y);
    for (x, y) in ca.zip(cb) {
        for l in 0..16 {
            lanes[l] += x[l] * y[l];
        }
    }
    lanes.iter().fold(tail, |s, x| s + *x)
}

#[inline(always)]
fn axpy<T: Real>(y: &mut [T], a: T, x: &[T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * *x;
    }
}

/// `out = a b` for `n` by `n` matrices.
#[inline(always)]
fn matmul<T: Real>(out: &mut [T], a: &[T], b: &[T], n: usize) {
    for i in 0..n {
        for j in 0..n {
            out[i * n + j] = (0..n).fold(T::zero(), |s, k| s + a[i * n + k] * b[k * n + j]);
        }
    }
}

/// `out = a^T b`.
#[inline(always)]
fn matmul_tn<T: Real>(out: &mut [T], a: &[T], b: &[T], n: usize) {
    for i in 0..n {
        for j in 0..n {
            out[i * n + j] = (0..n).fold(T::zero(), |s, k| s + a[k * n + i] * b[k * n + j]);
        }
    }
}

/// `out = a b^T`.
#[inline(always)]
fn matmul_nt<T: Real>(out: &mut [T], a: &[T], b: &[T], n: usize) {
    for i in 0..n {
        for j in 0..n {
            out[i * n + j] = (0..n).fold(T::zero(), |s, k| s + a[i * n + k] * b[j * n + k]);
        }
    }
}

/// What the backward pass needs of one bin.
struct Tape<T> {
    /// Filtered mean before the step, `[R]`, and covariance, `[R, R]`.
    mean_before: Vec<T>,
    cov_before: Vec<T>,
    phi: Vec<T>,
    /// `N^T tanh + c`, `[R]`.
    drive: Vec<T>,
    transition: Vec<T>,
    mean_pred: Vec<T>,
    cov_pred: Vec<T>,
    /// `lambda`, `[channels]`; `in_bounds` 1 where the log rate was not clipped.
    rates: Vec<T>,
    in_bounds: Vec<T>,
    /// `w (y - rho)` where scored, and the same where the variance was not clipped.
    score_slope: Vec<T>,
    score_var_slope: Vec<T>,
    information: Vec<T>,
    projection: Vec<T>,
    cov: Vec<T>,
    score: Vec<T>,
}

/// One window's loss and gradient.
pub(crate) struct Pass<'a, T> {
    pub(crate) shape: &'a LossShape,
    pub(crate) shared: &'a Shared<T>,
    pub(crate) readout: &'a SessionReadout<T>,
    /// `[n_factors, rank * units + rank]`.
    pub(crate) factors: &'a [T],
}

impl<T: Real> Pass<'_, T> {
    fn leak(&self) -> T {
        (T::one() + (-self.shared.logit_leak).exp()).recip()
    }

    fn factor(&self, index: usize) -> (&[T], &[T]) {
        let (r, n) = (self.shape.rank, self.shape.units);
        let row = &self.factors[index * (r * n + r)..(index + 1) * (r * n + r)];
        row.split_at(r * n)
    }

    /// `phi = tanh(M m + b)`, `drive = N^T phi + c`, `next = (1-a) m + a drive`.
    #[inline(always)]
    fn step(&self, m: &[T], factor: usize, phi: &mut [T], drive: &mut [T], next: &mut [T]) {
        let (rank, units, a) = (self.shape.rank, self.shape.units, self.leak());
        let (n, c) = self.factor(factor);
        phi.copy_from_slice(&self.shared.offset);
        for r in 0..rank {
            axpy(phi, m[r], &self.shared.m[r * units..(r + 1) * units]);
        }
        phi.iter_mut().for_each(|x| *x = x.fast_tanh());
        for r in 0..rank {
            drive[r] = dot(&n[r * units..(r + 1) * units], phi) + c[r];
            next[r] = (T::one() - a) * m[r] + a * drive[r];
        }
    }

    /// Clipped log rates at latent `m`.
    #[inline(always)]
    fn log_rates(&self, m: &[T], eta: &mut [T], in_bounds: &mut [T]) {
        let channels = self.readout.channels;
        eta.copy_from_slice(&self.readout.baseline);
        for (r, &k) in m.iter().enumerate() {
            axpy(eta, k, &self.readout.loading[r * channels..(r + 1) * channels]);
        }
        let [low, high] = self.shape.log_rate_bounds.map(T::of);
        for (eta, inside) in eta.iter_mut().zip(in_bounds) {
            *inside = if *eta > low && *eta < high { T::one() } else { T::zero() };
            *eta = eta.max(low).min(high);
        }
    }

    /// Scores of one window and, if asked for, the gradient of
    /// `-(sum_t weight_t one_step_t + forecast_weight * forecast)`.
    #[inline(always)]
    pub(crate) fn run(&self, window: &Window<'_, T>, gradient: Option<&mut Gradient<T>>) -> Scores {
        let s = self.shape;
        let (rank, units, channels) = (s.rank, s.units, self.readout.channels);
        let bins = window.factor_of.len();
        let a = self.leak();
        let process: Vec<T> = self.shared.log_process.iter().map(|x| x.exp()).collect();
        let mut mean = vec![T::zero(); rank];
        let mut cov = vec![T::zero(); rank * rank];
        for r in 0..rank {
            cov[r * rank + r] = self.shared.log_initial[r].exp();
        }
        let mut tapes: Vec<Tape<T>> = Vec::with_capacity(bins);
        let mut one_step = vec![0.0; bins];
        let mut work = vec![T::zero(); rank * rank];
        let mut slopes = vec![T::zero(); units];
        let mut eta = vec![T::zero(); channels];
        let mut var = vec![T::zero(); channels];
        for t in 0..bins {
            let y = &window.counts[t * channels..(t + 1) * channels];
            let zeros = |n: usize| vec![T::zero(); n];
            let mut tape = Tape {
                mean_before: mean.clone(),
                cov_before: cov.clone(),
                phi: zeros(units),
                drive: zeros(rank),
                transition: zeros(rank * rank),
                mean_pred: zeros(rank),
                cov_pred: zeros(rank * rank),
                rates: zeros(channels),
                in_bounds: zeros(channels),
                score_slope: zeros(channels),
                score_var_slope: zeros(channels),
                information: zeros(rank * rank),
                projection: zeros(rank * rank),
                cov: zeros(rank * rank),
                score: zeros(rank),
            };
            let factor = window.factor_of[t];
            self.step(&mean, factor, &mut tape.phi, &mut tape.drive, &mut tape.mean_pred);
            let (n, _) = self.factor(factor);
            for r in 0..rank {
                let row = &n[r * units..(r + 1) * units];
                for ((d, x), phi) in slopes.iter_mut().zip(row).zip(&tape.phi) {
                    *d = *x * (T::one() - *phi * *phi);
                }
                for j in 0..rank {
                    tape.transition[r * rank + j] =
                        a * dot(&slopes, &self.shared.m[j * units..(j + 1) * units]);
                }
                tape.transition[r * rank + r] += T::one() - a;
            }
            matmul(&mut work, &tape.transition, &cov, rank);
            matmul_nt(&mut tape.cov_pred, &work, &tape.transition, rank);
            for r in 0..rank {
                tape.cov_pred[r * rank + r] += process[r];
            }
            self.log_rates(&tape.mean_pred, &mut eta, &mut tape.in_bounds);
            // Score of the prediction.
            let weight = window.weight[t];
            if weight != T::zero() {
                var.fill(T::zero());
                for (p, (r, q)) in pairs(rank).enumerate() {
                    let scale = if r == q { T::one() } else { T::of(2.0) };
                    let cc = &self.readout.products[p * channels..(p + 1) * channels];
                    axpy(&mut var, scale * tape.cov_pred[r * rank + q], cc);
                }
                let mut sum = T::zero();
                for i in 0..channels {
                    let clipped = var[i].max(T::zero()).min(T::of(VARIANCE_MAX));
                    let log_rho = eta[i] + T::of(0.5) * clipped;
                    let rho = log_rho.fast_exp();
                    sum += y[i] * log_rho - rho;
                    let slope = weight * (y[i] - rho);
                    tape.score_slope[i] = slope;
                    let free = var[i] > T::zero() && var[i] < T::of(VARIANCE_MAX);
                    tape.score_var_slope[i] = if free { T::of(0.5) * slope } else { T::zero() };
                }
                one_step[t] = sum.to_f64().unwrap_or(f64::NAN);
            }
            // Measurement update.
            for (l, e) in tape.rates.iter_mut().zip(&eta) {
                *l = e.fast_exp();
            }
            for (res, (y, l)) in var.iter_mut().zip(y.iter().zip(&tape.rates)) {
                *res = *y - *l;
            }
            for (p, (r, q)) in pairs(rank).enumerate() {
                let value =
                    dot(&self.readout.products[p * channels..(p + 1) * channels], &tape.rates);
                tape.information[r * rank + q] = value;
                tape.information[q * rank + r] = value;
            }
            for r in 0..rank {
                tape.score[r] = dot(&self.readout.loading[r * channels..(r + 1) * channels], &var);
            }
            matmul(&mut work, &tape.cov_pred, &tape.information, rank);
            for r in 0..rank {
                work[r * rank + r] += T::one();
            }
            invert(&mut work, &mut tape.projection, rank);
            matmul(&mut cov, &tape.projection, &tape.cov_pred, rank);
            for r in 0..rank {
                for q in 0..r {
                    let value = T::of(0.5) * (cov[r * rank + q] + cov[q * rank + r]);
                    cov[r * rank + q] = value;
                    cov[q * rank + r] = value;
                }
            }
            for r in 0..rank {
                mean[r] = tape.mean_pred[r]
                    + (0..rank).fold(T::zero(), |s, k| s + cov[r * rank + k] * tape.score[k]);
            }
            tape.cov.copy_from_slice(&cov);
            tapes.push(tape);
        }
        let mut pull = vec![T::zero(); bins * rank];
        let mut gradient = gradient;
        let forecast = if window.forecasts {
            self.forecast(window, &tapes, &mean, gradient.as_deref_mut(), &mut pull)
        } else {
            T::zero()
        };
        let exponent = window.exponent.as_ref().map(|of| {
            let filtered = tapes.get(of.from + 1).map_or(&mean, |tape| &tape.mean_before);
            self.exponent(of, window.factor_of[of.from], filtered, gradient.as_deref_mut())
        });
        if let Some(g) = gradient {
            self.backward(window, &tapes, &pull, g);
        }
        let told = |x: T| x.to_f32().unwrap_or(f32::NAN);
        let exponent = exponent.map(|e| ExponentFound {
            exponent: told(e.exponent),
            loss: told(e.loss),
            end: e.end.into_iter().map(told).collect(),
        });
        Scores { one_step, forecast: forecast.to_f64().unwrap_or(f64::NAN), exponent }
    }

    /// Open-loop forecasts from filtered means; adds their gradient, and to `pull [bins, rank]` the
    /// gradient with respect to each filtered mean.
    #[inline(always)]
    fn forecast(
        &self,
        window: &Window<'_, T>,
        tapes: &[Tape<T>],
        last_mean: &[T],
        mut gradient: Option<&mut Gradient<T>>,
        pull: &mut [T],
    ) -> T {
        let s = self.shape;
        let (rank, units, channels) = (s.rank, s.units, self.readout.channels);
        let bins = tapes.len();
        let starts: Vec<usize> =
            (s.burn_in..bins.saturating_sub(s.horizon)).step_by(s.forecast_every.max(1)).collect();
        if starts.is_empty() || s.horizon == 0 {
            return T::zero();
        }
        let weight = T::of(1.0 / (starts.len() * s.horizon * channels) as f32);
        let pull_weight = weight * T::of(s.forecast_weight as f32);
        let mut states = vec![T::zero(); (s.horizon + 1) * rank];
        let mut phis = vec![T::zero(); s.horizon * units];
        let mut drives = vec![T::zero(); s.horizon * rank];
        let mut slopes = vec![T::zero(); s.horizon * channels];
        let (mut eta, mut inside) = (vec![T::zero(); channels], vec![T::zero(); channels]);
        let mut total = T::zero();
        for start in starts {
            let from = tapes.get(start + 1).map_or(last_mean, |tape| &tape.mean_before);
            states[..rank].copy_from_slice(from);
            for h in 0..s.horizon {
                let (before, after) = states.split_at_mut((h + 1) * rank);
                self.step(
                    &before[h * rank..],
                    window.factor_of[start + 1 + h],
                    &mut phis[h * units..(h + 1) * units],
                    &mut drives[h * rank..(h + 1) * rank],
                    &mut after[..rank],
                );
                self.log_rates(&after[..rank], &mut eta, &mut inside);
                let y = &window.counts[(start + 1 + h) * channels..(start + 2 + h) * channels];
                let mut sum = T::zero();
                for i in 0..channels {
                    let rate = eta[i].fast_exp();
                    sum += y[i] * eta[i] - rate;
                    slopes[h * channels + i] = -pull_weight * (y[i] - rate) * inside[i];
                }
                total += weight * sum;
            }
            if let Some(g) = gradient.as_deref_mut() {
                let mut adjoint = vec![T::zero(); rank];
                for h in (0..s.horizon).rev() {
                    self.pull_readout(
                        &slopes[h * channels..(h + 1) * channels],
                        &states[(h + 1) * rank..(h + 2) * rank],
                        &mut adjoint,
                        g,
                    );
                    adjoint = self.pull_step(
                        &StepRecord {
                            mean: &states[h * rank..(h + 1) * rank],
                            factor: window.factor_of[start + 1 + h],
                            phi: &phis[h * units..(h + 1) * units],
                            drive: &drives[h * rank..(h + 1) * rank],
                        },
                        &adjoint,
                        None,
                        g,
                    );
                }
                axpy(&mut pull[start * rank..(start + 1) * rank], T::one(), &adjoint);
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LossShape = LossShape {
        rank: 3,
        units: 5,
        burn_in: 2,
        horizon: 4,
        forecast_every: 3,
        forecast_weight: 0.7,
        log_rate_bounds: [-8.0, 4.0],
    };
    const CHANNELS: usize = 7;
    const BINS: usize = 14;
    const FACTORS: usize = 2;

    fn wave(n: usize, scale: f64, phase: f64) -> Vec<f64> {
        (0..n).map(|i| scale * (1.7 * i as f64 + phase).sin()).collect()
    }

    fn loss(
        factors: &[f64],
        shared: &[f64],
        readout: &[f64],
        gradient: Option<&mut Gradient<f64>>,
    ) -> f64 {
        let counts: Vec<f64> = (0..BINS * CHANNELS)
            .map(|i| f64::from(u8::from(i * i % 5 == 1)) + (i % 3) as f64)
            .collect();
        let factor_of: Vec<usize> = (0..BINS).map(|t| t / 8).collect();
        let pass = Pass {
            shape: &SHAPE,
            shared: &Shared::unpack(&SHAPE, shared),
            readout: &SessionReadout::unpack(SHAPE.rank, CHANNELS, readout),
            factors,
        };
        // Unscored, favoured and, as of a rival in a contrast, opposed bins.
        let weight: Vec<f64> =
            (0..BINS).map(|t| [0.0, 0.013, -0.007, 0.021][if t < 2 { 0 } else { t % 4 }]).collect();
        let window = Window {
            counts: &counts,
            factor_of: &factor_of,
            weight: &weight,
            forecasts: true,
            exponent: None,
        };
        let scores = pass.run(&window, gradient);
        let one_step: f64 = scores.one_step.iter().zip(&weight).map(|(s, w)| s * w).sum();
        -(one_step + SHAPE.forecast_weight * scores.forecast)
    }

    #[test]
    fn the_exponents_adjoint_matches_finite_differences() {
        let per_factor = SHAPE.rank * SHAPE.units + SHAPE.rank;
        let mut inputs = [wave(per_factor, 1.4, 0.3), wave(Shared::<f64>::len(&SHAPE), 0.9, 1.1)];
        let readout = SessionReadout::unpack(SHAPE.rank, 0, &[]);
        // Within the threshold of Huber's loss, and beyond it.
        for (target, noise) in [(0.5, vec![]), (-0.02, wave(90, 1.2, 0.1))] {
            let of = Exponent {
                from: 0,
                start: None,
                noise,
                bins: 30,
                target,
                weight: 0.7,
                attractor: Some((vec![0.3, 0.1, -0.6], 0.4)),
                damped: false,
            };
            let loss = |inputs: &[Vec<f64>; 2], gradient: Option<&mut Gradient<f64>>| {
                let pass = Pass {
                    shape: &SHAPE,
                    shared: &Shared::unpack(&SHAPE, &inputs[1]),
                    readout: &readout,
                    factors: &inputs[0],
                };
                let found = pass.exponent(&of, 0, &[0.4, -0.2, 0.9], gradient);
                let (point, weight) = of.attractor.as_ref().expect("set above");
                let away: f64 =
                    found.end.iter().zip(point).map(|(x, p)| weight * (x - p).powi(2)).sum();
                (found.exponent, of.weight * found.loss + away)
            };
            let mut gradient = Gradient {
                factors: vec![0.0; inputs[0].len()],
                shared: vec![0.0; inputs[1].len()],
                readout: vec![],
            };
            let (exponent, _) = loss(&inputs, Some(&mut gradient));
            assert!(exponent.is_finite() && exponent != 0.0);
            let analytic = [gradient.factors, gradient.shared];
            for part in 0..2 {
                for i in 0..inputs[part].len() {
                    let (x, h) = (inputs[part][i], 1e-6);
                    inputs[part][i] = x + h;
                    let up = loss(&inputs, None).1;
                    inputs[part][i] = x - h;
                    let down = loss(&inputs, None).1;
                    inputs[part][i] = x;
                    let numeric = (up - down) / (2.0 * h);
                    let error = (numeric - analytic[part][i]).abs() / (1e-3 + numeric.abs());
                    assert!(
                        error < 1e-4,
                        "part {part} index {i}: numeric {numeric} analytic {}",
                        analytic[part][i]
                    );
                }
            }
        }
    }

    #[test]
    fn adjoint_matches_finite_differences() {
        let per_factor = SHAPE.rank * SHAPE.units + SHAPE.rank;
        let mut inputs = [
            wave(FACTORS * per_factor, 0.8, 0.3),
            wave(Shared::<f64>::len(&SHAPE), 0.7, 1.1),
            wave(SHAPE.rank * CHANNELS + CHANNELS, 0.5, 2.0),
        ];
        let mut gradient = Gradient {
            factors: vec![0.0; inputs[0].len()],
            shared: vec![0.0; inputs[1].len()],
            readout: vec![0.0; inputs[2].len()],
        };
        loss(&inputs[0], &inputs[1], &inputs[2], Some(&mut gradient));
        let analytic = [gradient.factors, gradient.shared, gradient.readout];
        let mut largest: f64 = 0.0;
        for part in 0..3 {
            for i in 0..inputs[part].len() {
                let (x, h) = (inputs[part][i], 1e-5);
                inputs[part][i] = x + h;
                let up = loss(&inputs[0], &inputs[1], &inputs[2], None);
                inputs[part][i] = x - h;
                let down = loss(&inputs[0], &inputs[1], &inputs[2], None);
                inputs[part][i] = x;
                let numeric = (up - down) / (2.0 * h);
                let error = (numeric - analytic[part][i]).abs() / (1e-3 + numeric.abs());
                largest = largest.max(error);
                assert!(
                    error < 1e-5,
                    "part {part} index {i}: numeric {numeric} analytic {}",
                    analytic[part][i]
                );
            }
        }
        assert!(largest > 0.0, "the check compared nothing");
    }
}
