//! Spectrum at a state, from `R x R` matrices only.
//!
//! With `D = diag tanh'(M kappa + b)` the nonzero eigenvalues `mu` of the network's `J D` are those
//! of `N(e)^T D M`, `[rank, rank]`. The bin-to-bin map `(1-a) I + a J D` then has eigenvalues
//! `1 - a + a mu` (and `1 - a`), the continuous Jacobian `(-I + J D) / tau` has `(mu - 1) / tau`
//! (and `-1 / tau`), with `a = bin / tau`. Local stability is `Re mu < 1`.

use nalgebra::DMatrix;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::eigenvalues::eigenvalues;
use super::estimate::NORMAL_HALF_WIDTH;
use crate::model::{Model, values};

/// Local dynamics at one state under one embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spectrum {
    /// `max |1 - a + a mu|`: spectral radius of the bin-to-bin map.
    pub spectral_radius: f64,
    /// `max Re (mu - 1) / tau`, 1/s.
    pub spectral_abscissa_per_s: f64,
    /// `|Im mu| / (2 pi tau)` of the eigenvalue with the largest real part, Hz.
    pub leading_frequency_hz: f64,
    /// Spectral radius of the bare `J`, `D = I`: the usual quantity where no state is chosen.
    pub bare_radius: f64,
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
    let factors = model.hypernetwork.factors(e);
    let jacobian = model.reduced_jacobian(&factors, kappa);
    let bare = model.bare_connectivity(&factors);
    let bare = eigenvalues(&DMatrix::from_row_slice(rank, rank, values(&bare)))?;
    let mut radius = 1.0 - a;
    // The N - rank directions outside the latents decay with tau.
    let mut leading = (-1.0f64, 0.0f64);
    for mu in eigenvalues(&DMatrix::from_row_slice(rank, rank, values(&jacobian)))? {
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
        bare_radius: bare.iter().map(|mu| mu.re.hypot(mu.im)).fold(0.0, f64::max),
    };
    spectrum.spectral_radius.is_finite().then_some(spectrum)
}

/// Eigenvalues of the bin-to-bin map but those that are `1 - a`, the largest first.
fn map_eigenvalues(model: &Model, e: &[f32], kappa: &[f32]) -> Option<Vec<[f64; 2]>> {
    let rank = model.dims.rank;
    let a = f64::from(model.network.leak);
    let factors = model.hypernetwork.factors(e);
    let jacobian = model.reduced_jacobian(&factors, kappa);
    let found = eigenvalues(&DMatrix::from_row_slice(rank, rank, values(&jacobian)))?;
    let mut of_map: Vec<_> = found.iter().map(|mu| [1.0 - a + a * mu.re, a * mu.im]).collect();
    of_map.sort_by(|x, y| y[0].hypot(y[1]).total_cmp(&x[0].hypot(x[1])));
    Some(of_map)
}

/// Draws of a posterior that an interval is made from.
const DRAWS: usize = 24;

/// A spectrum with 90 % credible intervals `[low, high]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SpectrumInterval {
    /// At the posterior mean.
    pub mean: Spectrum,
    /// Eigenvalues `1 - a + a mu` of the bin-to-bin map there, real and imaginary part, the largest
    /// first, `[rank]`.
    pub map_eigenvalues: Vec<[f64; 2]>,
    /// Of [`Spectrum::spectral_radius`].
    pub spectral_radius: [f64; 2],
    /// Of [`Spectrum::spectral_abscissa_per_s`].
    pub spectral_abscissa_per_s: [f64; 2],
    /// Of [`Spectrum::leading_frequency_hz`], not below 0.
    pub leading_frequency_hz: [f64; 2],
}

/// A posterior over embedding and latents, the two independent.
#[derive(Debug, Clone, Copy)]
pub struct StatePosterior<'a> {
    /// Mean of the embedding, `[embedding]`.
    pub embedding: &'a [f32],
    /// Its covariance, the lower triangle row by row, `[embedding (embedding + 1) / 2]`.
    pub embedding_covariance: &'a [f32],
    /// Means and standard deviations of the latents, `[rank]` each.
    pub latent: [&'a [f32]; 2],
}

