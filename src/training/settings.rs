//! How to train.

use super::filter::LossShape;
use crate::model::{Dimensions, LOG_RATE_BOUNDS};

/// Which score of the held-out streams decides which model of a training is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeptBy {
    /// The log loss of the labels: for a model that is to tell regimes apart. Where all labels are
    /// alike, or none is held out, the last model is kept.
    #[default]
    Labels,
    /// The predictive log-likelihood of the counts: for a model that is to forecast.
    Counts,
}

/// How to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingSettings {
    /// Sizes of the model.
    pub dims: Dimensions,
    /// Steps of Adam.
    pub steps: usize,
    /// Windows per step.
    pub batch: usize,
    /// Bins per window at most.
    pub window_bins: usize,
    /// Learning rate at the start; it falls to 0 as half a cosine.
    pub learning_rate: f64,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// Seed of everything random.
    pub seed: u64,
    /// Bins at a window's start that are not scored.
    pub burn_in_bins: usize,
    /// Bins of an open-loop forecast.
    pub horizon_bins: usize,
    /// Bins between forecasts.
    pub forecast_every_bins: usize,
    /// Weight of the forecasts, relative to the one-step score.
    pub forecast_weight: f64,
    /// Weight of the error of the network's own Lyapunov exponent, per bin, where recordings hold
    /// the true one; 0 leaves it out.
    pub exponent_weight: f64,
    /// Length of the runs, without noise or driven by it, that it is measured on, seconds.
    pub exponent_s: f64,
    /// Variance that the latents gain where a trial follows one of another regime, in that at a
    /// recording's start. Where recordings show changes, their own are learned.
    pub entry_variance: f64,
    /// Weight of the mean process variance.
    pub process_penalty: f64,
    /// Weight of the contrast between regimes; 0 leaves it out.
    pub contrast_weight: f64,
    /// Length of the stretches that are contrasted, seconds.
    pub contrast_s: f64,
    /// Temperature of their log-likelihood ratios.
    pub contrast_temperature: f64,
    /// Bounds of a log rate, natural log of counts per bin.
    pub log_rate_bounds: [f32; 2],
    /// Whether the online fit takes counts for negative binomial, with a dispersion per channel
    /// fitted after training; else for Poisson.
    pub negative_binomial: bool,
    /// Time that a regime lasts on average where it will be served, seconds; `None`: as in the
    /// labels.
    pub mean_dwell_s: Option<f64>,
    /// What decides which model is kept.
    pub kept_by: KeptBy,
    /// Threads for the filter's passes.
    pub threads: usize,
}

impl TrainingSettings {
    /// Settings for the calibration of a new animal, where the dynamics stay as they are.
    #[must_use]
    pub fn for_calibration() -> Self {
        let usual = Self { steps: 600, batch: 16, learning_rate: 1e-2, ..Self::default() };
        usual.forecasting(10)
    }

    /// The same with forecasts of so many bins, begun the more rarely the longer they are: about
    /// one and a half steps for each bin.
    #[must_use]
    pub fn forecasting(self, bins: usize) -> Self {
        Self { horizon_bins: bins, forecast_every_bins: (2 * bins / 3).max(10), ..self }
    }
}

impl Default for TrainingSettings {
    fn default() -> Self {
        Self {
            dims: Dimensions::default(),
            steps: 2000,
            batch: 96,
            window_bins: 100,
            learning_rate: 4e-3,
            clip_norm: 1.0,
            seed: 0,
            burn_in_bins: 10,
            horizon_bins: 50,
            forecast_every_bins: 33,
            forecast_weight: 1.0,
            exponent_weight: 0.0,
            exponent_s: 2.0,
            entry_variance: 0.5,
            process_penalty: 0.1,
            contrast_weight: 0.03,
            contrast_s: 0.2,
            contrast_temperature: 3.0,
            log_rate_bounds: LOG_RATE_BOUNDS,
            negative_binomial: false,
            mean_dwell_s: None,
            kept_by: KeptBy::Labels,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Largest rate, as a multiple of the largest count that was seen.
const RATE_ABOVE_COUNTS: f32 = 1.5;

impl TrainingSettings {
    /// Raises the bound of the rates to what the data show, where their counts are beyond it.
    pub(crate) fn bound_rates(&mut self, largest_count: f32) {
        let [_, high] = &mut self.log_rate_bounds;
        *high = high.max((RATE_ABOVE_COUNTS * largest_count.max(1.0)).ln());
    }

    pub(super) fn loss_shape(&self) -> LossShape {
        LossShape {
            rank: self.dims.rank,
            units: self.dims.units,
            burn_in: self.burn_in_bins,
            horizon: self.horizon_bins,
            forecast_every: self.forecast_every_bins,
            forecast_weight: self.forecast_weight,
            entry_variance: self.entry_variance as f32,
            log_rate_bounds: self.log_rate_bounds,
        }
    }
}
