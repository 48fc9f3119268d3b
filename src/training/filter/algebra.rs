//! Small matrices and long vectors, as the filter and its adjoint need them.

use crate::inference::kernels::Real;

#[inline(always)]
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); 16];
    let (ca, cb) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail = ca.remainder().iter().zip(cb.remainder()).fold(T::zero(), |s, (x, y)| s + *x * *y);
    for (x, y) in ca.zip(cb) {
        for l in 0..16 {
            lanes[l] += x[l] * y[l];
        }
    }
    lanes.iter().fold(tail, |s, x| s + *x)
}

#[inline(always)]
pub(super) fn axpy<T: Real>(y: &mut [T], a: T, x: &[T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * *x;
    }
}

/// `out = a b` for `n` by `n` matrices.
#[inline(always)]
pub(super) fn matmul<T: Real>(out: &mut [T], a: &[T], b: &[T], n: usize) {
    for i in 0..n {
        for j in 0..n {
            out[i * n + j] = (0..n).fold(T::zero(), |s, k| s + a[i * n + k] * b[k * n + j]);
        }
    }
}

/// `out = a^T b`.
#[inline(always)]
pub(super) fn matmul_tn<T: Real>(out: &mut [T], a: &[T], b: &[T], n: usize) {
    for i in 0..n {
        for j in 0..n {
            out[i * n + j] = (0..n).fold(T::zero(), |s, k| s + a[k * n + i] * b[k * n + j]);
        }
    }
}

/// `out = a b^T`.
#[inline(always)]
pub(super) fn matmul_nt<T: Real>(out: &mut [T], a: &[T], b: &[T], n: usize) {
    for i in 0..n {
        for j in 0..n {
            out[i * n + j] = (0..n).fold(T::zero(), |s, k| s + a[i * n + k] * b[j * n + k]);
        }
    }
}

/// Index pairs `r <= q` of a symmetric matrix.
pub(super) fn pairs(rank: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rank).flat_map(move |r| (r..rank).map(move |q| (r, q)))
}
