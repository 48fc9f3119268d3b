//! The networks that the lanes are under, and the gradient with respect to them.

use crate::inference::lanes::{Arithmetic, Lanes, Number, Rows, RowsMut};

/// No network yet.
const NONE: usize = usize::MAX;

/// Each lane's `N` and `c`, taken from its row of the factors when it comes under another.
#[derive(Debug)]
pub(super) struct Factors<T> {
    row_of: Vec<usize>,
    /// `[rank, units]`, then `[rank]`.
    values: Lanes<T>,
    /// The same of the gradient since a lane came under its row.
    bars: Lanes<T>,
    inputs: usize,
}

impl<T: Number> Factors<T> {
    pub(super) fn new(rank: usize, units: usize, width: usize) -> Self {
        let zeros = || Lanes::zeros((rank * units + rank) * width);
        Self { row_of: vec![NONE; width], values: zeros(), bars: zeros(), inputs: rank * units }
    }

    /// Lanes come under their rows of `factors [rows, rank * units + rank]`. Where a gradient is
    /// given, of the same shape, what was gathered under the rows before is added to it.
    pub(super) fn turn(
        &mut self,
        factors: &[T],
        row_of: impl Fn(usize) -> usize,
        mut gradient: Option<&mut [T]>,
    ) {
        for lane in 0..self.row_of.len() {
            let row = row_of(lane);
            if row == self.row_of[lane] {
                continue;
            }
            if let Some(gradient) = &mut gradient {
                self.hand_over(lane, gradient);
            }
            self.row_of[lane] = row;
            let (width, len) = (self.row_of.len(), self.values.len() / self.row_of.len());
            let from = &factors[row * len..(row + 1) * len];
            let to = self.values.iter_mut().skip(lane).step_by(width);
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
    }

    /// Adds what a lane gathered to its row of the gradient.
    fn hand_over(&mut self, lane: usize, gradient: &mut [T]) {
        let width = self.row_of.len();
        let row = self.row_of[lane];
        if row == NONE {
            return;
        }
        let len = self.bars.len() / width;
        let to = &mut gradient[row * len..(row + 1) * len];
        let from = self.bars.iter_mut().skip(lane).step_by(width);
        for (to, from) in to.iter_mut().zip(from) {
            *to += std::mem::take(from);
        }
    }

    /// Adds what all lanes gathered to the gradient.
    pub(super) fn finish(&mut self, gradient: &mut [T]) {
        for lane in 0..self.row_of.len() {
            self.hand_over(lane, gradient);
        }
    }

    /// `N^T`, `[rank, units]`, and `c`, `[rank]`.
    #[inline(always)]
    pub(super) fn values<W: Arithmetic<Number = T>>(&self, wide: W) -> (&[W::Row], &[W::Row]) {
        wide.rows(&self.values).split_at(self.inputs)
    }

    /// The same, and with them their gradient's.
    #[inline(always)]
    pub(super) fn with_bars<W: Arithmetic<Number = T>>(
        &mut self,
        wide: W,
    ) -> (Rows<'_, W>, RowsMut<'_, W>, RowsMut<'_, W>) {
        let (n, _) = wide.rows(&self.values).split_at(self.inputs);
        let (n_bar, c_bar) = wide.rows_mut(&mut self.bars).split_at_mut(self.inputs);
        (n, n_bar, c_bar)
    }
}
