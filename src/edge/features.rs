//! What counts tell of the edge of chaos: timing and shape of what channels share.

use std::ops::Range;

use nalgebra::DMatrix;
use pulp::{Arch, Simd, WithSimd};

use super::chance::chance;
use super::correlogram::{CORRELOGRAM, Correlogram, LEADING};
use super::persistence::{pairs_of, persistence};
use super::products::{Products, Scatter, Scattered, Squares};
use super::window::{LAGS_S, Window, bins};
use crate::dynamics::eigenvalues;
use crate::learner::leading;

/// A channel that fires less is not read, spikes per second.
const RATE_MIN_HZ: f64 = 0.4;
/// Fewer channels tell nothing of a population.
const CHANNELS_MIN: usize = 8;
/// What channels share must exceed what independent ones show by chance so many times.
const ABOVE_CHANCE: f64 = 1.15;
/// Autocovariances are relative to their mean over so many of the shortest lags.
const SHORTEST: usize = 3;
/// Smoothness is read off lags up to this, seconds, as `A - B lag^h` for these `h`.
const SMOOTHNESS_S: f64 = 0.2;
const POWERS: Range<usize> = 6..25;
/// Linear dynamics `C(k + lag) C(k)^-1` of so many directions at lags of so many seconds.
const LINEAR: [(usize, f64); 5] = [(3, 0.05), (3, 0.1), (3, 0.2), (6, 0.05), (6, 0.1)];
/// Asymmetry in time of the covariance at lags, seconds.
const ASYMMETRY_S: [f64; 3] = [0.03, 0.1, 0.25];
/// States are smoothed over this time, seconds, and their speed is read over these.
const SMOOTHED_S: f64 = 0.1;
const SPEED_S: [f64; 2] = [0.05, 0.2];
/// Windows whose counts scatter, in the shortest of them, and that one's length, seconds.
const FANO: [usize; 4] = [1, 4, 10, 20];
const FANO_S: f64 = 0.05;

/// Number of features.
pub(crate) const FEATURES: usize = 84 + CORRELOGRAM;
/// Where among them the log of the seconds stands, and that of the leading covariance over what
/// independent channels show.
pub(super) const SECONDS: usize = 0;
pub(super) const CLARITY: usize = 25;

/// The window's features; `None` where it is too short, too few channels fire, or what they share
/// does not exceed chance.
///
/// Covariances at lags above 0 are free of Poisson noise; of counts relative to the root of their
/// mean, `z = (y - mu) / sqrt(mu)`, they are those of the log rates weighted by the rates.
#[must_use]
pub(crate) fn features(window: &Window) -> Option<Vec<f32>> {
    if !window.is_long_enough() {
        return None;
    }
    let means = window.means();
    let fires = |mean: &f64| *mean >= RATE_MIN_HZ * window.width_s();
    let kept: Vec<usize> = (0..window.channels()).filter(|&i| fires(&means[i])).collect();
    if kept.len() < CHANNELS_MIN {
        return None;
    }
    let population = Population { window, means: kept.iter().map(|&i| means[i]).collect(), kept };
    let shared = population.shared()?;
    let states = population.states(&shared);
    let mut out = Vec::with_capacity(FEATURES);
    population.describe(&shared, &mut out);
    Correlogram::new(&states.of, &states.runs, states.width_s).describe(&mut out);
    population.autocovariance(&mut out);
    states.smoothness(&mut out);
    states.linear(&mut out);
    states.asymmetry(&mut out);
    states.shape(&mut out);
    population.scatter(&states.sums, &mut out);
    persistence(&states.totals, &states.runs, window.width_s(), &mut out);
    persistence(&states.direction(0), &states.runs, window.width_s(), &mut out);
    debug_assert_eq!(out.len(), FEATURES);
    Some(out.into_iter().map(|x| if x.is_finite() { x as f32 } else { 0.0 }).collect())
}

fn log(x: f64, least: f64) -> f64 {
    x.max(least).ln()
}

/// The channels that fire.
struct Population<'a> {
    window: &'a Window,
    kept: Vec<usize>,
    /// Of the kept ones.
    means: Vec<f64>,
}

/// What they share.
struct Shared {
    trace: f64,
    /// Sum of the squared covariances.
    squares: f64,
    /// Largest eigenvalue that independent channels show by chance, about.
    chance: f64,
    /// The largest first.
    values: Vec<f64>,
    /// `[LEADING][channels]`.
    directions: Vec<Vec<f32>>,
}

