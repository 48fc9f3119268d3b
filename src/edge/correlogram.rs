//! Autocovariances of the leading directions over bands of lags: every lag counts, and what is
//! noise averages out.

use std::ops::Range;
use std::sync::LazyLock;

use pulp::{Arch, Simd, WithSimd};

/// Leading directions of the covariance.
pub(super) const LEADING: usize = 8;

/// Ends of the bands, seconds.
const ENDS_S: [f64; 14] =
    [0.0, 0.02, 0.04, 0.07, 0.1, 0.15, 0.22, 0.32, 0.45, 0.65, 0.9, 1.3, 1.9, 2.6];
const BANDS: usize = ENDS_S.len() - 1;
/// Curves are relative to their mean over so many of the first bands.
const FIRST: usize = 3;
/// Directions that are read together.
const SUBSPACES: [usize; 3] = [1, 3, 8];
/// Timescales, seconds, and powers of `exp(-(lag / timescale)^power)` that are tried.
const TIMESCALES_S: [f64; 2] = [0.02, 5.0];
const TIMESCALES: u32 = 28;
const POWERS: [f64; 7] = [0.6, 0.8, 1.0, 1.25, 1.5, 1.8, 2.2];

/// What returns is looked for at lags up to this, seconds, in bins of the width after it.
const FAR_S: f64 = 10.0;
const FAR_WIDTH_S: f64 = 0.1;

/// Values that [`Correlogram::describe`] gives.
pub(super) const CORRELOGRAM: usize = SUBSPACES.len() * (BANDS + 6) + LEADING + 1;

/// Mean autocovariance of each direction over the lags of each band, and at far ones.
pub(super) struct Correlogram {
    of: [[f64; LEADING]; BANDS],
    far: Vec<[f64; LEADING]>,
}

impl Correlogram {
    /// Of a course in bins of a width, with the pieces of it that have no gap.
    pub(super) fn new(course: &[[f32; LEADING]], runs: &[Range<usize>], width_s: f64) -> Self {
        // Sums of all bins before one.
        let mut before = vec![[0.0f64; LEADING]; course.len() + 1];
        for (t, state) in course.iter().enumerate() {
            before[t + 1] = std::array::from_fn(|d| before[t][d] + f64::from(state[d]));
        }
        let sums = Sums { course, before: &before, runs, width_s };
        let (mut of, far) = Arch::new().dispatch(sums);
        fill(&mut of);
        Self { of, far }
    }

    /// Relative curves of leading subspaces, with the logs of their integrals, timescale, power and
    /// what is left of a stretched exponential, and the largest value and the root of the mean
    /// square at far lags: a course that is driven by what repeats returns; the logs of the
    /// directions' own integrals, and their slope on those of the variances.
    pub(super) fn describe(&self, out: &mut Vec<f64>) {
        for directions in SUBSPACES {
            let curve = self.of.map(|v| v[..directions].iter().sum());
            let start = start(&curve);
            let curve = relative(curve);
            out.extend(curve);
            out.push(integral(&curve));
            out.extend(stretched(&curve));
            let far = self.far.iter().map(|v| v[..directions].iter().sum::<f64>() / start);
            let (mut largest, mut square) = (0.0f64, 0.0);
            far.for_each(|x| (largest, square) = (largest.max(x), square + x * x));
            let root = (square / self.far.len().max(1) as f64).sqrt();
            out.extend([largest, root].map(|x| x.min(2.0)));
        }
        let own: [[f64; BANDS]; LEADING] =
            std::array::from_fn(|d| std::array::from_fn(|b| self.of[b][d]));
        let timescales = own.map(|curve| integral(&relative(curve)));
        let variances = own.map(|curve| start(&curve).ln());
        out.extend(timescales);
        out.push(slope(&variances, &timescales));
    }
}

