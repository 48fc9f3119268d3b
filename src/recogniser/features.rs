//! What a window of one or two seconds shows, relative to its session: nothing here changes where
//! channels are ordered otherwise, or where the session's directions turn.

use std::f64::consts::TAU;
use std::ops::Range;

use nalgebra::DMatrix;
use ndarray::Axis;

use super::scale::BIN_S;
use super::session::{
    LEADING, Matrix, SHORT, Session, Vector, centred, lagged, short, sorted, symmetric,
};
use crate::dynamics::eigenvalues;

/// Lags of covariances in bins; those from the third on are features.
const LAGS: [usize; 10] = [1, 2, 4, 6, 8, 10, 12, 15, 20, 25];
/// Lags at which it is asked how the course turns.
const TURNED: [usize; 5] = [4, 6, 10, 15, 25];
/// Dimensions and lags of linear dynamics `C(lag) C(0)^-1`.
const LINEAR: [(usize, usize); 4] = [(2, 4), (2, 10), (4, 4), (4, 10)];
/// Where persistence along the mean is asked for.
const LATER: usize = 10;
/// Bins that a course is smoothed over before its angle is taken, and between two angles.
const SMOOTHED: usize = 5;
const ANGLE_LAG: usize = 5;
/// Frequencies of the spectrum, Hz, and of the noise that it stands on.
const SPECTRUM_HZ: [f64; 2] = [0.4, 12.0];
const SPECTRUM_STEP_HZ: f64 = 0.2;
const NOISE_HZ: [f64; 3] = [18.0, 20.0, 22.0];
const BANDS_HZ: [f64; 5] = [0.3, 1.0, 2.0, 4.0, 8.0];
/// How wide a peak is, Hz.
const PEAK_HZ: f64 = 0.7;
/// Ranks among the nearest windows, and among the most alike.
const NEAREST: [usize; 4] = [0, 1, 3, 6];
const ALIKE: [usize; 3] = [0, 2, 5];
/// Ratios and the like are no larger.
const MOST: f64 = 1e3;

/// Number of features.
pub(super) const FEATURES: usize = 145;

/// A window as it is compared with others.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) features: Vec<f32>,
    /// Mean about the session's middle, over its scale.
    pub(super) mean: Vector,
    /// Covariance of neighbouring bins, over the session's.
    pub(super) covariance: Matrix,
    /// Neighbours that share no bin with it.
    pub(super) others: Vec<usize>,
}

/// Looks at a window.
pub(super) fn look(session: &Session, bins: Range<usize>) -> Seen {
    let (mean, course) = centred(&session.z[bins.clone()]);
    let covariance = short(&course);
    let window = Window { session, bins, mean, covariance, course };
    let mut out = Vec::with_capacity(FEATURES);
    let at_once = window.population(&mut out);
    let trace = window.latents(at_once, &mut out);
    let axes = window.shape(trace, &mut out);
    window.linear(&axes, &mut out);
    let plane: Vec<[f64; 2]> =
        window.course.iter().map(|z| [0, 1].map(|d| axes[d].dot(z))).collect();
    spectrum(&plane, &mut out);
    window.geometry(&plane, &mut out);
    window.drift(&mut out);
    window.place(trace, &mut out);
    let others = others(&window.bins, session.windows.iter().map(|w| &w.bins));
    window.relations(&others, &mut out);
    window.of_session(&mut out);
    debug_assert_eq!(out.len(), FEATURES);
    let finite = |x: f64| if x.is_finite() { x.clamp(-MOST, MOST) as f32 } else { 0.0 };
    Seen {
        features: out.into_iter().map(finite).collect(),
        mean: (window.mean - session.middle) / session.scale,
        covariance: covariance / session.top,
        others,
    }
}

/// Which windows share no bin with one.
pub(super) fn others<'a>(
    bins: &Range<usize>,
    windows: impl Iterator<Item = &'a Range<usize>>,
) -> Vec<usize> {
    let apart = |w: &Range<usize>| w.end <= bins.start || w.start >= bins.end;
    windows.enumerate().filter(|(_, w)| apart(w)).map(|(i, _)| i).collect()
}