impl Population<'_> {
    fn shared(&self) -> Option<Shared> {
        let n = self.kept.len();
        let mut covariance = vec![0.0f32; n * n];
        let (mut trace, mut squares) = (0.0, 0.0);
        let roots: Vec<f64> = self.means.iter().map(|m| m.sqrt()).collect();
        let over: Vec<f64> = roots.iter().map(|r| 1.0 / r).collect();
        for a in 0..n {
            std::thread::yield_now();
            for b in 0..=a {
                let product = self.window.product(self.kept[a], self.kept[b]);
                let c = product * over[a] * over[b] - roots[a] * roots[b];
                (covariance[a * n + b], covariance[b * n + a]) = (c as f32, c as f32);
                trace += if a == b { c } else { 0.0 };
                squares += if a == b { c * c } else { 2.0 * c * c };
            }
        }
        let pairs = self.window.product_pairs().max(1.0);
        let chance = chance(n, pairs, self.window.short());
        let (values, directions) = leading(&covariance, n, LEADING, chance as f32);
        let clear = values.first().is_some_and(|v| *v > ABOVE_CHANCE * chance);
        let squares = squares - (n * n) as f64 / (2.0 * pairs);
        clear.then_some(Shared { trace, squares, chance, values, directions })
    }

    /// Counts of the channels that fire.
    #[inline(always)]
    fn pick(&self, bin: &[u8], to: &mut [f32]) {
        if self.kept.len() == bin.len() {
            to.iter_mut().zip(bin).for_each(|(t, &count)| *t = f32::from(count));
        } else {
            to.iter_mut().zip(&self.kept).for_each(|(t, &i)| *t = f32::from(bin[i]));
        }
    }

    /// Projections of all bins on the leading directions.
    fn states(&self, shared: &Shared) -> States {
        let (n, t) = (self.kept.len(), self.window.bins());
        // `[channels][LEADING]`, over the root of the mean.
        let mut weights = vec![[0.0f32; LEADING]; n];
        let mut centre = [0.0f32; LEADING];
        for (d, direction) in shared.directions.iter().enumerate() {
            for (i, v) in direction.iter().enumerate() {
                let root = self.means[i].sqrt() as f32;
                weights[i][d] = v / root;
                centre[d] += v * root;
            }
        }
        let mut states = States {
            of: Vec::with_capacity(t),
            totals: Vec::with_capacity(t),
            runs: self.window.runs(),
            width_s: self.window.width_s(),
            sums: vec![0.0; t / self.base() * n],
        };
        let project = Project { population: self, weights: &weights, centre, states: &mut states };
        Arch::new().dispatch(project);
        states
    }

    /// Bins in the shortest window whose counts scatter.
    fn base(&self) -> usize {
        bins(FANO_S, self.window.width_s())
    }

    fn describe(&self, shared: &Shared, out: &mut Vec<f64>) {
        let n = self.kept.len() as f64;
        let mean = self.means.iter().sum::<f64>() / n;
        let variance = self.means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / n;
        let width_s = self.window.width_s();
        out.extend([
            self.window.seconds().ln(),
            n.ln(),
            (mean / width_s).ln(),
            variance.sqrt() / mean,
            width_s.ln(),
        ]);
        let ratio = log(shared.trace.powi(2), 1e-6) - log(shared.squares, 1e-6);
        // Relative to the mean rate: what rates do, however many spikes tell of it.
        out.extend([log(shared.trace / n / mean, 1e-5), ratio, ratio - n.ln()]);
        let total = shared.values.iter().sum::<f64>().max(1e-6);
        out.extend(shared.values.iter().map(|v| log(*v / n / mean, 1e-6)));
        out.extend(shared.values.iter().map(|v| v / total));
        let above = shared.values.iter().filter(|v| **v > shared.chance).count();
        out.extend([above as f64, (shared.values[0] / shared.chance).ln()]);
    }

    /// Autocovariance over all channels, relative.
    fn autocovariance(&self, out: &mut Vec<f64>) {
        let at = |lag: usize| -> f64 {
            let of = self.kept.iter().zip(&self.means);
            of.map(|(&i, m)| (self.window.lagged(lag, i) - m * m) / m).sum()
        };
        let all: Vec<f64> = (0..LAGS_S.len()).map(at).collect();
        out.extend(relative(&all));
    }

    /// Fano factors above 1 of channels and of their sum, in windows of several lengths, from sums
    /// over the shortest.
    fn scatter(&self, sums: &[f32], out: &mut Vec<f64>) {
        let n = self.kept.len();
        let whole = sums.len() / n;
        for length in FANO {
            let windows = whole / length;
            let counts = Scatter { sums, n, length, windows };
            let Scattered { sum, square, all, all_square } = Arch::new().dispatch(counts);
            let t = windows as f64;
            let fano = |sum: f64, square: f64| {
                let mean = sum / t;
                (square / t - mean * mean) * t / (t - 1.0) / mean.max(1e-6)
            };
            let each: Vec<f64> = sum.iter().zip(&square).map(|(s, q)| fano(*s, *q)).collect();
            let mean = each.iter().sum::<f64>() / n as f64;
            let spread = each.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / n as f64;
            // Relative to the mean count, as above.
            let count = all / t / n as f64;
            out.extend([
                log((mean - 1.0) / count, 1e-4),
                log(spread.sqrt() / count, 1e-4),
                log((fano(all, all_square) - 1.0) / count / n as f64, 1e-6),
            ]);
        }
    }
}

