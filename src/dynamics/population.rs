//! Measures of the counts alone, independent of the model: the branching ratio of the population's
//! activity (multistep regression, Wilting & Priesemann 2018) and the effective connectivity radius
//! from covariances (Dahmen, Gruen, Diesmann & Helias 2019).

use super::estimate::{Estimate, NORMAL_HALF_WIDTH};

/// Longest lag of the regression, seconds, and most lags.
const LAG_MAX_S: f64 = 0.5;
const LAGS_MAX: usize = 50;
/// Sums are kept in blocks of this length, seconds.
const BLOCK_S: f64 = 5.0;
/// Number of blocks that count, the newest ones.
const BLOCKS: usize = 24;
/// Blocks that an interval is made from at least.
const BLOCKS_MIN: usize = 4;
/// Range of the fitted timescales, seconds.
const TIMESCALE_S: [f64; 2] = [0.002, 20.0];
/// Width of the windows whose counts' covariances are taken, seconds.
const WINDOW_S: f64 = 1.0;
/// Windows that are kept.
const WINDOWS: usize = 240;
/// Smallest number of windows that a radius is made from.
const WINDOWS_MIN: usize = 30;
/// Groups of channels that the radius' interval is made from, each left out in turn.
const GROUPS: usize = 10;

/// Sums of one block: of `x_t`, and for each lag of `x_t`, `x_t+k`, `x_t x_t+k`, `x_t^2`.
#[derive(Debug, Clone)]
struct Block {
    bins: usize,
    lags: Vec<LagSums>,
}

#[derive(Debug, Clone, Copy, Default)]
struct LagSums {
    n: f64,
    before: f64,
    after: f64,
    product: f64,
    square: f64,
}

impl LagSums {
    fn add(&mut self, other: &Self, sign: f64) {
        self.n += sign * other.n;
        self.before += sign * other.before;
        self.after += sign * other.after;
        self.product += sign * other.product;
        self.square += sign * other.square;
    }

    /// Slope of the linear regression of `x_t+k` on `x_t`.
    fn slope(&self) -> Option<f64> {
        let cov = self.product / self.n - self.before / self.n * (self.after / self.n);
        let var = self.square / self.n - (self.before / self.n).powi(2);
        (self.n >= 2.0 && var > 1e-12).then_some(cov / var)
    }
}

/// Branching ratio with its timescale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Branching {
    /// `m` of `r_k = b m^k`, per bin: 1 is critical.
    pub ratio_per_bin: Estimate,
    /// `-bin / ln m`, seconds.
    pub timescale_s: Estimate,
}

/// Follows a population's counts.
#[derive(Debug, Clone)]
pub(super) struct Population {
    bin_width_s: f64,
    channels: usize,
    /// Lags, bins.
    lags: Vec<usize>,
    /// The newest totals, a ring as long as the longest lag.
    recent: Vec<f64>,
    seen: usize,
    block_bins: usize,
    /// Newest last.
    blocks: Vec<Block>,
    window_bins: usize,
    in_window: usize,
    window: Vec<f32>,
    /// Whole windows, a ring, `[WINDOWS, channels]`.
    windows: Vec<f32>,
    whole: usize,
    sum: Vec<f64>,
    /// `sum x x^T` over the windows, `[channels, channels]`.
    products: Vec<f64>,
}

impl Population {
    /// For `channels` channels in bins of a width.
    #[must_use]
    pub(super) fn new(channels: usize, bin_width_s: f64) -> Self {
        // With narrow bins, lags are spaced out: their number sets the cost of a bin.
        let longest = ((LAG_MAX_S / bin_width_s).round() as usize).max(3);
        let step = longest.div_ceil(LAGS_MAX);
        let lags: Vec<usize> = (1..=longest / step).map(|k| k * step).collect();
        let bins = |seconds: f64| ((seconds / bin_width_s).round() as usize).max(1);
        Self {
            bin_width_s,
            channels,
            recent: vec![0.0; lags.last().map_or(1, |l| l + 1)],
            lags,
            seen: 0,
            block_bins: bins(BLOCK_S),
            blocks: Vec::new(),
            window_bins: bins(WINDOW_S),
            in_window: 0,
            window: vec![0.0; channels],
            windows: Vec::new(),
            whole: 0,
            sum: vec![0.0; channels],
            products: vec![0.0; channels * channels],
        }
    }

