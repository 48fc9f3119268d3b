//! The newest bins of a population: what the estimator of the edge of chaos reads.

use std::ops::Range;

/// Bins are summed until they are as wide as this, seconds.
const WIDTH_S: f64 = 0.01;
/// Wider bins are not read, seconds.
const WIDTH_MAX_S: f64 = 0.1001;
/// Shortest time that anything is read off, and longest that is kept, seconds.
pub(crate) const SECONDS_MIN: f64 = 20.0;
pub(crate) const SECONDS_MAX: f64 = 120.0;
/// Channels that are looked at, at most; of more, so many evenly chosen.
const CHANNELS_MAX: usize = 256;
/// Lags at which autocovariances are read, seconds.
pub(super) const LAGS_S: [f64; 12] =
    [0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0];
/// Covariances between channels are means over lags up to this one, seconds: at lag 0, Poisson
/// noise adds to them.
const SHORT_LAG_S: f64 = 0.1;

/// Seconds in whole bins, one at least.
pub(super) fn bins(seconds: f64, width_s: f64) -> usize {
    ((seconds / width_s).round() as usize).max(1)
}

/// Counts of the last two minutes or less, and the sums over them that covariances are made of. The
/// sums are of whole numbers and exact: what leaves the window leaves nothing behind.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// Width of a summed bin, seconds, and how many bins make one.
    width_s: f64,
    summed: usize,
    /// Of every so many channels, one is looked at.
    stride: usize,
    channels: usize,
    /// Bins of the sum that is being made, and the sum.
    in_sum: usize,
    sum: Vec<u8>,
    /// A ring, `[capacity, channels]`; more than 255 in a summed bin count as 255.
    counts: Vec<u8>,
    /// Of each bin of the ring, how many followed one another without a gap up to it, itself
    /// included.
    unbroken: Vec<usize>,
    broken: bool,
    /// Bins that entered, and that left.
    entered: usize,
    left: usize,
    /// `sum y_t`, `[channels]`.
    totals: Vec<f64>,
    /// Of each lag in [`LAGS_S`], in bins: `sum y_t y_(t-k)` by channel, and its pairs of bins.
    lags: Vec<Lag>,
    /// `sum y_t y_(t-k)` over short lags, `[channels, channels]`, and its pairs of bins.
    products: Vec<f64>,
    product_pairs: f64,
    short: usize,
    /// What a bin is multiplied with, `[channels]`.
    others: Vec<f64>,
}

#[derive(Debug, Clone)]
struct Lag {
    bins: usize,
    sums: Vec<f64>,
    pairs: f64,
}

impl Window {
    /// Of the newest `seconds` of `channels` channels, [`SECONDS_MIN`] to [`SECONDS_MAX`]; `None`
    /// for bins that are too wide to read anything of.
    #[must_use]
    pub(crate) fn new(channels: usize, bin_width_s: f64, seconds: f64) -> Option<Self> {
        if channels == 0 || !(bin_width_s > 0.0 && bin_width_s <= WIDTH_MAX_S) {
            return None;
        }
        let summed = ((WIDTH_S / bin_width_s).round() as usize).max(1);
        let width_s = bin_width_s * summed as f64;
        let stride = channels.div_ceil(CHANNELS_MAX);
        let channels = channels.div_ceil(stride);
        let bins = |seconds: f64| bins(seconds, width_s);
        let capacity = bins(seconds.clamp(SECONDS_MIN, SECONDS_MAX));
        let zeros = || vec![0.0; channels];
        Some(Self {
            width_s,
            summed,
            stride,
            channels,
            in_sum: 0,
            sum: vec![0; channels],
            counts: vec![0; capacity * channels],
            unbroken: vec![0; capacity],
            broken: true,
            entered: 0,
            left: 0,
            totals: zeros(),
            lags: LAGS_S.map(|s| Lag { bins: bins(s), sums: zeros(), pairs: 0.0 }).to_vec(),
            products: vec![0.0; channels * channels],
            product_pairs: 0.0,
            short: bins(SHORT_LAG_S),
            others: zeros(),
        })
    }

    /// Width of the bins that are read, seconds.
    pub(super) fn width_s(&self) -> f64 {
        self.width_s
    }

    /// Channels that are read.
    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    /// Bins in the window.
    pub(super) fn bins(&self) -> usize {
        self.entered - self.left
    }

    /// Time in the window, seconds.
    #[must_use]
    pub(crate) fn seconds(&self) -> f64 {
        self.bins() as f64 * self.width_s
    }