/// Mean autocovariance of each direction at lags beyond the last band, from sums of all bins before
/// one; lags that no piece is long enough for are left out.
#[inline(always)]
fn far(before: &[[f64; LEADING]], runs: &[Range<usize>], width_s: f64) -> Vec<[f64; LEADING]> {
    let over = (FAR_WIDTH_S / width_s).round().max(1.0) as usize;
    let pieces: Vec<Vec<[f32; LEADING]>> = runs
        .iter()
        .map(|run| {
            let ends = (run.start + over..=run.end).step_by(over);
            let mean = |end: usize| {
                let (first, last) = (&before[end - over], &before[end]);
                std::array::from_fn(|d| ((last[d] - first[d]) / over as f64) as f32)
            };
            ends.map(mean).collect()
        })
        .collect();
    let width_s = width_s * over as f64;
    let lags = (ENDS_S[BANDS] / width_s).round() as usize..(FAR_S / width_s).round() as usize;
    lags.filter_map(|lag| {
        let (mut sums, mut pairs) = ([0.0f64; LEADING], 0usize);
        for piece in pieces.iter().filter(|p| p.len() > lag) {
            for (stretch, later) in piece.chunks(256).zip(piece[lag..].chunks(256)) {
                let mut part = [0.0f32; LEADING];
                for (a, b) in stretch.iter().zip(later) {
                    (0..LEADING).for_each(|d| part[d] += a[d] * b[d]);
                }
                sums.iter_mut().zip(part).for_each(|(s, p)| *s += f64::from(p));
            }
            pairs += piece.len() - lag;
        }
        (pairs > 0).then(|| sums.map(|s| s / pairs as f64))
    })
    .collect()
}

/// Sums over bands of lags and at far ones, in one go.
struct Sums<'a> {
    course: &'a [[f32; LEADING]],
    /// Of all bins before one.
    before: &'a [[f64; LEADING]],
    runs: &'a [Range<usize>],
    width_s: f64,
}

impl WithSimd for Sums<'_> {
    type Output = ([[f64; LEADING]; BANDS], Vec<[f64; LEADING]>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let mut of = [[f64::NAN; LEADING]; BANDS];
        for (b, of) in of.iter_mut().enumerate() {
            *of = self.band(b);
        }
        (of, far(self.before, self.runs, self.width_s))
    }
}

impl Sums<'_> {
    /// Mean autocovariance over a band's lags; not a number where it has none.
    #[inline(always)]
    fn band(&self, b: usize) -> [f64; LEADING] {
        let at = |seconds: f64| (seconds / self.width_s + 1e-9).floor() as usize;
        let (from, to) = (at(ENDS_S[b]) + 1, at(ENDS_S[b + 1]));
        if from > to {
            return [f64::NAN; LEADING];
        }
        let (mut sums, mut pairs) = ([0.0f64; LEADING], 0);
        for run in self.runs {
            for t in run.start + from..run.end {
                let earliest = t.saturating_sub(to).max(run.start);
                let (first, last) = (&self.before[earliest], &self.before[t + 1 - from]);
                for d in 0..LEADING {
                    sums[d] += f64::from(self.course[t][d]) * (last[d] - first[d]);
                }
                pairs += t + 1 - from - earliest;
            }
        }
        if pairs > 0 { sums.map(|s| s / pairs as f64) } else { [f64::NAN; LEADING] }
    }
}

/// Bands that are narrower than a bin, or longer than every piece, lie on the line between those
/// beside them.
fn fill(of: &mut [[f64; LEADING]; BANDS]) {
    let known: Vec<usize> = (0..BANDS).filter(|&b| of[b][0].is_finite()).collect();
    let middle = |b: usize| 0.5 * (ENDS_S[b] + ENDS_S[b + 1]);
    for b in (0..BANDS).filter(|b| !known.contains(b)) {
        let after = known.iter().copied().find(|&k| k > b);
        let before = known.iter().copied().rev().find(|&k| k < b);
        of[b] = match (before, after) {
            (Some(x), Some(y)) => {
                let share = (middle(b) - middle(x)) / (middle(y) - middle(x));
                std::array::from_fn(|d| of[x][d] + share * (of[y][d] - of[x][d]))
            }
            (Some(only), None) | (None, Some(only)) => of[only],
            (None, None) => [0.0; LEADING],
        };
    }
}

