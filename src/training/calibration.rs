//! A new session on frozen dynamics: its readout, from a short recording.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::data::Dataset;
use super::error::FinishError;
use super::finish::COVARIANCE_FLOOR;
use super::held_out::dispersion;
use super::prior::{PriorFit, fit_prior};
use super::settings::TrainingSettings;
use super::trainer::Trainer;
use crate::model::{Model, Readout};

/// Turns of the latents that are tried: a readout's moments leave the latents' axes open.
const ROTATIONS: usize = 12;
/// Gaussians per regime of a calibrated session's own prior.
const CALIBRATED_PER_REGIME: usize = 2;
/// Share of the steps spent on trying them.
const TRIAL_SHARE: f64 = 0.4;

/// A session's readout, ready to be added to its model.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// The readout with its regime prior.
    pub readout: Readout,
    /// Mean one-step predictive log-likelihood at the end, nats per bin and channel, up to the
    /// factorials.
    pub one_step: f64,
    /// True where the prior is the calibration's own labels', false where it is the model's.
    pub labelled: bool,
}

/// Learns the readout of `data`'s one session for `model`. Calls `each` after every step with the
/// steps done and the newest one-step score; `false` stops the work.
///
/// # Errors
/// Errors of candle, and a result that is not finite.
pub fn calibrate(
    model: &Model,
    data: &Arc<Dataset>,
    settings: TrainingSettings,
    mut each: impl FnMut(usize, f64) -> bool,
) -> Result<Calibration, FinishError> {
    let rank = model.dims.rank;
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let trial_steps = (settings.steps as f64 * TRIAL_SHARE / ROTATIONS as f64).ceil() as usize;
    let mut best: Option<(f64, Trainer)> = None;
    let mut done = 0;
    let mut going = true;
    for turn in 0..ROTATIONS {
        let rotation = if turn == 0 { identity(rank) } else { orthogonal(rank, &mut rng) };
        let mut trainer = Trainer::calibrating(model, data.clone(), settings, &rotation)?;
        let mut score = f64::NEG_INFINITY;
        for _ in 0..trial_steps {
            if !going {
                break;
            }
            let report = trainer.step()?;
            // Forecasts count too: they show whether the frozen dynamics fit these axes.
            // A step that was undone says nothing of what is there now.
            if report.gradient_norm.is_finite() {
                score = report.one_step + report.forecast;
            }
            done += 1;
            going = each(done, report.one_step);
        }
        if best.as_ref().is_none_or(|b| score > b.0) {
            best = Some((score, trainer));
        }
    }
    let (_, mut trainer) = best.ok_or_else(|| candle_core::Error::msg("no calibration steps"))?;
    let left = if going { settings.steps.saturating_sub(done).max(1) } else { 0 };
    let one_step = go_on(&mut trainer, left, |more, score| each(done + more, score))?;
    let mut readout = trainer.readout(0)?;
    if !readout.loading.iter().chain(&readout.baseline).all(|x| x.is_finite()) {
        return Err(FinishError::Diverged("readout"));
    }
    let labelled = trainer.embeddings(0)?.into_iter().filter_map(|(r, e)| Some((r?, e)));
    let embeddings: Option<Vec<(Option<usize>, Vec<f32>)>> = labelled
        .map(|(r, e)| {
            let name = &data.regime_names[r];
            Some((Some(model.regime_names.iter().position(|n| n == name)?), e))
        })
        .collect();
    let how = PriorFit { per_regime: CALIBRATED_PER_REGIME, covariance_floor: COVARIANCE_FLOOR };
    let own = embeddings.and_then(|e| fit_prior(&e, model.regime_names.len(), how, &mut rng));
    let labelled = own.is_some();
    readout.trusted = labelled;
    readout.prior = own.unwrap_or_else(|| model.prior.clone());
    // As the model's other sessions have it.
    if model.readouts.iter().any(|r| r.dispersion.is_some()) {
        let counts = data.streams.iter().map(|s| &s.counts);
        readout.dispersion = Some(dispersion(model, &readout, counts)?);
    }
    Ok(Calibration { readout, one_step, labelled })
}

/// Takes so many more steps, or fewer where `each` stops them; the last one-step score.
fn go_on(
    trainer: &mut Trainer,
    steps: usize,
    mut each: impl FnMut(usize, f64) -> bool,
) -> Result<f64, FinishError> {
    let mut one_step = f64::NAN;
    for done in 1..=steps {
        let report = trainer.step()?;
        // A step that was undone says nothing of what is there now.
        if report.gradient_norm.is_finite() {
            one_step = report.one_step;
        }
        if trainer.is_lost() {
            return Err(FinishError::Diverged("readout"));
        }
        if !each(done, one_step) {
            break;
        }
    }
    Ok(one_step)
}

fn identity(n: usize) -> Vec<f32> {
    (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect()
}

/// A random orthogonal matrix: QR of a normal one.
fn orthogonal(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let Ok(normal) = Normal::new(0.0f64, 1.0) else { return identity(n) };
    let square = nalgebra::DMatrix::from_fn(n, n, |_, _| normal.sample(rng));
    square.qr().q().iter().map(|&x| x as f32).collect()
}
