//! The regime prior from the embeddings that training found: a Gaussian mixture per label, fitted
//! by expectation-maximisation.

use nalgebra::{DMatrix, DVector};
use ndarray::Array2;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::model::{Component, RegimePrior};

/// How to fit a [`RegimePrior`].
#[derive(Debug, Clone, Copy)]
pub(super) struct PriorFit {
    /// Gaussians per regime, at most one for each of its embeddings.
    pub(super) per_regime: usize,
    /// Added to every covariance's diagonal.
    pub(super) covariance_floor: f64,
}

const EM_ITERATIONS: usize = 60;
const EM_RESTARTS: usize = 6;

/// Fits one mixture per regime to `(regime, embedding [d])` pairs, and one to those without a
/// label where there are some; each weighs the same. Returns `None` where some regime below
/// `n_regimes` has no embedding at all.
pub(super) fn fit_prior(
    embeddings: &[(Option<usize>, Vec<f32>)],
    n_regimes: usize,
    how: PriorFit,
    rng: &mut ChaCha8Rng,
) -> Option<RegimePrior> {
    let unlabelled = embeddings.iter().any(|(r, _)| r.is_none());
    let regimes: Vec<Option<usize>> =
        (0..n_regimes).map(Some).chain(unlabelled.then_some(None)).collect();
    let mut components = Vec::new();
    for &regime in &regimes {
        let points: Vec<DVector<f64>> = embeddings
            .iter()
            .filter(|(r, _)| *r == regime)
            .map(|(_, e)| DVector::from_iterator(e.len(), e.iter().map(|&x| f64::from(x))))
            .collect();
        if points.is_empty() {
            return None;
        }
        let k = how.per_regime.min(points.len());
        for (weight, mean, cov) in best_mixture(&points, k, how.covariance_floor, rng) {
            components.push(Component {
                regime,
                weight: (weight / regimes.len() as f64) as f32,
                mean: mean.iter().map(|&x| x as f32).collect(),
                covariance: Array2::from_shape_fn((cov.nrows(), cov.ncols()), |at| cov[at] as f32),
            });
        }
    }
    Some(RegimePrior { components })
}

type Gaussian = (f64, DVector<f64>, DMatrix<f64>);

fn best_mixture(
    points: &[DVector<f64>],
    k: usize,
    floor: f64,
    rng: &mut ChaCha8Rng,
) -> Vec<Gaussian> {
    let restarts = if k == 1 { 1 } else { EM_RESTARTS };
    let mut best: Option<(f64, Vec<Gaussian>)> = None;
    for _ in 0..restarts {
        let fitted = mixture(points, k, floor, rng);
        if best.as_ref().is_none_or(|b| fitted.0 > b.0) {
            best = Some(fitted);
        }
    }
    best.map(|b| b.1).unwrap_or_default()
}

fn mixture(
    points: &[DVector<f64>],
    k: usize,
    floor: f64,
    rng: &mut ChaCha8Rng,
) -> (f64, Vec<Gaussian>) {
    let (n, d) = (points.len(), points[0].len());
    // Hard assignment to randomly chosen centres starts the responsibilities.
    let centres: Vec<usize> = (0..k).map(|_| rng.random_range(0..n)).collect();
    let mut resp = DMatrix::<f64>::zeros(n, k);
    for (i, p) in points.iter().enumerate() {
        let nearest = (0..k)
            .min_by(|&a, &b| {
                let da = (p - &points[centres[a]]).norm_squared();
                let db = (p - &points[centres[b]]).norm_squared();
                da.total_cmp(&db)
            })
            .unwrap_or(0);
        resp[(i, nearest)] = 1.0;
    }
    let mut gaussians = Vec::new();
    let mut log_likelihood = f64::NEG_INFINITY;
    let everything = DMatrix::from_element(n, 1, 1.0);
    let spread = &maximise(points, &everything, &DMatrix::zeros(d, d), floor)[0].2;
    // Drawn to the spread of all points, without its correlations.
    let target = DMatrix::from_diagonal(&spread.diagonal());
    for _ in 0..EM_ITERATIONS {
        gaussians = maximise(points, &resp, &target, floor);
        log_likelihood = 0.0;
        for (i, p) in points.iter().enumerate() {
            let logs: Vec<f64> =
                gaussians.iter().map(|(w, m, c)| w.ln() + log_normal(p, m, c)).collect();
            let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logs.iter().map(|l| (l - top).exp()).sum();
            log_likelihood += top + total.ln();
            for j in 0..k {
                resp[(i, j)] = (logs[j] - top).exp() / total;
            }
        }
    }
    (log_likelihood, gaussians)
}

/// Weighted mean and covariance per Gaussian. With few points in `d` dimensions a covariance is
/// shrunk towards `target`, as if `d` more points had shown that.
fn maximise(
    points: &[DVector<f64>],
    resp: &DMatrix<f64>,
    target: &DMatrix<f64>,
    floor: f64,
) -> Vec<Gaussian> {
    let (n, k) = resp.shape();
    let d = target.nrows();
    (0..k)
        .map(|j| {
            let mass = resp.column(j).sum().max(1e-9);
            let mean =
                (0..n).fold(DVector::zeros(d), |acc, i| acc + &points[i] * (resp[(i, j)] / mass));
            let mut cov = target * d as f64;
            for (i, point) in points.iter().enumerate() {
                let delta = point - &mean;
                cov += &delta * delta.transpose() * resp[(i, j)];
            }
            cov /= mass + if target.norm() > 0.0 { d as f64 } else { 0.0 };
            cov += DMatrix::identity(d, d) * floor;
            (mass / n as f64, mean, cov)
        })
        .collect()
}

/// Log density of a normal distribution, with all its constants.
fn log_normal(x: &DVector<f64>, mean: &DVector<f64>, cov: &DMatrix<f64>) -> f64 {
    let Some(chol) = cov.clone().cholesky() else { return f64::NEG_INFINITY };
    let delta = x - mean;
    let log_det = 2.0 * chol.l_dirty().diagonal().iter().map(|v| v.ln()).sum::<f64>();
    -0.5 * (delta.dot(&chol.solve(&delta))
        + log_det
        + x.len() as f64 * (2.0 * std::f64::consts::PI).ln())
}