/// One pass over all bins: their states, totals, and sums over short windows.
struct Project<'a> {
    population: &'a Population<'a>,
    /// `[channels][LEADING]`.
    weights: &'a [[f32; LEADING]],
    centre: [f32; LEADING],
    states: &'a mut States,
}

impl WithSimd for Project<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { population, weights, centre, states } = self;
        let (n, base) = (weights.len(), population.base());
        let mut counts = vec![0.0f32; n];
        for t in 0..population.window.bins() {
            if t.is_multiple_of(256) {
                std::thread::yield_now();
            }
            population.pick(population.window.bin(t), &mut counts);
            let (state, total) = projected::<S>(&counts, weights);
            states.of.push(std::array::from_fn(|d| state[d] - centre[d]));
            states.totals.push(total);
            let at = t / base * n;
            if let Some(sums) = states.sums.get_mut(at..at + n) {
                sums.iter_mut().zip(&counts).for_each(|(s, c)| *s += c);
            }
        }
    }
}

/// Counts times weights `[channels][LEADING]`, and their sum; in running sums, so that additions
/// need not wait for one another.
#[inline(always)]
fn projected<S: Simd>(counts: &[f32], weights: &[[f32; LEADING]]) -> ([f32; LEADING], f32) {
    const LANES: usize = 4;
    let (mut sums, mut totals) = ([[0.0f32; LEADING]; LANES], [0.0f32; LANES]);
    let (counts, weights) = (counts.as_chunks::<LANES>(), weights.as_chunks::<LANES>());
    for (counts, weights) in counts.0.iter().zip(weights.0) {
        for l in 0..LANES {
            totals[l] += counts[l];
            for d in 0..LEADING {
                // Where there is no such instruction, it is far slower than two.
                sums[l][d] = match S::IS_SCALAR {
                    true => counts[l] * weights[l][d] + sums[l][d],
                    false => counts[l].mul_add(weights[l][d], sums[l][d]),
                };
            }
        }
    }
    for (l, (count, weights)) in counts.1.iter().zip(weights.1).enumerate() {
        totals[l] += count;
        (0..LEADING).for_each(|d| sums[l][d] += count * weights[d]);
    }
    let sum = |d: usize| sums.iter().map(|s| s[d]).sum();
    (std::array::from_fn(sum), totals.iter().sum())
}

/// Values over the mean of the first few, none beyond 2.
fn relative(all: &[f64]) -> impl Iterator<Item = f64> {
    let start = all[..SHORTEST].iter().sum::<f64>() / SHORTEST as f64;
    let start = start.max(1e-6);
    all.iter().map(move |x| (x / start).clamp(-2.0, 2.0))
}

/// The leading directions' course.
struct States {
    of: Vec<[f32; LEADING]>,
    /// Counts summed over channels, by bin.
    totals: Vec<f32>,
    /// Counts summed over short windows, `[windows, channels]`.
    sums: Vec<f32>,
    /// Pieces without a gap.
    runs: Vec<Range<usize>>,
    width_s: f64,
}