impl StatePosterior<'_> {
    /// Lower triangular root `L` of the embedding's covariance `L L^T`, row by row; directions
    /// without variance get none.
    pub(super) fn embedding_root(&self) -> Vec<f32> {
        let d = self.embedding.len();
        let at = |i: usize, j: usize| i * (i + 1) / 2 + j;
        let mut root = vec![0.0f64; d * (d + 1) / 2];
        for i in 0..d {
            for j in 0..=i {
                let dot: f64 = (0..j).map(|k| root[at(i, k)] * root[at(j, k)]).sum();
                let left = f64::from(self.embedding_covariance[at(i, j)]) - dot;
                root[at(i, j)] = match (i == j, root[at(j, j)]) {
                    (true, _) => left.max(0.0).sqrt(),
                    (false, pivot) if pivot > 1e-9 => left / pivot,
                    (false, _) => 0.0,
                };
            }
        }
        root.into_iter().map(|x| x as f32).collect()
    }

    /// The embedding `mean + L z` for standard normal `z`.
    pub(super) fn embedding_at(&self, root: &[f32], z: &[f32]) -> Vec<f32> {
        let row = |i: usize| &root[i * (i + 1) / 2..(i + 1) * (i + 2) / 2];
        let moved = |i: usize| row(i).iter().zip(z).map(|(l, z)| l * z).sum::<f32>();
        self.embedding.iter().enumerate().map(|(i, m)| m + moved(i)).collect()
    }

    /// Latents `mean + sd z`.
    pub(super) fn latent_at(&self, z: &[f32]) -> Vec<f32> {
        let [mean, sd] = self.latent;
        mean.iter().zip(sd).zip(z).map(|((m, s), z)| m + s * z).collect()
    }
}

/// The spectrum at a posterior's mean, with intervals: mean and standard deviation over draws from
/// the posterior, the same normal variates every time.
#[must_use]
pub fn spectrum_interval(model: &Model, of: StatePosterior<'_>) -> Option<SpectrumInterval> {
    let mean = spectrum(model, of.embedding, of.latent[0])?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut normals =
        |n: usize| -> Vec<f32> { (0..n).map(|_| rng.sample(StandardNormal)).collect() };
    let root = of.embedding_root();
    let drawn: Vec<Spectrum> = (0..DRAWS)
        .filter_map(|_| {
            std::thread::yield_now();
            let e = of.embedding_at(&root, &normals(of.embedding.len()));
            spectrum(model, &e, &of.latent_at(&normals(of.latent[0].len())))
        })
        .collect();
    let interval = |of: fn(&Spectrum) -> f64| {
        let n = drawn.len().max(1) as f64;
        let mean = drawn.iter().map(of).sum::<f64>() / n;
        let square = drawn.iter().map(|s| (of(s) - mean).powi(2)).sum::<f64>();
        let half = NORMAL_HALF_WIDTH * (square / (n - 1.0).max(1.0)).sqrt();
        [mean - half, mean + half]
    };
    Some(SpectrumInterval {
        mean,
        map_eigenvalues: map_eigenvalues(model, of.embedding, of.latent[0])?,
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
    fn draws_have_the_posteriors_covariance() {
        let covariance = [4.0, 1.2, 1.0, 0.0, 0.0, 0.0];
        let of = StatePosterior {
            embedding: &[1.0, 2.0, 3.0],
            embedding_covariance: &covariance,
            latent: [&[0.0], &[1.0]],
        };
        let root = of.embedding_root();
        assert_eq!(of.embedding_at(&root, &[1.0, 0.0, 5.0]), [3.0, 2.6, 3.0]);
        assert_eq!(of.embedding_at(&root, &[0.0, 1.0, 5.0]), [1.0, 2.8, 3.0]);
    }

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
        close(found.bare_radius, 0.5f64.hypot(0.8));
    }

    #[test]
    fn the_maps_eigenvalues_have_its_radius() {
        let model = planar([0.5, -0.8, 0.8, 0.5]);
        let of = StatePosterior {
            embedding: &[0.0],
            embedding_covariance: &[0.0],
            latent: [&[0.0, 0.0], &[0.0, 0.0]],
        };
        let found = spectrum_interval(&model, of).expect("finite");
        assert_eq!(found.map_eigenvalues.len(), 2);
        let [re, im] = found.map_eigenvalues[0];
        assert!((re.hypot(im) - found.mean.spectral_radius).abs() < 1e-12);
        assert!((re - 0.95).abs() < 1e-6 && (im.abs() - 0.08).abs() < 1e-6, "{re} {im}");
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
