//! Trials put together, where recordings show no change: what follows one is learned, and judged,
//! on what such a change may look like.
//!
//! A population's state does not jump when its dynamics change. It leaves where it was, and arrives
//! where it goes after some time that trials say nothing of. So the first trial's counts give way
//! to the second's over a time drawn at random, at a share that rises as a smooth step. Each spike
//! of a bin is kept with its trial's share, which leaves Poisson counts Poisson, at the mean of the
//! two rates so weighted. The label is the second trial's from the first of these bins on.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};

/// Longest time from one trial to the other, seconds.
const FADE_S_MAX: f64 = 1.0;
/// Spikes of a bin that are drawn one by one, which is quick for the few that most bins have.
const ONE_BY_ONE_MAX: f32 = 16.0;

/// Bins over which a trial gives way to the next, `most` at most.
pub(super) fn draw_fade(bin_width_s: f64, most: usize, rng: &mut ChaCha8Rng) -> usize {
    let longest = (FADE_S_MAX / bin_width_s) as usize;
    rng.random_range(0..=longest).min(most)
}

/// Lets the last `bins` bins of a first trial give way to the first ones of a second. `counts`
/// `[.., channels]` holds the one behind the other, the second from value `second` on; those bins
/// are in it once afterwards.
pub(super) fn overlap(
    counts: &mut Vec<f32>,
    second: usize,
    (bins, channels): (usize, usize),
    rng: &mut ChaCha8Rng,
) {
    let from = second - bins * channels;
    let (first, after) = counts.split_at_mut(second);
    let pairs = first[from..].chunks_exact(channels).zip(after.chunks_exact_mut(channels));
    for (t, (before, after)) in pairs.enumerate() {
        let share = share(t, bins);
        for (after, &before) in after.iter_mut().zip(before) {
            *after = thinned(*after, share, rng) + thinned(before, 1.0 - share, rng);
        }
    }
    counts.drain(from..second);
}

/// Smooth step at the middle of bin `t`.
fn share(t: usize, bins: usize) -> f64 {
    let x = (t as f64 + 0.5) / bins as f64;
    x * x * (3.0 - 2.0 * x)
}

/// Each of as many spikes is kept with a probability.
fn thinned(count: f32, probability: f64, rng: &mut ChaCha8Rng) -> f32 {
    if count <= ONE_BY_ONE_MAX {
        return (0..count as u32).filter(|_| rng.random_bool(probability)).count() as f32;
    }
    Binomial::new(count as u64, probability).map_or(count, |b| b.sample(rng) as f32)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_distr::Poisson;

    use super::*;

    #[test]
    fn many_spikes_are_thinned_as_few_are() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for count in [12.0f32, 400.0] {
            let kept: Vec<f64> =
                (0..4000).map(|_| f64::from(thinned(count, 0.3, &mut rng))).collect();
            let mean = kept.iter().sum::<f64>() / 4000.0;
            let variance = kept.iter().map(|k| (k - mean).powi(2)).sum::<f64>() / 4000.0;
            let expected = 0.3 * f64::from(count);
            assert!((mean / expected - 1.0).abs() < 0.02, "{mean} of {count}");
            assert!((variance / (0.7 * expected) - 1.0).abs() < 0.1, "{variance} of {count}");
        }
    }

    #[test]
    fn a_fade_goes_from_one_trials_counts_to_the_others_and_keeps_them_poisson() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let [low, high] = [2.0, 5.0].map(|rate| Poisson::new(rate).expect("a rate"));
        let bins = 40;
        let mut last = 0.0;
        for t in [0, 13, 20, 27, 39] {
            let (mut sum, mut squares, n) = (0.0, 0.0, 20_000);
            for _ in 0..n {
                let mut counts: Vec<f32> = (0..2 * bins)
                    .map(|i| if i < bins { &low } else { &high }.sample(&mut rng) as f32)
                    .collect();
                overlap(&mut counts, bins, (bins, 1), &mut rng);
                assert_eq!(counts.len(), bins);
                sum += f64::from(counts[t]);
                squares += f64::from(counts[t]).powi(2);
            }
            let mean = sum / f64::from(n);
            let variance = squares / f64::from(n) - mean * mean;
            assert!((variance / mean - 1.0).abs() < 0.06, "{variance} for {mean}");
            assert!((mean - (2.0 + 3.0 * share(t, bins))).abs() < 0.08, "{mean} in bin {t}");
            assert!(mean > last, "rises");
            last = mean;
        }
        assert!(share(0, bins) < 0.01 && share(bins - 1, bins) > 0.99);
    }
}
