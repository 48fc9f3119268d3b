//! How well a student knows an unseen task: rates of its trials, and forecasts.

use anyhow::{Context, Result};
use ndarray::{Array1, Array2};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::families::{AHEAD_BINS, TestTask, TestTrial};
use crate::dynamics::{Position, forecast};
use crate::inference::{Adaptation, Estimate, FilterBank, smooth};
use crate::model::{Component, Model, Readout, RegimePrior, values};

/// Bins of a trial before which its rates are not scored: the filter has yet to find its place.
const SETTLED_BINS: usize = 10;
/// Added to an embedding's variances when a posterior becomes the next trial's prior.
const VARIANCE_FLOOR: f32 = 1e-4;

/// Coefficient of determination, `1 - sum (r - found)^2 / sum (r - mean r)^2`: the mean is each
/// channel's own.
#[derive(Debug, Clone, Default)]
pub(super) struct Determination {
    residual: f64,
    n: f64,
    /// Sum and sum of squares of each channel.
    channels: Vec<[f64; 2]>,
}

impl Determination {
    fn push(&mut self, truth: &[f32], found: &[f32]) {
        self.channels.resize(truth.len(), [0.0; 2]);
        self.n += 1.0;
        for ((sums, &r), &f) in self.channels.iter_mut().zip(truth).zip(found) {
            let (r, f) = (f64::from(r), f64::from(f));
            sums[0] += r;
            sums[1] += r * r;
            self.residual += (r - f).powi(2);
        }
    }

    fn take(&mut self, other: &Self) {
        self.channels.resize(other.channels.len().max(self.channels.len()), [0.0; 2]);
        self.n += other.n;
        self.residual += other.residual;
        for (sums, more) in self.channels.iter_mut().zip(&other.channels) {
            sums[0] += more[0];
            sums[1] += more[1];
        }
    }

    fn total(&self) -> f64 {
        self.channels.iter().map(|[sum, square]| square - sum * sum / self.n).sum()
    }
}

/// Over several animals together.
pub(super) fn pooled<'a>(of: impl Iterator<Item = &'a Determination>) -> Option<f64> {
    let (mut residual, mut total) = (0.0, 0.0);
    for d in of.filter(|d| d.n > 0.0) {
        residual += d.residual;
        total += d.total();
    }
    (total > 0.0).then(|| 1.0 - residual / total)
}

/// Results of one group of tasks of one animal.
#[derive(Debug, Clone, Default)]
pub(super) struct Fit {
    pub(super) session: String,
    pub(super) group: usize,
    /// Rates of the bins given the counts so far, and given all counts of the trial.
    pub(super) filtered: Determination,
    pub(super) smoothed: Determination,
    /// Rates [`AHEAD_BINS`] ahead, and the teacher's own forecasts of them.
    pub(super) forecast: Determination,
    pub(super) teacher: Determination,
    /// Tasks, and those whose label was the most probable after all trials given.
    pub(super) tasks: usize,
    pub(super) labelled_right: usize,
}

impl Fit {
    /// Adds more tasks of the same group.
    pub(super) fn take(&mut self, other: &Self) {
        self.filtered.take(&other.filtered);
        self.smoothed.take(&other.smoothed);
        self.forecast.take(&other.forecast);
        self.teacher.take(&other.teacher);
        self.tasks += other.tasks;
        self.labelled_right += other.labelled_right;
    }
}

/// Knowledge of a task after some trials.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The session's readout with that knowledge as its prior.
    pub(super) readout: Readout,
    pub(super) embedding: Vec<f32>,
    /// Most probable regime.
    pub(super) regime: Option<usize>,
}

fn bank(model: &Model, readout: &Readout) -> Result<FilterBank> {
    Ok(FilterBank::new(model, readout, Adaptation::NONE)?)
}

fn most_probable(of: &Estimate) -> Option<usize> {
    (0..of.posterior.len()).max_by(|&a, &b| of.posterior[a].total_cmp(&of.posterior[b]))
}

