//! One session's dynamics, refreshed off the hot path: spectra at the filtered state, free runs,
//! fixed points, and measures of the counts.

use super::estimate::Estimate;
use super::explorer::{Explorer, Portrait};
use super::population::{Branching, Population};
use super::spectrum::{SpectrumInterval, StatePosterior, spectrum_interval};
use crate::model::Model;

/// A reading of a session's dynamics.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    /// Spectrum at the filtered state.
    pub spectrum: SpectrumInterval,
    /// What the fitted network does when it runs by itself.
    pub portrait: Portrait,
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
            label,
        }
    }
}

/// Follows one session.
#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    explorer: Explorer,
    population: Population,
}

impl Monitor {
    /// For a session of `channels` channels.
    #[must_use]
    pub(crate) fn new(model: &Model, channels: usize) -> Self {
        Self {
            explorer: Explorer::new(model),
            population: Population::new(channels, model.bin_width_s),
        }
    }

    /// The counts of a bin, `[channels]`; `None` where it is missing.
    pub(crate) fn push_counts(&mut self, counts: Option<&[f32]>) {
        match counts {
            Some(counts) => self.population.push(counts),
            None => self.population.skip(),
        }
    }

    /// Everything, from the newest state; `None` where the spectrum is not finite.
    pub(crate) fn refresh(&mut self, model: &Model, at: &Position<'_>) -> Option<Reading> {
        let spectrum = spectrum_interval(model, at.state)?;
        let portrait = self.explorer.refresh(model, at.state, at.label);
        Some(Reading {
            spectrum,
            portrait,
            branching: self.population.branching(),
            connectivity_radius: self.population.connectivity_radius(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamics::planar;

    #[test]
    fn a_reading_has_every_part() {
        let model = planar([0.5, -0.8, 0.8, 0.5]);
        let mut monitor = Monitor::new(&model, 40);
        let (e, variance, k) = ([0.0f32], [0.01f32], [0.3f32, -0.2]);
        let state =
            StatePosterior { embedding: &e, embedding_covariance: &variance, latent: [&k, &k] };
        let at = Position { state, label: Some(0) };
        let mut newest = None;
        for bin in 0..4_000 {
            let shared = 2.0 + (f64::from(bin) * 0.01).sin();
            let counts: Vec<f32> =
                (0..40).map(|i| (shared * f64::from((bin * (i + 3)) % 7)) as f32).collect();
            monitor.push_counts(Some(&counts));
            if bin % 10 == 9 {
                newest = monitor.refresh(&model, &at);
            }
        }
        let reading = newest.expect("finite");
        assert!(reading.branching.is_some(), "{reading:?}");
        assert!(reading.connectivity_radius.is_some());
        assert!(reading.portrait.measured_s > 10.0);
    }
}