fn start(curve: &[f64; BANDS]) -> f64 {
    (curve[..FIRST].iter().sum::<f64>() / FIRST as f64).max(1e-6)
}

fn relative(curve: [f64; BANDS]) -> [f64; BANDS] {
    let start = start(&curve);
    curve.map(|x| (x / start).clamp(-2.0, 2.0))
}

/// Log of the integral of what is positive, seconds.
fn integral(curve: &[f64; BANDS]) -> f64 {
    let area = |b: usize| curve[b].max(0.0) * (ENDS_S[b + 1] - ENDS_S[b]);
    (0..BANDS).map(area).sum::<f64>().max(1e-3).ln()
}

/// Log of the timescale, seconds, power, and log of the share left, of the stretched exponential
/// with the least squares.
fn stretched(curve: &[f64; BANDS]) -> [f64; 3] {
    let whole: f64 = curve.iter().enumerate().map(|(b, c)| weight(b) * c * c).sum();
    let mut best = [TIMESCALES_S[0].ln(), POWERS[0], f64::INFINITY];
    for Exponential { timescale, power, weighted, square } in &*EXPONENTIALS {
        let along: f64 = weighted.iter().zip(curve).map(|(m, c)| m * c).sum();
        let left = whole - along * along / square;
        if left < best[2] {
            best = [*timescale, *power, left];
        }
    }
    [best[0], best[1], (best[2] / whole.max(1e-12)).max(1e-6).ln()]
}

/// Weight of a band: longer ones are means of more.
fn weight(band: usize) -> f64 {
    (ENDS_S[band + 1] - ENDS_S[band]).sqrt()
}

/// A stretched exponential in the middle of each band.
struct Exponential {
    /// Log of it.
    timescale: f64,
    power: f64,
    /// Times the band's weight.
    weighted: [f64; BANDS],
    /// Weighted sum of its squares.
    square: f64,
}

/// All that are tried.
static EXPONENTIALS: LazyLock<Vec<Exponential>> = LazyLock::new(|| {
    let [low, high] = TIMESCALES_S.map(f64::ln);
    let one = |i: u32, power: f64| {
        let timescale = low + (high - low) * f64::from(i) / f64::from(TIMESCALES - 1);
        let middle = |b: usize| 0.5 * (ENDS_S[b] + ENDS_S[b + 1]);
        let at = |b: usize| (-(middle(b) * (-timescale).exp()).powf(power)).exp();
        let square = (0..BANDS).map(|b| weight(b) * at(b).powi(2)).sum::<f64>().max(1e-12);
        let weighted = std::array::from_fn(|b| weight(b) * at(b));
        Exponential { timescale, power, weighted, square }
    };
    (0..TIMESCALES).flat_map(|i| POWERS.map(|power| one(i, power))).collect()
});