    /// One bin of counts, `[channels]`.
    pub(super) fn push(&mut self, counts: &[f32]) {
        let total: f64 = counts.iter().map(|&c| f64::from(c)).sum();
        self.push_total(total);
        self.window.iter_mut().zip(counts).for_each(|(w, c)| *w += c);
        self.in_window += 1;
        if self.in_window == self.window_bins {
            self.close_window();
        }
    }

    /// A bin is missing: sums over neighbouring bins restart.
    pub(super) fn skip(&mut self) {
        self.seen = 0;
        self.in_window = 0;
        self.window.fill(0.0);
    }

    fn push_total(&mut self, total: f64) {
        if self.blocks.last().is_none_or(|b| b.bins == self.block_bins) {
            if self.blocks.len() == BLOCKS {
                self.blocks.remove(0);
            }
            let lags = vec![LagSums::default(); self.lags.len()];
            self.blocks.push(Block { bins: 0, lags });
        }
        let ring = self.recent.len();
        let at = self.seen % ring;
        self.recent[at] = total;
        if let Some(block) = self.blocks.last_mut() {
            block.bins += 1;
            for (sums, &lag) in block.lags.iter_mut().zip(&self.lags) {
                if self.seen < lag {
                    break;
                }
                let before = self.recent[(at + ring - lag) % ring];
                sums.n += 1.0;
                sums.before += before;
                sums.after += total;
                sums.product += before * total;
                sums.square += before * before;
            }
        }
        self.seen += 1;
    }

    fn close_window(&mut self) {
        let n = self.channels;
        let slot = self.whole % WINDOWS;
        if self.whole >= WINDOWS {
            let old = self.windows[slot * n..(slot + 1) * n].to_vec();
            self.add_window(&old, -1.0);
            self.windows[slot * n..(slot + 1) * n].copy_from_slice(&self.window);
        } else {
            self.windows.extend(&self.window);
        }
        let new = std::mem::replace(&mut self.window, vec![0.0; n]);
        self.add_window(&new, 1.0);
        self.whole += 1;
        self.in_window = 0;
    }

    fn add_window(&mut self, window: &[f32], sign: f64) {
        let n = self.channels;
        for i in 0..n {
            let x = sign * f64::from(window[i]);
            self.sum[i] += x;
            if x != 0.0 {
                let row = &mut self.products[i * n..(i + 1) * n];
                row.iter_mut().zip(window).for_each(|(p, y)| *p += x * f64::from(*y));
            }
        }
    }

    /// Branching ratio over the last two minutes at most; `None` while less than 20 s was seen or
    /// nothing of the activity persists from bin to bin.
    #[must_use]
    pub(super) fn branching(&self) -> Option<Branching> {
        let whole = self.blocks.len();
        if whole < BLOCKS_MIN {
            return None;
        }
        let mut all = vec![LagSums::default(); self.lags.len()];
        for block in &self.blocks {
            all.iter_mut().zip(&block.lags).for_each(|(a, b)| a.add(b, 1.0));
        }
        let best = self.fit(&all)?;
        // Each block left out in turn.
        let left_out: Vec<f64> = self
            .blocks
            .iter()
            .filter_map(|block| {
                let mut rest = all.clone();
                rest.iter_mut().zip(&block.lags).for_each(|(a, b)| a.add(b, -1.0));
                self.fit(&rest).map(f64::ln)
            })
            .collect();
        let half = NORMAL_HALF_WIDTH * jackknife_sd(&left_out)?;
        let timescale_s =
            Estimate { mean: best, low: best * (-half).exp(), high: best * half.exp() };
        let ratio = |timescale: f64| (-self.bin_width_s / timescale).exp();
        Some(Branching {
            ratio_per_bin: Estimate {
                mean: ratio(best),
                low: ratio(timescale_s.low),
                high: ratio(timescale_s.high),
            },
            timescale_s,
        })
    }

