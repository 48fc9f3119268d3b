//! What independent channels show by chance.

/// Frequencies over which the lags' response is summed.
const FREQUENCIES: usize = 512;
/// Halvings of the interval in which the edge is sought.
const HALVINGS: usize = 60;

/// Largest eigenvalue of the symmetric covariance of `n` independent channels of variance 1 over
/// lags of 1 to `lags` bins with so many pairs of bins.
///
/// The covariance is `Z^T A Z / pairs` with a symmetric Toeplitz `A`, whose eigenvalues are
/// `sum_k cos(k w)`: far more positive at low frequencies than negative anywhere, so that its
/// spectrum has a long right side. Its right edge is the least value of
/// `z(u) = n / u + sum_j w_j / (1 - w_j u)`, `w_j` the eigenvalues over the pairs, for `u` between
/// 0 and `1 / max w_j` (Silverstein & Choi 1995). With one weight it is that of Marchenko and
/// Pastur.
pub(super) fn chance(n: usize, pairs: f64, lags: usize) -> f64 {
    let bins = pairs / lags.max(1) as f64;
    let weights: Vec<f64> = (0..FREQUENCIES)
        .map(|j| {
            let turn = (j as f64 + 0.5) / FREQUENCIES as f64 * std::f64::consts::PI;
            (1..=lags).map(|k| (k as f64 * turn).cos()).sum::<f64>() / pairs
        })
        .collect();
    let each = bins / FREQUENCIES as f64;
    let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    // `z` is convex there: its slope changes sign once.
    let slope = |u: f64| {
        let sum: f64 = weights.iter().map(|w| (w / (1.0 - w * u)).powi(2)).sum();
        each * sum - n as f64 / (u * u)
    };
    let (mut low, mut high) = (0.0, 1.0 / largest);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if slope(middle) < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let u = low;
    let sum: f64 = weights.iter().map(|w| w / (1.0 - w * u)).sum();
    n as f64 / u + each * sum
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    #[test]
    fn the_edge_is_that_of_noise() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (n, bins, lags) in [(80, 2000, 10), (150, 2000, 10), (40, 6000, 10), (100, 1000, 1)] {
            let z =
                nalgebra::DMatrix::<f64>::from_fn(bins, n, |_, _| StandardNormal.sample(&mut rng));
            let mut sum = nalgebra::DMatrix::<f64>::zeros(n, n);
            let mut pairs = 0.0;
            for k in 1..=lags {
                sum += z.rows(k, bins - k).transpose() * z.rows(0, bins - k);
                pairs += (bins - k) as f64;
            }
            let covariance = (&sum + sum.transpose()) * (0.5 / pairs);
            let largest = covariance.symmetric_eigenvalues().max();
            let expected = chance(n, pairs, lags);
            // Few low frequencies carry the edge: it is found a little inside.
            let ratio = largest / expected;
            assert!((0.87..1.04).contains(&ratio), "{n}: {largest} {expected}");
        }
    }

    #[test]
    fn with_few_channels_and_one_lag_it_is_wigners() {
        let found = chance(20, 1e6, 1);
        let wigner = 2.0 * (20.0f64 / 2e6).sqrt();
        assert!((found / wigner - 1.0).abs() < 0.01, "{found} {wigner}");
    }
}
