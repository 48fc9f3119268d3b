//! A whole training: steps, validations on held-out data in between, and the best model.

use std::collections::HashMap;
use std::sync::Arc;

use super::data::Dataset;
use super::error::{FinishError, RestoreError};
use super::experts::SessionExperts;
use super::finish::{Finished, finish};
use super::folds::Folds;
use super::member::Member;
use super::settings::{KeptBy, TrainingSettings};
use super::threads::on_each;
use super::trainer::{StepReport, Trainer};

/// A short recording is learned within tens of steps: the first validation comes after this many
/// passes over the data, though not before a least number of steps.
const FIRST_VALIDATION_PASSES: f64 = 20.0;
const FIRST_VALIDATION_STEP: usize = 8;
/// Number of validations on held-out data.
const VALIDATIONS: usize = 12;
/// Training ends where as many validations in a row did not keep their model, and the steps are at
/// least as many times those of the kept one.
const PATIENCE: usize = 4;
const PATIENCE_STEPS: usize = 2;
/// Where exponents are learned too, a later model is kept if its held-out log loss is at most this
/// many times the least before: exponents are learned more slowly than labels.
const LATER_IS_BETTER_WITHIN: f64 = 1.25;
/// A model that predicts held-out counts better is kept if its held-out log loss is at most this
/// many times the least before: within the scatter from one validation to the next.
const COUNTS_DECIDE_WITHIN: f64 = 1.1;

/// Name of what is known of the kept model in a saved state: nothing where there is none, else its
/// steps, the validations since, the least held-out loss and its log-likelihood (NaN without one).
const KEPT: &str = "kept";

/// Name of the scores before the first step in a saved state.
const START: &str = "start";

/// What a validation showed.
pub(crate) struct Validation {
    /// Log loss of the held-out streams by the dynamics, nats per bin; `None` where nothing is
    /// labelled there, or all of it alike.
    pub log_loss: Option<f64>,
    /// The current model, where it replaces the one kept before.
    pub better: Option<Finished>,
}

/// Trainings side by side, under validation.
pub(crate) struct Pretraining {
    /// The last one's model serves.
    trainers: Vec<Trainer>,
    /// Of each of them.
    experts: Vec<SessionExperts>,
    threads: usize,
    /// Smallest held-out loss so far, by [`KeptBy`].
    least: Option<f64>,
    /// Steps of the model that was kept.
    kept_at: Option<usize>,
    /// Its predictive log-likelihood of held-out counts.
    kept_likelihood: Option<f64>,
    /// Validations since.
    in_vain: usize,
    /// Held-out scores of the dynamics before the first step, once they are known.
    start: Option<[Option<f64>; 2]>,
}

impl Pretraining {
    /// Fresh trainings of all members, with the experts of each.
    ///
    /// # Errors
    /// Errors of candle.
    ///
    /// # Panics
    /// Where there are not as many experts as members.
    pub(crate) fn new(
        folds: &Folds,
        settings: TrainingSettings,
        experts: Vec<SessionExperts>,
    ) -> candle_core::Result<Self> {
        // All step side by side.
        let each = settings.threads.div_ceil(folds.members().count());
        let own = TrainingSettings { threads: each, ..settings };
        let trainers = folds
            .members()
            .map(|data| Trainer::new(data.clone(), own))
            .collect::<candle_core::Result<Vec<_>>>()?;
        assert_eq!(trainers.len(), experts.len(), "experts of every member");
        Ok(Self {
            trainers,
            experts,
            threads: settings.threads,
            least: None,
            kept_at: None,
            kept_likelihood: None,
            in_vain: 0,
            start: None,
        })
    }

    /// One training that holds out a part itself, by its dynamics alone.
    ///
    /// # Errors
    /// Errors of candle.
    pub(crate) fn alone(
        data: Arc<Dataset>,
        settings: TrainingSettings,
    ) -> candle_core::Result<Self> {
        Self::new(&Folds::one(data), settings, vec![Vec::new()])
    }

    /// The training whose model serves.
    #[must_use]
    pub(crate) fn trainer(&self) -> &Trainer {
        &self.trainers[self.trainers.len() - 1]
    }

