//! One stream through the engine, and what is counted on the way.

use std::time::Instant;

use anyhow::{Context, Result};

use super::super::scoreboard::Durations;
use super::MetricRow;
use super::decisions::Decisions;
use crate::dynamics::spectrum;
use crate::inference::Adaptation;
use crate::model::Model;
use crate::recording::Trial;
use crate::regime::{ChangeScore, DecisionRule, Engine, Label, Score};

/// Time between spectra, seconds.
const METRICS_EVERY_S: f64 = 0.1;
/// Spectra count from here on in a stream, seconds.
const METRICS_FROM_S: f64 = 0.5;
/// Bins kept for the timeline's plot.
pub(super) const TIMELINE_BINS: usize = 4000;

/// The first bins of what was streamed.
#[derive(Debug, Clone, Default)]
pub(super) struct Timeline {
    pub(super) truth: Vec<Option<usize>>,
    pub(super) posterior: Vec<Vec<f32>>,
}

impl Timeline {
    pub(super) fn extend(&mut self, more: Self) {
        let left = TIMELINE_BINS.saturating_sub(self.truth.len());
        self.truth.extend(more.truth.into_iter().take(left));
        self.posterior.extend(more.posterior.into_iter().take(left));
    }
}

/// A task's true and found dynamics.
#[derive(Debug, Clone)]
pub(super) struct Dynamics {
    regime: usize,
    lyapunov_max_per_s: f64,
    frequency_hz: f64,
    abscissa_per_s: f64,
    leading_frequency_hz: f64,
}

/// Everything counted.
pub(super) struct Tally {
    /// What the decision rule allows.
    pub(super) false_changes_per_min: Option<f64>,
    pub(super) score: Score,
    pub(super) changes: ChangeScore,
    pub(super) compute: Durations,
    pub(super) unknown_bins: u64,
    pub(super) bins: u64,
    pub(super) log_likelihood: f64,
    pub(super) dynamics: Vec<Dynamics>,
    /// Every bin's, where asked for.
    pub(super) decisions: Option<Decisions>,
}

impl Tally {
    /// Streams a trial whose regimes are the model's; returns its timeline.
    pub(super) fn run(
        &mut self,
        model: &Model,
        trial: &Trial,
        own: &mut Score,
    ) -> Result<Timeline> {
        let readout = model.readout(&trial.session).context("a session the model does not know")?;
        let rule = DecisionRule::of(model, self.false_changes_per_min);
        let mut engine = Engine::new(model, readout, rule, Adaptation::default())?;
        self.score.start_stream();
        own.start_stream();
        self.changes.start_stream();
        if let Some(decisions) = &mut self.decisions {
            decisions.start_stream(trial);
        }
        let n = engine.n_channels();
        let every = (METRICS_EVERY_S / model.bin_width_s).round().max(1.0) as usize;
        let from = (METRICS_FROM_S / model.bin_width_s).round() as usize;
        let (mut abscissa, mut frequency, mut spectra) = (0.0, 0.0, 0u32);
        let mut seen = Timeline::default();
        let mut counts = vec![0.0f32; n];
        for (bin, (row, &truth)) in trial.counts.chunks_exact(n).zip(&trial.regime).enumerate() {
            counts.iter_mut().zip(row).for_each(|(c, &y)| *c = f32::from(y));
            let began = Instant::now();
            let change = engine.push(Some(&counts));
            self.compute.push(began.elapsed().as_secs_f64() * 1e6);
            let estimate = engine.estimate();
            if let Some(decisions) = &mut self.decisions {
                decisions.push(estimate, engine.label(), change);
            }
            self.score.push(truth, &estimate.posterior);
            own.push(truth, &estimate.posterior);
            let said = match engine.label() {
                Some(Label::Regime(r)) => Some(r),
                Some(Label::Unknown) => {
                    self.unknown_bins += 1;
                    None
                }
                None => None,
            };
            self.changes.push(truth, said, change.as_ref());
            self.bins += 1;
            self.log_likelihood += f64::from(estimate.log_likelihood);
            if seen.truth.len() < TIMELINE_BINS {
                seen.truth.push(truth);
                seen.posterior.push(estimate.posterior.clone());
            }
            if trial.truth.lyapunov_max_per_s.is_some()
                && bin >= from
                && bin % every == 0
                && let Some(s) = spectrum(model, &estimate.embedding_mean, &estimate.latent)
            {
                abscissa += s.spectral_abscissa_per_s;
                frequency += s.leading_frequency_hz;
                spectra += 1;
            }
        }
        if let (Some(lyapunov), Some(Some(regime)), true) =
            (trial.truth.lyapunov_max_per_s, trial.regime.first(), spectra > 0)
        {
            self.dynamics.push(Dynamics {
                regime: *regime,
                lyapunov_max_per_s: lyapunov,
                frequency_hz: trial.truth.frequency_hz.unwrap_or(0.0),
                abscissa_per_s: abscissa / f64::from(spectra),
                leading_frequency_hz: frequency / f64::from(spectra),
            });
        }
        Ok(seen)
    }

    /// Means per regime.
    pub(super) fn metric_rows(&self, names: &[String]) -> Vec<MetricRow> {
        names
            .iter()
            .enumerate()
            .filter_map(|(regime, name)| {
                let of: Vec<&Dynamics> =
                    self.dynamics.iter().filter(|d| d.regime == regime).collect();
                let mean = |get: fn(&Dynamics) -> f64| {
                    of.iter().map(|d| get(d)).sum::<f64>() / of.len() as f64
                };
                (!of.is_empty()).then(|| MetricRow {
                    regime: name.clone(),
                    tasks: of.len(),
                    lyapunov_max_per_s: mean(|d| d.lyapunov_max_per_s),
                    spectral_abscissa_per_s: mean(|d| d.abscissa_per_s),
                    frequency_hz: mean(|d| d.frequency_hz),
                    leading_frequency_hz: mean(|d| d.leading_frequency_hz),
                })
            })
            .collect()
    }
}