/// Slope of a regression.
fn slope(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let along: f64 = x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum();
    let square: f64 = x.iter().map(|x| (x - mx).powi(2)).sum();
    along / square.max(1e-6)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    /// Ornstein-Uhlenbeck processes with a timescale of 0.3 s, the first the strongest,
    /// in bins of a width, with noise of its own in every bin.
    fn course(width_s: f64, noise: f32) -> Vec<[f32; LEADING]> {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let kept = (-width_s / 0.3).exp() as f32;
        let mut x = [0.0f32; LEADING];
        (0..(1200.0 / width_s) as usize)
            .map(|_| {
                let mut normal = || -> f32 { StandardNormal.sample(&mut rng) };
                x = x.map(|x| kept * x + (1.0 - kept * kept).sqrt() * normal());
                std::array::from_fn(|d| x[d] / (d + 1) as f32 + noise * normal())
            })
            .collect()
    }

    #[test]
    fn bands_are_means_over_their_lags_and_free_of_what_is_new_in_each_bin() {
        let course = course(0.01, 0.5);
        let found = Correlogram::new(&course, from_ref(&(0..course.len())), 0.01);
        let slow = |lag: usize| -> f64 {
            let pairs = course[lag..].iter().zip(&course);
            pairs.map(|(a, b)| f64::from(a[1] * b[1])).sum::<f64>()
        };
        // The band up to 0.07 s has lags of 5, 6 and 7 bins.
        let mean = (5..=7).map(slow).sum::<f64>()
            / (5..=7).map(|lag| (course.len() - lag) as f64).sum::<f64>();
        assert!((found.of[2][1] - mean).abs() < 1e-9 * mean.abs().max(1.0));
        let expected = 0.25 * (-0.06f64 / 0.3).exp();
        assert!((found.of[2][1] - expected).abs() < 0.1 * expected, "{}", found.of[2][1]);
    }

    #[test]
    fn pairs_on_two_sides_of_a_gap_do_not_count() {
        let mut course = course(0.01, 0.0);
        // The second half is on another level: across the gap, everything would seem to last.
        let half = course.len() / 2;
        let whole = Correlogram::new(&course, &[0..half, half..course.len()], 0.01);
        let one = |of: &[[f32; LEADING]]| Correlogram::new(of, from_ref(&(0..half)), 0.01).of;
        let (first, second) = (one(&course[..half]), one(&course[half..]));
        for b in 0..BANDS {
            let mean = 0.5 * (first[b][0] + second[b][0]);
            assert!((whole.of[b][0] - mean).abs() < 1e-9);
        }
        // Pieces of half a second: longer lags are as the longest that is known.
        course.truncate(5000);
        let runs: Vec<Range<usize>> = (0..100).map(|r| 50 * r..50 * (r + 1)).collect();
        let of = Correlogram::new(&course, &runs, 0.01).of;
        assert!(of.iter().all(|band| band[0].is_finite()));
        assert_eq!(of[BANDS - 1], of[8]);
    }

    #[test]
    fn what_repeats_returns_at_far_lags_and_what_forgets_does_not() {
        let mut course = course(0.01, 0.2);
        course.truncate(12_000);
        // `[directions read together][largest, root of the mean square]`.
        let returning = |course: &[[f32; LEADING]]| -> [f64; 2] {
            let mut out = Vec::new();
            Correlogram::new(course, &[0..5000, 5000..course.len()], 0.01).describe(&mut out);
            [out[BANDS + 4], out[BANDS + 5]]
        };
        let [largest, root] = returning(&course);
        assert!(largest < 0.4 && root < 0.25, "{largest} {root}");
        for (t, state) in course.iter_mut().enumerate() {
            state[0] = (t as f32 * 0.01 * 0.7 * std::f32::consts::TAU).sin() + 0.1 * state[0];
        }
        let [largest, root] = returning(&course);
        assert!((0.9..1.15).contains(&largest) && (0.6..0.8).contains(&root), "{largest} {root}");
    }

    #[test]
    fn timescale_and_power_are_those_of_the_process_at_any_width() {
        for width_s in [0.01, 0.05, 0.1] {
            let mut out = Vec::new();
            let course = course(width_s, 0.2);
            Correlogram::new(&course, from_ref(&(0..course.len())), width_s).describe(&mut out);
            assert_eq!(out.len(), CORRELOGRAM);
            for s in 0..SUBSPACES.len() {
                let [integral, timescale, power] =
                    std::array::from_fn(|i| out[s * (BANDS + 6) + BANDS + i]);
                assert!((timescale.exp() / 0.3 - 1.0).abs() < 0.35, "{width_s}: {timescale}");
                // Wide bins hide the first fall.
                let most = if width_s < 0.1 { 1.25 } else { 1.5 };
                assert!((0.8..=most).contains(&power), "{width_s}: {power}");
                assert!((integral.exp() / 0.3 - 1.0).abs() < 0.45, "{width_s}: {integral}");
            }
            // All directions have one timescale, whatever their strength.
            let slope = out[CORRELOGRAM - 1];
            assert!(slope.abs() < 0.15, "{width_s}: {slope}");
        }
    }
}
