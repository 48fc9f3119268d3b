//! The gradient with respect to what all lanes share, gathered lane by lane.

use super::algebra::{pairs, pairs_of};
use super::pass::{Pass, WindowGradient};
use super::tapes::Sizes;
use crate::inference::lanes::{Arithmetic, Lanes, Number};

/// Sums over bins.
#[derive(Debug)]
pub(super) struct Sums<T> {
    /// With respect to the loadings, `[rank, channels]`, and to their products, `[pairs,
    /// channels]`.
    pub(super) moments: Lanes<T>,
    /// `[channels]`.
    pub(super) baseline: Lanes<T>,
    /// `[rank, units]`.
    pub(super) m: Lanes<T>,
    /// `[units]`.
    pub(super) offset: Lanes<T>,
    /// With respect to the leak itself, `[1]`.
    pub(super) leak: Lanes<T>,
    /// `[rank]` each.
    pub(super) log_process: Lanes<T>,
    pub(super) log_initial: Lanes<T>,
}

impl<T: Number> Sums<T> {
    pub(super) fn new(Sizes { rank, units, channels, width }: Sizes) -> Self {
        let rows = |n: usize| Lanes::zeros(n * width);
        Self {
            moments: rows((rank + pairs_of(rank)) * channels),
            baseline: rows(channels),
            m: rows(rank * units),
            offset: rows(units),
            leak: rows(1),
            log_process: rows(rank),
            log_initial: rows(rank),
        }
    }

    /// Adds all lanes' sums to the gradient, and begins anew.
    #[inline(always)]
    pub(super) fn finish<W: Arithmetic<Number = T>>(
        &mut self,
        pass: &Pass<'_, W>,
        g: &mut WindowGradient<'_, T>,
    ) {
        let (rank, channels, a) = (pass.shape.rank, pass.readout.channels, pass.leak());
        let (m, rest) = g.shared.split_at_mut(self.m.len() / pass.wide.width());
        let (offset, rest) = rest.split_at_mut(pass.shape.units);
        let (leak, rest) = rest.split_at_mut(1);
        let (process, initial) = rest.split_at_mut(rank);
        take(pass.wide, &mut self.m, m, T::one());
        take(pass.wide, &mut self.offset, offset, T::one());
        take(pass.wide, &mut self.leak, leak, a * (T::one() - a));
        take(pass.wide, &mut self.log_process, process, T::one());
        take(pass.wide, &mut self.log_initial, initial, T::one());
        let (loading, baseline) = g.readout.split_at_mut(rank * channels);
        take(pass.wide, &mut self.baseline, baseline, T::one());
        let (own, products) = self.moments.split_at_mut(rank * channels * pass.wide.width());
        take(pass.wide, own, loading, T::one());
        let of = pass.readout.loading();
        let rows = pass.wide.rows_mut(products).chunks_exact_mut(channels.max(1));
        for (bars, (r, q)) in rows.zip(pairs(rank)) {
            for (i, bar) in bars.iter_mut().enumerate() {
                let sum = pass.wide.sum(std::mem::replace(bar, pass.wide.splat(T::zero())));
                loading[r * channels + i] += sum * of[q * channels + i];
                loading[q * channels + i] += sum * of[r * channels + i];
            }
        }
    }
}

#[inline(always)]
fn take<W: Arithmetic>(wide: W, from: &mut [W::Number], to: &mut [W::Number], scale: W::Number) {
    let zero = wide.splat(num_traits::Zero::zero());
    for (to, row) in to.iter_mut().zip(wide.rows_mut(from)) {
        *to += scale * wide.sum(std::mem::replace(row, zero));
    }
}
