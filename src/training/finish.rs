//! From trained parameters to a model that serves: regime priors, hazard, temperature, novelty.

use ndarray::Array2;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::data::Dataset;
use super::decide::{Decided, decide};
use super::error::FinishError;
use super::held_out::{Scored, dispersion, tune};
use super::member::Member;
use super::prior::{PriorFit, fit_prior};
use super::trainer::Trainer;
use crate::dynamics::DynamicsSkill;
use crate::model::{Model, values};
use crate::regime::Verdict;

/// Gaussians per regime that are tried, in this order.
const PER_REGIME: [usize; 4] = [2, 4, 6, 8];
/// Most Gaussians in all: each costs time in every bin.
const COMPONENTS_MAX: usize = 32;
/// More Gaussians per regime must lower the held-out log loss by this fraction.
const WORTH_MORE_COMPONENTS: f64 = 0.03;
/// More Gaussians are tried where the held-out log loss is at most this many times the best before.
const WORTH_TRYING: f64 = 1.1;
/// Added to the variance of an embedding within a component.
pub(super) const COVARIANCE_FLOOR: f64 = 1e-3;
/// Bounds of the hazard rate out of a regime, per bin.
const HAZARD_BOUNDS: [f64; 2] = [1e-4, 0.5];
/// Expected time in a regime where the labels show no change, seconds.
const REGIME_TIME_S: f64 = 3.0;
/// A model knows the dynamics of unlabelled bins where they are at least this share of all bins and
/// do not raise the labelled ones' log loss.
const UNLABELLED_SHARE: f64 = 0.02;
/// Variance that the embedding's random walk gains per second.
const EMBEDDING_DRIFT_PER_S: f64 = 1e-5;
/// Factors of the process noise that are tried in turn.
const PROCESS_NOISE: [f32; 2] = [2.0, 3.0];
/// More process noise must lower the held-out log loss by this fraction: what is left to noise is
/// neither foretold nor known again.
const WORTH_MORE_NOISE: f64 = 0.1;

/// A finished model and its held-out scores.
#[derive(Debug, Clone)]
pub struct Finished {
    pub model: Model,
    /// Scores of the published posterior on held-out streams, over all; `None` where nothing is
    /// labelled there.
    pub held_out: Option<Verdict>,
    /// The same by session name.
    pub by_session: Vec<(String, Verdict)>,
    /// Held-out log loss of the dynamics alone, nats per bin.
    pub log_loss: Option<f64>,
    /// Mean predictive log-likelihood of the held-out streams, nats per bin and channel; `None`
    /// where nothing is held out.
    pub log_likelihood: Option<f64>,
    /// What the dynamics foretell of held-out streams; `None` where the model is not kept.
    pub(crate) skill: Option<DynamicsSkill>,
}

/// Models of all members at the same settings, the serving one last.
#[derive(Clone)]
struct Candidate {
    models: Vec<Model>,
    scored: Scored,
}

impl Candidate {
    /// Held-out log loss; 0 where nothing labelled was held out.
    fn loss(&self) -> f64 {
        self.scored.labels.as_ref().map_or(0.0, |v| v.log_loss)
    }

