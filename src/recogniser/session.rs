//! What a minute of counts is to each of its windows: a subspace, a middle, a scale, and the other
//! windows.

use std::ops::Range;

use nalgebra::{SMatrix, SVector, SymmetricEigen};
use ndarray::{Array2, Axis, Slice};

use crate::learner::leading;

/// Leading directions that are looked at.
pub(super) const LEADING: usize = 8;
pub(super) type Vector = SVector<f64, LEADING>;
pub(super) type Matrix = SMatrix<f64, LEADING, LEADING>;
/// Axes along which windows' means differ most.
pub(super) const AXES: usize = 3;

/// Bins that are averaged before directions are looked for, and lags in such means.
const GROUPED: usize = 2;
const LAGS: [usize; 2] = [1, 2];
/// Lags whose covariances, averaged, are a window's own.
pub(super) const SHORT: [usize; 2] = [1, 2];
/// Steps of Weiszfeld's iteration.
const STEPS: usize = 15;
/// Variances are no smaller.
const LEAST: f64 = 1e-3;

/// A recording of about a minute.
pub(super) struct Session {
    /// `(y - mu) / sqrt(mu)`, `[bins, channels]`.
    pub(super) x: Array2<f32>,
    /// Mean count of each bin over channels, relative to the recording's.
    pub(super) relative_rate: Vec<f32>,
    /// Spikes per bin and channel.
    pub(super) rate: f64,
    /// `x` on the leading directions, `[bins]`.
    pub(super) z: Vec<Vector>,
    /// Eigenvalues of the covariance between neighbouring bins, the largest first, its trace, and
    /// the sum of the first four.
    pub(super) values: [f64; LEADING],
    pub(super) total: f64,
    pub(super) top: f64,
    /// Windows of two seconds, one beside the other.
    pub(super) windows: Vec<Neighbour>,
    /// Geometric median of their means, root mean square of their distances from it, and the axes
    /// along which they differ with their variances.
    pub(super) middle: Vector,
    pub(super) scale: f64,
    pub(super) axes: [Vector; AXES],
    pub(super) between: [f64; AXES],
}

/// A window that others are compared with.
pub(super) struct Neighbour {
    pub(super) bins: Range<usize>,
    pub(super) mean: Vector,
    /// Covariance of neighbouring bins about its mean.
    pub(super) covariance: Matrix,
}

impl Session {
    /// Of counts `[bins, channels]` of channels that fire, in pieces without a gap, with windows to
    /// compare others with.
    pub(super) fn new(
        counts: Array2<f32>,
        pieces: &[Range<usize>],
        windows: Vec<Range<usize>>,
    ) -> Self {
        let n = counts.ncols();
        let bins = counts.nrows().max(1) as f64;
        let means: Vec<f64> = counts
            .axis_iter(Axis(1))
            .map(|c| c.iter().map(|x| f64::from(*x)).sum::<f64>() / bins)
            .collect();
        let rate = means.iter().sum::<f64>() / n as f64;
        let all = (n as f64 * rate) as f32;
        let relative_rate = counts.rows().into_iter().map(|r| r.sum() / all).collect();
        let mut x = counts;
        for mut row in x.rows_mut() {
            for (x, mean) in row.iter_mut().zip(&means) {
                *x = (*x - *mean as f32) / mean.sqrt() as f32;
            }
        }
        let covariance = neighbouring(&x, pieces);
        let total = covariance.diag().iter().map(|x| f64::from(*x)).sum::<f64>().max(LEAST);
        let flat: Vec<f32> = covariance.iter().copied().collect();
        let (values, directions) = leading(&flat, n, LEADING, (total / n as f64) as f32);
        let values: [f64; LEADING] = std::array::from_fn(|k| values[k]);
        let project = |row: ndarray::ArrayView1<'_, f32>| {
            Vector::from_fn(|k, _| {
                f64::from(row.iter().zip(&directions[k]).map(|(x, d)| x * d).sum::<f32>())
            })
        };
        let z: Vec<Vector> = x.rows().into_iter().map(project).collect();
        let windows: Vec<Neighbour> = windows.into_iter().map(|w| neighbour(&z, w)).collect();
        let middle = geometric_median(&windows);
        let away: Vec<Vector> = windows.iter().map(|w| w.mean - middle).collect();
        let count = away.len().max(1) as f64;
        let square = away.iter().map(Vector::norm_squared).sum::<f64>() / count;
        let spread = away.iter().map(|a| a * a.transpose()).sum::<Matrix>() / count;
        let (between, axes) = sorted(spread);
        Self {
            relative_rate,
            rate,
            top: values[..4].iter().sum::<f64>().max(LEAST),
            x,
            z,
            values,
            total,
            windows,
            middle,
            scale: square.sqrt().max(LEAST),
            axes: std::array::from_fn(|i| axes[i]),
            between: std::array::from_fn(|i| between[i]),
        }
    }
}

