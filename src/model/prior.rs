//! Where the regimes lie in embedding space: a Gaussian mixture per label.

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
    pub mean: Vec<f32>,
    /// Covariance, `[embedding, embedding]` row-major.
    pub covariance: Vec<f32>,
}

/// The regime prior.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegimePrior {
    /// Components, ordered by regime.
    pub components: Vec<Component>,
}