    fn tuned(mut models: Vec<Model>, members: &[Member<'_>]) -> Result<Self, FinishError> {
        let scored = tune(&mut models, members)?;
        Ok(Self { models, scored })
    }

    fn finished(self, decided: Option<Decided>) -> Option<Finished> {
        let Self { mut models, scored } = self;
        let log_loss = scored.labels.as_ref().map(|v| v.log_loss);
        let log_likelihood = scored.log_likelihood;
        let (published, skill) = decided.map_or((scored, None), |d| (d.scored, d.skill));
        let Scored { labels, by_session, .. } = published;
        let model = models.pop()?;
        Some(Finished { model, held_out: labels, by_session, log_loss, log_likelihood, skill })
    }
}

/// Fits priors to the embeddings and settings to the held-out streams of all members; the last
/// member's model serves. With a held-out log loss `best` found before, further sizes of prior are
/// only tried where the first comes near it, and a model that is no better gets no decision rule.
///
/// # Errors
/// When training diverged, or a session shows no bin of some regime.
///
/// # Panics
/// Without members.
pub fn finish(members: &[Member<'_>], best_before: Option<f64>) -> Result<Finished, FinishError> {
    let trainer = members.last().expect("a member").trainer;
    let data = trainer.data();
    let unfitted = members.iter().map(unfitted).collect::<Result<Vec<Model>, FinishError>>()?;
    let fitted = |per_regime: usize, unlabelled: bool| -> Result<Candidate, FinishError> {
        let mut models = unfitted.clone();
        for (model, member) in models.iter_mut().zip(members) {
            model.online.hazard_per_bin = hazard(data, unlabelled);
            if let Some(seconds) = trainer.settings().mean_dwell_s {
                *model = model.with_mean_dwell(seconds);
            }
            fit_priors(model, member.trainer, per_regime, unlabelled)?;
        }
        Candidate::tuned(models, members)
    };
    // From the simplest model up, each larger one only where the held-out log loss is worth its
    // cost in every bin.
    let mut best = fitted(PER_REGIME[0], false)?;
    // Hypotheses for unlabelled stretches may take probability from the regimes: kept where they do
    // not hurt.
    let mut unlabelled = false;
    let shown = |m: &Member<'_>| m.trainer.data().labels.iter().any(|l| l.regime.is_none());
    if data.unlabelled_share() >= UNLABELLED_SHARE && members.iter().all(shown) {
        let found = fitted(PER_REGIME[0], true)?;
        unlabelled = found.loss() <= best.loss();
        if unlabelled {
            best = found;
        }
    }
    let regimes = data.regime_names.len() + usize::from(unlabelled);
    for per_regime in PER_REGIME.into_iter().skip(1) {
        let far = best_before.is_some_and(|b| best.loss() > WORTH_TRYING * b);
        if far || per_regime * regimes > COMPONENTS_MAX {
            break;
        }
        let found = fitted(per_regime, unlabelled)?;
        if found.loss() >= (1.0 - WORTH_MORE_COMPONENTS) * best.loss() {
            break;
        }
        best = found;
    }
    let published = if best_before.is_some_and(|b| best.loss() > b) {
        // No better than the kept model: skip the rest.
        None
    } else {
        best = with_process_noise(members, best)?;
        if trainer.settings().negative_binomial {
            best = with_dispersion(members, best)?;
        }
        decide(&mut best.models, members)?
    };
    Ok(best.finished(published).expect("as many models as members"))
}

/// A member's model without priors.
fn unfitted(member: &Member<'_>) -> Result<Model, FinishError> {
    let mut model = member.trainer.unfitted_model()?;
    all_finite(&model)?;
    model.online.embedding_drift = (EMBEDDING_DRIFT_PER_S * model.bin_width_s) as f32;
    Ok(model)
}

/// Tries more process noise than was learned, as long as the held-out log loss is worth it.
fn with_process_noise(
    members: &[Member<'_>],
    mut best: Candidate,
) -> Result<Candidate, FinishError> {
    for process_noise in PROCESS_NOISE {
        let mut models = best.models.clone();
        models.iter_mut().for_each(|m| m.online.process_noise = process_noise);
        let found = Candidate::tuned(models, members)?;
        if found.loss() >= (1.0 - WORTH_MORE_NOISE) * best.loss() {
            break;
        }
        best = found;
    }
    Ok(best)
}

/// Fits every channel's dispersion.
fn with_dispersion(members: &[Member<'_>], best: Candidate) -> Result<Candidate, FinishError> {
    let mut models = best.models;
    for (model, member) in models.iter_mut().zip(members) {
        let data = member.trainer.data();
        for s in 0..data.sessions.len() {
            let streams = data.streams.iter().filter(|t| t.session == s);
            let counts = streams.map(|t| &t.counts);
            model.readouts[s].dispersion = Some(dispersion(model, &model.readouts[s], counts)?);
        }
    }
    Candidate::tuned(models, members)
}

/// Hazard rates from the labels' changes, with one pseudo-change out of each regime; the same for
/// all where the labels never change.
pub(super) fn hazard(data: &Dataset, unlabelled: bool) -> Array2<f32> {
    let n = data.regime_names.len();
    let regimes: Vec<Option<usize>> = (0..n).map(Some).chain(unlabelled.then_some(None)).collect();
    let steps = if unlabelled { &data.steps } else { &data.labelled_steps };
    let usual = data.bin_width_s / REGIME_TIME_S;
    let even = 1.0 / regimes.len() as f64;
    let mut rates = Array2::zeros((n + 1, n + 1));
    for &from in &regimes {
        let bins = steps.bins.get(&from).copied().unwrap_or(0) as f64;
        let row: Vec<f64> = regimes
            .iter()
            .map(|&to| {
                let changes = steps.changes.get(&(from, to)).copied().unwrap_or(0) as f64;
                if steps.changes.is_empty() {
                    usual * even
                } else {
                    (changes + even) / (bins + 1.0 / usual)
                }
            })
            .collect();
        let total: f64 = row.iter().sum();
        let scale = total.clamp(HAZARD_BOUNDS[0], HAZARD_BOUNDS[1]) / total;
        for (&to, rate) in regimes.iter().zip(row) {
            rates[[from.unwrap_or(n), to.unwrap_or(n)]] = (rate * scale) as f32;
        }
    }
    rates
}

/// A mixture per regime to each session's embeddings, and to all of them together.
fn fit_priors(
    model: &mut Model,
    trainer: &Trainer,
    per_regime: usize,
    unlabelled: bool,
) -> Result<(), FinishError> {
    let data = trainer.data();
    let mut rng = ChaCha8Rng::seed_from_u64(trainer.settings().seed);
    let how = PriorFit { per_regime, covariance_floor: COVARIANCE_FLOOR };
    let mut pooled = Vec::new();
    for s in 0..data.sessions.len() {
        let mut embeddings = trainer.embeddings(s)?;
        embeddings.retain(|(regime, _)| unlabelled || regime.is_some());
        let name = data.sessions[s].name.clone();
        model.readouts[s].prior = fit_prior(&embeddings, data.regime_names.len(), how, &mut rng)
            .ok_or(FinishError::Prior(name))?;
        pooled.extend(embeddings);
    }
    model.prior = fit_prior(&pooled, data.regime_names.len(), how, &mut rng)
        .ok_or_else(|| FinishError::Prior("all".into()))?;
    Ok(())
}

fn all_finite(model: &Model) -> Result<(), FinishError> {
    let h = &model.hypernetwork;
    let parts: [(&'static str, &[f32]); 6] = [
        ("w1", values(&h.w1)),
        ("w2", values(&h.w2)),
        ("wn", values(&h.wn)),
        ("n0", values(&h.n0)),
        ("m", values(&model.network.m)),
        ("process_variance", values(&model.network.process_variance)),
    ];
    for (name, values) in parts {
        if !values.iter().all(|x| x.is_finite()) {
            return Err(FinishError::Diverged(name));
        }
    }
    for readout in &model.readouts {
        if !readout.loading.iter().chain(&readout.baseline).all(|x| x.is_finite()) {
            return Err(FinishError::Diverged("readout"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::recording::{DynamicsTruth, Recording, Trial};

    fn data(labels: &[(Option<usize>, usize)]) -> Dataset {
        let regime: Vec<Option<usize>> =
            labels.iter().flat_map(|&(r, n)| std::iter::repeat_n(r, n)).collect();
        let trial = Trial {
            session: "s".into(),
            counts: Array2::zeros((regime.len(), 1)),
            task: vec![0; regime.len()],
            regime,
            truth: DynamicsTruth::default(),
        };
        let recording = Recording {
            path: PathBuf::from("test"),
            n_channels: 1,
            channels: None,
            bin_width_s: 0.1,
            regime_names: vec!["a".into(), "b".into()],
            trials: vec![trial],
            continuous: true,
        };
        Dataset::for_calibration(&recording).expect("a dataset")
    }

    fn close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f64::from(*f) - e).abs() < 1e-6, "{found:?} for {expected:?}");
        }
    }

    #[test]
    fn hazard_rates_are_the_labels_changes_with_a_pseudo_change() {
        let data = data(&[(Some(0), 10), (None, 5), (Some(1), 20), (Some(0), 11)]);
        // 30 bins of the usual regime time carry one pseudo-change, spread evenly.
        let (a, b, none) = (20.0 + 30.0, 20.0 + 30.0, 5.0 + 30.0);
        let third = 1.0 / 3.0;
        close(
            values(&hazard(&data, true)),
            &[
                third / a,
                third / a,
                (1.0 + third) / a,
                (1.0 + third) / b,
                third / b,
                third / b,
                third / none,
                (1.0 + third) / none,
                third / none,
            ],
        );
        // Without unlabelled bins, b was entered from a.
        let rates = hazard(&data, false);
        let rates = values(&rates);
        close(&rates[..2], &[0.5 / a, 1.5 / a]);
        close(&rates[2..6], &[0.0, 1.5 / b, 0.5 / b, 0.0]);
        close(&rates[6..], &[0.0; 3]);
    }

    #[test]
    fn hazard_rates_without_changes_are_the_same_for_all() {
        let usual = 0.1 / REGIME_TIME_S;
        let rates = hazard(&data(&[(Some(1), 50)]), false);
        let half = usual / 2.0;
        close(values(&rates), &[half, half, 0.0, half, half, 0.0, 0.0, 0.0, 0.0]);
    }
}
