//! Latents of a whole stretch given all its counts, under one embedding: the posterior's mode by
//! Gauss and Newton, each step a Kalman filter forth and a Rauch-Tung-Striebel smoother back over
//! the linearised model (Bell 1994). Offline: the filter bank knows only what has been.

use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, ArrayRef2};

use crate::model::{Factors, Model, Readout, values};

/// Steps of Gauss and Newton at most.
const STEPS_MAX: usize = 8;
/// Halvings of a step that does not raise the log density.
const HALVINGS: usize = 5;
/// A step that raises it by less, nats per bin, is the last.
const WORTH_A_STEP: f64 = 1e-4;

/// The model under one embedding, in double precision.
struct Path<'a> {
    model: &'a Model,
    factors: Factors,
    /// `C`, `[channels, rank]`.
    loading: DMatrix<f64>,
    /// `d`, `[channels]`.
    baseline: DVector<f64>,
    /// Counts of each bin.
    counts: Vec<DVector<f64>>,
}

/// Linearised step and measurement of one bin.
struct Filtered {
    transition: DMatrix<f64>,
    predicted: (DVector<f64>, DMatrix<f64>),
    updated: (DVector<f64>, DMatrix<f64>),
}

impl Path<'_> {
    fn advance(&self, kappa: &DVector<f64>) -> DVector<f64> {
        let from: Vec<f32> = kappa.iter().map(|&x| x as f32).collect();
        let mut to = vec![0.0f32; from.len()];
        self.model.advance(&self.factors, &from, &mut to);
        DVector::from_iterator(to.len(), to.iter().map(|&x| f64::from(x)))
    }

    /// `(1-a) I + a N^T D M`.
    fn transition(&self, kappa: &DVector<f64>) -> DMatrix<f64> {
        let at: Vec<f32> = kappa.iter().map(|&x| x as f32).collect();
        let a = f64::from(self.model.network.leak);
        let rank = at.len();
        let feedback = self.model.reduced_jacobian(&self.factors, &at);
        DMatrix::from_row_slice(rank, rank, values(&feedback)) * a
            + DMatrix::from_diagonal_element(rank, rank, 1.0 - a)
    }

    fn log_rates(&self, kappa: &DVector<f64>) -> DVector<f64> {
        let [low, high] = self.model.online.log_rate_bounds.map(f64::from);
        (&self.loading * kappa + &self.baseline).map(|x| x.clamp(low, high))
    }

    fn variances(of: &Array1<f32>) -> DVector<f64> {
        DVector::from_iterator(of.len(), of.iter().map(|&x| f64::from(x)))
    }

    /// Log density of a path `[bins + 1]` and the counts, up to constants.
    fn log_density(&self, path: &[DVector<f64>]) -> f64 {
        let network = &self.model.network;
        let process = Self::variances(&network.process_variance);
        let initial = Self::variances(&network.initial_variance);
        let mut sum = -0.5 * path[0].component_mul(&path[0]).component_div(&initial).sum();
        for (t, y) in self.counts.iter().enumerate() {
            let off = &path[t + 1] - self.advance(&path[t]);
            sum -= 0.5 * off.component_mul(&off).component_div(&process).sum();
            let eta = self.log_rates(&path[t + 1]);
            sum += y.dot(&eta) - eta.map(f64::exp).sum();
        }
        sum
    }

    /// One step, linearised around `around`; without it, around the filtered states.
    fn step(&self, around: Option<&[DVector<f64>]>) -> Option<Vec<DVector<f64>>> {
        let network = &self.model.network;
        let rank = self.model.dims.rank;
        let process = DMatrix::from_diagonal(&Self::variances(&network.process_variance));
        let mut mean = DVector::zeros(rank);
        let mut cov = DMatrix::from_diagonal(&Self::variances(&network.initial_variance));
        let first = (mean.clone(), cov.clone());
        let mut bins: Vec<Filtered> = Vec::with_capacity(self.counts.len());
        for (t, y) in self.counts.iter().enumerate() {
            let from = around.map_or(&mean, |path| &path[t]);
            let transition = self.transition(from);
            let ahead = self.advance(from) + &transition * (&mean - from);
            let spread = &transition * &cov * transition.transpose() + &process;
            let at = around.map_or_else(|| ahead.clone(), |path| path[t + 1].clone());
            let rates = self.log_rates(&at).map(f64::exp);
            let mut weighted = self.loading.clone();
            for (mut row, rate) in weighted.row_iter_mut().zip(rates.iter()) {
                row *= *rate;
            }
            let information = self.loading.transpose() * weighted;
            let pull = self.loading.transpose() * (y - &rates) + &information * &at;
            let precision = spread.clone().cholesky()?.inverse();
            cov = (&precision + &information).cholesky()?.inverse();
            mean = &cov * (&precision * &ahead + pull);
            let updated = (mean.clone(), cov.clone());
            bins.push(Filtered { transition, predicted: (ahead, spread), updated });
        }
        let mut path = vec![mean; bins.len() + 1];
        for t in (0..bins.len()).rev() {
            let before = if t == 0 { &first } else { &bins[t - 1].updated };
            let precision = bins[t].predicted.1.clone().cholesky()?.inverse();
            let gain = &before.1 * bins[t].transition.transpose() * precision;
            path[t] = &before.0 + gain * (&path[t + 1] - &bins[t].predicted.0);
        }
        path.iter().all(|k| k.iter().all(|x| x.is_finite())).then_some(path)
    }
}