    /// Whether it is long enough to be read. What was summed to bins may end a bin short of a round
    /// time.
    pub(super) fn is_long_enough(&self) -> bool {
        self.seconds() >= SECONDS_MIN - self.width_s
    }

    /// Whether the next bin makes the oldest leave.
    #[must_use]
    fn is_full(&self) -> bool {
        self.bins() == self.unbroken.len()
    }

    /// Counts of the window's bin `t`, `[channels]`, the oldest first.
    pub(super) fn bin(&self, t: usize) -> &[u8] {
        let slot = self.slot(self.left + t);
        &self.counts[slot * self.channels..(slot + 1) * self.channels]
    }

    /// Pieces of the window without a gap, by its bins.
    pub(super) fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for t in 0..self.bins() {
            match runs.last_mut() {
                Some(run) if self.unbroken[self.slot(self.left + t)] > 1 => run.end = t + 1,
                _ => runs.push(t..t + 1),
            }
        }
        runs
    }

    fn slot(&self, bin: usize) -> usize {
        bin % self.unbroken.len()
    }

    /// Mean counts per bin, `[channels]`.
    pub(super) fn means(&self) -> Vec<f64> {
        let bins = self.bins().max(1) as f64;
        self.totals.iter().map(|sum| sum / bins).collect()
    }

    /// Mean of `y_t y_(t-k)` of a channel at the lag of an index of [`LAGS_S`].
    pub(super) fn lagged(&self, lag: usize, channel: usize) -> f64 {
        let of = &self.lags[lag];
        of.sums[channel] / of.pairs.max(1.0)
    }

    /// Mean of `y_t y_(t-k)` over short lags, of two channels and both orders.
    pub(super) fn product(&self, a: usize, b: usize) -> f64 {
        let n = self.channels;
        let both = self.products[a * n + b] + self.products[b * n + a];
        0.5 * both / self.product_pairs.max(1.0)
    }

    /// Pairs of bins behind each of [`Self::product`].
    pub(super) fn product_pairs(&self) -> f64 {
        self.product_pairs
    }

    /// Lags that [`Self::product`] is a mean over, from one bin on.
    pub(super) fn short(&self) -> usize {
        self.short
    }

    /// A bin of counts, of all channels of the session.
    pub(crate) fn push(&mut self, counts: &[f32]) {
        for (sum, count) in self.sum.iter_mut().zip(counts.iter().step_by(self.stride)) {
            *sum = sum.saturating_add(*count as u8);
        }
        self.in_sum += 1;
        if self.in_sum == self.summed {
            if self.is_full() {
                self.leave();
            }
            self.enter();
            self.sum.fill(0);
            self.in_sum = 0;
        }
    }

    /// Bins are missing here: nothing is compared across them.
    pub(crate) fn gap(&mut self) {
        self.sum.fill(0);
        self.in_sum = 0;
        self.broken = true;
    }

    /// The sum enters as a bin.
    fn enter(&mut self) {
        let (n, now) = (self.channels, self.entered);
        let slot = self.slot(now);
        let before = if self.broken { 0 } else { self.unbroken[self.slot(now - 1)] };
        self.broken = false;
        self.unbroken[slot] = before + 1;
        self.counts[slot * n..(slot + 1) * n].copy_from_slice(&self.sum);
        self.entered += 1;
        for (total, count) in self.totals.iter_mut().zip(&self.sum) {
            *total += f64::from(*count);
        }
        // Bins before the oldest have left.
        let reach = before.min(now - self.left);
        let capacity = self.unbroken.len();
        for lag in self.lags.iter_mut().filter(|l| l.bins <= reach) {
            let at = (now - lag.bins) % capacity * n;
            let earlier = &self.counts[at..at + n];
            for ((sum, a), b) in lag.sums.iter_mut().zip(&self.sum).zip(earlier) {
                *sum += f64::from(u32::from(*a) * u32::from(*b));
            }
            lag.pairs += 1.0;
        }
        self.others.fill(0.0);
        for k in 1..=self.short.min(reach) {
            let at = (now - k) % capacity * n;
            for (other, count) in self.others.iter_mut().zip(&self.counts[at..at + n]) {
                *other += f64::from(*count);
            }
            self.product_pairs += 1.0;
        }
        for (i, count) in self.sum.iter().enumerate().filter(|(_, count)| **count > 0) {
            let row = &mut self.products[i * n..(i + 1) * n];
            let count = f64::from(*count);
            row.iter_mut().zip(&self.others).for_each(|(p, o)| *p += count * o);
        }
    }

    /// The oldest bin leaves, with every pair that it was the earlier one of.
    fn leave(&mut self) {
        let (n, now, capacity) = (self.channels, self.left, self.unbroken.len());
        let own: Vec<u8> = self.bin(0).to_vec();
        for (total, count) in self.totals.iter_mut().zip(&own) {
            *total -= f64::from(*count);
        }
        let paired = |k: usize| now + k < self.entered && self.unbroken[(now + k) % capacity] > k;
        for lag in self.lags.iter_mut().filter(|l| paired(l.bins)) {
            let at = (now + lag.bins) % capacity * n;
            let later = &self.counts[at..at + n];
            for ((sum, a), b) in lag.sums.iter_mut().zip(&own).zip(later) {
                *sum -= f64::from(u32::from(*a) * u32::from(*b));
            }
            lag.pairs -= 1.0;
        }
        self.others.fill(0.0);
        for k in (1..=self.short).filter(|k| paired(*k)) {
            let at = (now + k) % capacity * n;
            for (other, count) in self.others.iter_mut().zip(&self.counts[at..at + n]) {
                *other += f64::from(*count);
            }
            self.product_pairs -= 1.0;
        }
        let fired: Vec<(usize, f64)> = own
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(j, count)| (j, f64::from(*count)))
            .collect();
        for (row, other) in self.products.chunks_exact_mut(n).zip(&self.others) {
            for (j, count) in &fired {
                row[*j] -= count * other;
            }
        }
        self.left += 1;
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The same from all bins at once; `None` is a gap.
    fn slow(bins: &[Option<Vec<u8>>], lag: usize, a: usize, b: usize) -> (f64, f64) {
        let (mut sum, mut pairs) = (0.0, 0.0);
        for t in lag..bins.len() {
            let run = &bins[t - lag..=t];
            if let (true, Some(now), Some(earlier)) =
                (run.iter().all(Option::is_some), &bins[t], &bins[t - lag])
            {
                sum += f64::from(now[a]) * f64::from(earlier[b]);
                pairs += 1.0;
            }
        }
        (sum, pairs)
    }

    #[test]
    fn sums_are_those_of_the_bins_in_the_window_whatever_left_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut window = Window::new(3, 0.05, SECONDS_MAX).expect("a window");
        let mut bins: Vec<Option<Vec<u8>>> = Vec::new();
        for _ in 0..2700 {
            if rng.random_bool(0.01) {
                window.gap();
                bins.push(None);
            }
            let counts: Vec<u8> = (0..3).map(|_| rng.random_range(0..4)).collect();
            window.push(&counts.iter().map(|c| f32::from(*c)).collect::<Vec<f32>>());
            bins.push(Some(counts));
        }
        assert_eq!(window.bins(), 2400);
        let mut left = 0;
        while bins.iter().flatten().count() > 2400 {
            left += usize::from(bins.remove(0).is_some());
        }
        assert_eq!(left, 300);
        let whole: Vec<&Vec<u8>> = bins.iter().flatten().collect();
        assert_eq!(window.bin(17), whole[17].as_slice());
        let runs = window.runs();
        assert_eq!(runs.len(), bins.iter().skip(1).filter(|b| b.is_none()).count() + 1);
        assert_eq!(runs.iter().map(ExactSizeIterator::len).sum::<usize>(), 2400);
        let mean = whole.iter().map(|b| f64::from(b[1])).sum::<f64>() / 2400.0;
        assert!((window.means()[1] - mean).abs() < 1e-12);
        for (index, lag) in [(0, 1), (5, 2), (9, 10), (11, 20)] {
            let (sum, pairs) = slow(&bins, lag, 2, 2);
            assert!((window.lagged(index, 2) - sum / pairs).abs() < 1e-12, "lag {lag}");
        }
        // Of bins of 50 ms, two lags are short.
        let all =
            [(1, 0, 1), (1, 1, 0), (2, 0, 1), (2, 1, 0)].map(|(k, a, b)| slow(&bins, k, a, b));
        let (sum, pairs) = all.iter().fold((0.0, 0.0), |(s, p), (sum, n)| (s + sum, p + n));
        assert!((window.product(0, 1) - sum / pairs).abs() < 1e-12);
    }

    #[test]
    fn narrow_bins_are_summed_many_channels_thinned_wide_bins_refused() {
        let mut window = Window::new(600, 0.001, SECONDS_MAX).expect("a window");
        assert_eq!((window.channels(), window.width_s()), (200, 0.01));
        for _ in 0..20 {
            window.push(&[1.0; 600]);
        }
        assert_eq!((window.bins(), window.bin(1)), (2, [10u8; 200].as_slice()));
        assert!(Window::new(4, 0.2, 60.0).is_none() && Window::new(0, 0.01, 60.0).is_none());
    }
}
