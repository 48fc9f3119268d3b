//! Forward: the filter over a window, its states on a tape.

use super::algebra::{axpy, dot, matmul, matmul_nt, pairs};
use super::pass::Pass;
use super::tapes::{Sizes, Tapes};
use crate::inference::kernels::{Real, invert};
use crate::inference::{HALVINGS, STEP_LOSS_MAX};

/// Largest variance correction to a log rate: beyond it the log-normal mean is no help.
const VARIANCE_MAX: f32 = 2.0;

/// Consecutive bins with the factors in force at each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch<'a, T> {
    /// `[bins, channels]`.
    pub(crate) counts: &'a [T],
    /// Row of the factors for each bin.
    pub(crate) factor_of: &'a [usize],
    /// Where others are entered than trials have shown.
    pub(crate) entry: Option<Entry>,
}

/// Bins from one trial to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// The first of them, in which the latents' variance is wider.
    pub(crate) from: usize,
    /// The bin after the last: nothing is foretold from before them, nor of them.
    pub(crate) to: usize,
}

impl<'a, T> Stretch<'a, T> {
    /// Whether other factors are entered at bin `t`.
    pub(super) fn enters(&self, t: usize) -> bool {
        self.entry.is_some_and(|e| e.from == t)
    }

    /// Counts of bin `t`, `[channels]`.
    pub(super) fn at(&self, t: usize, channels: usize) -> &'a [T] {
        &self.counts[t * channels..(t + 1) * channels]
    }
}

/// A stretch with the weight of each bin's one-step score in the gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weighted<'a, T> {
    pub(crate) stretch: Stretch<'a, T>,
    /// `[bins]`; a bin of weight 0 is unscored.
    pub(crate) weight: &'a [T],
}

/// Where a forward pass begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a, T> {
    /// At the prior of the latent state.
    Prior,
    /// At the state before a bin of another tape.
    Before(&'a Tapes<T>, usize),
}

/// What a forward pass works in.
#[derive(Debug)]
pub(crate) struct ForwardScratch<T> {
    work: Vec<T>,
    information: Vec<T>,
    process: Vec<T>,
    slopes: Vec<T>,
    eta: Vec<T>,
    var: Vec<T>,
}

impl<T: Real> ForwardScratch<T> {
    pub(super) fn new(Sizes { rank, units, channels }: Sizes) -> Self {
        let zeros = |n: usize| vec![T::zero(); n];
        Self {
            work: zeros(rank * rank),
            information: zeros(rank * rank),
            process: zeros(rank),
            slopes: zeros(units),
            eta: zeros(channels),
            var: zeros(channels),
        }
    }
}

