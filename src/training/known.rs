//! What known dynamics look like, from signs on held-out streams.

use ndarray::Array2;

use crate::inference::NOVELTY_WINDOW_S;
use crate::model::{Exceeded, KnownDynamics, SIGNS, SignRange};

/// Shares of the known bins for which limits are learned.
const SHARES: [f64; 8] = [0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
/// Bins of a session before this many times the signs' time constant do not count: where signs
/// start is not known yet.
const SETTLED_WINDOWS: f64 = 3.0;
/// Least time from which they are learned, seconds.
const SECONDS_MIN: f64 = 20.0;
/// Limits are multiplied by 1 + this over the root of the seconds: signs are smoothed over one, so
/// that a short recording has hardly shown their range.
const MARGIN: f64 = 1.0;
/// Limits are also multiplied by this where no task was held out: blocks of a recording are too
/// much like the rest of it to show how far another day, or another task, goes.
const MARGIN_KNOWN_TASKS: f64 = 2.0;
/// This share of the correlation between signs is left out: few seconds show it but roughly.
const SHRINKAGE: f64 = 0.1;
/// The 95 % quantile of a standard normal variate.
const QUANTILE_95: f32 = 1.645;

/// From the signs of sessions' held-out bins, each played in a row: ranges and correlation from
/// some of them, and limits from those that are played as they will be live. `None` where they are
/// too few.
pub(super) fn fit_known(
    ranges: &[&[[f32; SIGNS]]],
    limits: &[&[[f32; SIGNS]]],
    bin_width_s: f64,
    held_out_tasks: bool,
) -> Option<KnownDynamics> {
    let settled_bins = (SETTLED_WINDOWS * NOVELTY_WINDOW_S / bin_width_s).ceil() as usize;
    let settled = |heard: &[&[[f32; SIGNS]]]| -> Vec<[f32; SIGNS]> {
        heard.iter().flat_map(|h| h.iter().skip(settled_bins).copied()).collect()
    };
    let (all, live) = (settled(ranges), settled(limits));
    let seconds = live.len() as f64 * bin_width_s;
    if seconds < SECONDS_MIN || all.is_empty() {
        return None;
    }
    let signs: [SignRange; SIGNS] = std::array::from_fn(|i| range(all.iter().map(|s| s[i])));
    let mut known = KnownDynamics { precision: Array2::eye(SIGNS), exceeded: Vec::new(), signs };
    known.precision = precision(&known, &all)?;
    let likeness = if held_out_tasks { 1.0 } else { MARGIN_KNOWN_TASKS };
    let margin = likeness * (1.0 + MARGIN / seconds.sqrt());
    let mut scores: Vec<f32> = live.iter().map(|s| known.score(s)).collect();
    scores.sort_by(f32::total_cmp);
    known.exceeded = SHARES
        .map(|share| {
            // Of n scores and the next bin's, each is as likely the largest.
            let rank = ((1.0 - share) * (scores.len() + 1) as f64).ceil() as usize;
            let score = scores[rank.clamp(1, scores.len()) - 1];
            Exceeded { share, score: (margin as f32 * score).max(f32::MIN_POSITIVE) }
        })
        .to_vec();
    let finite = known.exceeded.iter().all(|e| e.score.is_finite());
    finite.then_some(known)
}

fn range(values: impl Iterator<Item = f32>) -> SignRange {
    let mut sorted: Vec<f32> = values.collect();
    sorted.sort_by(f32::total_cmp);
    let quantile = |q: f64| sorted[(q * (sorted.len() - 1) as f64).round() as usize];
    let median = quantile(0.5);
    let spread = |off: f32| (off / QUANTILE_95).max(1e-6);
    SignRange {
        median,
        below: spread(median - quantile(0.05)),
        above: spread(quantile(0.95) - median),
    }
}

/// Inverse of the signs' second moments, in their spreads from the medians.
fn precision(known: &KnownDynamics, all: &[[f32; SIGNS]]) -> Option<Array2<f32>> {
    let mut moments = nalgebra::DMatrix::<f64>::zeros(SIGNS, SIGNS);
    for signs in all {
        let x = nalgebra::DVector::from_iterator(SIGNS, known.scaled(signs).map(f64::from));
        moments += &x * x.transpose();
    }
    moments /= all.len() as f64;
    for r in 0..SIGNS {
        for q in 0..SIGNS {
            if r != q {
                moments[(r, q)] *= 1.0 - SHRINKAGE;
            }
        }
        // A sign that never moves says nothing.
        moments[(r, r)] = moments[(r, r)].max(1e-6);
    }
    let inverse = moments.try_inverse()?;
    Some(Array2::from_shape_fn((SIGNS, SIGNS), |at| inverse[at] as f32))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;

    use super::*;

    /// Skewed signs that share a part.
    fn bins(n: usize, seed: u64) -> Vec<[f32; SIGNS]> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n)
            .map(|_| {
                let shared: f32 = rng.sample(StandardNormal);
                std::array::from_fn(|i| {
                    let x = 0.6 * shared + 0.8 * rng.sample::<f32, _>(StandardNormal);
                    i as f32 + if x > 0.0 { 3.0 * x } else { x }
                })
            })
            .collect()
    }

    #[test]
    fn known_bins_exceed_a_limit_as_rarely_as_was_asked_and_either_tail_is_strange() {
        let train = bins(20_000, 1);
        let known = fit_known(&[&train], &[&train], 0.1, true).expect("signs");
        let test = bins(20_000, 2);
        for share in [0.1, 0.01, 0.002] {
            let beyond = test.iter().filter(|s| known.score(s) > known.limit(share)).count();
            let found = beyond as f64 / test.len() as f64;
            // The margin for 2000 s is 2 %.
            assert!(found < 1.1 * share && found > 0.4 * share, "{found} at {share}");
        }
        let usual: [f32; SIGNS] = std::array::from_fn(|i| i as f32);
        assert!(known.score(&usual) < 0.1);
        for (off, strange) in [(-6.0, true), (-1.0, false), (3.0, false), (18.0, true)] {
            let mut signs = usual;
            signs[4] += off;
            assert_eq!(known.score(&signs) > known.limit(0.01), strange, "{off}");
        }
        let few = [&train[..100]];
        assert!(fit_known(&few, &few, 0.1, true).is_none(), "10 s are too few");
        // Limits hold for what they were read off, whatever the ranges are of.
        let wider: Vec<[f32; SIGNS]> = test.iter().map(|s| s.map(|x| 2.0 * x)).collect();
        let known = fit_known(&[&train], &[&wider], 0.1, true).expect("signs");
        let beyond = wider.iter().filter(|s| known.score(s) > known.limit(0.01)).count();
        assert!((100..=210).contains(&beyond), "{beyond} of {}", wider.len());
    }
}
