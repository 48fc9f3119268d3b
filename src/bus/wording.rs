//! Outcomes as messages: the names and sizes of a session's model put to the numbers.

use super::outcome::Outcome;
use crate::dynamics::StatePosterior;
use crate::model::{EXPERT_NAMES, EXPERTS};
use crate::regime::{Change, Label};
use crate::wire;

/// What turns a session's outcomes into messages.
#[derive(Debug, Clone)]
pub(crate) struct Wording {
    /// Session name.
    pub session: String,
    pub regime_names: Vec<String>,
    /// Embedding dimensions.
    pub embedding: usize,
    /// Latent dimensions.
    pub rank: usize,
    /// Weights of the experts in the pool.
    pub weights: [f32; EXPERTS],
}

impl Wording {
    /// Posterior of an outcome, `[n_regimes]`.
    #[must_use]
    pub(crate) fn posterior<'a>(&self, outcome: &'a Outcome) -> &'a [f32] {
        &outcome.posterior[..self.regime_names.len()]
    }

    /// The experts of an outcome: name, weight and own posterior, `[n_regimes]`.
    pub(crate) fn experts<'a>(
        &self,
        outcome: &'a Outcome,
    ) -> impl Iterator<Item = (&'static str, f32, &'a [f32])> {
        let n = self.regime_names.len();
        let named = EXPERT_NAMES.into_iter().zip(self.weights);
        let own = outcome.experts.iter().flatten();
        named.zip(own).map(move |((name, weight), own)| (name, weight, &own[..n]))
    }

    /// Means and standard deviations of embedding and latents.
    #[must_use]
    pub(crate) fn state<'a>(&self, outcome: &'a Outcome) -> StatePosterior<'a> {
        let (d, rank) = (self.embedding, self.rank);
        StatePosterior {
            embedding: &outcome.embedding_mean[..d],
            embedding_covariance: &outcome.embedding_covariance[..d * (d + 1) / 2],
            latent: [&outcome.latent[..rank], &outcome.latent_sd[..rank]],
        }
    }

    /// Root mean square of the embedding's posterior standard deviations.
    #[must_use]
    pub(crate) fn embedding_width(&self, outcome: &Outcome) -> f64 {
        let sds = &outcome.embedding_sd[..self.embedding];
        let squares: f64 = sds.iter().map(|&sd| f64::from(sd).powi(2)).sum();
        (squares / self.embedding.max(1) as f64).sqrt()
    }

    /// Index of a label among the regime names with `unknown` after them.
    #[must_use]
    pub(crate) fn label_index(&self, label: Label) -> usize {
        match label {
            Label::Regime(r) => r,
            Label::Unknown => self.regime_names.len(),
        }
    }

    #[must_use]
    pub(crate) fn decision(
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
            experts: self
                .experts(o)
                .map(|(name, weight, posterior)| wire::Expert {
                    name: name.to_owned(),
                    weight,
                    posterior: posterior.to_vec(),
                })
                .collect(),
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
    pub(crate) fn event(&self, o: &Outcome, change: &Change) -> wire::Event {
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