impl States {
    fn direction(&self, d: usize) -> Vec<f32> {
        self.of.iter().map(|s| s[d]).collect()
    }

    /// Short stretches, each with the same `k` bins later, none across a gap.
    fn pairs(&self, k: usize) -> impl Iterator<Item = (&[[f32; LEADING]], &[[f32; LEADING]])> {
        self.runs.iter().filter(move |run| run.len() > k).flat_map(move |run| {
            let [earlier, later] =
                [&self.of[run.start..run.end - k], &self.of[run.start + k..run.end]];
            earlier.chunks(256).zip(later.chunks(256))
        })
    }

    /// `C(k)` of the first `n` directions, `[n][n]`.
    fn covariance(&self, n: usize, k: usize) -> DMatrix<f64> {
        std::thread::yield_now();
        let mut all = DMatrix::zeros(n, n);
        for (earlier, later) in self.pairs(k) {
            let sums = Arch::new().dispatch(Products { earlier, later });
            for i in 0..n {
                for j in 0..n {
                    all[(i, j)] += f64::from(sums[i][j]);
                }
            }
        }
        all / pairs_of(&self.runs, k).max(1) as f64
    }

    /// Of each direction, its autocovariance at a lag in bins.
    fn variances(&self, k: usize) -> [f64; LEADING] {
        std::thread::yield_now();
        let mut all = [0.0f64; LEADING];
        for (earlier, later) in self.pairs(k) {
            let sums = Arch::new().dispatch(Squares { earlier, later });
            all.iter_mut().zip(sums).for_each(|(a, s)| *a += f64::from(s));
        }
        let pairs = pairs_of(&self.runs, k).max(1) as f64;
        all.map(|x| x / pairs)
    }

    /// `h`, `B / A` and the residual of `A - B lag^h`: `h` is 1 where white noise drives, 2 where
    /// the course is smooth.
    fn smoothness(&self, out: &mut Vec<f64>) {
        let longest = bins(SMOOTHNESS_S, self.width_s);
        let curve: Vec<(f64, f64)> = (1..=longest)
            .map(|k| (k as f64 * self.width_s / 0.1, self.variances(k).iter().sum()))
            .collect();
        let n = curve.len() as f64;
        let mut best = [f64::INFINITY, 0.0, 0.0, 0.0];
        for power in POWERS {
            let h = power as f64 / 10.0;
            let (mut x, mut xx, mut y, mut xy) = (0.0, 0.0, 0.0, 0.0);
            for (lag, value) in &curve {
                let raised = -lag.powf(h);
                x += raised;
                xx += raised * raised;
                y += value;
                xy += raised * value;
            }
            let det = n * xx - x * x;
            let b = if det.abs() > 1e-12 { (n * xy - x * y) / det } else { 0.0 };
            let a = (y - b * x) / n;
            let left: f64 =
                curve.iter().map(|(lag, v)| (v - a + b * lag.powf(h)).powi(2)).sum::<f64>();
            if left < best[0] {
                best = [left, h, a, b];
            }
        }
        let [left, h, a, b] = best;
        let a = a.max(1e-6);
        out.extend([h, (b / a).clamp(-3.0, 3.0), log(left / (a * a), 1e-9)]);
    }

    /// Growth rates of the two slowest linear modes, 1/s, and the slowest one's frequency, Hz.
    fn linear(&self, out: &mut Vec<f64>) {
        for (n, lag_s) in LINEAR {
            let lag = bins(lag_s, self.width_s);
            let mut start = self.covariance(n, lag);
            let ridge = 1e-3 * start.trace().abs() / n as f64 + 1e-9;
            for i in 0..n {
                start[(i, i)] += ridge;
            }
            let modes = start.lu().solve(&self.covariance(n, 2 * lag));
            let mut modes = modes.as_ref().and_then(eigenvalues).unwrap_or_default();
            modes.sort_by(|a, b| b.norm().total_cmp(&a.norm()));
            let seconds = lag as f64 * self.width_s;
            let rate = |m: usize| {
                let growth = modes.get(m).map_or(1e-3, |e| e.norm().max(1e-3)).ln() / seconds;
                growth.clamp(-20.0, 5.0)
            };
            let turn = modes.first().map_or(0.0, |e| e.arg().abs());
            out.extend([rate(0), rate(1), turn / (std::f64::consts::TAU * seconds)]);
        }
    }