/// The posterior over the embedding after trials. Latents restart with each trial; one trial's
/// posterior is the next one's prior.
pub(super) fn learn(model: &Model, readout: &Readout, trials: &[TestTrial]) -> Result<Known> {
    let d = model.dims.embedding;
    let mut known = Known { readout: readout.clone(), embedding: vec![0.0; d], regime: None };
    for trial in trials {
        let mut bank = bank(model, &known.readout)?;
        for counts in values(&trial.counts).chunks_exact(readout.n_channels()) {
            bank.update(counts);
        }
        let found = bank.estimate();
        let regime = if known.regime.is_none() { most_probable(found) } else { known.regime };
        let mut covariance = Array2::zeros((d, d));
        let mut packed = found.embedding_covariance.iter();
        for i in 0..d {
            for j in 0..=i {
                let value = packed.next().copied().unwrap_or(0.0);
                covariance[[i, j]] = value;
                covariance[[j, i]] = value;
            }
            covariance[[i, i]] += VARIANCE_FLOOR;
        }
        let mean = found.embedding_mean.clone();
        known.embedding.clone_from(&mean);
        let mean = Array1::from(mean);
        known.regime = regime;
        known.readout.prior =
            RegimePrior { components: vec![Component { regime, weight: 1.0, mean, covariance }] };
    }
    Ok(known)
}

fn rates(model: &Model, readout: &Readout, latent: &[f32]) -> Vec<f32> {
    model.rates(readout, latent).collect()
}

/// Scores trials with the knowledge of their task.
pub(super) fn score(
    fit: &mut Fit,
    model: &Model,
    known: &Known,
    (task, trials): (&TestTask, &[TestTrial]),
) -> Result<()> {
    let readout = &known.readout;
    let n = readout.n_channels();
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut label = known.regime;
    for trial in trials {
        let mut bank = bank(model, readout)?;
        let mut starts = trial.ahead.iter().peekable();
        let truth: Vec<&[f32]> = values(&trial.rates).chunks_exact(n).collect();
        for (bin, counts) in values(&trial.counts).chunks_exact(n).enumerate() {
            let found = bank.update(counts);
            if bin >= SETTLED_BINS {
                fit.filtered.push(truth[bin], &rates(model, readout, &found.latent));
            }
            if let Some((_, teacher)) = starts.next_if(|s| s.0 == bin) {
                let state = Position::of(found, None).state;
                let ahead = forecast(model, readout, state, AHEAD_BINS, &mut rng);
                fit.forecast.push(truth[bin + AHEAD_BINS], &ahead);
                fit.teacher.push(truth[bin + AHEAD_BINS], teacher);
            }
        }
        let found = bank.estimate();
        if label.is_none() {
            label = most_probable(found);
        }
        let latents = smooth(model, readout, &found.embedding_mean, &trial.counts)
            .context("smoothing failed")?;
        let pairs = truth.iter().zip(values(&latents).chunks_exact(model.dims.rank));
        for (truth, latent) in pairs.skip(SETTLED_BINS) {
            fit.smoothed.push(truth, &rates(model, readout, latent));
        }
    }
    fit.tasks += 1;
    fit.labelled_right += usize::from(label == Some(task.label));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn determination_is_one_for_the_truth_zero_for_the_means_and_pools_animals() {
        let truth = [[1.0f32, 5.0], [3.0, 5.5], [2.0, 4.5]];
        let (mut exact, mut means) = (Determination::default(), Determination::default());
        for row in &truth {
            exact.push(row, row);
            means.push(row, &[2.0, 5.0]);
        }
        assert_eq!(pooled([&exact].into_iter()), Some(1.0));
        assert!(pooled([&means].into_iter()).expect("a value").abs() < 1e-9);
        let both = pooled([&exact, &means].into_iter()).expect("a value");
        assert!((both - 0.5).abs() < 1e-9, "{both}");
        assert_eq!(pooled(std::iter::empty()), None);
    }
}
