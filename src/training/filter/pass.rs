//! The parameters that a pass over windows reads, the gradient that it adds to, and the steps that
//! all passes share.

use std::ops::Range;

use super::algebra::{marked, pairs, pairs_of, slope};
use super::factors::Factors;
use super::tapes::Sizes;
use crate::inference::lanes::{Arithmetic, Number};

/// Sizes and weights of the loss.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LossShape {
    pub(crate) rank: usize,
    pub(crate) units: usize,
    /// Bins at a window's start that are filtered but not scored, at most.
    pub(crate) burn_in: usize,
    /// Bins of an open-loop forecast, at most.
    pub(crate) horizon: usize,
    /// Bins between forecasts' starts.
    pub(crate) forecast_every: usize,
    /// Weight of the forecast score, relative to the one-step score.
    pub(crate) forecast_weight: f64,
    /// Variance that the latents gain at a jump into other factors, in their initial ones.
    pub(crate) entry_variance: f32,
    pub(crate) log_rate_bounds: [f32; 2],
}

/// Share of a window that is not scored, at most.
const BURN_IN_SHARE: usize = 4;

/// Bins at the start of a window of `bins` that are not scored, of the `burn_in` that long ones
/// have: a short trial has something to say as well.
pub(crate) fn burn_in_of(burn_in: usize, bins: usize) -> usize {
    burn_in.min(bins / BURN_IN_SHARE)
}

impl LossShape {
    /// Bins of a forecast in a window of `bins`: half of what is scored, at most.
    pub(super) fn horizon_of(&self, bins: usize) -> usize {
        self.horizon.min((bins - burn_in_of(self.burn_in, bins)) / 2)
    }
}

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

impl<T: Number> Shared<T> {
    pub(crate) fn len(s: &LossShape) -> usize {
        s.units * s.rank + s.units + 1 + 2 * s.rank
    }

    /// Where `log_process` lies in the flat vector.
    pub(crate) fn process_range(s: &LossShape) -> std::ops::Range<usize> {
        let start = s.units * s.rank + s.units + 1;
        start..start + s.rank
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
    /// Loadings, `[rank, channels]`, then their products `C_i C_j`, j <= i, `[pairs, channels]`.
    moments: Vec<T>,
    loadings: usize,
    /// `[channels]`.
    pub(super) baseline: Vec<T>,
}

impl<T: Number> SessionReadout<T> {
    /// From `loading [rank, channels]` and `baseline [channels]`, one after the other.
    pub(crate) fn unpack(rank: usize, channels: usize, flat: &[T]) -> Self {
        let (loading, baseline) = flat.split_at(rank * channels);
        let mut moments = Vec::with_capacity((rank + pairs_of(rank)) * channels);
        moments.extend_from_slice(loading);
        for (r, q) in pairs(rank) {
            let (a, b) = (&loading[r * channels..], &loading[q * channels..]);
            moments.extend((0..channels).map(|i| a[i] * b[i]));
        }
        Self { channels, moments, loadings: rank * channels, baseline: baseline.to_vec() }
    }

    /// `[rank, channels]`.
    pub(super) fn loading(&self) -> &[T] {
        &self.moments[..self.loadings]
    }

    /// `[pairs, channels]`.
    pub(super) fn products(&self) -> &[T] {
        &self.moments[self.loadings..]
    }

    /// Both, one after the other.
    pub(super) fn moments(&self) -> &[T] {
        &self.moments
    }
}

/// Gradient of a batch's loss.
#[derive(Debug, Clone)]
pub(crate) struct Gradient<T> {
    /// `[n_factors, rank * units + rank]`.
    pub(crate) factors: Vec<T>,
    pub(crate) shared: Vec<T>,
    /// All sessions' readouts.
    pub(crate) readouts: Vec<T>,
}

impl<T: Number> Gradient<T> {
    /// Zeros of these lengths.
    pub(crate) fn zeros([factors, shared, readouts]: [usize; 3]) -> Self {
        let zeros = |n: usize| vec![T::zero(); n];
        Self { factors: zeros(factors), shared: zeros(shared), readouts: zeros(readouts) }
    }

    /// What a window of a session adds to, whose readout is at `readout`.
    pub(crate) fn of_session(&mut self, readout: Range<usize>) -> WindowGradient<'_, T> {
        WindowGradient {
            factors: &mut self.factors,
            shared: &mut self.shared,
            readout: &mut self.readouts[readout],
        }
    }
}

