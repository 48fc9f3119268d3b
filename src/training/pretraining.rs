//! A whole training: steps, validations on held-out data in between, and the best model.

use super::data::Dataset;
use super::error::FinishError;
use super::finish::{Finished, finish};
use super::settings::{KeptBy, TrainingSettings};
use super::trainer::{StepReport, Trainer};

/// A short recording is learned within tens of steps: the first validation comes after this many
/// passes over the data, though not before a least number of steps.
const FIRST_VALIDATION_PASSES: f64 = 20.0;
const FIRST_VALIDATION_STEP: usize = 8;
/// Number of validations on held-out data.
const VALIDATIONS: usize = 12;
/// Where exponents are learned too, a later model is kept if its held-out log loss is at most this
/// many times the least before: exponents are learned more slowly than labels.
const LATER_IS_BETTER_WITHIN: f64 = 1.25;

/// What a validation showed.
pub(crate) struct Validation {
    /// Log loss of the held-out streams, nats per bin; `None` where nothing is labelled there, or
    /// all of it alike.
    pub log_loss: Option<f64>,
    /// The current model, where it replaces the one kept before.
    pub better: Option<Finished>,
}

/// A training under validation.
pub(crate) struct Pretraining {
    trainer: Trainer,
    /// Smallest held-out loss so far, by [`KeptBy`].
    least: Option<f64>,
    /// A model was kept.
    has_model: bool,
}

impl Pretraining {
    /// Starts from the trainer's state; `kept`: the held-out loss of the model that was kept before
    /// an interruption, where one was.
    #[must_use]
    pub(crate) fn new(trainer: Trainer, kept: Option<Option<f64>>) -> Self {
        Self { trainer, least: kept.flatten(), has_model: kept.is_some() }
    }

    /// The training.
    #[must_use]
    pub(crate) fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// One step of [`Trainer::step`].
    ///
    /// # Errors
    /// Errors of candle.
    pub(crate) fn step(&mut self) -> candle_core::Result<StepReport> {
        self.trainer.step()
    }

    /// Whether all steps are done.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        self.trainer.steps_done() >= self.trainer.settings().steps
    }

    /// Validates where it is time, or where the training stops here without a model.
    ///
    /// # Errors
    /// When training diverged, or a session shows no bin of some regime.
    pub(crate) fn validate_if_due(
        &mut self,
        stops: bool,
    ) -> Result<Option<Validation>, FinishError> {
        let trainer = &self.trainer;
        let due = is_due(trainer.steps_done(), trainer.settings(), trainer.data());
        if due || (stops && !self.has_model) { self.validate().map(Some) } else { Ok(None) }
    }

    /// Fits priors to the current parameters, and scores the model on held-out data.
    fn validate(&mut self) -> Result<Validation, FinishError> {
        let settings = self.trainer.settings();
        let by_labels = settings.kept_by == KeptBy::Labels;
        let exponents = settings.exponent_weight > 0.0;
        let slack = if exponents && by_labels { LATER_IS_BETTER_WITHIN } else { 1.0 };
        let limit = self.least.map(|least| slack * least);
        let found = finish(&self.trainer, limit.filter(|_| by_labels))?;
        // With one label there is nothing to tell apart: its log loss is 0 from the first step on.
        let tells = self.trainer.data().regime_names.len() > 1;
        let log_loss = found.held_out.as_ref().filter(|_| tells).map(|v| v.log_loss);
        let loss = if by_labels { log_loss } else { found.log_likelihood.map(|l| -l) };
        let is_better = loss.zip(limit).is_none_or(|(now, limit)| now < limit);
        self.least = self.least.into_iter().chain(loss).reduce(f64::min);
        self.has_model |= is_better;
        Ok(Validation { log_loss, better: is_better.then_some(found) })
    }
}

/// Whether a training is validated after step `done`: in even intervals, and before the first of
/// them at steps that grow by half.
fn is_due(done: usize, settings: &TrainingSettings, data: &Dataset) -> bool {
    let pass = data.training_bins() as f64 / (settings.batch * settings.window_bins) as f64;
    let mut early = ((FIRST_VALIDATION_PASSES * pass) as usize).max(FIRST_VALIDATION_STEP);
    while early < done {
        early += early / 2;
    }
    let every = settings.steps.div_ceil(VALIDATIONS);
    done == settings.steps || done.is_multiple_of(every) || (done == early && done < every)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::model::Dimensions;
    use crate::recording::{DynamicsTruth, Recording, Trial, in_bins};

    #[test]
    fn with_one_label_the_last_model_is_kept_or_the_one_that_predicts_best() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let trial = |task: i64| Trial {
            session: "a".into(),
            counts: in_bins((0..800).map(|_| rng.random_range(0..3u16)).collect(), 4),
            task: vec![task; 200],
            regime: vec![Some(0); 200],
            truth: DynamicsTruth::default(),
        };
        let recording = Recording {
            path: "one.npz".into(),
            n_channels: 4,
            channels: None,
            bin_width_s: 0.01,
            regime_names: vec!["only".into()],
            trials: (0..12).map(trial).collect(),
            continuous: false,
        };
        let data = Arc::new(Dataset::for_pretraining(&[recording]).expect("data"));
        let settings = |kept_by| TrainingSettings {
            kept_by,
            steps: 24,
            batch: 4,
            window_bins: 50,
            dims: Dimensions { rank: 2, units: 8, embedding: 2, hidden: [8, 8] },
            ..TrainingSettings::default()
        };
        let train = |kept_by| {
            let trainer = Trainer::new(data.clone(), settings(kept_by)).expect("a trainer");
            let mut training = Pretraining::new(trainer, None);
            let (mut kept, mut scores) = (Vec::new(), Vec::new());
            while !training.is_complete() {
                training.step().expect("a step");
                let Some(found) = training.validate_if_due(false).expect("a validation") else {
                    continue;
                };
                let now = finish(training.trainer(), None).expect("a model").log_likelihood;
                let step = training.trainer().steps_done();
                scores.push((step, now.expect("streams were held out")));
                if found.better.is_some() {
                    kept.push(step);
                }
            }
            (kept, scores)
        };
        let (kept, scores) = train(KeptBy::Labels);
        assert!(scores.len() > 2 && kept.last() == Some(&24), "{kept:?} of {scores:?}");
        let (kept, scores) = train(KeptBy::Counts);
        let is_best = |&i: &usize| scores[..i].iter().all(|before| before.1 < scores[i].1);
        let best: Vec<usize> = (0..scores.len()).filter(is_best).map(|i| scores[i].0).collect();
        assert_eq!(kept, best, "of {scores:?}");
        assert!(kept.len() < scores.len(), "not every one is better: {scores:?}");
    }
}