/// Eigenvalues of a symmetric matrix, the largest first, and their vectors.
pub(super) fn sorted(matrix: Matrix) -> ([f64; LEADING], [Vector; LEADING]) {
    let eigen = SymmetricEigen::new(matrix);
    let mut order: [usize; LEADING] = std::array::from_fn(|i| i);
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    (order.map(|i| eigen.eigenvalues[i]), order.map(|i| eigen.eigenvectors.column(i).into_owned()))
}

/// Mean over short lags of the covariance of grouped bins, symmetric, `[channels, channels]`.
fn neighbouring(x: &Array2<f32>, pieces: &[Range<usize>]) -> Array2<f32> {
    let n = x.ncols();
    let mut sum = Array2::<f32>::zeros((n, n));
    let mut pairs = 0usize;
    for piece in pieces {
        let groups = piece.len() / GROUPED;
        let mut grouped = Array2::<f32>::zeros((groups, n));
        for (g, mut row) in grouped.rows_mut().into_iter().enumerate() {
            for t in 0..GROUPED {
                row.scaled_add(1.0 / GROUPED as f32, &x.row(piece.start + g * GROUPED + t));
            }
        }
        for lag in LAGS.into_iter().filter(|lag| *lag < groups) {
            let later = grouped.slice_axis(Axis(0), Slice::from(lag..groups));
            let earlier = grouped.slice_axis(Axis(0), Slice::from(0..groups - lag));
            sum += &later.t().dot(&earlier);
            pairs += groups - lag;
        }
    }
    sum /= pairs.max(1) as f32;
    let turned = sum.t().to_owned();
    (sum + turned) * 0.5
}

/// `C(lag)` of a window about its mean: mean of `z(t + lag) z(t)^T`.
pub(super) fn lagged(centred: &[Vector], lag: usize) -> Matrix {
    let pairs = centred.len().saturating_sub(lag);
    let sum: Matrix = centred[lag.min(centred.len())..]
        .iter()
        .zip(centred)
        .fold(Matrix::zeros(), |sum, (later, earlier)| sum + later * earlier.transpose());
    sum / pairs.max(1) as f64
}

pub(super) fn symmetric(matrix: Matrix) -> Matrix {
    (matrix + matrix.transpose()) * 0.5
}

/// A window's mean, and its states about it.
pub(super) fn centred(z: &[Vector]) -> (Vector, Vec<Vector>) {
    let mean = z.iter().sum::<Vector>() / z.len().max(1) as f64;
    (mean, z.iter().map(|z| z - mean).collect())
}

/// Mean of the covariances at the shortest lags.
pub(super) fn short(centred: &[Vector]) -> Matrix {
    symmetric(SHORT.map(|lag| lagged(centred, lag)).iter().sum::<Matrix>() / SHORT.len() as f64)
}

fn neighbour(z: &[Vector], bins: Range<usize>) -> Neighbour {
    let (mean, centred) = centred(&z[bins.clone()]);
    Neighbour { bins, mean, covariance: short(&centred) }
}

/// Point with the least sum of distances (Weiszfeld 1937): half of the windows may be elsewhere.
fn geometric_median(windows: &[Neighbour]) -> Vector {
    let mut at = windows.iter().map(|w| w.mean).sum::<Vector>() / windows.len().max(1) as f64;
    for _ in 0..STEPS {
        let (mut sum, mut weights) = (Vector::zeros(), 0.0);
        for window in windows {
            let weight = 1.0 / (window.mean - at).norm().max(LEAST);
            sum += window.mean * weight;
            weights += weight;
        }
        if weights > 0.0 {
            at = sum / weights;
        }
    }
    at
}