/// The gradient that a pass over a window adds to.
#[derive(Debug)]
pub(crate) struct WindowGradient<'a, T> {
    /// `[n_factors, rank * units + rank]`.
    pub(super) factors: &'a mut [T],
    pub(super) shared: &'a mut [T],
    /// `[rank * channels + channels]`.
    pub(super) readout: &'a mut [T],
}

/// The loss and gradient of windows side by side.
pub(crate) struct Pass<'a, W: Arithmetic> {
    pub(crate) wide: W,
    pub(crate) shape: &'a LossShape,
    pub(crate) shared: &'a Shared<W::Number>,
    pub(crate) readout: &'a SessionReadout<W::Number>,
    /// `[n_factors, rank * units + rank]`.
    pub(crate) factors: &'a [W::Number],
}

/// What a step of the network leaves: `phi = tanh(M m + b)`, `[units]`, `drive = N^T phi + c` and
/// the state after it, `[rank]`.
pub(super) struct Step<'a, R> {
    pub(super) phi: &'a mut [R],
    pub(super) drive: &'a mut [R],
    pub(super) next: &'a mut [R],
}

impl<T: Number, W: Arithmetic<Number = T>> Pass<'_, W> {
    pub(super) fn sizes(&self) -> Sizes {
        let (rank, units) = (self.shape.rank, self.shape.units);
        Sizes { rank, units, channels: self.readout.channels, width: self.wide.width() }
    }

    pub(super) fn leak(&self) -> T {
        (T::one() + (-self.shared.logit_leak).exp()).recip()
    }

    /// One step from `m [rank]`: `next = (1-a) m + a drive`.
    #[inline(always)]
    pub(super) fn step(&self, factors: &Factors<T>, m: &[W::Row], to: Step<'_, W::Row>) {
        let (wide, units, a) = (self.wide, self.shape.units, self.leak());
        let (n, c) = factors.values(wide);
        let Step { phi, drive, next } = to;
        wide.spread(phi, &self.shared.offset);
        wide.transposed(phi, &self.shared.m, m);
        for x in phi.iter_mut() {
            *x = wide.tanh(*x);
        }
        let (leak, kept) = (wide.splat(a), wide.splat(T::one() - a));
        for r in 0..m.len() {
            drive[r] = wide.add(wide.inner(&n[r * units..(r + 1) * units], phi), c[r]);
            next[r] = wide.mul_add(leak, drive[r], wide.mul(kept, m[r]));
        }
    }

    /// The step's Jacobian `(1-a) I + a N^T D M`, `[rank, rank]`; `slopes` is memory, `[units]`.
    #[inline(always)]
    pub(super) fn jacobian(
        &self,
        factors: &Factors<T>,
        phi: &[W::Row],
        slopes: &mut [W::Row],
        out: &mut [W::Row],
    ) {
        let (wide, rank, units, a) = (self.wide, self.shape.rank, self.shape.units, self.leak());
        let (n, _) = factors.values(wide);
        let (leak, kept) = (wide.splat(a), wide.splat(T::one() - a));
        out.fill(wide.splat(T::zero()));
        for r in 0..rank {
            for ((d, x), phi) in slopes.iter_mut().zip(&n[r * units..]).zip(phi) {
                *d = wide.mul(wide.mul(leak, *x), slope(wide, *phi));
            }
            let row = &mut out[r * rank..(r + 1) * rank];
            wide.product(row, &self.shared.m, slopes);
            row[r] = wide.add(row[r], kept);
        }
    }

    /// Log rates within their bounds at latents `m`, and the rates; where a log rate was clipped,
    /// the rate has a minus.
    #[inline(always)]
    pub(super) fn log_rates(&self, m: &[W::Row], eta: &mut [W::Row], rates: &mut [W::Row]) {
        let wide = self.wide;
        wide.spread(eta, &self.readout.baseline);
        wide.transposed(eta, self.readout.loading(), m);
        let bounds = self.shape.log_rate_bounds.map(T::of);
        for (eta, rate) in eta.iter_mut().zip(rates) {
            let within = wide.clamp(*eta, bounds);
            *rate = marked(wide, wide.exp(within), *eta, bounds);
            *eta = within;
        }
    }
}
