//! One session's dynamics, refreshed off the hot path: spectra at the filtered state, free runs,
//! fixed points, the counts' own measures, and what simulated truth makes of them.

use std::collections::VecDeque;

use nalgebra::DMatrix;

use super::estimate::Estimate;
use super::explorer::{Explorer, Portrait};
use super::population::{Branching, Population};
use super::spectrum::{SpectrumInterval, StatePosterior, spectrum_interval};
use crate::model::{Dimensions, Model};

/// Length of the window of latents that describes the session, seconds.
pub(crate) const LATENT_WINDOW_S: f64 = 4.0;
/// Shortest usable window, seconds.
const WINDOW_MIN_S: f64 = 1.0;
/// Latents are kept at this interval at least, seconds.
const STEP_S: f64 = 0.01;
/// Lags of the latents' autocorrelation, seconds.
const LAGS_S: [f64; 4] = [0.05, 0.1, 0.2, 0.4];
/// Exponents of each spectrum among the features.
const EXPONENTS: usize = 3;

/// Number of features that a metric head reads.
#[must_use]
pub(crate) fn feature_count(dims: &Dimensions) -> usize {
    dims.embedding + 2 * EXPONENTS + LAGS_S.len() + dims.rank + 3
}

/// The filtered latents of the last seconds under one label.
#[derive(Debug, Clone)]
struct LatentWindow {
    rank: usize,
    /// Bins between two that are kept.
    every: usize,
    step_s: f64,
    seen: usize,
    /// `[kept, rank]`.
    kept: VecDeque<f32>,
}

impl LatentWindow {
    fn new(model: &Model) -> Self {
        let every = ((STEP_S / model.bin_width_s).round() as usize).max(1);
        Self {
            rank: model.dims.rank,
            every,
            step_s: every as f64 * model.bin_width_s,
            seen: 0,
            kept: VecDeque::new(),
        }
    }

    fn push(&mut self, latent: &[f32]) {
        if self.seen.is_multiple_of(self.every) {
            let most = (LATENT_WINDOW_S / self.step_s).round() as usize * self.rank;
            while self.kept.len() + self.rank > most {
                self.kept.drain(..self.rank);
            }
            self.kept.extend(latent);
        }
        self.seen += 1;
    }

    /// Log total variance, autocorrelations, log squared speed, log eigenvalues of the covariance,
    /// log squared norm of the mean.
    fn features(&self) -> Option<Vec<f64>> {
        let rank = self.rank;
        let n = self.kept.len() / rank;
        if (n as f64) * self.step_s < WINDOW_MIN_S {
            return None;
        }
        let mut x = DMatrix::from_iterator(rank, n, self.kept.iter().map(|&k| f64::from(k)));
        let mean = x.column_mean();
        x.column_iter_mut().for_each(|mut c| c -= &mean);
        let cov = &x * x.transpose() / n as f64;
        let total = cov.trace().max(1e-9);
        let mut features = vec![total.ln()];
        for lag_s in LAGS_S {
            let lag = ((lag_s / self.step_s).round() as usize).clamp(1, n - 1);
            let (before, after) = (x.columns(0, n - lag), x.columns(lag, n - lag));
            features.push(before.dot(&after) / (n - lag) as f64 / total);
        }
        let moved = x.columns(1, n - 1) - x.columns(0, n - 1);
        let speed = moved.norm_squared() / (n - 1) as f64 / self.step_s.powi(2);
        features.push((speed + 1e-9).ln());
        let mut values: Vec<f64> = cov.symmetric_eigenvalues().iter().copied().collect();
        values.sort_by(|a, b| b.total_cmp(a));
        features.extend(values.iter().map(|v| (v.max(0.0) + 1e-4).ln()));
        features.push((mean.norm_squared() + 1e-2).ln());
        Some(features)
    }
}

/// A reading of a session's dynamics.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    /// Spectrum at the filtered state.
    pub spectrum: SpectrumInterval,
    /// What the fitted network does when it runs by itself.
    pub portrait: Portrait,
    /// Largest exponents without noise and along a noisy path as learned from simulated truth, 1/s;
    /// `None` where the model has not learned them or too little was seen.
    pub lyapunov_learned_per_s: Option<[Estimate; 2]>,
    /// Branching ratio of the population's activity.
    pub branching: Option<Branching>,
    /// Effective connectivity radius.
    pub connectivity_radius: Option<Estimate>,
}

/// What a refresh starts from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position<'a> {
    /// Posterior over embedding and latents.
    pub state: StatePosterior<'a>,
    /// Posterior over regimes, `[regimes]`.
    pub posterior: &'a [f32],
    /// Regime in force; `None` where it is unknown.
    pub label: Option<usize>,
}

impl<'a> Position<'a> {
    /// Of a filter bank's estimate.
    #[must_use]
    pub(crate) fn of(e: &'a crate::inference::Estimate, label: Option<usize>) -> Self {
        Self {
            state: StatePosterior {
                embedding: &e.embedding_mean,
                embedding_covariance: &e.embedding_covariance,
                latent: [&e.latent, &e.latent_sd],
            },
            posterior: &e.posterior,
            label,
        }
    }
}

/// Follows one session.
#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    explorer: Explorer,
    latents: LatentWindow,
    population: Population,
    label: Option<usize>,
}

impl Monitor {
    /// For a session of `channels` channels.
    #[must_use]
    pub(crate) fn new(model: &Model, channels: usize) -> Self {
        Self {
            explorer: Explorer::new(model),
            latents: LatentWindow::new(model),
            population: Population::new(channels, model.bin_width_s),
            label: None,
        }
    }

