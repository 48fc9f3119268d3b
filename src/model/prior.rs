//! Where the regimes lie in embedding space: a Gaussian mixture per label.

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

/// One Gaussian of the mixture: one hypothesis of the filter bank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Index into the model's regime names; `None` is what bins without a label showed.
    pub regime: Option<usize>,
    /// Prior weight; all components sum to 1.
    pub weight: f32,
    /// Mean, `[embedding]`.
    #[serde(with = "vector")]
    pub mean: Array1<f32>,
    /// Covariance, `[embedding, embedding]`.
    #[serde(with = "super::row_major")]
    pub covariance: Array2<f32>,
}

/// Gaussian mixture over the task embedding, components per regime.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegimePrior {
    /// Components, ordered by regime.
    pub components: Vec<Component>,
}

impl RegimePrior {
    /// Mean and variance of each embedding dimension, `[embedding]`, over the components of one
    /// regime, or over all.
    pub(crate) fn moments(&self, regime: Option<usize>) -> (Vec<f64>, Vec<f64>) {
        let parts: Vec<&Component> =
            self.components.iter().filter(|c| regime.is_none() || c.regime == regime).collect();
        let total: f64 = parts.iter().map(|c| f64::from(c.weight)).sum();
        let n = parts.first().map_or(0, |c| c.mean.len());
        let (mut mean, mut variance) = (vec![0.0; n], vec![0.0; n]);
        for c in &parts {
            for (mean, x) in mean.iter_mut().zip(&c.mean) {
                *mean += f64::from(c.weight) / total * f64::from(*x);
            }
        }
        for c in &parts {
            for i in 0..n {
                let delta = f64::from(c.mean[i]) - mean[i];
                let second = f64::from(c.covariance[[i, i]]) + delta * delta;
                variance[i] += f64::from(c.weight) / total * second;
            }
        }
        (mean, variance)
    }
}

/// Vectors in the model card: a list of their values.
mod vector {
    use ndarray::Array1;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(of: &Array1<f32>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(of)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Array1<f32>, D::Error> {
        Vec::<f32>::deserialize(from).map(Array1::from_vec)
    }
}