    /// Share of the covariance that is not symmetric in time.
    fn asymmetry(&self, out: &mut Vec<f64>) {
        for seconds in ASYMMETRY_S {
            let c = self.covariance(6, bins(seconds, self.width_s));
            let both = (&c + c.transpose()).norm();
            out.push((&c - c.transpose()).norm() / both.max(1e-6));
        }
    }

    /// Kurtosis and skewness of three smoothed directions, scatter of the distance from the middle,
    /// and speed.
    fn shape(&self, out: &mut Vec<f64>) {
        const KEPT: usize = 4;
        let over = bins(SMOOTHED_S, self.width_s);
        let mut smoothed: Vec<[f64; KEPT]> = Vec::with_capacity(self.of.len());
        let mut sum = [0.0f64; KEPT];
        for (t, state) in self.of.iter().enumerate() {
            for d in 0..KEPT {
                sum[d] += f64::from(state[d]);
                if t >= over {
                    sum[d] -= f64::from(self.of[t - over][d]);
                }
            }
            if t + 1 >= over {
                smoothed.push(sum);
            }
        }
        let n = smoothed.len() as f64;
        let mut mean = [0.0; KEPT];
        smoothed.iter().for_each(|s| (0..KEPT).for_each(|d| mean[d] += s[d] / n));
        smoothed.iter_mut().for_each(|s| (0..KEPT).for_each(|d| s[d] -= mean[d]));
        let moment = |d: usize, p: i32| smoothed.iter().map(|s| s[d].powi(p)).sum::<f64>() / n;
        for d in 0..3 {
            let sd = moment(d, 2).sqrt().max(1e-9);
            out.extend([moment(d, 4) / sd.powi(4) - 3.0, (moment(d, 3) / sd.powi(3)).abs()]);
        }
        let distance = |s: &[f64; KEPT]| s.iter().map(|x| x * x).sum::<f64>();
        let from: Vec<f64> = smoothed.iter().map(|s| distance(s).sqrt()).collect();
        let middle = from.iter().sum::<f64>() / n;
        let scatter = from.iter().map(|r| (r - middle).powi(2)).sum::<f64>() / n;
        out.push(scatter.sqrt() / middle.max(1e-9));
        let spread = from.iter().map(|r| r * r).sum::<f64>() / n;
        for seconds in SPEED_S {
            let k = bins(seconds, self.width_s);
            let pairs = smoothed.iter().zip(&smoothed[k..]);
            let moved: f64 = pairs
                .map(|(a, b)| (0..KEPT).map(|d| (b[d] - a[d]).powi(2)).sum::<f64>())
                .sum::<f64>()
                / (n - k as f64);
            out.push(log(moved / spread.max(1e-9), 1e-6));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::iter::once;
    use std::slice::from_ref;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Poisson, StandardNormal};

    use super::*;

    const CHANNELS: usize = 40;

    /// Latents that decay with a time constant of 0.2 s and turn, driven by white noise; smoothed
    /// over a Gaussian's width in bins of 10 ms where there is one.
    fn latents(bins: usize, turns_hz: f64, width: usize, rng: &mut ChaCha8Rng) -> Vec<[f64; 2]> {
        let (decay, angle) = ((-0.01f64 / 0.2).exp(), std::f64::consts::TAU * turns_hz * 0.01);
        let mut x = [0.0; 2];
        let raw: Vec<[f64; 2]> = (0..bins + 8 * width)
            .map(|_| {
                let [a, b] = x;
                x = [angle.cos() * a - angle.sin() * b, angle.sin() * a + angle.cos() * b].map(
                    |v| {
                        let new: f64 = StandardNormal.sample(rng);
                        decay * v + (1.0 - decay * decay).sqrt() * new
                    },
                );
                x
            })
            .collect();
        let kernel: Vec<f64> = (0..=8 * width)
            .map(|i| (-0.5 * ((i as f64 - 4.0 * width as f64) / width.max(1) as f64).powi(2)).exp())
            .collect();
        let total: f64 = kernel.iter().sum();
        let smoothed = |t: usize| {
            [0, 1].map(|d| kernel.iter().zip(&raw[t..]).map(|(k, x)| k * x[d]).sum::<f64>() / total)
        };
        (0..bins).map(smoothed).collect()
    }

    /// A window of a minute of counts that follow the latents with a weight.
    fn window(latents: &[[f64; 2]], weight: f64, order: bool, seed: u64) -> Window {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let gains: Vec<[f64; 2]> =
            (0..CHANNELS).map(|_| [0, 1].map(|_| StandardNormal.sample(&mut rng))).collect();
        let mut window = Window::new(CHANNELS, 0.01, 60.0).expect("a window");
        for x in latents {
            let mut counts: Vec<f32> = gains
                .iter()
                .map(|g| {
                    let rate = 0.2 * (weight * (g[0] * x[0] + g[1] * x[1])).exp();
                    let drawn: f64 = Poisson::new(rate).expect("a rate").sample(&mut rng);
                    drawn as f32
                })
                .collect();
            if order {
                counts.reverse();
            }
            window.push(&counts);
        }
        window
    }

    fn of_states(turns_hz: f64, width: usize, of: impl Fn(&States, &mut Vec<f64>)) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let states = latents(60_000, turns_hz, width, &mut rng);
        let state = |x: &[f64; 2]| {
            std::array::from_fn(|d| if d < 2 { x[d] as f32 } else { 1e-3 * (d as f32).sin() })
        };
        let path: Vec<[f32; LEADING]> = states.iter().map(state).collect();
        let totals = vec![0.0; path.len()];
        let states = States {
            runs: once(0..path.len()).collect(),
            of: path,
            totals,
            width_s: 0.01,
            sums: Vec::new(),
        };
        let mut out = Vec::new();
        of(&states, &mut out);
        out
    }