    /// Timescale of `r_k = b m^k` by least squares, seconds.
    fn fit(&self, sums: &[LagSums]) -> Option<f64> {
        std::thread::yield_now();
        let slopes: Vec<(f64, f64)> = sums
            .iter()
            .zip(&self.lags)
            .filter_map(|(s, &lag)| Some((lag as f64 * self.bin_width_s, s.slope()?)))
            .collect();
        if slopes.len() < 3 {
            return None;
        }
        // For a timescale, the amplitude b and the sum of squares that it leaves.
        let left = |log_timescale: f64| -> (f64, f64) {
            let rate = (-log_timescale).exp();
            let (mut along, mut square, mut total) = (0.0, 0.0, 0.0);
            for &(lag, slope) in &slopes {
                let m = (-lag * rate).exp();
                along += slope * m;
                square += m * m;
                total += slope * slope;
            }
            let b = along / square.max(1e-300);
            (b, total - along * b)
        };
        let [low, high] = TIMESCALE_S.map(f64::ln);
        // A grid first, because the sum of squares can have two minima; then a golden section.
        let grid = 64;
        let step = (high - low) / f64::from(grid);
        let at = (0..=grid)
            .map(|i| low + step * f64::from(i))
            .min_by(|a, b| left(*a).1.total_cmp(&left(*b).1))?;
        let (mut a, mut b) = ((at - step).max(low), (at + step).min(high));
        for _ in 0..40 {
            let (x, y) = (a + 0.382 * (b - a), a + 0.618 * (b - a));
            if left(x).1 < left(y).1 {
                b = y;
            } else {
                a = x;
            }
        }
        let best = f64::midpoint(a, b);
        (left(best).0 > 0.0).then(|| best.exp())
    }

    /// Effective connectivity radius over the last minutes (1 is where linear dynamics break down),
    /// taking the channels for the whole circuit: `R = sqrt(1 - sqrt(1 / (1 + N Delta^2)))`,
    /// `Delta` the standard deviation of the covariances between channels over the mean variance,
    /// what `T` windows scatter by chance taken off. `None` while less than half a minute was seen.
    #[must_use]
    pub(super) fn connectivity_radius(&self) -> Option<Estimate> {
        let n = self.channels;
        let windows = self.whole.min(WINDOWS);
        if windows < WINDOWS_MIN || n < 2 * GROUPS {
            return None;
        }
        let t = windows as f64;
        let covariance = |i: usize, j: usize| {
            (self.products[i * n + j] - self.sum[i] * self.sum[j] / t) / (t - 1.0)
        };
        let mut variance = [0.0; GROUPS];
        let mut members = [0.0; GROUPS];
        // Sums over pairs of channels of two groups: covariances and their squares.
        let mut pairs = [[[0.0; 2]; GROUPS]; GROUPS];
        for i in 0..n {
            variance[i % GROUPS] += covariance(i, i);
            members[i % GROUPS] += 1.0;
            for j in 0..i {
                let c = covariance(i, j);
                let [sum, square] = &mut pairs[i % GROUPS][j % GROUPS];
                *sum += c;
                *square += c * c;
            }
        }
        let radius = |without: Option<usize>| {
            let kept = |g: usize| Some(g) != without;
            let groups = || (0..GROUPS).filter(|&g| kept(g));
            let count: f64 = groups().map(|g| members[g]).sum();
            let mean_variance = groups().map(|g| variance[g]).sum::<f64>() / count;
            let n_pairs = count * (count - 1.0) / 2.0;
            let (mut sum, mut square) = (0.0, 0.0);
            for g in groups() {
                for h in groups() {
                    sum += pairs[g][h][0];
                    square += pairs[g][h][1];
                }
            }
            let spread = square / n_pairs - (sum / n_pairs).powi(2) - mean_variance.powi(2) / t;
            let delta_square = spread.max(0.0) / mean_variance.powi(2);
            // The circuit is as large as before, whichever channels are left out.
            (1.0 - (1.0 / (1.0 + n as f64 * delta_square)).sqrt()).sqrt()
        };
        let mean = radius(None);
        let left_out: Vec<f64> = (0..GROUPS).map(|g| radius(Some(g))).collect();
        let half = NORMAL_HALF_WIDTH * jackknife_sd(&left_out)?;
        mean.is_finite().then_some(Estimate {
            mean,
            low: (mean - half).max(0.0),
            high: (mean + half).min(1.0),
        })
    }
}

