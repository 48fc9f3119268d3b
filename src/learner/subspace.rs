//! The leading eigenvectors of a covariance.

use nalgebra::{DMatrix, SymmetricEigen};
use pulp::{Arch, Simd, WithSimd};

/// Vectors that are turned together, beside those asked for.
const SPARE: usize = 8;
/// Products with the matrix, so many between two times that vectors are made orthonormal.
const ROUNDS: usize = 4;
const PRODUCTS: usize = 2;

/// The `wanted` largest eigenvalues of a symmetric `matrix [n, n]`, the largest first, and their
/// vectors (subspace iteration with Rayleigh and Ritz's projection; Halko, Martinsson & Tropp
/// 2011). `shift` is added to the eigenvalues on the way, that the most negative ones lead less.
pub(crate) fn leading(
    matrix: &[f32],
    n: usize,
    wanted: usize,
    shift: f32,
) -> (Vec<f64>, Vec<Vec<f32>>) {
    let width = (wanted + SPARE).min(n);
    let arch = Arch::new();
    // Fixed, and along no channel more than along another.
    let mut basis = DMatrix::from_fn(n, width, |i, j| {
        let angle = (i as f64 + 0.5) * (j as f64 + 1.0) * std::f64::consts::PI / n as f64;
        angle.cos() + 1e-3 * ((i * 7 + j * 13) % 11) as f64
    });
    let turned = |basis: &DMatrix<f64>| {
        let vectors: Vec<f32> = basis.iter().map(|x| *x as f32).collect();
        let mut out = vec![0.0f32; n * width];
        arch.dispatch(Turn { matrix, n, vectors: &vectors, shift, out: &mut out });
        DMatrix::from_iterator(n, width, out.into_iter().map(f64::from))
    };
    for _ in 0..ROUNDS {
        basis = basis.qr().q();
        for _ in 0..PRODUCTS {
            basis = turned(&basis);
        }
    }
    let basis = basis.qr().q();
    let projected = basis.transpose() * turned(&basis);
    let eigen = SymmetricEigen::new((&projected + projected.transpose()) * 0.5);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let vectors = &basis * &eigen.eigenvectors;
    let of = |&i: &usize| vectors.column(i).iter().map(|x| *x as f32).collect();
    let value = |&i: &usize| eigen.eigenvalues[i] - f64::from(shift);
    let mut values: Vec<f64> = order.iter().take(wanted).map(value).collect();
    let mut directions: Vec<Vec<f32>> = order.iter().take(wanted).map(of).collect();
    values.resize(wanted, 0.0);
    directions.resize(wanted, vec![0.0; n]);
    (values, directions)
}

/// `(matrix + shift) vectors`, a vector after the other.
struct Turn<'a> {
    matrix: &'a [f32],
    n: usize,
    vectors: &'a [f32],
    shift: f32,
    out: &'a mut [f32],
}

/// Running sums, so that additions need not wait for one another.
const LANES: usize = 16;

impl WithSimd for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { matrix, n, vectors, shift, out } = self;
        for (vector, out) in vectors.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            for ((row, out), own) in matrix.chunks_exact(n).zip(out).zip(vector) {
                let mut sums = [0.0f32; LANES];
                let (rows, xs) = (row.chunks_exact(LANES), vector.chunks_exact(LANES));
                let tail: f32 =
                    rows.remainder().iter().zip(xs.remainder()).map(|(a, b)| a * b).sum();
                for (a, b) in rows.zip(xs) {
                    for l in 0..LANES {
                        sums[l] += a[l] * b[l];
                    }
                }
                *out = tail + sums.iter().sum::<f32>() + shift * own;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leading_vectors_are_those_of_the_whole_decomposition() {
        let n = 60;
        let factor = DMatrix::from_fn(n, n, |i, j| ((i * 37 + j * 101 + i * j) % 97) as f64 / 97.0);
        let noise = (&factor + factor.transpose()) * 0.05;
        let mut matrix = noise;
        for (k, value) in [9.0, 5.0, 4.0].into_iter().enumerate() {
            let v = DMatrix::from_fn(n, 1, |i, _| {
                ((k as f64 + 1.0) * i as f64 * std::f64::consts::TAU / n as f64).sin()
            });
            matrix += &v * v.transpose() * (value / v.norm_squared());
        }
        let flat: Vec<f32> = matrix.iter().map(|x| *x as f32).collect();
        let (values, vectors) = leading(&flat, n, 4, 0.5);
        let eigen = SymmetricEigen::new(matrix.clone());
        let mut all: Vec<f64> = eigen.eigenvalues.iter().copied().collect();
        all.sort_by(|a, b| b.total_cmp(a));
        for k in 0..4 {
            assert!((values[k] - all[k]).abs() < 0.01 * all[0], "{values:?} for {:?}", &all[..4]);
        }
        for k in 0..3 {
            let v = DMatrix::from_iterator(n, 1, vectors[k].iter().map(|x| f64::from(*x)));
            assert!((&matrix * &v - &v * values[k]).norm() < 0.02 * values[k], "vector {k}");
        }
    }
}