    #[test]
    fn a_course_driven_by_white_noise_is_rough_and_a_smoothed_one_smooth() {
        let rough = of_states(0.0, 0, States::smoothness);
        let smooth = of_states(0.0, 12, States::smoothness);
        assert!((0.6..1.3).contains(&rough[0]), "{rough:?}");
        assert!((1.7..2.41).contains(&smooth[0]), "{smooth:?}");
    }

    #[test]
    fn linear_modes_decay_and_turn_as_the_process_does() {
        // Eight directions of which two move: their pair leads whatever the number.
        let modes = of_states(1.5, 0, States::linear);
        for of in modes.chunks_exact(3) {
            assert!((of[0] + 5.0).abs() < 1.0, "{modes:?}");
            assert!((of[2] - 1.5).abs() < 0.2, "{modes:?}");
        }
        let turning = of_states(1.5, 0, States::asymmetry);
        assert!(turning[1] > 0.5, "{turning:?}");
    }

    #[test]
    fn independent_channels_are_not_resolved_and_shared_ones_are() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let latents = latents(6000, 0.0, 0, &mut rng);
        assert_eq!(features(&window(&latents, 0.0, false, 6)), None);
        let found = features(&window(&latents, 0.4, false, 6)).expect("features");
        assert_eq!(found.len(), FEATURES);
        assert!(found.iter().all(|x| x.is_finite()));
        assert!((found[SECONDS] - 60f32.ln()).abs() < 1e-6);
        assert!(found[CLARITY] > 1.15f32.ln());
        assert_eq!(features(&window(&latents[..1900], 0.4, false, 6)), None, "19 s");
    }

    #[test]
    fn the_order_of_channels_does_not_matter() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let latents = latents(6000, 0.5, 0, &mut rng);
        let [one, other] =
            [false, true].map(|o| features(&window(&latents, 0.5, o, 8)).expect("features"));
        for (i, (a, b)) in one.iter().zip(&other).enumerate() {
            assert!((a - b).abs() < 0.05 * (1.0 + a.abs()), "feature {i}: {a} and {b}");
        }
    }

    #[test]
    fn persistence_has_the_processes_time_constant() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let course: Vec<f32> =
            latents(30_000, 0.0, 0, &mut rng).iter().map(|x| x[0] as f32).collect();
        let mut out = Vec::new();
        persistence(&course, from_ref(&(0..course.len())), 0.01, &mut out);
        assert!((out[0].exp() - 0.2).abs() < 0.05 && (out[1] - 1.0).abs() < 0.05, "{out:?}");
        let noise: Vec<f32> = (0..1000).map(|_| rng.random_range(-1.0..1.0)).collect();
        persistence(&noise, from_ref(&(0..noise.len())), 0.01, &mut out);
        assert!(out[3].abs() < 0.5, "{out:?}");
    }
}