/// The most probable latents of every bin, `[bins, rank]`, given all counts `[bins, channels]` of a
/// stretch and its embedding `[embedding]`; `None` where the numbers fail.
#[must_use]
pub(crate) fn smooth(
    model: &Model,
    readout: &Readout,
    e: &[f32],
    counts: &ArrayRef2<f32>,
) -> Option<Array2<f32>> {
    let (rank, channels) = (model.dims.rank, readout.n_channels());
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
    let of = Path {
        model,
        factors: model.hypernetwork.factors(e),
        loading: DMatrix::from_row_slice(channels, rank, &wide(values(&readout.loading))),
        baseline: DVector::from_vec(wide(values(&readout.baseline))),
        counts: counts
            .rows()
            .into_iter()
            .map(|y| DVector::from_iterator(channels, y.iter().map(|&y| f64::from(y))))
            .collect(),
    };
    let mut path = of.step(None)?;
    let mut density = of.log_density(&path);
    for _ in 0..STEPS_MAX {
        let mut next = of.step(Some(&path))?;
        let mut found = of.log_density(&next);
        for _ in 0..HALVINGS {
            if found > density {
                break;
            }
            next.iter_mut().zip(&path).for_each(|(n, p)| *n = (&*n + p) * 0.5);
            found = of.log_density(&next);
        }
        if found <= density {
            break;
        }
        let gained = found - density;
        (path, density) = (next, found);
        if gained < WORTH_A_STEP * of.counts.len() as f64 {
            break;
        }
    }
    Some(Array2::from_shape_fn((path.len() - 1, rank), |(t, r)| path[t + 1][r] as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::ArrayView2;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Poisson, StandardNormal};

    /// A noisy turn of two latents seen by 30 channels: its path and counts.
    fn example() -> (Model, Readout, Vec<f32>, Vec<f32>) {
        let mut model = crate::dynamics::planar([1.6, -1.2, 1.2, 1.6]);
        model.network.process_variance = Array1::from_elem(2, 4e-3);
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut normal = |n: usize, scale: f32| -> Vec<f32> {
            (0..n).map(|_| scale * rng.sample::<f32, _>(StandardNormal)).collect()
        };
        let readout = Readout {
            session: "s".into(),
            loading: Array2::from_shape_vec((30, 2), normal(60, 0.7)).expect("as many values"),
            baseline: Array1::from_elem(30, -1.5),
            channels: None,
            dispersion: None,
            trusted: true,
            experts: None,
            prior: crate::model::RegimePrior::default(),
        };
        let noise = normal(400, 4e-3f32.sqrt());
        let factors = model.hypernetwork.factors(&[0.0]);
        let mut kappa = vec![0.5f32, 0.0];
        let (mut path, mut counts) = (Vec::new(), Vec::new());
        for q in noise.chunks_exact(2) {
            let mut next = vec![0.0; 2];
            model.advance(&factors, &kappa, &mut next);
            kappa = next.iter().zip(q).map(|(k, q)| k + q).collect();
            path.extend(&kappa);
            for c in readout.loading.rows() {
                let rate = (c[0] * kappa[0] + c[1] * kappa[1] - 1.5).exp();
                let drawn: f32 = Poisson::new(rate).expect("a rate").sample(&mut rng);
                counts.push(drawn);
            }
        }
        (model, readout, path, counts)
    }

    fn of_bins(counts: &[f32]) -> ArrayView2<'_, f32> {
        ArrayView2::from_shape((counts.len() / 30, 30), counts).expect("whole bins")
    }

    #[test]
    fn no_nudge_of_the_smoothed_path_is_more_probable() {
        let (model, readout, _, counts) = example();
        let found = smooth(&model, &readout, &[0.0], &of_bins(&counts)).expect("finite");
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let of = Path {
            model: &model,
            factors: model.hypernetwork.factors(&[0.0]),
            loading: DMatrix::from_row_slice(30, 2, &wide(values(&readout.loading))),
            baseline: DVector::from_vec(wide(values(&readout.baseline))),
            counts: counts.chunks_exact(30).map(|y| DVector::from_vec(wide(y))).collect(),
        };
        // The smoother is not given the start; it finds the best one for the rest.
        let full = |bins: &[f32]| -> Vec<DVector<f64>> {
            let first = of.step(Some(&of.step(None).expect("a path"))).expect("a path")[0].clone();
            let rest = bins.chunks_exact(2).map(|k| DVector::from_vec(wide(k)));
            std::iter::once(first).chain(rest).collect()
        };
        let at = of.log_density(&full(values(&found)));
        for bin in [20, 90, 150, 199] {
            for (i, by) in [(0, 0.02f32), (0, -0.02), (1, 0.02), (1, -0.02)] {
                let mut moved = found.clone();
                moved[[bin, i]] += by;
                assert!(
                    of.log_density(&full(values(&moved))) < at,
                    "bin {bin}, latent {i}, by {by}"
                );
            }
        }
    }

    #[test]
    fn what_comes_later_makes_the_latents_surer() {
        let (model, readout, path, counts) = example();
        let found = smooth(&model, &readout, &[0.0], &of_bins(&counts)).expect("finite");
        let mut of_the_past = Vec::new();
        for bins in 1..=200 {
            let counts = of_bins(&counts[..bins * 30]);
            let so_far = smooth(&model, &readout, &[0.0], &counts).expect("finite");
            of_the_past.extend(so_far.row(bins - 1).iter().copied());
        }
        let error = |x: &[f32]| -> f32 { x.iter().zip(&path).map(|(a, b)| (a - b).powi(2)).sum() };
        assert!(
            error(values(&found)) < 0.8 * error(&of_the_past),
            "{} {}",
            error(values(&found)),
            error(&of_the_past)
        );
    }
}