impl<T: Real> Pass<'_, T> {
    pub(super) fn sizes(&self) -> Sizes {
        let (rank, units) = (self.shape.rank, self.shape.units);
        Sizes { rank, units, channels: self.readout.channels }
    }

    /// Variance that latent `r` gains where factors are entered by a jump.
    pub(super) fn entry_variance(&self, r: usize) -> T {
        T::of(self.shape.entry_variance) * self.shared.log_initial[r].exp()
    }

    /// Filters a stretch; bins from `scored_from` on are scored.
    #[inline(always)]
    pub(crate) fn forward(
        &self,
        stretch: &Stretch<'_, T>,
        start: Start<'_, T>,
        scored_from: usize,
        tapes: &mut Tapes<T>,
        scratch: &mut ForwardScratch<T>,
    ) {
        let rank = self.shape.rank;
        tapes.begin(self.sizes(), stretch.factor_of.len());
        let (mean, cov) = tapes.state_mut(0);
        match start {
            Start::Prior => {
                mean.fill(T::zero());
                cov.fill(T::zero());
                for r in 0..rank {
                    cov[r * rank + r] = self.shared.log_initial[r].exp();
                }
            }
            Start::Before(other, t) => {
                let state = other.state(t);
                mean.copy_from_slice(state.0);
                cov.copy_from_slice(state.1);
            }
        }
        for (process, log) in scratch.process.iter_mut().zip(&self.shared.log_process) {
            *process = log.exp();
        }
        for t in 0..tapes.bins() {
            self.predict(stretch, t, tapes, scratch);
            let y = stretch.at(t, self.readout.channels);
            if t >= scored_from {
                tapes.one_step[t] = self.score(y, t, tapes, scratch);
            }
            self.update(y, t, tapes, scratch);
        }
    }

    /// Time update: `m-`, `F`, `P-`, and the log rates at `m-`, which are left in `scratch.eta`.
    #[inline(always)]
    fn predict(
        &self,
        stretch: &Stretch<'_, T>,
        t: usize,
        tapes: &mut Tapes<T>,
        scratch: &mut ForwardScratch<T>,
    ) {
        let (rank, units, a) = (self.shape.rank, self.shape.units, self.leak());
        let factor = stretch.factor_of[t];
        let (bin, _, _) = tapes.bin_mut(t);
        self.step(bin.mean, factor, bin.phi, bin.drive, bin.mean_pred);
        let (n, _) = self.factor(factor);
        for r in 0..rank {
            let row = &n[r * units..(r + 1) * units];
            for ((d, x), phi) in scratch.slopes.iter_mut().zip(row).zip(bin.phi.iter()) {
                *d = *x * (T::one() - *phi * *phi);
            }
            for j in 0..rank {
                bin.transition[r * rank + j] =
                    a * dot(&scratch.slopes, &self.shared.m[j * units..(j + 1) * units]);
            }
            bin.transition[r * rank + r] += T::one() - a;
        }
        matmul(&mut scratch.work, bin.transition, bin.cov, rank);
        matmul_nt(bin.cov_pred, &scratch.work, bin.transition, rank);
        for r in 0..rank {
            bin.cov_pred[r * rank + r] += scratch.process[r];
            if stretch.enters(t) {
                bin.cov_pred[r * rank + r] += self.entry_variance(r);
            }
        }
        self.log_rates(bin.mean_pred, &mut scratch.eta, bin.in_bounds);
    }

    /// One-step score of the prediction; what its adjoint needs is put on the tape, without the
    /// bin's weight.
    #[inline(always)]
    fn score(
        &self,
        y: &[T],
        t: usize,
        tapes: &mut Tapes<T>,
        scratch: &mut ForwardScratch<T>,
    ) -> f64 {
        let (rank, channels) = (self.shape.rank, self.readout.channels);
        let (bin, _, _) = tapes.bin_mut(t);
        let (var, eta) = (&mut scratch.var, &scratch.eta);
        // Variance of each log rate, C P- C^T: the products of loadings are made once a step, and
        // pairs off the diagonal stand for two.
        var.fill(T::zero());
        for (p, (r, q)) in pairs(rank).enumerate() {
            let scale = if r == q { T::one() } else { T::of(2.0) };
            let cc = &self.readout.products[p * channels..(p + 1) * channels];
            axpy(var, scale * bin.cov_pred[r * rank + q], cc);
        }
        let mut sum = T::zero();
        for i in 0..channels {
            let clipped = var[i].max(T::zero()).min(T::of(VARIANCE_MAX));
            let log_rho = eta[i] + T::of(0.5) * clipped;
            let rho = log_rho.fast_exp();
            sum += y[i] * log_rho - rho;
            let surprise = y[i] - rho;
            bin.surprise[i] = surprise;
            // Where the variance is clipped, the score does not depend on it.
            let free = var[i] > T::zero() && var[i] < T::of(VARIANCE_MAX);
            bin.free_surprise[i] = if free { T::of(0.5) * surprise } else { T::zero() };
        }
        sum.to_f64().unwrap_or(f64::NAN)
    }

    /// Measurement update: the state after the bin.
    #[inline(always)]
    fn update(&self, y: &[T], t: usize, tapes: &mut Tapes<T>, scratch: &mut ForwardScratch<T>) {
        let (rank, channels) = (self.shape.rank, self.readout.channels);
        let (bin, mean, cov) = tapes.bin_mut(t);
        let ForwardScratch { work, information, eta, var: residual, .. } = scratch;
        for (l, e) in bin.rates.iter_mut().zip(eta.iter()) {
            *l = e.fast_exp();
        }
        for (res, (y, l)) in residual.iter_mut().zip(y.iter().zip(bin.rates.iter())) {
            *res = *y - *l;
        }
        for (p, (r, q)) in pairs(rank).enumerate() {
            let cc = &self.readout.products[p * channels..(p + 1) * channels];
            let value = dot(cc, bin.rates);
            information[r * rank + q] = value;
            information[q * rank + r] = value;
        }
        for r in 0..rank {
            let row = &self.readout.loading[r * channels..(r + 1) * channels];
            bin.score[r] = dot(row, residual);
        }
        // P = (I + P- L)^-1 P-: the covariance itself is never inverted, because it may be nearly
        // singular.
        matmul(work, bin.cov_pred, information, rank);
        for r in 0..rank {
            work[r * rank + r] += T::one();
        }
        invert(work, bin.projection, rank);
        matmul(cov, bin.projection, bin.cov_pred, rank);
        // Rounding would let the two halves drift apart over a window.
        for r in 0..rank {
            for q in 0..r {
                let value = T::of(0.5) * (cov[r * rank + q] + cov[q * rank + r]);
                cov[r * rank + q] = value;
                cov[q * rank + r] = value;
            }
        }
        // The whole step, P u, in the place of the mean.
        for r in 0..rank {
            mean[r] = (0..rank).fold(T::zero(), |s, k| s + cov[r * rank + k] * bin.score[k]);
        }
        bin.share[0] = self.share(y, (mean, bin.mean_pred, bin.score), scratch);
        for r in 0..rank {
            mean[r] = bin.mean_pred[r] + bin.share[0] * mean[r];
        }
    }

    /// Share of a Newton step that is taken: halved until the log density of latents and counts
    /// does not fall, as the filter that serves does it. Without it, one bin of far more counts
    /// than expected throws the state, and the gradient with it.
    #[inline(always)]
    fn share(
        &self,
        y: &[T],
        (step, mean_pred, score): (&[T], &[T], &[T]),
        scratch: &mut ForwardScratch<T>,
    ) -> T {
        let (rank, channels) = (self.shape.rank, self.readout.channels);
        let ForwardScratch { information, eta, var: change, .. } = scratch;
        change.fill(T::zero());
        for (r, &by) in step.iter().enumerate() {
            axpy(change, by, &self.readout.loading[r * channels..(r + 1) * channels]);
        }
        // Where no rate more than doubles, the curvature does not either, and the step cannot go
        // too far.
        let doubles = change.iter().any(|c| *c > T::of(std::f32::consts::LN_2));
        if !doubles {
            return T::one();
        }
        // P-^-1 P u = u - L P u.
        let quadratic = (0..rank).fold(T::zero(), |sum, r| {
            let turned = dot(&information[r * rank..(r + 1) * rank], step);
            sum + step[r] * (score[r] - turned)
        });
        // `eta` is the clipped log rate at the prediction; behind the step it is clipped anew.
        let before = y.iter().zip(eta.iter()).fold(T::zero(), |s, (y, e)| s + *y * *e - e.exp());
        let [low, high] = self.shape.log_rate_bounds.map(T::of);
        let mut share = T::one();
        for _ in 0..HALVINGS {
            let mut density = T::of(-0.5) * share * share * quadratic;
            for i in 0..channels {
                let mut eta = self.readout.baseline[i];
                for (r, (m, by)) in mean_pred.iter().zip(step).enumerate() {
                    eta += (*m + share * *by) * self.readout.loading[r * channels + i];
                }
                let eta = eta.max(low).min(high);
                density += y[i] * eta - eta.exp();
            }
            if density >= before - T::of(STEP_LOSS_MAX) {
                break;
            }
            share *= T::of(0.5);
        }
        share
    }
}
