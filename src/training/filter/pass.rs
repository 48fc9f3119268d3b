//! The parameters that a pass over a window reads, the gradient that it adds to, and the steps that
//! all passes share.

use std::ops::Range;

use super::algebra::{axpy, dot, pairs};
use crate::inference::kernels::Real;

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

impl<T: Real> Shared<T> {
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
    /// `[rank, channels]`.
    pub(crate) loading: Vec<T>,
    /// `[channels]`.
    pub(crate) baseline: Vec<T>,
    /// `C_r C_s`, r <= s, `[pairs, channels]`.
    pub(super) products: Vec<T>,
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

/// Gradient of a batch's loss.
#[derive(Debug, Clone)]
pub(crate) struct Gradient<T> {
    /// `[n_factors, rank * units + rank]`.
    pub(crate) factors: Vec<T>,
    pub(crate) shared: Vec<T>,
    /// All sessions' readouts.
    pub(crate) readouts: Vec<T>,
}

impl<T: Real> Gradient<T> {
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

/// One window's loss and gradient.
pub(crate) struct Pass<'a, T> {
    pub(crate) shape: &'a LossShape,
    pub(crate) shared: &'a Shared<T>,
    pub(crate) readout: &'a SessionReadout<T>,
    /// `[n_factors, rank * units + rank]`.
    pub(crate) factors: &'a [T],
}

impl<T: Real> Pass<'_, T> {
    pub(super) fn leak(&self) -> T {
        (T::one() + (-self.shared.logit_leak).exp()).recip()
    }

    pub(super) fn factor(&self, index: usize) -> (&[T], &[T]) {
        let (r, n) = (self.shape.rank, self.shape.units);
        let row = &self.factors[index * (r * n + r)..(index + 1) * (r * n + r)];
        row.split_at(r * n)
    }

    /// `phi = tanh(M m + b)`, `drive = N^T phi + c`, `next = (1-a) m + a drive`.
    #[inline(always)]
    pub(super) fn step(
        &self,
        m: &[T],
        factor: usize,
        phi: &mut [T],
        drive: &mut [T],
        next: &mut [T],
    ) {
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
    pub(super) fn log_rates(&self, m: &[T], eta: &mut [T], in_bounds: &mut [T]) {
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
}
