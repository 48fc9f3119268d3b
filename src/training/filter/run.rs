//! The networks run on by themselves, with what the adjoint of each step needs.

use super::adjoint::StepRecord;
use super::factors::Factors;
use super::pass::{Pass, Step};
use super::tapes::Sizes;
use crate::inference::lanes::{Arithmetic, Lanes, Number};

/// A run of some bins.
#[derive(Debug)]
pub(super) struct Run<T> {
    sizes: Sizes,
    /// `[bins + 1, rank]`.
    states: Lanes<T>,
    /// `[bins, units]`.
    phis: Lanes<T>,
    /// `[bins, rank]`.
    drives: Lanes<T>,
}

impl<T: Number> Run<T> {
    /// Room for `bins` bins.
    pub(super) fn new(sizes: Sizes, bins: usize) -> Self {
        let rows = |n: usize| Lanes::zeros(n * sizes.width);
        let Sizes { rank, units, .. } = sizes;
        Self {
            sizes,
            states: rows((bins + 1) * rank),
            phis: rows(bins * units),
            drives: rows(bins * rank),
        }
    }

    /// The state at which it begins, `[rank, lanes]`, to be written.
    pub(super) fn first_mut(&mut self) -> &mut [T] {
        &mut self.states[..self.sizes.rank * self.sizes.width]
    }

    /// Step `h`; its state after, which may be moved by noise.
    #[inline(always)]
    pub(super) fn step<W: Arithmetic<Number = T>>(
        &mut self,
        pass: &Pass<'_, W>,
        h: usize,
        factors: &Factors<T>,
    ) -> &mut [W::Row] {
        let (wide, Sizes { rank, units, .. }) = (pass.wide, self.sizes);
        let (before, after) = wide.rows_mut(&mut self.states).split_at_mut((h + 1) * rank);
        let to = Step {
            phi: &mut wide.rows_mut(&mut self.phis)[h * units..(h + 1) * units],
            drive: &mut wide.rows_mut(&mut self.drives)[h * rank..(h + 1) * rank],
            next: &mut after[..rank],
        };
        pass.step(factors, &before[h * rank..], to);
        &mut after[..rank]
    }

    /// The state at which it ended, `[rank, lanes]`.
    pub(super) fn end(&self) -> &[T] {
        &self.states[self.states.len() - self.sizes.rank * self.sizes.width..]
    }

    /// State before step `h`, `[rank]`.
    #[inline(always)]
    pub(super) fn state<W: Arithmetic<Number = T>>(&self, wide: W, h: usize) -> &[W::Row] {
        let rank = self.sizes.rank;
        &wide.rows(&self.states)[h * rank..(h + 1) * rank]
    }

    /// `tanh(M m + b)` of step `h`, `[units]`.
    #[inline(always)]
    pub(super) fn phi<W: Arithmetic<Number = T>>(&self, wide: W, h: usize) -> &[W::Row] {
        let units = self.sizes.units;
        &wide.rows(&self.phis)[h * units..(h + 1) * units]
    }

    /// What the adjoint of step `h` needs.
    #[inline(always)]
    pub(super) fn record<W: Arithmetic<Number = T>>(
        &self,
        wide: W,
        h: usize,
    ) -> StepRecord<'_, W::Row> {
        let rank = self.sizes.rank;
        let drive = &wide.rows(&self.drives)[h * rank..(h + 1) * rank];
        StepRecord { mean: self.state(wide, h), phi: self.phi(wide, h), drive }
    }
}
