//! How long a course remembers.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::window::bins;

/// The population's persistence is read off lags up to this, seconds.
const PERSISTENCE_S: f64 = 0.5;
/// What persists is no more often the whole, where the timescale is too short to tell.
const AMPLITUDE_MAX: f64 = 3.0;

/// Pairs of bins `k` apart within pieces.
pub(super) fn pairs_of(runs: &[Range<usize>], k: usize) -> usize {
    runs.iter().map(|run| run.len().saturating_sub(k)).sum()
}

/// A product, in running sums, so that additions need not wait for one another.
struct Dot<'a>(&'a [f64], &'a [f64]);

impl WithSimd for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        const LANES: usize = 8;
        let mut sums = [0.0; LANES];
        let (a, b) = (self.0.as_chunks::<LANES>(), self.1.as_chunks::<LANES>());
        for (a, b) in a.0.iter().zip(b.0) {
            for l in 0..LANES {
                sums[l] += a[l] * b[l];
            }
        }
        let rest = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f64>();
        sums.iter().sum::<f64>() + rest
    }
}

/// Log of the timescale, seconds, and the amplitude of `b exp(-lag / timescale)` fitted to the
/// slopes of a course's regression on its past (Wilting & Priesemann 2018).
pub(super) fn persistence(course: &[f32], runs: &[Range<usize>], width_s: f64, out: &mut Vec<f64>) {
    let mean = course.iter().map(|x| f64::from(*x)).sum::<f64>() / course.len() as f64;
    let centred: Vec<f64> = course.iter().map(|x| f64::from(*x) - mean).collect();
    let variance = centred.iter().map(|x| x * x).sum::<f64>() / course.len() as f64;
    let slopes: Vec<(f64, f64)> = (1..=bins(PERSISTENCE_S, width_s))
        .map(|k| {
            let of = runs.iter().filter(|run| run.len() > k).map(|run| {
                let centred = &centred[run.clone()];
                Arch::new().dispatch(Dot(&centred[..centred.len() - k], &centred[k..]))
            });
            let mean = of.sum::<f64>() / pairs_of(runs, k).max(1) as f64;
            (k as f64 * width_s, mean / variance.max(1e-12))
        })
        .collect();
    const STEPS: u32 = 65;
    let [low, high] = [0.002f64.ln(), 20f64.ln()];
    let mut best = [f64::INFINITY, low, 0.0];
    for i in 0..STEPS {
        let at = low + (high - low) * f64::from(i) / f64::from(STEPS - 1);
        let rate = (-at).exp();
        let (mut along, mut square, mut total) = (0.0, 0.0, 0.0);
        for (lag, slope) in &slopes {
            let m = (-lag * rate).exp();
            along += slope * m;
            square += m * m;
            total += slope * slope;
        }
        let b = along / square.max(1e-300);
        if total - along * b < best[0] {
            best = [total - along * b, at, b];
        }
    }
    out.extend([best[1], best[2].clamp(-AMPLITUDE_MAX, AMPLITUDE_MAX)]);
}
