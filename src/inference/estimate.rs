//! What the bank knows after a bin.

use crate::model::SIGNS;

/// What the bank knows after a bin. Slices are as long as the model's sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Posterior probability per regime given that it is one of them, temperature applied,
    /// `[n_regimes]`; sums to 1.
    pub posterior: Vec<f32>,
    /// Posterior probability that it is none of them, but dynamics that training saw without a
    /// label; 0 where it saw none.
    pub unlabelled: f32,
    /// `E[e | y_1..t]`, `[embedding]`, over all hypotheses.
    pub embedding_mean: Vec<f32>,
    /// Standard deviation of each embedding dimension, `[embedding]`.
    pub embedding_sd: Vec<f32>,
    /// Covariance of the embedding over all hypotheses, its lower triangle row by row,
    /// `[embedding (embedding + 1) / 2]`.
    pub embedding_covariance: Vec<f32>,
    /// `E[kappa | y_1..t]`, `[rank]`.
    pub latent: Vec<f32>,
    /// Standard deviation of each latent dimension, `[rank]`.
    pub latent_sd: Vec<f32>,
    /// `log p(y_t | y_1..t-1)` (Laplace), nats per active channel; 0 for a missing bin.
    pub log_likelihood: f32,
    /// How strange the dynamics are over what known ones hardly ever exceed: above 1, they are none
    /// the model knows. Models that learned no signs take the larger of the next two over its
    /// limit.
    pub novelty: f32,
    /// Signs that it is made of, in the order of [`crate::model::SIGN_NAMES`].
    pub(crate) signs: [f32; SIGNS],
    /// Squared residuals, smoothed over 1 s and summed over channels, divided by what white
    /// innovations give: 1 by chance.
    pub innovation_runs: f32,
    /// Squared Mahalanobis distance of the embedding from the nearest component of the regime
    /// prior, over its dimensions, smoothed over 1 s.
    pub embedding_distance: f32,
    /// Participation ratio of the log rates' covariance over the last seconds, 1 to `rank`.
    pub participation_ratio: f32,
    /// The bin was taken for an artefact: prediction without update.
    pub artefact: bool,
    /// Channels that fell silent and do not inform.
    pub silent_channels: u32,
}

impl Estimate {
    pub(crate) fn empty(n_regimes: usize, embedding: usize, rank: usize) -> Self {
        Self {
            posterior: vec![0.0; n_regimes],
            unlabelled: 0.0,
            embedding_mean: vec![0.0; embedding],
            embedding_sd: vec![0.0; embedding],
            embedding_covariance: vec![0.0; embedding * (embedding + 1) / 2],
            latent: vec![0.0; rank],
            latent_sd: vec![0.0; rank],
            log_likelihood: 0.0,
            novelty: 0.0,
            signs: [0.0; SIGNS],
            innovation_runs: 1.0,
            embedding_distance: 0.0,
            participation_ratio: 1.0,
            artefact: false,
            silent_channels: 0,
        }
    }
}
