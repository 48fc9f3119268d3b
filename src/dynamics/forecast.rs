//! Rates ahead of the data: what the fitted network expects from where it is.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::flow::Flow;
use super::spectrum::StatePosterior;
use crate::model::{Model, Readout};

/// Draws of the posterior over which a forecast averages.
const DRAWS: usize = 24;

/// Expected counts per bin `bins` ahead of a state, `[channels]`: the mean over draws of the
/// posterior over embedding and latents, each run on with the model's process noise.
#[must_use]
pub(crate) fn forecast(
    model: &Model,
    readout: &Readout,
    from: StatePosterior<'_>,
    bins: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    forecasts(model, readout, from, &[bins], rng)
}

/// The same after each of several numbers of bins that rise, `[ahead, channels]`.
pub(super) fn forecasts(
    model: &Model,
    readout: &Readout,
    from: StatePosterior<'_>,
    ahead: &[usize],
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let (d, rank, channels) = (model.dims.embedding, model.dims.rank, readout.n_channels());
    let root = from.embedding_root();
    let noise_sd: Vec<f32> = model.network.process_variance.iter().map(|q| q.sqrt()).collect();
    let mut normal =
        |n: usize| -> Vec<f32> { (0..n).map(|_| rng.sample::<f32, _>(StandardNormal)).collect() };
    let mut flow: Option<Flow> = None;
    let mut rates = vec![0.0f32; ahead.len() * channels];
    for _ in 0..DRAWS {
        let e = from.embedding_at(&root, &normal(d));
        let mut kappa = from.latent_at(&normal(rank));
        match &mut flow {
            Some(flow) => flow.set_embedding(model, &e),
            None => flow = Some(Flow::new(model, &e)),
        }
        let Some(flow) = &mut flow else { continue };
        let mut done = 0;
        for (&bins, rates) in ahead.iter().zip(rates.chunks_exact_mut(channels)) {
            for _ in done..bins {
                flow.step(&mut kappa);
                for ((k, q), sd) in kappa.iter_mut().zip(normal(rank)).zip(&noise_sd) {
                    *k += sd * q;
                }
            }
            done = bins;
            for (rate, drawn) in rates.iter_mut().zip(model.rates(readout, &kappa)) {
                *rate += drawn / DRAWS as f32;
            }
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamics::planar;
    use ndarray::{Array1, Array2, arr1};
    use rand::SeedableRng;

    #[test]
    fn of_a_linear_network_is_the_closed_form() {
        // At small latents tanh is linear: kappa shrinks by 0.95 a bin and turns by 0.05 of itself.
        let model = planar([0.5, -0.5, 0.5, 0.5]);
        let readout = Readout {
            session: "s".into(),
            loading: Array2::eye(2),
            baseline: arr1(&[0.0, -1.0]),
            channels: None,
            dispersion: None,
            trusted: true,
            experts: None,
            prior: crate::model::RegimePrior::default(),
        };
        let mut still = model.clone();
        still.network.process_variance = Array1::zeros(2);
        let (e, none, kappa, sd) = ([0.0f32], [0.0f32], [0.02f32, 0.01], [0.0f32; 2]);
        let from =
            StatePosterior { embedding: &e, embedding_covariance: &none, latent: [&kappa, &sd] };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let found = forecast(&still, &readout, from, 12, &mut rng);
        let mut z = nalgebra::Complex::new(0.02f64, 0.01);
        for _ in 0..12 {
            z *= nalgebra::Complex::new(0.95, 0.05);
        }
        let expected = [z.re.exp(), (z.im - 1.0).exp()];
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) / expected - 1.0).abs() < 1e-4, "{found} for {expected}");
        }
        // Process noise spreads the log rate: its mean is the log-normal one. 120 bins are
        // stationary.
        let wide = model.network.process_variance[0] * 100.0;
        let mut noisy = model;
        noisy.network.process_variance = Array1::from_elem(2, wide);
        let many: f64 = (0..40)
            .map(|_| f64::from(forecast(&noisy, &readout, from, 120, &mut rng)[0]))
            .sum::<f64>()
            / 40.0;
        let variance = f64::from(wide) / (1.0 - (0.95f64.powi(2) + 0.05f64.powi(2)));
        assert!((many.ln() - 0.5 * variance).abs() < 0.012, "{many} for variance {variance}");
    }
}