    /// The counts of a bin, `[channels]`; `None` where it is missing.
    pub(crate) fn push_counts(&mut self, counts: Option<&[f32]>) {
        match counts {
            Some(counts) => self.population.push(counts),
            None => self.population.skip(),
        }
    }

    /// A bin's filtered latents, `[rank]`.
    pub(crate) fn push_latent(&mut self, latent: &[f32]) {
        self.latents.push(latent);
    }

    /// The next latent does not follow from the last: what is measured over time starts over.
    pub(crate) fn skip_latents(&mut self) {
        self.latents.kept.clear();
    }

    /// Everything, from the newest state; `None` where the spectrum is not finite.
    pub(crate) fn refresh(&mut self, model: &Model, at: &Position<'_>) -> Option<Reading> {
        if at.label != self.label {
            self.label = at.label;
            self.latents.kept.clear();
        }
        let spectrum = spectrum_interval(model, at.state)?;
        let portrait = self.explorer.refresh(model, at.state, at.label);
        let lyapunov_learned_per_s = self.learned(model, at, &portrait);
        Some(Reading {
            spectrum,
            portrait,
            lyapunov_learned_per_s,
            branching: self.population.branching(),
            connectivity_radius: self.population.connectivity_radius(),
        })
    }

    fn learned(
        &self,
        model: &Model,
        at: &Position<'_>,
        portrait: &Portrait,
    ) -> Option<[Estimate; 2]> {
        let head = model.metric_head.as_ref()?;
        let features = self.features(at, portrait)?;
        let found = head.predict(at.posterior, &features)?;
        Some(found.map(|[mean, low, high]| Estimate { mean, low, high }))
    }

    /// What a metric head reads, `[feature_count]`: the embedding, the largest exponents of the
    /// free runs, and the latents' variance, autocorrelation, speed and spread. `None` before a
    /// second was seen.
    #[must_use]
    pub(crate) fn features(&self, at: &Position<'_>, portrait: &Portrait) -> Option<Vec<f64>> {
        let mut features: Vec<f64> = at.state.embedding.iter().map(|&x| f64::from(x)).collect();
        for spectrum in [&portrait.lyapunov_noise_free_per_s, &portrait.lyapunov_driven_per_s] {
            features.extend((0..EXPONENTS).map(|i| spectrum.get(i).copied().unwrap_or(0.0)));
        }
        features.extend(self.latents.features()?);
        features.iter().all(|x| x.is_finite()).then_some(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamics::planar;

    #[test]
    fn features_say_how_large_fast_and_lasting_the_latents_are() {
        let model = planar([0.5, 0.0, 0.0, 0.5]);
        let mut window = LatentWindow::new(&model);
        assert_eq!(window.features(), None);
        // A cosine of 1 Hz with amplitude 2 and a constant 3: only the last four seconds count.
        for t in 0..900 {
            let phase = std::f32::consts::TAU * t as f32 * 0.01;
            window.push(&[if t < 400 { 9.0 } else { 2.0 * phase.cos() }, 3.0]);
        }
        let found = window.features().expect("seen");
        assert_eq!(found.len() + model.dims.embedding + 6, feature_count(&model.dims));
        let close = |x: f64, y: f64| assert!((x - y).abs() < 0.06, "{x} for {y}: {found:?}");
        close(found[0], 2f64.ln());
        for (i, lag) in LAGS_S.iter().enumerate() {
            close(found[1 + i], (std::f64::consts::TAU * lag).cos());
        }
        close(found[5], (2.0 * std::f64::consts::TAU.powi(2)).ln());
        close(found[6], 2f64.ln());
        close(found[7], 1e-4f64.ln());
        close(found[8], 9.01f64.ln());
    }

    #[test]
    fn a_reading_has_every_part_and_a_head_is_asked() {
        let mut model = planar([0.5, -0.8, 0.8, 0.5]);
        let features = feature_count(&model.dims);
        model.metric_head = Some(crate::model::MetricHead {
            regimes: vec![Some(crate::model::RegimeHead {
                centre: vec![0.0; features],
                scale: vec![1.0; features],
                weights: [vec![-5.0; 1], vec![-4.0; 1]].map(|w| [w, vec![0.0; features]].concat()),
                half_width: [0.5, 0.25],
                rms_error: [0.3, 0.2],
                tasks: [20, 5],
            })],
        });
        let mut monitor = Monitor::new(&model, 40);
        let (e, variance, k) = ([0.0f32], [0.01f32], [0.3f32, -0.2]);
        let state =
            StatePosterior { embedding: &e, embedding_covariance: &variance, latent: [&k, &k] };
        let at = Position { state, posterior: &[1.0], label: Some(0) };
        let mut newest = None;
        for bin in 0..4_000 {
            let shared = 2.0 + (f64::from(bin) * 0.01).sin();
            let counts: Vec<f32> =
                (0..40).map(|i| (shared * f64::from((bin * (i + 3)) % 7)) as f32).collect();
            monitor.push_counts(Some(&counts));
            monitor.push_latent(&[(bin as f32 * 0.1).sin(), 0.1]);
            if bin % 10 == 9 {
                newest = monitor.refresh(&model, &at);
            }
        }
        let reading = newest.expect("finite");
        let [free, driven] = reading.lyapunov_learned_per_s.expect("learned");
        assert_eq!((free.mean, free.low, free.high), (-5.0, -5.5, -4.5));
        assert_eq!((driven.mean, driven.low, driven.high), (-4.0, -4.25, -3.75));
        assert!(reading.branching.is_some(), "{reading:?}");
        assert!(reading.connectivity_radius.is_some());
        assert!(reading.portrait.measured_s > 10.0);
    }
}
