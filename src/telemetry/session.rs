//! What a session's numbers go out with.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::declared::*;
use super::handles::lost_by_subscriber;
use super::readings::Readings;

/// A session's numbers as they go out.
pub(crate) struct SessionMetrics {
    /// Receive to decision.
    pub latency: Histogram,
    /// Receive to handed to subscribers.
    pub end_to_end: Histogram,
    /// A bin's time by stage: queue, filter, publish.
    pub stages: [Histogram; 3],
    /// Bins that wait.
    pub queue: Gauge,
    pub novelty: Gauge,
    /// Probability of none of the regimes.
    pub unlabelled: Gauge,
    /// Predictive log-likelihood.
    pub log_likelihood: Gauge,
    /// Participation ratio.
    pub participation: Gauge,
    /// Channels that fell silent.
    pub silent: Gauge,
    /// Bins taken for artefacts.
    pub artefacts: Counter,
    /// Width of the embedding's posterior.
    pub embedding_sd: Gauge,
    /// Gauges of the dynamics.
    pub readings: Readings,
    /// Restarted hypotheses.
    pub resets: Counter,
    /// Bins done that were not predicted through.
    pub processed: Counter,
    posterior: Vec<Gauge>,
    /// By expert and regime; empty where the session has the dynamics alone.
    experts: Vec<Vec<Gauge>>,
    /// One per label, `unknown` last.
    in_force: Vec<Gauge>,
    changes: Vec<Counter>,
}

impl SessionMetrics {
    /// Handles for a session whose labels are `labels`, `unknown` last, and whose pooled experts
    /// have these names.
    #[must_use]
    pub(crate) fn new(session: &str, labels: &[&str], experts: &[&'static str]) -> Self {
        let name = || session.to_owned();
        let per_label = |metric: &'static str| -> Vec<Gauge> {
            labels
                .iter()
                .map(|l| gauge!(metric, "session" => name(), "regime" => (*l).to_owned()))
                .collect()
        };
        let plain = |metric: &'static str| gauge!(metric, "session" => name());
        lost_by_subscriber(session, 0);
        Self {
            latency: histogram!(LATENCY, "session" => name()),
            end_to_end: histogram!(END_TO_END, "session" => name()),
            stages: ["queue", "filter", "publish"]
                .map(|stage| histogram!(STAGE, "session" => name(), "stage" => stage)),
            queue: plain(QUEUE),
            novelty: plain(NOVELTY),
            unlabelled: plain(UNLABELLED),
            log_likelihood: plain(LOG_LIKELIHOOD),
            participation: plain(PARTICIPATION),
            silent: plain(SILENT),
            artefacts: counter!(ARTEFACTS, "session" => name()),
            embedding_sd: plain(EMBEDDING_SD),
            readings: Readings::new(session),
            resets: counter!(RESETS, "session" => name()),
            processed: counter!(BINS_PROCESSED, "session" => name()),
            posterior: per_label(POSTERIOR)
                .into_iter()
                .take(labels.len().saturating_sub(1))
                .collect(),
            experts: experts
                .iter()
                .map(|expert| {
                    let regimes = labels.iter().take(labels.len().saturating_sub(1));
                    let gauge = |r: &&str| {
                        let regime = (*r).to_owned();
                        gauge!(
                            EXPERT_POSTERIOR,
                            "session" => name(), "expert" => *expert, "regime" => regime
                        )
                    };
                    regimes.map(gauge).collect()
                })
                .collect(),
            in_force: per_label(IN_FORCE),
            changes: labels
                .iter()
                .map(|l| counter!(CHANGES, "session" => name(), "to" => (*l).to_owned()))
                .collect(),
        }
    }

    /// Posterior per regime.
    pub(crate) fn posterior(&self, posterior: &[f32]) {
        for (gauge, p) in self.posterior.iter().zip(posterior) {
            gauge.set(f64::from(*p));
        }
    }

    /// Posterior per regime of each expert in turn.
    pub(crate) fn experts<'a>(&self, posteriors: impl Iterator<Item = &'a [f32]>) {
        for (gauges, posterior) in self.experts.iter().zip(posteriors) {
            for (gauge, p) in gauges.iter().zip(posterior) {
                gauge.set(f64::from(*p));
            }
        }
    }

    /// Label `index` (labels as at the start) is in force from now on: a change.
    pub(crate) fn change(&self, index: usize) {
        self.in_force(index);
        if let Some(counter) = self.changes.get(index) {
            counter.increment(1);
        }
    }

    /// Label `index` is in force.
    pub(crate) fn in_force(&self, index: usize) {
        for (i, gauge) in self.in_force.iter().enumerate() {
            gauge.set(f64::from(u8::from(i == index)));
        }
    }

    /// These labels are not the session's any more.
    pub(crate) fn withdraw(&self) {
        self.in_force(usize::MAX);
        let experts = self.experts.iter().flatten();
        self.posterior.iter().chain(experts).for_each(|gauge| gauge.set(0.0));
    }
}