/// Standard deviation of an estimate from its values with one part left out each.
fn jackknife_sd(left_out: &[f64]) -> Option<f64> {
    let n = left_out.len() as f64;
    if left_out.len() < BLOCKS_MIN {
        return None;
    }
    let mean = left_out.iter().sum::<f64>() / n;
    let square: f64 = left_out.iter().map(|x| (x - mean).powi(2)).sum();
    Some(((n - 1.0) / n * square).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::DMatrix;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Poisson, StandardNormal};

    #[test]
    fn branching_holds_under_subsampling_where_the_naive_estimate_fails() {
        let m = 0.95;
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut population = Population::new(1, 0.004);
        let mut active = 400.0f64;
        let (mut counts, mut now) = (Vec::new(), [0.0f32]);
        for _ in 0..60_000 {
            // Offspring with a drive that keeps 400 active; one in twenty is seen.
            active = Poisson::new(m * active + 20.0).expect("a rate").sample(&mut rng);
            now[0] = (0..active as u32).filter(|_| rng.random_bool(0.05)).count() as f32;
            population.push(&now);
            counts.push(f64::from(now[0]));
        }
        let found = population.branching().expect("enough was seen");
        let ratio = found.ratio_per_bin;
        assert!((ratio.mean - m).abs() < 0.015, "{found:?}");
        assert!(ratio.low < m && m < ratio.high, "{found:?}");
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let var: f64 = counts.iter().map(|c| (c - mean).powi(2)).sum();
        let cov: f64 = counts.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum();
        assert!(cov / var < 0.6, "the naive estimate was {}", cov / var);
    }

    #[test]
    fn independent_counts_have_no_timescale_worth_the_name() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut population = Population::new(30, 0.01);
        let poisson = Poisson::new(0.2f32).expect("a rate");
        let mut counts = vec![0.0f32; 30];
        for _ in 0..12_000 {
            counts.iter_mut().for_each(|c| *c = poisson.sample(&mut rng));
            population.push(&counts);
        }
        let radius = population.connectivity_radius().expect("enough was seen");
        assert!(radius.mean < 0.35, "{radius:?}");
        let wide = population.branching().is_none_or(|b| {
            b.timescale_s.high / b.timescale_s.low > 5.0 || b.timescale_s.mean < 0.01
        });
        assert!(wide, "{:?}", population.branching());
    }

    #[test]
    fn the_radius_of_a_linear_network_is_found_from_its_covariances() {
        // Counts of a window x = (I - W)^-1 xi, W normal with spectral radius 0.8.
        let (n, radius) = (150, 0.8);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
        let w = DMatrix::from_fn(n, n, |_, _| radius * normal() / (n as f64).sqrt());
        let mix = (DMatrix::identity(n, n) - w).try_inverse().expect("regular");
        let mut population = Population::new(n, 1.0);
        for _ in 0..240 {
            let noise = nalgebra::DVector::from_fn(n, |_, _| normal());
            let x: Vec<f32> = (&mix * noise).iter().map(|&x| x as f32).collect();
            population.push(&x);
        }
        let found = population.connectivity_radius().expect("enough was seen");
        assert!((found.mean - radius).abs() < 0.08, "{found:?}");
        assert!(found.low < found.mean && found.mean < found.high);
    }

    #[test]
    fn old_windows_are_forgotten_and_gaps_break_neighbours() {
        let mut one = Population::new(30, 1.0);
        let mut two = Population::new(30, 1.0);
        let wave = |t: usize| -> Vec<f32> {
            (0..30).map(|i| (3.0 * ((t * (i + 3)) as f32).sin()).abs()).collect()
        };
        for t in 0..WINDOWS + 50 {
            one.push(&wave(t));
            if t >= 50 {
                two.push(&wave(t));
            }
        }
        let (a, b) = (one.connectivity_radius(), two.connectivity_radius());
        let (a, b) = (a.expect("seen").mean, b.expect("seen").mean);
        assert!((a - b).abs() < 1e-6, "{a} {b}");
        let before = one.blocks.last().map(|b| b.lags[0].n);
        one.skip();
        one.push(&wave(0));
        let last = one.blocks.last().map(|b| b.lags[0].n);
        assert!(last == before || last == Some(0.0), "no pair over the gap");
    }
}