struct Window<'a> {
    session: &'a Session,
    bins: Range<usize>,
    mean: Vector,
    covariance: Matrix,
    course: Vec<Vector>,
}

fn over(a: f64, b: f64) -> f64 {
    a / b.max(1e-6)
}

impl Window<'_> {
    /// Over all channels: covariance of neighbouring bins, rate, drift, persistence. Returns the
    /// first.
    fn population(&self, out: &mut Vec<f64>) -> f64 {
        let x = self.session.x.slice_axis(Axis(0), self.bins.clone().into());
        let (bins, channels) = (x.nrows(), x.ncols());
        let mean = |rows: Range<usize>| {
            let of = x.slice_axis(Axis(0), rows.into());
            of.mean_axis(Axis(0)).unwrap_or_else(|| ndarray::Array1::zeros(channels))
        };
        let all = mean(0..bins);
        let centred = &x - &all;
        let lagged = |lag: usize| -> f64 {
            let later = centred.axis_iter(Axis(0)).skip(lag);
            let pairs = later.zip(centred.axis_iter(Axis(0)));
            pairs.map(|(a, b)| f64::from(a.dot(&b))).sum::<f64>()
                / bins.saturating_sub(lag).max(1) as f64
        };
        let at_once = SHORT.map(lagged).iter().sum::<f64>() / SHORT.len() as f64;
        let (s, c) = (self.session.total, channels as f64);
        let half = bins / 2;
        let [first, second] = [mean(0..half), mean(half..bins)];
        let moved = (&first - &second).iter().map(|d| f64::from(d * d)).sum::<f64>();
        let rate = self.session.relative_rate[self.bins.clone()].iter().sum::<f32>();
        out.extend([
            at_once / s,
            at_once / c,
            f64::from(first.dot(&second)) / s,
            f64::from(rate) / bins as f64,
            (moved - 2.0 * c / half.max(1) as f64) / s,
        ]);
        for lag in &LAGS[2..] {
            let r = lagged(*lag);
            out.extend([r / s, r / at_once.max(0.05 * s)]);
        }
        at_once
    }

    /// Of the leading directions: how much they vary, how long, and how they turn. Returns the
    /// variance that others are relative to.
    fn latents(&self, at_once: f64, out: &mut Vec<f64>) -> f64 {
        let top = self.session.top;
        let variance = self.covariance.trace();
        let floored = variance.max(0.02 * top);
        let square = self.course.iter().map(Vector::norm_squared).sum::<f64>();
        let scatter = square / self.course.len().max(1) as f64 / LEADING as f64;
        out.extend([scatter, variance / top]);
        out.extend([over(variance, at_once.max(0.02 * self.session.total)), floored.ln()]);
        for lag in &LAGS[2..] {
            let kept = lagged(&self.course, *lag).trace();
            out.extend([kept / top, kept / floored]);
        }
        for lag in TURNED {
            let c = lagged(&self.course, lag);
            let turned = (c - c.transpose()).norm() / 2.0;
            out.extend([turned / floored, turned / top]);
        }
        floored
    }

    /// Eigenvalues of the covariance and how many count. Returns its axes.
    fn shape(&self, trace: f64, out: &mut Vec<f64>) -> [Vector; LEADING] {
        let (values, axes) = sorted(self.covariance);
        for value in &values[..4] {
            out.extend([value / self.session.top, value / trace]);
        }
        let [sum, squares] = [1, 2].map(|p| values.iter().map(|v| v.max(0.0).powi(p)).sum::<f64>());
        out.push(over(sum * sum, squares));
        axes
    }

    /// Modes of linear dynamics within the leading axes.
    fn linear(&self, axes: &[Vector; LEADING], out: &mut Vec<f64>) {
        for (n, lag) in LINEAR {
            let within = |matrix: &Matrix| {
                DMatrix::from_fn(n, n, |i, j| (axes[i].transpose() * matrix * axes[j])[0])
            };
            let ridge = DMatrix::identity(n, n) * (0.01 * self.session.top);
            let start = within(&self.covariance) + ridge;
            let later = within(&lagged(&self.course, lag));
            let modes = start.try_inverse().and_then(|inverse| eigenvalues(&(later * inverse)));
            let mut modes = modes.unwrap_or_default();
            modes.sort_by(|a, b| b.norm().total_cmp(&a.norm()));
            let of = |m: usize| modes.get(m).map_or([0.0; 2], |e| [e.norm(), e.arg().abs()]);
            let [[first, turn], [second, _]] = [of(0), of(1)];
            let most = modes.iter().map(|e| e.arg().abs()).fold(0.0, f64::max);
            out.extend([first, turn, second, most]);
        }
    }

    /// Radius and angle in the window's own plane, and in that about the session's middle.
    fn geometry(&self, plane: &[[f64; 2]], out: &mut Vec<f64>) {
        let root = self.session.top.sqrt();
        let smooth = smoothed(plane);
        let own = Orbit::of(&smooth);
        out.extend([own.scatter, own.radius / root, own.turn.abs(), own.turn_scatter]);
        let first: Vec<f64> = smooth.iter().map(|p| p[0]).collect();
        out.push(kurtosis(&first));
        let away: Vec<Vector> =
            self.session.z[self.bins.clone()].iter().map(|z| z - self.session.middle).collect();
        let away = smoothed_vectors(&away);
        let radii: Vec<f64> = away.iter().map(Vector::norm).collect();
        let (radius, scatter) = mean_and_scatter(&radii);
        out.extend([over(scatter, radius), radius / root]);
        let second =
            away.iter().map(|z| z * z.transpose()).sum::<Matrix>() / away.len().max(1) as f64;
        let (values, axes) = sorted(second);
        let about: Vec<[f64; 2]> = away.iter().map(|z| [0, 1].map(|d| axes[d].dot(z))).collect();
        let orbit = Orbit::of(&about);
        out.extend([orbit.scatter, orbit.turn.abs(), orbit.turn_scatter, orbit.whole.abs()]);
        out.extend([over(values[1], values[0]), over(values[2], values[1])]);
    }

    /// How far a quarter's mean lies from the next one's, and whether it goes on that way.
    fn drift(&self, out: &mut Vec<f64>) {
        let quarter = (self.course.len() / 4).max(1);
        let means: Vec<Vector> =
            self.course.chunks_exact(quarter).take(4).map(|c| centred(c).0).collect();
        let moved: Vec<Vector> = means.windows(2).map(|w| w[1] - w[0]).collect();
        let square = moved.iter().map(Vector::norm_squared).sum::<f64>();
        let on = moved.windows(2).map(|w| w[0].dot(&w[1])).sum::<f64>();
        out.extend([square / 3.0 / self.session.top, over(on, square)]);
    }

    /// Where the window's mean lies in the session, and how the window varies along it.
    fn place(&self, trace: f64, out: &mut Vec<f64>) {
        let session = self.session;
        let away = self.mean - session.middle;
        let far = away.norm();
        out.extend([far / session.scale, far / session.top.sqrt()]);
        out.push(self.mean.norm() / session.scale);
        for axis in &session.axes {
            out.push(axis.dot(&away).abs() / session.scale);
        }
        let along = away / far.max(1e-6);
        let varies = (along.transpose() * self.covariance * along)[0];
        let later = (along.transpose() * symmetric(lagged(&self.course, LATER)) * along)[0];
        out.extend([varies / trace, varies / session.top, later / session.top]);
    }

    /// How the other windows lie to this one: on the same side or the opposite one, near, alike.
    fn relations(&self, others: &[usize], out: &mut Vec<f64>) {
        let session = self.session;
        let away = self.mean - session.middle;
        let along = away / away.norm().max(1e-6);
        let unit = |m: &Matrix| m / m.norm().max(1e-6);
        let own = unit(&self.covariance);
        let (mut cosines, mut near, mut opposite, mut alike) = (vec![], vec![], vec![], vec![]);
        let (mut theirs, mut mine, mut weights) = (vec![], vec![], vec![]);
        for other in others.iter().map(|&i| &session.windows[i]) {
            let there = other.mean - session.middle;
            let far = there.norm();
            let direction = there / far.max(1e-6);
            cosines.push(along.dot(&direction));
            near.push((away - there).norm() / session.scale);
            opposite.push((away + there).norm() / session.scale);
            alike.push(own.dot(&unit(&other.covariance)));
            theirs.push((direction.transpose() * own * direction)[0]);
            mine.push((along.transpose() * unit(&other.covariance) * along)[0]);
            weights.push(far / session.scale);
        }
        let weight = weights.iter().sum::<f64>().max(1e-6);
        let weighted = |of: &dyn Fn(f64) -> f64| {
            cosines.iter().zip(&weights).map(|(c, w)| of(*c) * w).sum::<f64>() / weight
        };
        let is = |is: bool| f64::from(u8::from(is));
        out.extend([
            weighted(&|c| c * c),
            weighted(&|c| c),
            weighted(&|c| is(c > 0.8)),
            weighted(&|c| is(c < -0.8)),
            weighted(&|c| is(c.abs() > 0.8)),
            weighted(&|c| is(c.abs() < 0.5)),
        ]);
        let scaled: Vec<f64> = cosines.iter().zip(&weights).map(|(c, w)| c * w.min(1.0)).collect();
        let count = others.len().max(1) as f64;
        let mean = |of: &[f64]| of.iter().sum::<f64>() / count;
        let largest = |of: &[f64], n: usize| {
            let mut sorted = of.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted.truncate(n);
            sorted.iter().sum::<f64>() / sorted.len().max(1) as f64
        };
        let negative: Vec<f64> = scaled.iter().map(|c| -c).collect();
        out.extend([largest(&scaled, 2), -largest(&negative, 2)]);
        ranked(near, &NEAREST, true, out);
        ranked(opposite, &NEAREST, true, out);
        ranked(alike.clone(), &ALIKE, false, out);
        let theirs_weighted: Vec<f64> =
            theirs.iter().zip(&weights).map(|(t, w)| t * w.min(1.0)).collect();
        out.extend([mean(&alike), mean(&theirs), mean(&mine)]);
        out.extend([largest(&theirs_weighted, 3), largest(&mine, 3)]);
    }

    fn of_session(&self, out: &mut Vec<f64>) {
        let s = self.session;
        let channels = s.x.ncols() as f64;
        out.extend([
            channels.ln(),
            (s.rate / BIN_S).max(1e-3).ln(),
            s.total / channels,
            s.top / s.total,
            over(s.values[1], s.values[0]),
            over(s.values[2], s.values[0]),
            over(s.values[3], s.values[0]),
            over(s.values[5], s.values[0]),
            s.between[0] / s.top,
            over(s.between[1], s.between[0]),
            over(s.between[2], s.between[0]),
            s.scale / s.top.sqrt(),
        ]);
    }
}

