//! What a session thread makes of a bin, in fixed size; and its wording as messages.

use crate::dynamics::StatePosterior;
use crate::inference::Estimate;
use crate::model::{EMBEDDING_MAX, RANK_MAX, REGIMES_MAX};
use crate::regime::{Change, Label};
use crate::wire;

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
    /// Headers that waited when it was done.
    pub waiting: u32,
    /// Hypotheses begun anew so far.
    pub filter_resets: u64,
    /// Models that the session had before this one.
    pub swaps: u32,
    pub(crate) posterior: [f32; REGIMES_MAX],
    /// Probability of none of the regimes.
    pub unlabelled: f32,
    pub(crate) embedding_mean: [f32; EMBEDDING_MAX],
    pub(crate) embedding_sd: [f32; EMBEDDING_MAX],
    pub(crate) embedding_covariance: [f32; EMBEDDING_MAX * (EMBEDDING_MAX + 1) / 2],
    pub(crate) latent: [f32; RANK_MAX],
    pub(crate) latent_sd: [f32; RANK_MAX],
    /// Predictive log-likelihood per channel, nats.
    pub log_likelihood: f32,
    /// Novelty.
    pub novelty: f32,
    /// Participation ratio.
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
    /// With an estimate's numbers, everything else at zero.
    #[must_use]
    pub fn of(estimate: &Estimate) -> Self {
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

/// What turns a session's outcomes into messages.
#[derive(Debug, Clone)]
pub struct Wording {
    /// Session name.
    pub session: String,
    /// Regime names.
    pub regime_names: Vec<String>,
    /// Embedding dimensions.
    pub embedding: usize,
    /// Latent dimensions.
    pub rank: usize,
}

impl Wording {
    /// Posterior of an outcome, `[n_regimes]`.
    #[must_use]
    pub fn posterior<'a>(&self, outcome: &'a Outcome) -> &'a [f32] {
        &outcome.posterior[..self.regime_names.len()]
    }

    /// Means and standard deviations of embedding and latents.
    #[must_use]
    pub fn state<'a>(&self, outcome: &'a Outcome) -> StatePosterior<'a> {
        let (d, rank) = (self.embedding, self.rank);
        StatePosterior {
            embedding: &outcome.embedding_mean[..d],
            embedding_covariance: &outcome.embedding_covariance[..d * (d + 1) / 2],
            latent: [&outcome.latent[..rank], &outcome.latent_sd[..rank]],
        }
    }

    /// Root mean square of the embedding's posterior standard deviations.
    #[must_use]
    pub fn embedding_width(&self, outcome: &Outcome) -> f64 {
        let sds = &outcome.embedding_sd[..self.embedding];
        let squares: f64 = sds.iter().map(|&sd| f64::from(sd).powi(2)).sum();
        (squares / self.embedding.max(1) as f64).sqrt()
    }

    /// Index of a label among the regime names with `unknown` behind them.
    #[must_use]
    pub fn label_index(&self, label: Label) -> usize {
        match label {
            Label::Regime(r) => r,
            Label::Unknown => self.regime_names.len(),
        }
    }

    /// The decision.
    #[must_use]
    pub fn decision(
        &self,
        o: &Outcome,
        metrics: Option<wire::Metrics>,
        event_sequence: u64,
        publish_time_ns: i64,
    ) -> wire::Decision {
        let state = self.state(o);
        wire::Decision {
            session: self.session.clone(),
            sequence: o.sequence,
            bin: o.bin,
            rig_time_ns: o.rig_time_ns,
            receive_time_ns: o.received_wall_ns,
            latency_ns: o.latency_ns,
            compute_ns: o.compute_ns,
            regime: o.label.map_or_else(String::new, |l| l.name(&self.regime_names).to_owned()),
            posterior: self.posterior(o).to_vec(),
            regime_names: self.regime_names.clone(),
            embedding_mean: state.embedding.to_vec(),
            embedding_sd: o.embedding_sd[..self.embedding].to_vec(),
            latent: state.latent[0].to_vec(),
            latent_sd: state.latent[1].to_vec(),
            log_likelihood: o.log_likelihood,
            novelty: o.novelty,
            unlabelled: o.unlabelled,
            predicted: o.predicted,
            artefact: o.artefact,
            silent_channels: o.silent_channels,
            untrusted: o.untrusted,
            publish_time_ns,
            event_sequence,
            metrics,
        }
    }

    /// The event of an outcome with a change, without a number yet.
    #[must_use]
    pub fn event(&self, o: &Outcome, change: &Change) -> wire::Event {
        wire::Event {
            session: self.session.clone(),
            event_sequence: 0,
            not_durable: false,
            lost: false,
            bin: o.bin,
            sequence: o.sequence,
            onset_bin: change.onset.bin,
            onset_low_bin: change.onset.low_bin,
            onset_high_bin: change.onset.high_bin,
            from_probability: change.from_probability,
            from: change.from.map_or_else(String::new, |l| l.name(&self.regime_names).to_owned()),
            to: change.to.name(&self.regime_names).to_owned(),
            probability: change.probability,
            rig_time_ns: o.rig_time_ns,
            decision_time_ns: o
                .received_wall_ns
                .saturating_add(i64::try_from(o.latency_ns).unwrap_or(i64::MAX)),
        }
    }
}
