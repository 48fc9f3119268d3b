//! What a session's thread makes of a bin, in fixed size.

use crate::inference::Estimate;
use crate::model::{EMBEDDING_MAX, EXPERTS, RANK_MAX, REGIMES_MAX};
use crate::regime::{Change, Label};

/// One bin's outcome: plain data that crosses a ring without an allocation.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The rig's number.
    pub sequence: u64,
    /// Bins processed before this one.
    pub bin: u64,
    /// The rig's clock, ns.
    pub rig_time_ns: i64,
    /// When it came in, ns since the Unix epoch.
    pub received_wall_ns: i64,
    /// From coming in to here, ns.
    pub latency_ns: u64,
    /// Filter bank's time, ns.
    pub compute_ns: u64,
    /// Label in force.
    pub label: Option<Label>,
    /// Labels are not to be believed: the session is not calibrated, or was without labels.
    pub untrusted: bool,
    /// The label changed in this bin.
    pub change: Option<Change>,
    /// The bin was missing.
    pub predicted: bool,
    /// Bins that waited when it was done.
    pub waiting: u32,
    /// Restarted hypotheses so far.
    pub filter_resets: u64,
    /// Models that the session had before this one.
    pub swaps: u32,
    pub(crate) posterior: [f32; REGIMES_MAX],
    /// The experts' own posteriors; `None` where the session has the dynamics alone.
    pub(crate) experts: Option<[[f32; REGIMES_MAX]; EXPERTS]>,
    /// Probability of none of the regimes.
    pub unlabelled: f32,
    pub(crate) embedding_mean: [f32; EMBEDDING_MAX],
    pub(crate) embedding_sd: [f32; EMBEDDING_MAX],
    pub(crate) embedding_covariance: [f32; EMBEDDING_MAX * (EMBEDDING_MAX + 1) / 2],
    pub(crate) latent: [f32; RANK_MAX],
    pub(crate) latent_sd: [f32; RANK_MAX],
    /// Predictive log-likelihood per channel, nats.
    pub log_likelihood: f32,
    /// The larger of the innovation runs and the embedding's distance, each over its limit.
    pub novelty: f32,
    /// `(tr S)^2 / tr S^2` of the latents' covariance over the last 2 s.
    pub participation_ratio: f32,
    /// The bin was taken for an artefact.
    pub artefact: bool,
    /// Channels that fell silent.
    pub silent_channels: u32,
}

fn filled<const N: usize>(values: &[f32]) -> [f32; N] {
    let mut array = [0.0; N];
    array[..values.len()].copy_from_slice(values);
    array
}

impl Outcome {
    /// With an estimate's numbers and the experts' own posteriors, `[experts, n_regimes]`;
    /// everything else at zero.
    #[must_use]
    pub fn of(estimate: &Estimate, experts: Option<&[f32]>) -> Self {
        let n = estimate.posterior.len();
        Self {
            sequence: 0,
            bin: 0,
            rig_time_ns: 0,
            received_wall_ns: 0,
            latency_ns: 0,
            compute_ns: 0,
            label: None,
            untrusted: false,
            change: None,
            predicted: false,
            waiting: 0,
            filter_resets: 0,
            swaps: 0,
            posterior: filled(&estimate.posterior),
            experts: experts.map(|e| std::array::from_fn(|i| filled(&e[i * n..(i + 1) * n]))),
            unlabelled: estimate.unlabelled,
            embedding_mean: filled(&estimate.embedding_mean),
            embedding_sd: filled(&estimate.embedding_sd),
            embedding_covariance: filled(&estimate.embedding_covariance),
            latent: filled(&estimate.latent),
            latent_sd: filled(&estimate.latent_sd),
            log_likelihood: estimate.log_likelihood,
            novelty: estimate.novelty,
            participation_ratio: estimate.participation_ratio,
            artefact: estimate.artefact,
            silent_channels: estimate.silent_channels,
        }
    }
}