/// Values at some ranks, from the least or from the largest on.
fn ranked(mut of: Vec<f64>, ranks: &[usize], up: bool, out: &mut Vec<f64>) {
    of.sort_by(f64::total_cmp);
    if !up {
        of.reverse();
    }
    let last = of.len().saturating_sub(1);
    out.extend(ranks.iter().map(|&r| of.get(r.min(last)).copied().unwrap_or(0.0)));
}

fn mean_and_scatter(of: &[f64]) -> (f64, f64) {
    let n = of.len().max(1) as f64;
    let mean = of.iter().sum::<f64>() / n;
    (mean, (of.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt())
}

fn kurtosis(of: &[f64]) -> f64 {
    let (mean, scatter) = mean_and_scatter(of);
    let fourth = of.iter().map(|x| (x - mean).powi(4)).sum::<f64>() / of.len().max(1) as f64;
    over(fourth, scatter.powi(4))
}

fn smoothed(plane: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mean =
        |w: &[[f64; 2]]| [0, 1].map(|d| w.iter().map(|p| p[d]).sum::<f64>() / SMOOTHED as f64);
    plane.windows(SMOOTHED).map(mean).collect()
}

fn smoothed_vectors(course: &[Vector]) -> Vec<Vector> {
    course.windows(SMOOTHED).map(|w| w.iter().sum::<Vector>() / SMOOTHED as f64).collect()
}

/// A course about the origin.
struct Orbit {
    /// Mean distance, and its scatter relative to it.
    radius: f64,
    scatter: f64,
    /// Mean turn per second, and the scatter of turns.
    turn: f64,
    turn_scatter: f64,
    /// From the first to the last, per second.
    whole: f64,
}

impl Orbit {
    fn of(plane: &[[f64; 2]]) -> Self {
        let radii: Vec<f64> = plane.iter().map(|[x, y]| x.hypot(*y)).collect();
        let (radius, scatter) = mean_and_scatter(&radii);
        let mut angles: Vec<f64> = Vec::with_capacity(plane.len());
        for [x, y] in plane {
            let now = y.atan2(*x);
            let before = angles.last().copied().unwrap_or(now);
            angles.push(before + (now - before + TAU / 2.0).rem_euclid(TAU) - TAU / 2.0);
        }
        let later = angles.iter().skip(ANGLE_LAG);
        let seconds = ANGLE_LAG as f64 * BIN_S;
        let turns: Vec<f64> = later.zip(&angles).map(|(b, a)| (b - a) / seconds).collect();
        let (turn, turn_scatter) = mean_and_scatter(&turns);
        let [first, last] = [angles.first(), angles.last()].map(|a| a.copied().unwrap_or(0.0));
        let whole = (last - first) / (angles.len().max(1) as f64 * BIN_S);
        Self { radius, scatter: over(scatter, radius), turn, turn_scatter, whole }
    }
}

/// Peak, centre, spread and bands of the power of a course in a plane, above the noise.
fn spectrum(plane: &[[f64; 2]], out: &mut Vec<f64>) {
    let n = plane.len() as f64;
    let tapered: Vec<[f64; 2]> = plane
        .iter()
        .enumerate()
        .map(|(t, p)| {
            let hann = 0.5 - 0.5 * (TAU * (t as f64 + 0.5) / n).cos();
            p.map(|x| x * hann)
        })
        .collect();
    let power = |hz: f64| {
        let (step_sin, step_cos) = (TAU * hz * BIN_S).sin_cos();
        let (mut sin, mut cos) = (0.0f64, 1.0f64);
        let mut sums = [[0.0; 2]; 2];
        for p in &tapered {
            for (sum, x) in sums.iter_mut().zip(p) {
                sum[0] += x * cos;
                sum[1] += x * sin;
            }
            (sin, cos) = (sin * step_cos + cos * step_sin, cos * step_cos - sin * step_sin);
        }
        sums.as_flattened().iter().map(|s| s * s).sum::<f64>()
    };
    let noise = NOISE_HZ.map(power).iter().sum::<f64>() / NOISE_HZ.len() as f64;
    let steps = ((SPECTRUM_HZ[1] - SPECTRUM_HZ[0]) / SPECTRUM_STEP_HZ).round() as usize;
    let at = |i: usize| SPECTRUM_HZ[0] + i as f64 * SPECTRUM_STEP_HZ;
    let powers: Vec<f64> = (0..=steps).map(|i| (power(at(i)) - noise).max(0.0)).collect();
    let total = powers.iter().sum::<f64>();
    let peak = (0..powers.len()).max_by(|&a, &b| powers[a].total_cmp(&powers[b])).unwrap_or(0);
    let share = |is: &dyn Fn(f64) -> bool| {
        over((0..powers.len()).filter(|&i| is(at(i))).map(|i| powers[i]).sum(), total)
    };
    let centre = over(powers.iter().enumerate().map(|(i, p)| p * at(i)).sum(), total);
    let spread = powers.iter().map(|p| over(*p, total)).map(|p| -p * (p + 1e-9).ln()).sum::<f64>();
    out.extend([at(peak), over(powers[peak], total), centre, spread]);
    out.push(share(&|hz| (hz - at(peak)).abs() <= PEAK_HZ));
    for band in BANDS_HZ.windows(2) {
        out.push(share(&|hz| (band[0]..band[1]).contains(&hz)));
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Poisson};

    use super::*;

    /// Counts of channels that follow a circle of so many turns per second for half of the time,
    /// and one of two points for the rest.
    fn counts(channels: usize, hz: f64) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let seen: Vec<[f64; 2]> = (0..channels)
            .map(|_| [rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)])
            .collect();
        Array2::from_shape_fn((3000, channels), |(t, c)| {
            let angle = TAU * hz * BIN_S * t as f64;
            let at = match t / 300 % 4 {
                1 => [1.0, 0.3],
                3 => [-1.0, -0.3],
                _ => [angle.cos(), angle.sin()],
            };
            let rate = (-1.5 + seen[c][0] * at[0] + seen[c][1] * at[1]).exp();
            let drawn: f64 = Poisson::new(rate).expect("a rate").sample(&mut rng);
            drawn as f32
        })
    }

    fn session(counts: &Array2<f32>) -> Session {
        Session::new(
            counts.clone(),
            std::slice::from_ref(&(0..3000)),
            (0..30).map(|i| 100 * i..100 * (i + 1)).collect(),
        )
    }

    #[test]
    fn what_a_window_shows_does_not_hang_on_the_order_of_channels() {
        let counts = counts(40, 1.5);
        let other = counts.select(Axis(1), &(0..40).map(|i| (i * 7 + 3) % 40).collect::<Vec<_>>());
        for window in [40..88, 320..368, 1000..1100] {
            let [a, b] = [&counts, &other].map(|c| look(&session(c), window.clone()));
            assert_eq!((a.features.len(), b.features.len()), (FEATURES, FEATURES));
            assert!(a.others.iter().all(|&o| o != window.start / 100));
            let apart =
                a.features.iter().zip(&b.features).map(|(x, y)| (x - y).abs() / (1.0 + x.abs()));
            let apart: Vec<f32> = apart.collect();
            // Directions of noise alone are not settled by few steps.
            assert!(apart.iter().all(|d| *d < 0.3), "{apart:?}");
            assert!(apart.iter().filter(|d| **d > 0.03).count() < FEATURES / 6, "{apart:?}");
        }
    }

    #[test]
    fn a_circle_has_its_frequency_and_its_sense_of_turning_is_not_told() {
        for turn in [1.0, -1.0] {
            let plane: Vec<[f64; 2]> = (0..48)
                .map(|t| {
                    let angle = turn * TAU * 2.2 * BIN_S * f64::from(t);
                    [angle.cos(), angle.sin()]
                })
                .collect();
            let mut out = Vec::new();
            spectrum(&plane, &mut out);
            assert!((out[0] - 2.2).abs() < 0.11 && out[4] > 0.6, "{out:?}");
            // Between 2 and 4 Hz.
            assert!(out[7] > 0.6 && out[6] + out[8] < 0.4, "{out:?}");
            let orbit = Orbit::of(&plane);
            assert!((orbit.turn.abs() / TAU - 2.2).abs() < 0.01 && orbit.scatter < 1e-6);
            assert!((orbit.whole.abs() / TAU - 2.2).abs() < 0.1);
        }
    }

    #[test]
    fn opposite_points_are_opposite_and_a_circle_turns() {
        let counts = counts(80, 1.5);
        let session = session(&counts);
        let [point, circle] = [320..368, 640..688].map(|w| look(&session, w));
        let opposite = session.windows.iter().find(|w| w.bins.start == 900).expect("a window");
        let there = (opposite.mean - session.middle) / session.scale;
        let cosine = point.mean.dot(&there) / point.mean.norm() / there.norm();
        assert!(cosine < -0.9, "{cosine}");
        assert!(circle.covariance.trace() > 5.0 * point.covariance.trace());
        assert!(point.mean.norm() > 2.0 * circle.mean.norm());
    }
}
