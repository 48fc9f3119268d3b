//! Spectrum at a state, from `R x R` matrices only.
//!
//! With `D = diag tanh'(M kappa + b)` the nonzero eigenvalues `mu` of the network's `J D` are those
//! of `N(e)^T D M`, `[rank, rank]`. The bin-to-bin map `(1-a) I + a J D` then has eigenvalues
//! `1 - a + a mu` (and `1 - a`), the continuous Jacobian `(-I + J D) / tau` has `(mu - 1) / tau` (and
//! `-1 / tau`), with `a = bin / tau`. Local stability is `Re mu < 1`.

use nalgebra::DMatrix;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::model::Model;

/// Local dynamics at one state under one embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spectrum {
    /// `max |1 - a + a mu|`: spectral radius of the bin-to-bin map.
    pub spectral_radius: f64,
    /// `max Re (mu - 1) / tau`, 1/s.
    pub spectral_abscissa_per_s: f64,
    /// `|Im mu| / (2 pi tau)` of the eigenvalue with the largest real part, Hz.
    pub leading_frequency_hz: f64,
    /// `-1 / Re` of that eigenvalue of the continuous Jacobian, s: negative where it grows.
    pub leading_time_constant_s: f64,
}

/// Spectrum at latents `kappa [rank]` under embedding `e [embedding]`; `None` where the eigenvalues
/// are not finite.
#[must_use]
pub fn spectrum(model: &Model, e: &[f32], kappa: &[f32]) -> Option<Spectrum> {
    let rank = model.dims.rank;
    let a = f64::from(model.network.leak);
    let tau_s = model.bin_width_s / a;
    let factors = model.hypernetwork.factors(&model.dims, e);
    let jacobian = model.reduced_jacobian(&factors, kappa);
    if !jacobian.iter().all(|x| x.is_finite()) {
        return None;
    }
    let mut radius = 1.0 - a;
    // The N - rank directions outside the latents decay with tau.
    let mut leading = (-1.0f64, 0.0f64);
    for mu in DMatrix::from_row_slice(rank, rank, &jacobian).complex_eigenvalues().iter() {
        radius = radius.max((1.0 - a + a * mu.re).hypot(a * mu.im));
        if mu.re - 1.0 > leading.0 {
            leading = (mu.re - 1.0, mu.im.abs());
        }
    }
    let spectrum = Spectrum {
        spectral_radius: radius,
        spectral_abscissa_per_s: leading.0 / tau_s,
        leading_frequency_hz: leading.1 / (std::f64::consts::TAU * tau_s),
        leading_time_constant_s: -tau_s / leading.0,
    };
    spectrum.spectral_radius.is_finite().then_some(spectrum)
}

/// Draws of a posterior that an interval is made from.
const DRAWS: usize = 24;
/// Standard normal quantile of a 90 % interval.
const HALF_WIDTH: f64 = 1.645;

/// A spectrum with 90 % credible intervals `[low, high]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpectrumInterval {
    /// At the posterior mean.
    pub mean: Spectrum,
    /// Of [`Spectrum::spectral_radius`].
    pub spectral_radius: [f64; 2],
    /// Of [`Spectrum::spectral_abscissa_per_s`].
    pub spectral_abscissa_per_s: [f64; 2],
    /// Of [`Spectrum::leading_frequency_hz`], not below 0.
    pub leading_frequency_hz: [f64; 2],
}

/// A posterior over embedding and latents: means and standard deviations, dimension by dimension.
#[derive(Debug, Clone, Copy)]
pub struct StatePosterior<'a> {
    /// Of the embedding, `[embedding]`.
    pub embedding: [&'a [f32]; 2],
    /// Of the latents, `[rank]`.
    pub latent: [&'a [f32]; 2],
}

/// The spectrum at a posterior's mean, with intervals: mean and standard deviation over draws from the
/// posterior, the same normal variates every time.
#[must_use]
pub fn spectrum_interval(model: &Model, of: StatePosterior<'_>) -> Option<SpectrumInterval> {
    let mean = spectrum(model, of.embedding[0], of.latent[0])?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut draw = |[mean, sd]: [&[f32]; 2]| -> Vec<f32> {
        mean.iter().zip(sd).map(|(m, s)| m + s * rng.sample::<f32, _>(StandardNormal)).collect()
    };
    let drawn: Vec<Spectrum> =
        (0..DRAWS).filter_map(|_| spectrum(model, &draw(of.embedding), &draw(of.latent))).collect();
    let interval = |of: fn(&Spectrum) -> f64| {
        let n = drawn.len().max(1) as f64;
        let mean = drawn.iter().map(of).sum::<f64>() / n;
        let square = drawn.iter().map(|s| (of(s) - mean).powi(2)).sum::<f64>();
        let half = HALF_WIDTH * (square / (n - 1.0).max(1.0)).sqrt();
        [mean - half, mean + half]
    };
    Some(SpectrumInterval {
        mean,
        spectral_radius: interval(|s| s.spectral_radius),
        spectral_abscissa_per_s: interval(|s| s.spectral_abscissa_per_s),
        leading_frequency_hz: interval(|s| s.leading_frequency_hz).map(|f| f.max(0.0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamics::planar;

    #[test]
    fn a_rotation_has_its_radius_frequency_and_time_constant() {
        let model = planar([0.5, -0.8, 0.8, 0.5]);
        let found = spectrum(&model, &[0.0], &[0.0, 0.0]).expect("finite");
        let (a, tau) = (f64::from(0.1f32), 0.01 / f64::from(0.1f32));
        let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-6, "{x} for {y}: {found:?}");
        close(found.spectral_radius, (1.0 - 0.5 * a).hypot(0.8 * a));
        close(found.spectral_abscissa_per_s, -0.5 / tau);
        close(found.leading_frequency_hz, 0.8 / (std::f64::consts::TAU * tau));
        close(found.leading_time_constant_s, tau / 0.5);
    }

    #[test]
    fn growth_has_a_negative_time_constant_and_saturation_ends_it() {
        let model = planar([1.5, 0.0, 0.0, 1.5]);
        let at_zero = spectrum(&model, &[0.0], &[0.0, 0.0]).expect("finite");
        assert!(at_zero.spectral_abscissa_per_s > 0.0 && at_zero.leading_time_constant_s < 0.0);
        assert!(at_zero.spectral_radius > 1.0);
        let far = spectrum(&model, &[0.0], &[3.0, 3.0]).expect("finite");
        assert!(far.spectral_abscissa_per_s < 0.0, "{far:?}");
    }
}
