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

/// The regime prior.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegimePrior {
    /// Components, ordered by regime.
    pub components: Vec<Component>,
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