    /// One step of [`Trainer::step`] of each training; reports the serving one's.
    ///
    /// # Errors
    /// Errors of candle.
    pub(crate) fn step(&mut self) -> candle_core::Result<StepReport> {
        let reports = on_each(&mut self.trainers, self.threads, Trainer::step)?;
        Ok(reports[reports.len() - 1])
    }

    /// Whether all steps are done, more of them no longer gain anything, or all is lost.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        let done = self.trainer().steps_done() >= self.trainer().settings().steps;
        done || self.gains_nothing() || self.is_lost()
    }

    /// Whether some training cannot be kept from going astray.
    #[must_use]
    pub(crate) fn is_lost(&self) -> bool {
        self.trainers.iter().any(Trainer::is_lost)
    }

    /// Steps that were undone, over all trainings.
    #[must_use]
    pub(crate) fn steps_undone(&self) -> u32 {
        self.trainers.iter().map(Trainer::steps_undone).sum()
    }

    /// Held-out log-likelihood and log loss of the dynamics before the first step, where it was
    /// scored: [`Self::score_start`].
    #[must_use]
    pub(crate) fn start(&self) -> Option<[Option<f64>; 2]> {
        self.start
    }

    /// Scores the readouts that the data's moments give, with dynamics of chance.
    ///
    /// # Errors
    /// As a validation.
    pub(crate) fn score_start(&mut self) -> Result<(), FinishError> {
        if self.trainer().steps_done() == 0 {
            // Better than anything before is not asked for: only scores are.
            let found = finish(&self.members(), Some(f64::MIN))?;
            self.start = Some([found.log_likelihood, found.log_loss]);
        }
        Ok(())
    }

    fn members(&self) -> Vec<Member<'_>> {
        let pairs = self.trainers.iter().zip(&self.experts);
        pairs.map(|(trainer, experts)| Member { trainer, experts }).collect()
    }

    /// Whether the last validations did not keep their models, and many steps with them.
    #[must_use]
    pub(crate) fn gains_nothing(&self) -> bool {
        let far = self.kept_at.is_some_and(|k| self.trainer().steps_done() >= PATIENCE_STEPS * k);
        self.in_vain >= PATIENCE && far
    }

    /// Validates where it is time, or where the training stops here without a model.
    ///
    /// # Errors
    /// When training diverged, or a session shows no bin of some regime.
    pub(crate) fn validate_if_due(
        &mut self,
        stops: bool,
    ) -> Result<Option<Validation>, FinishError> {
        let trainer = self.trainer();
        let due = is_due(trainer.steps_done(), trainer.settings(), trainer.data());
        let last = stops || self.is_lost();
        if due || (last && self.kept_at.is_none()) { self.validate().map(Some) } else { Ok(None) }
    }

    /// Fits priors to the current parameters, and scores the models on held-out data.
    fn validate(&mut self) -> Result<Validation, FinishError> {
        let settings = self.trainer().settings();
        let by_labels = settings.kept_by == KeptBy::Labels;
        let exponents = settings.exponent_weight > 0.0;
        let slack = match (by_labels, exponents) {
            (true, true) => LATER_IS_BETTER_WITHIN,
            (true, false) => COUNTS_DECIDE_WITHIN,
            (false, _) => 1.0,
        };
        let limit = self.least.map(|least| slack * least);
        let found = finish(&self.members(), limit.filter(|_| by_labels))?;
        // With one label there is nothing to tell apart: its log loss is 0 from the first step on.
        let tells = self.trainer().data().regime_names.len() > 1;
        let log_loss = found.log_loss.filter(|_| tells);
        let loss = if by_labels { log_loss } else { found.log_likelihood.map(|l| -l) };
        let foretells_more = exponents || found.log_likelihood > self.kept_likelihood;
        let is_better = loss.is_none_or(|loss| replaces(loss, self.least, (slack, foretells_more)));
        self.least = self.least.into_iter().chain(loss).reduce(f64::min);
        self.in_vain = if is_better { 0 } else { self.in_vain + 1 };
        if is_better {
            self.kept_at = Some(self.trainer().steps_done());
            self.kept_likelihood = found.log_likelihood;
        }
        Ok(Validation { log_loss, better: is_better.then_some(found) })
    }

    /// The whole state as named arrays.
    ///
    /// # Errors
    /// Errors of candle.
    pub(crate) fn state(&self) -> candle_core::Result<HashMap<String, Vec<f32>>> {
        let mut state = HashMap::new();
        for (i, trainer) in self.trainers.iter().enumerate() {
            state.extend(trainer.state()?.into_iter().map(|(name, v)| (format!("{i}.{name}"), v)));
        }
        let score = |s: Option<f64>| s.map_or(f32::NAN, |s| s as f32);
        let kept = self.kept_at.map(|steps| {
            let vain = self.in_vain as f32;
            vec![steps as f32, vain, score(self.least), score(self.kept_likelihood)]
        });
        state.insert(KEPT.to_owned(), kept.unwrap_or_default());
        let start = self.start.iter().flatten().map(|s| score(*s));
        state.insert(START.to_owned(), start.collect());
        Ok(state)
    }

    /// Takes up a state saved after `step` steps.
    ///
    /// # Errors
    /// Names the array that is missing or of another size.
    pub(crate) fn restore(
        &mut self,
        step: usize,
        mut state: HashMap<String, Vec<f32>>,
    ) -> Result<(), RestoreError> {
        let kept = state.remove(KEPT).ok_or_else(|| RestoreError::Missing(KEPT.to_owned()))?;
        let score = |s: f32| Some(f64::from(s)).filter(|s| s.is_finite());
        if let [steps, in_vain, least, likelihood] = kept[..] {
            (self.kept_at, self.in_vain) = (Some(steps as usize), in_vain as usize);
            (self.least, self.kept_likelihood) = (score(least), score(likelihood));
        }
        let start = state.remove(START).ok_or_else(|| RestoreError::Missing(START.to_owned()))?;
        self.start = if let [l, loss] = start[..] { Some([score(l), score(loss)]) } else { None };
        for (i, trainer) in self.trainers.iter_mut().enumerate() {
            let prefix = format!("{i}.");
            let own = state.iter().filter_map(|(name, values)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), values.clone()))
            });
            trainer.restore(step, own.collect())?;
        }
        Ok(())
    }
}

