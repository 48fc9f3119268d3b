//! What a forward pass leaves behind for the backward pass, in one arena that windows share one
//! after the other.

use crate::inference::kernels::Real;

/// Sizes of one bin's part of a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) rank: usize,
    pub(super) units: usize,
    pub(super) channels: usize,
}

/// Number of fields of a bin.
const FIELDS: usize = 14;

impl Sizes {
    /// Lengths of a bin's fields, in the order of [`Bin::of`].
    fn lengths(self) -> [usize; FIELDS] {
        let Self { rank: r, units: n, channels: c } = self;
        [r, r * r, n, r, r * r, r, r * r, r * r, r, c, c, c, c, 1]
    }

    fn stride(self) -> usize {
        self.lengths().iter().sum()
    }
}

/// One bin of a tape, its fields to be read (`&[T]`) or written (`&mut [T]`).
pub(super) struct Bin<S> {
    /// Filtered mean before the bin, `[R]`, and covariance, `[R, R]`.
    pub(super) mean: S,
    pub(super) cov: S,
    /// `tanh(M m + b)`, `[N]`.
    pub(super) phi: S,
    /// `N^T tanh + c`, `[R]`.
    pub(super) drive: S,
    /// `F`, `[R, R]`.
    pub(super) transition: S,
    pub(super) mean_pred: S,
    pub(super) cov_pred: S,
    /// `(I + P- L)^-1`, `[R, R]`.
    pub(super) projection: S,
    /// `C^T (y - lambda)`, `[R]`.
    pub(super) score: S,
    /// `lambda`, `[channels]`.
    pub(super) rates: S,
    /// 1 where the log rate was not clipped.
    pub(super) in_bounds: S,
    /// `y - rho` where the bin is scored; else whatever was there.
    pub(super) surprise: S,
    /// Half of it where the variance was not clipped, else 0.
    pub(super) free_surprise: S,
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
            in_bounds,
            surprise,
            free_surprise,
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
            in_bounds,
            surprise,
            free_surprise,
            share,
        }
    }
}

/// A forward pass' states and scores. The arena is kept from window to window: only a longer
/// window, or one of more channels, makes it grow.
#[derive(Debug)]
pub(crate) struct Tapes<T> {
    sizes: Sizes,
    bins: usize,
    /// `[bins + 1, stride]`; of the last, only mean and covariance are used.
    data: Vec<T>,
    /// One-step score of each bin, nats over all channels; 0 where unscored.
    pub(crate) one_step: Vec<f64>,
}

impl<T: Real> Default for Tapes<T> {
    fn default() -> Self {
        let sizes = Sizes { rank: 0, units: 0, channels: 0 };
        Self { sizes, bins: 0, data: Vec::new(), one_step: Vec::new() }
    }
}

impl<T: Real> Tapes<T> {
    /// Makes room for another window; the old content is overwritten.
    pub(super) fn begin(&mut self, sizes: Sizes, bins: usize) {
        (self.sizes, self.bins) = (sizes, bins);
        let needed = (bins + 1) * sizes.stride();
        if self.data.len() < needed {
            self.data.resize(needed, T::zero());
        }
        self.one_step.clear();
        self.one_step.resize(bins, 0.0);
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
    pub(super) fn state(&self, t: usize) -> (&[T], &[T]) {
        let rank = self.sizes.rank;
        self.block(t)[..rank + rank * rank].split_at(rank)
    }

    /// The same, to be written.
    pub(super) fn state_mut(&mut self, t: usize) -> (&mut [T], &mut [T]) {
        let (rank, stride) = (self.sizes.rank, self.sizes.stride());
        self.data[t * stride..t * stride + rank + rank * rank].split_at_mut(rank)
    }

    /// Bin `t`.
    pub(super) fn bin(&self, t: usize) -> Bin<&[T]> {
        let mut rest = self.block(t);
        Bin::of(self.sizes.lengths().map(|n| {
            let (field, more) = rest.split_at(n);
            rest = more;
            field
        }))
    }

    /// Bin `t` to be written, and mean and covariance of the state after it.
    pub(super) fn bin_mut(&mut self, t: usize) -> (Bin<&mut [T]>, &mut [T], &mut [T]) {
        let (rank, stride) = (self.sizes.rank, self.sizes.stride());
        let lengths = self.sizes.lengths();
        let (mut rest, next) = self.data[t * stride..(t + 2) * stride].split_at_mut(stride);
        let bin = Bin::of(lengths.map(|n| {
            let (field, more) = std::mem::take(&mut rest).split_at_mut(n);
            rest = more;
            field
        }));
        let (mean, cov) = next[..rank + rank * rank].split_at_mut(rank);
        (bin, mean, cov)
    }
}
