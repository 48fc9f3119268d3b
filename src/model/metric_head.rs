//! What simulated truth adds to the fitted network: a linear map, per regime, from a session's
//! features to its largest Lyapunov exponents, with intervals from held-out tasks.

use serde::{Deserialize, Serialize};

/// Regression of one regime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegimeHead {
    /// Mean of each feature over the training tasks, `[features]`.
    pub centre: Vec<f64>,
    /// Its standard deviation, `[features]`.
    pub scale: Vec<f64>,
    /// Intercept and weights of the standardised features for the exponent without noise and along
    /// a noisy path, `[2][1 + features]`, 1/s.
    pub weights: [Vec<f64>; 2],
    /// Half width of each one's 90 % interval, 1/s: the quantile of the errors on held-out tasks
    /// (split conformal, Vovk, Gammerman & Shafer 2005).
    pub half_width: [f64; 2],
    /// Root mean square error on them, 1/s.
    pub rms_error: [f64; 2],
    /// Tasks that it was fitted to, and that the intervals come from.
    pub tasks: [usize; 2],
}

impl RegimeHead {
    /// The two exponents for features, 1/s.
    fn predict(&self, features: &[f64]) -> [f64; 2] {
        [0, 1].map(|which| {
            let weights = &self.weights[which];
            let scaled = features.iter().zip(&self.centre).zip(&self.scale);
            // Clamped to the range of training, with a margin.
            let scaled = scaled.map(|((x, c), s)| ((x - c) / s).clamp(-4.0, 4.0));
            weights[0] + scaled.zip(&weights[1..]).map(|(x, w)| x * w).sum::<f64>()
        })
    }
}

/// Largest exponents as learned from simulated truth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricHead {
    /// By regime; `None` where too few of its tasks had a known truth.
    pub regimes: Vec<Option<RegimeHead>>,
}

impl MetricHead {
    /// The exponents without noise and along a noisy path, each `[mean, low, high]` of a 90 %
    /// interval, 1/s: the most probable regime's values; the other regimes', by their posterior
    /// probabilities, widen the interval. `None` where a regime that counts has no regression.
    #[must_use]
    pub(crate) fn predict(&self, posterior: &[f32], features: &[f64]) -> Option<[[f64; 3]; 2]> {
        let mut parts = Vec::new();
        for (p, head) in posterior.iter().zip(&self.regimes) {
            let p = f64::from(*p);
            match head {
                Some(head) => parts.push((p, head, head.predict(features))),
                None if p > 0.05 => return None,
                None => {}
            }
        }
        let total: f64 = parts.iter().map(|(p, ..)| p).sum();
        let leading = parts.iter().max_by(|a, b| a.0.total_cmp(&b.0))?.2;
        Some([0, 1].map(|which| {
            let mean = leading[which];
            let square = parts
                .iter()
                .map(|(p, h, m)| p * (h.half_width[which].powi(2) + (m[which] - mean).powi(2)));
            let half = (square.sum::<f64>() / total).sqrt();
            [mean, mean - half, mean + half]
        }))
    }

    /// Checks the number of features of the regressions, and that they are finite.
    ///
    /// # Errors
    /// Names the fault.
    pub(crate) fn check(&self, regimes: usize, features: usize) -> Result<(), MetricHeadError> {
        if self.regimes.len() != regimes {
            let found = self.regimes.len();
            return Err(MetricHeadError::Regimes { expected: regimes, found });
        }
        for (r, head) in self.regimes.iter().enumerate() {
            let Some(head) = head else { continue };
            let all = head.centre.iter().chain(&head.scale).chain(head.weights.iter().flatten());
            let sound = all.copied().all(f64::is_finite)
                && head.scale.iter().all(|s| *s > 0.0)
                && head.half_width.iter().all(|h| *h >= 0.0 && h.is_finite());
            let sizes = [head.centre.len(), head.scale.len()];
            let weights = head.weights.each_ref().map(Vec::len);
            if sizes != [features; 2] || weights != [features + 1; 2] || !sound {
                return Err(MetricHeadError::Regression { features, sizes, weights, regime: r });
            }
        }
        Ok(())
    }
}

/// Why regressions do not fit a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetricHeadError {
    /// Of another number of regimes.
    #[error("{expected} regimes, found {found}")]
    Regimes { expected: usize, found: usize },
    /// Another number of features, or numbers that are not finite.
    #[error(
        "{features} features with finite numbers, found {sizes:?}, weights {weights:?} for regime \
         {regime}"
    )]
    Regression { features: usize, sizes: [usize; 2], weights: [usize; 2], regime: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(intercept: f64, half: f64) -> RegimeHead {
        RegimeHead {
            centre: vec![1.0],
            scale: vec![2.0],
            weights: [vec![intercept, 1.0], vec![intercept, -1.0]],
            half_width: [half, 2.0 * half],
            rms_error: [half; 2],
            tasks: [10, 5],
        }
    }

    #[test]
    fn regimes_mix_by_probability_and_their_difference_widens_the_interval() {
        let heads = MetricHead { regimes: vec![Some(head(0.0, 0.1)), Some(head(4.0, 0.1)), None] };
        let [free, driven] = heads.predict(&[1.0, 0.0, 0.0], &[5.0]).expect("known");
        assert_eq!(free, [2.0, 1.9, 2.1]);
        assert_eq!(driven, [-2.0, -2.2, -1.8]);
        let [free, _] = heads.predict(&[0.75, 0.25, 0.0], &[5.0]).expect("known");
        assert!((free[0] - 2.0).abs() < 1e-12);
        assert!((free[2] - free[0] - (0.01f64 + 4.0).sqrt()).abs() < 1e-12);
        assert_eq!(heads.predict(&[0.5, 0.3, 0.2], &[5.0]), None);
        assert!(heads.check(3, 1).is_ok());
        assert!(heads.check(3, 2).is_err());
        assert!(heads.check(2, 1).is_err());
    }
}
