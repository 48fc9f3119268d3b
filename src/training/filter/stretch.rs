//! Windows that run side by side, a lane each.

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane<'a> {
    /// Row of the factors for each bin. Lanes may differ in length; what is behind the end of one
    /// runs on under its last factors, and nothing may weigh it.
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

/// Consecutive bins of each lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch<'a, T> {
    /// `[bins, channels, lanes]`, as many bins as the longest lane has.
    pub(crate) counts: &'a [T],
    /// As many as a row has.
    pub(crate) lanes: &'a [Lane<'a>],
}

impl<'a, T> Stretch<'a, T> {
    /// Bins of the longest lane.
    pub(super) fn bins(&self) -> usize {
        self.lanes.iter().map(|lane| lane.factor_of.len()).max().unwrap_or(0)
    }

    /// Counts of bin `t`, `[channels, lanes]`.
    pub(super) fn at(&self, t: usize, channels: usize) -> &'a [T] {
        let row = channels * self.lanes.len();
        &self.counts[t * row..(t + 1) * row]
    }

    /// Row of the factors that a lane is under at bin `t`.
    pub(super) fn factor(&self, lane: usize, t: usize) -> usize {
        let of = self.lanes[lane].factor_of;
        of[t.min(of.len() - 1)]
    }

    /// Whether a lane enters other factors at bin `t`.
    pub(super) fn enters(&self, lane: usize, t: usize) -> bool {
        self.lanes[lane].entry.is_some_and(|e| e.from == t)
    }
}

/// A stretch with the weight of each bin's one-step score in the gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weighted<'a, T> {
    pub(crate) stretch: Stretch<'a, T>,
    /// `[bins, lanes]`; a bin of weight 0 is unscored.
    pub(crate) weight: &'a [T],
}