/// Whether a model of this held-out loss replaces the kept one: where the loss is the least so far,
/// or within `slack` times it and the model `foretells_more`.
fn replaces(loss: f64, least: Option<f64>, (slack, foretells_more): (f64, bool)) -> bool {
    least.is_none_or(|least| loss < least || (foretells_more && loss < slack * least))
}

/// Whether a training is validated after step `done`: in even intervals, and before the first of
/// them at steps that double.
fn is_due(done: usize, settings: &TrainingSettings, data: &Dataset) -> bool {
    let pass = data.training_bins() as f64 / (settings.batch * settings.window_bins) as f64;
    let mut early = ((FIRST_VALIDATION_PASSES * pass) as usize).max(FIRST_VALIDATION_STEP);
    while early < done {
        early *= 2;
    }
    let every = settings.steps.div_ceil(VALIDATIONS);
    done == settings.steps || done.is_multiple_of(every) || (done == early && done < every)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::model::Dimensions;
    use crate::recording::{DynamicsTruth, Recording, Trial, in_bins};

    #[test]
    fn among_models_about_as_good_the_one_that_foretells_more_is_kept() {
        for (loss, least, foretells_more, expected) in [
            (0.3, None, false, true),
            (0.19, Some(0.2), false, true),
            (0.21, Some(0.2), true, true),
            (0.21, Some(0.2), false, false),
            (0.23, Some(0.2), true, false),
        ] {
            let found = replaces(loss, least, (COUNTS_DECIDE_WITHIN, foretells_more));
            assert_eq!(found, expected, "{loss} after {least:?}");
        }
    }

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
            let training = Pretraining::alone(data.clone(), settings(kept_by));
            let mut training = training.expect("a training");
            let (mut kept, mut scores) = (Vec::new(), Vec::new());
            while !training.is_complete() {
                training.step().expect("a step");
                let Some(found) = training.validate_if_due(false).expect("a validation") else {
                    continue;
                };
                let now = finish(&[Member::alone(training.trainer())], None)
                    .expect("a model")
                    .log_likelihood;
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
