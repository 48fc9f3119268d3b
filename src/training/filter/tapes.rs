//! What a forward pass leaves behind for the backward pass, in one arena that blocks of windows
//! share one after the other.

use super::algebra::pairs_of;
use crate::inference::lanes::{Arithmetic, Lanes, Number, RowsMut};

/// Sizes of one bin's part of a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) rank: usize,
    pub(super) units: usize,
    pub(super) channels: usize,
    /// Lanes side by side.
    pub(super) width: usize,
}

/// Number of fields of a bin.
const FIELDS: usize = 12;

impl Sizes {
    /// Rows of a bin's fields, in the order of [`Bin::of`].
    fn rows(self) -> [usize; FIELDS] {
        let Self { rank: r, units: n, channels: c, .. } = self;
        let p = pairs_of(r);
        [r, p, n, r, r * r, r, p, r * r, r, c, c, 1]
    }

    fn stride(self) -> usize {
        self.width * self.rows().iter().sum::<usize>()
    }

    fn state(self) -> usize {
        self.width * (self.rank + pairs_of(self.rank))
    }
}

/// One bin of a tape, its fields to be read (`&[Row]`) or written (`&mut [Row]`).
pub(super) struct Bin<S> {
    /// Filtered mean before the bin, `[R]`, and covariance, a lower triangle.
    pub(super) mean: S,
    pub(super) cov: S,
    /// `tanh(M m + b)`, `[N]`.
    pub(super) phi: S,
    /// `N^T tanh + c`, `[R]`.
    pub(super) drive: S,
    /// `F`, `[R, R]`.
    pub(super) transition: S,
    pub(super) mean_pred: S,
    /// A lower triangle.
    pub(super) cov_pred: S,
    /// `(I + P- L)^-1`, `[R, R]`.
    pub(super) projection: S,
    /// `C^T (y - lambda)`, `[R]`.
    pub(super) score: S,
    /// `lambda`, `[channels]`; where the log rate was clipped, with a minus.
    pub(super) rates: S,
    /// `rho` where the bin is scored, else whatever was there; where the variance was clipped, with
    /// a minus.
    pub(super) expected: S,
    /// Share of the Newton step that was taken, `[1]`.
    pub(super) share: S,
}

impl<S> Bin<S> {
    fn of(fields: [S; FIELDS]) -> Self {
        let [
            mean,
            cov,
            phi,
            drive,
            transition,
            mean_pred,
            cov_pred,
            projection,
            score,
            rates,
            expected,
            share,
        ] = fields;
        Self {
            mean,
            cov,
            phi,
            drive,
            transition,
            mean_pred,
            cov_pred,
            projection,
            score,
            rates,
            expected,
            share,
        }
    }
}

/// A forward pass' states and scores. The arena is kept from block to block: only longer windows
/// make it grow.
#[derive(Debug)]
pub(crate) struct Tapes<T> {
    sizes: Sizes,
    bins: usize,
    /// `[bins + 1, stride]`; of the last, only mean and covariance are used.
    data: Lanes<T>,
    /// One-step score of each bin, nats over all channels, `[bins, lanes]`; 0 where unscored.
    pub(crate) one_step: Vec<f64>,
}

impl<T: Number> Tapes<T> {
    pub(super) fn new(sizes: Sizes) -> Self {
        Self { sizes, bins: 0, data: Lanes::zeros(0), one_step: Vec::new() }
    }

    /// Makes room for other windows; the old content is overwritten.
    pub(super) fn begin(&mut self, bins: usize) {
        self.bins = bins;
        let needed = (bins + 1) * self.sizes.stride();
        if self.data.len() < needed {
            self.data = Lanes::zeros(needed);
        }
        self.one_step.clear();
        self.one_step.resize(bins * self.sizes.width, 0.0);
    }

    /// Number of bins.
    pub(super) fn bins(&self) -> usize {
        self.bins
    }

    fn block(&self, t: usize) -> &[T] {
        let stride = self.sizes.stride();
        &self.data[t * stride..(t + 1) * stride]
    }

    /// Filtered mean and covariance before bin `t`; those at the end where `t` is the number of
    /// bins.
    #[inline(always)]
    pub(super) fn state<W: Arithmetic<Number = T>>(
        &self,
        wide: W,
        t: usize,
    ) -> (&[W::Row], &[W::Row]) {
        wide.rows(&self.block(t)[..self.sizes.state()]).split_at(self.sizes.rank)
    }

    /// The same, to be written.
    #[inline(always)]
    pub(super) fn state_mut<W: Arithmetic<Number = T>>(
        &mut self,
        wide: W,
        t: usize,
    ) -> (&mut [W::Row], &mut [W::Row]) {
        let from = t * self.sizes.stride();
        let state = &mut self.data[from..from + self.sizes.state()];
        wide.rows_mut(state).split_at_mut(self.sizes.rank)
    }

    /// Filtered mean and covariance before the first bin, one after the other, to be written.
    pub(super) fn first_state_mut(&mut self) -> &mut [T] {
        &mut self.data[..self.sizes.state()]
    }

    /// Scores of bin `t`, a number of each lane.
    pub(super) fn take_scores(&mut self, t: usize, scores: &[T]) {
        let to = &mut self.one_step[t * scores.len()..];
        for (to, score) in to.iter_mut().zip(scores) {
            *to = score.to_f64().unwrap_or(f64::NAN);
        }
    }

    /// Filtered mean, and behind it where there is room for it the covariance, of each lane before
    /// a bin of its own.
    pub(super) fn gather(&self, at: &[usize], out: &mut [T]) {
        let width = self.sizes.width;
        for (lane, &t) in at.iter().enumerate() {
            let from = self.block(t).iter().skip(lane).step_by(width);
            let to = out.iter_mut().skip(lane).step_by(width);
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
    }

    /// Bin `t`.
    #[inline(always)]
    pub(super) fn bin<W: Arithmetic<Number = T>>(&self, wide: W, t: usize) -> Bin<&[W::Row]> {
        let mut rest = wide.rows(self.block(t));
        Bin::of(self.sizes.rows().map(|n| {
            let (field, more) = rest.split_at(n);
            rest = more;
            field
        }))
    }

    /// Bin `t` to be written, and mean and covariance of the state after it.
    #[inline(always)]
    pub(super) fn bin_mut<W: Arithmetic<Number = T>>(
        &mut self,
        wide: W,
        t: usize,
    ) -> (Bin<RowsMut<'_, W>>, RowsMut<'_, W>, RowsMut<'_, W>) {
        let (sizes, stride) = (self.sizes, self.sizes.stride());
        let (own, next) = self.data[t * stride..(t + 2) * stride].split_at_mut(stride);
        let mut rest = wide.rows_mut(own);
        let bin = Bin::of(sizes.rows().map(|n| {
            let (field, more) = std::mem::take(&mut rest).split_at_mut(n);
            rest = more;
            field
        }));
        let (mean, cov) = wide.rows_mut(&mut next[..sizes.state()]).split_at_mut(sizes.rank);
        (bin, mean, cov)
    }
}
