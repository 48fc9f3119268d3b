//! What known dynamics look like to the filter: learned on what training held out.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::row_major;

/// Signs by which the filter's bank compares dynamics with those it knows.
pub(crate) const SIGNS: usize = 8;

/// Their names, in order; [`crate::inference::Signs`] says what each is.
pub(crate) const SIGN_NAMES: [&str; SIGNS] = [
    "innovation_variance",
    "innovation_shape",
    "state_noise",
    "innovation_runs",
    "embedding_distance",
    "latent_power",
    "latent_speed",
    "excess_variance",
];

/// Share of the known bins that may be called unknown, unless another is asked for.
pub(crate) const UNKNOWN_RATE: f64 = 0.01;

/// Where a sign lies on known dynamics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignRange {
    /// Its median.
    pub median: f32,
    /// How far below the median the 5 % quantile lies, over the 1.645 of a standard normal
    /// variate: signs are skewed, and either tail counts.
    pub below: f32,
    /// How far above it the 95 % quantile lies, likewise.
    pub above: f32,
}

/// A score that known dynamics exceed in a share of the bins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceeded {
    /// The share.
    pub share: f64,
    /// The score.
    pub score: f32,
}

/// Signs of known dynamics, and how strange known bins may look.
///
/// The score of a bin is `x^T C^-1 x / 8`, with `x` its signs in their spreads from the median,
/// each tail in its own, and `C` their correlation: about 1 for what is known. Limits are its
/// quantiles on held-out streams (split conformal prediction; Vovk, Gammerman & Shafer 2005).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownDynamics {
    /// In the order of [`SIGN_NAMES`].
    pub signs: [SignRange; SIGNS],
    /// `C^-1`, `[signs, signs]`.
    #[serde(with = "row_major")]
    pub precision: Array2<f32>,
    /// Shares that fall, scores that do not.
    pub exceeded: Vec<Exceeded>,
}

impl KnownDynamics {
    /// How strange signs are: about 1 for known dynamics.
    #[must_use]
    pub fn score(&self, signs: &[f32; SIGNS]) -> f32 {
        let x = self.scaled(signs);
        let mut sum = 0.0;
        for (row, own) in self.precision.rows().into_iter().zip(x) {
            sum += own * row.iter().zip(x).map(|(p, other)| p * other).sum::<f32>();
        }
        sum / SIGNS as f32
    }

    /// Signs in their spreads from the medians, each tail in its own.
    #[must_use]
    pub(crate) fn scaled(&self, signs: &[f32; SIGNS]) -> [f32; SIGNS] {
        std::array::from_fn(|i| {
            let SignRange { median, below, above } = self.signs[i];
            let off = signs[i] - median;
            off / if off < 0.0 { below } else { above }
        })
    }

    /// The score that a share of the known bins exceeds: between those learned by the logarithm of
    /// the share, beyond them that of the nearest.
    #[must_use]
    pub fn limit(&self, share: f64) -> f32 {
        let after = self.exceeded.partition_point(|e| e.share > share);
        let last = self.exceeded.len() - 1;
        let (a, b) = (self.exceeded[after.clamp(1, last) - 1], self.exceeded[after.min(last)]);
        if a.share <= b.share {
            return b.score;
        }
        let at = (a.share / share).ln() / (a.share / b.share).ln();
        a.score + (b.score - a.score) * at.clamp(0.0, 1.0) as f32
    }
}

/// Signs of known dynamics for tests.
#[cfg(test)]
pub(crate) fn example_known() -> KnownDynamics {
    KnownDynamics {
        signs: [SignRange { median: 1.0, below: 0.5, above: 2.0 }; SIGNS],
        precision: Array2::eye(SIGNS),
        exceeded: [(0.1, 2.0), (0.01, 4.0), (0.001, 5.0)]
            .map(|(share, score)| Exceeded { share, score })
            .to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tail_counts_by_its_own_spread() {
        let known = example_known();
        let score = |x: f32| known.score(&[x; SIGNS]);
        assert!(score(1.0).abs() < 1e-6);
        assert!((score(3.0) - 1.0).abs() < 1e-6 && (score(0.5) - 1.0).abs() < 1e-6);
        assert!((score(0.0) - 4.0).abs() < 1e-6);
    }

    #[test]
    fn limits_lie_between_those_learned_by_the_shares_logarithm() {
        let known = example_known();
        for (share, expected) in
            [(0.5, 2.0), (0.1, 2.0), (0.0316228, 3.0), (0.01, 4.0), (0.001, 5.0), (1e-6, 5.0)]
        {
            let found = known.limit(share);
            assert!((found - expected).abs() < 1e-3, "{found} at {share}");
        }
    }
}
