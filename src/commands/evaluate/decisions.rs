//! Every bin's conclusions, as arrays for analysis elsewhere.

use std::path::Path;

use anyhow::Result;

use crate::model::{EXPERT_NAMES, EXPERTS, Model};
use crate::recording::{Archive, Trial, numbered, trial_starts};
use crate::regime::{Change, Engine, Label};

/// Columns of all streams, one after another; rows are bins.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    session: Vec<String>,
    bins: Vec<usize>,
    truth: Vec<i64>,
    posterior: Vec<f32>,
    /// The experts' own posteriors, `[bins, experts, regimes]`; 0 where a session has none.
    experts: Vec<f32>,
    unlabelled: Vec<f32>,
    label: Vec<Option<Label>>,
    /// Onset of the change decided in a bin with its interval, in the stream's bins; -1 where none
    /// was.
    onset: [Vec<i64>; 3],
    novelty: Vec<f32>,
    log_likelihood: Vec<f32>,
    embedding_mean: Vec<f32>,
    embedding_sd: Vec<f32>,
    latent: Vec<f32>,
}

impl Decisions {
    /// A new stream with the truth of its bins.
    pub(super) fn start_stream(&mut self, trial: &Trial) {
        self.session.push(trial.session.clone());
        self.bins.push(trial.n_bins());
        self.truth.extend(numbered(&trial.regime));
    }

    /// The next bin.
    pub(super) fn push(&mut self, engine: &Engine, change: Option<Change>) {
        let (estimate, label) = (engine.estimate(), engine.label());
        self.posterior.extend(&estimate.posterior);
        match engine.experts() {
            Some(experts) => self.experts.extend(experts),
            None => {
                let none = std::iter::repeat_n(0.0, EXPERTS * estimate.posterior.len());
                self.experts.extend(none);
            }
        }
        self.unlabelled.push(estimate.unlabelled);
        self.label.push(label);
        let onset = change.map(|c| [c.onset.bin, c.onset.low_bin, c.onset.high_bin]);
        for (i, column) in self.onset.iter_mut().enumerate() {
            column.push(onset.map_or(-1, |o| o[i] as i64));
        }
        self.novelty.push(estimate.novelty);
        self.log_likelihood.push(estimate.log_likelihood);
        self.embedding_mean.extend(&estimate.embedding_mean);
        self.embedding_sd.extend(&estimate.embedding_sd);
        self.latent.extend(&estimate.latent);
    }

    /// Writes the arrays.
    pub(super) fn write(&self, path: &Path, model: &Model) -> Result<()> {
        let n = self.label.len();
        let d = model.dims.embedding;
        let names: Vec<String> =
            model.regime_names.iter().cloned().chain([Label::UNKNOWN.to_owned()]).collect();
        let label: Vec<i64> = self
            .label
            .iter()
            .map(|label| match label {
                None => -1,
                Some(Label::Regime(r)) => *r as i64,
                Some(Label::Unknown) => model.regime_names.len() as i64,
            })
            .collect();
        let mut archive = Archive::create(path)?;
        archive.f64("bin_width_s", &[], &[model.bin_width_s])?;
        archive.strings("session", &self.session)?;
        archive.i64("trial_start", &trial_starts(self.bins.iter().copied()))?;
        archive.strings("label_names", &names)?;
        archive.i64("truth", &self.truth)?;
        archive.i64("label", &label)?;
        for (key, column) in
            ["onset_bin", "onset_low_bin", "onset_high_bin"].iter().zip(&self.onset)
        {
            archive.i64(key, column)?;
        }
        archive.f32("posterior", &[n, model.regime_names.len()], &self.posterior)?;
        let names = EXPERT_NAMES.map(str::to_owned);
        archive.strings("expert_names", &names)?;
        archive.f32("experts", &[n, EXPERTS, model.regime_names.len()], &self.experts)?;
        archive.f32("unlabelled", &[n], &self.unlabelled)?;
        archive.f32("novelty", &[n], &self.novelty)?;
        archive.f32("log_likelihood", &[n], &self.log_likelihood)?;
        archive.f32("embedding_mean", &[n, d], &self.embedding_mean)?;
        archive.f32("embedding_sd", &[n, d], &self.embedding_sd)?;
        archive.f32("latent", &[n, model.dims.rank], &self.latent)?;
        Ok(archive.finish()?)
    }
}
