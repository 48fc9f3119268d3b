//! The network run on by itself, with what the adjoint of each step needs.

use super::adjoint::StepRecord;
use super::pass::Pass;
use crate::inference::kernels::Real;

/// A run of some bins.
pub(super) struct Run<T> {
    rank: usize,
    units: usize,
    /// `[bins + 1, rank]`.
    states: Vec<T>,
    /// `[bins, units]`.
    phis: Vec<T>,
    /// `[bins, rank]`.
    drives: Vec<T>,
}

impl<T: Real> Run<T> {
    /// Room for `bins` bins.
    pub(super) fn new(pass: &Pass<'_, T>, bins: usize) -> Self {
        let (rank, units) = (pass.shape.rank, pass.shape.units);
        let zeros = |n: usize| vec![T::zero(); n];
        Self {
            rank,
            units,
            states: zeros((bins + 1) * rank),
            phis: zeros(bins * units),
            drives: zeros(bins * rank),
        }
    }

    /// Begins at a state, `[rank]`.
    pub(super) fn begin(&mut self, state: &[T]) {
        self.states[..self.rank].copy_from_slice(state);
    }

    /// Step `h` under a row of the factors; its state after, which may be moved by noise.
    #[inline(always)]
    pub(super) fn step(&mut self, pass: &Pass<'_, T>, h: usize, factor: usize) -> &mut [T] {
        let (rank, units) = (self.rank, self.units);
        let (before, after) = self.states.split_at_mut((h + 1) * rank);
        pass.step(
            &before[h * rank..],
            factor,
            &mut self.phis[h * units..(h + 1) * units],
            &mut self.drives[h * rank..(h + 1) * rank],
            &mut after[..rank],
        );
        &mut after[..rank]
    }

    /// State before step `h`, `[rank]`.
    pub(super) fn state(&self, h: usize) -> &[T] {
        &self.states[h * self.rank..(h + 1) * self.rank]
    }

    /// `tanh(M m + b)` of step `h`, `[units]`.
    pub(super) fn phi(&self, h: usize) -> &[T] {
        &self.phis[h * self.units..(h + 1) * self.units]
    }

    /// What the adjoint of step `h` needs.
    pub(super) fn record(&self, h: usize, factor: usize) -> StepRecord<'_, T> {
        let drive = &self.drives[h * self.rank..(h + 1) * self.rank];
        StepRecord { mean: self.state(h), factor, phi: self.phi(h), drive }
    }
}
