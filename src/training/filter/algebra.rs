//! Small matrices of rows, as the filter and its adjoint need them. Symmetric ones are kept as
//! lower triangles.

use num_traits::{One, Zero};

use crate::inference::lanes::{Arithmetic, Number, triangle};

/// Index pairs `j <= i` of a lower triangle, in its order.
pub(super) fn pairs(rank: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rank).flat_map(|i| (0..=i).map(move |j| (i, j)))
}

/// Numbers of a lower triangle.
pub(super) fn pairs_of(rank: usize) -> usize {
    rank * (rank + 1) / 2
}

/// `out = a s` for a full and a symmetric matrix.
#[inline(always)]
pub(super) fn times_symmetric<W: Arithmetic>(
    wide: W,
    out: &mut [W::Row],
    a: &[W::Row],
    s: &[W::Row],
    n: usize,
) {
    for (out, a) in out.chunks_exact_mut(n).zip(a.chunks_exact(n)) {
        for (j, out) in out.iter_mut().enumerate() {
            let mut sum = wide.splat(W::Number::zero());
            for (k, a) in a.iter().enumerate() {
                sum = wide.mul_add(*a, s[triangle(k.max(j), k.min(j))], sum);
            }
            *out = sum;
        }
    }
}

/// `out = s a` for a symmetric and a full matrix.
#[inline(always)]
pub(super) fn symmetric_times<W: Arithmetic>(
    wide: W,
    out: &mut [W::Row],
    s: &[W::Row],
    a: &[W::Row],
    n: usize,
) {
    for (i, out) in out.chunks_exact_mut(n).enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            let mut sum = wide.splat(W::Number::zero());
            for k in 0..n {
                sum = wide.mul_add(s[triangle(i.max(k), i.min(k))], a[k * n + j], sum);
            }
            *out = sum;
        }
    }
}

/// The lower triangle of `a b^T`, which is symmetric.
#[inline(always)]
pub(super) fn symmetric_nt<W: Arithmetic>(
    wide: W,
    out: &mut [W::Row],
    a: &[W::Row],
    b: &[W::Row],
    n: usize,
) {
    for (out, (i, j)) in out.iter_mut().zip(pairs(n)) {
        *out = wide.inner(&a[i * n..(i + 1) * n], &b[j * n..(j + 1) * n]);
    }
}

/// The lower triangle of `a^T b`, which is symmetric.
#[inline(always)]
pub(super) fn symmetric_tn<W: Arithmetic>(
    wide: W,
    out: &mut [W::Row],
    a: &[W::Row],
    b: &[W::Row],
    n: usize,
) {
    for (out, (i, j)) in out.iter_mut().zip(pairs(n)) {
        let mut sum = wide.splat(W::Number::zero());
        for k in 0..n {
            sum = wide.mul_add(a[k * n + i], b[k * n + j], sum);
        }
        *out = sum;
    }
}

/// `out = s x` for a symmetric matrix and a vector.
#[inline(always)]
pub(super) fn symmetric_vector<W: Arithmetic>(
    wide: W,
    out: &mut [W::Row],
    s: &[W::Row],
    x: &[W::Row],
) {
    for (i, out) in out.iter_mut().enumerate() {
        let mut sum = wide.splat(W::Number::zero());
        for (k, x) in x.iter().enumerate() {
            sum = wide.mul_add(s[triangle(i.max(k), i.min(k))], *x, sum);
        }
        *out = sum;
    }
}

/// `y += a x`, a row's number for each lane.
#[inline(always)]
pub(super) fn axpy<W: Arithmetic>(wide: W, y: &mut [W::Row], a: W::Row, x: &[W::Row]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = wide.mul_add(a, *x, *y);
    }
}

/// `x = a x`, a row's number for each lane.
#[inline(always)]
pub(super) fn scale<W: Arithmetic>(wide: W, x: &mut [W::Row], a: W::Row) {
    for x in x {
        *x = wide.mul(a, *x);
    }
}

/// `y += a x + b z`.
#[inline(always)]
pub(super) fn add_two<W: Arithmetic>(
    wide: W,
    y: &mut [W::Row],
    (a, x): (W::Row, &[W::Row]),
    (b, z): (W::Row, &[W::Row]),
) {
    for ((y, x), z) in y.iter_mut().zip(x).zip(z) {
        *y = wide.mul_add(b, *z, wide.mul_add(a, *x, *y));
    }
}

/// A symmetric matrix with what lies off the diagonal doubled: a sum over pairs then stands for one
/// over the whole matrix.
#[inline(always)]
pub(super) fn doubled<W: Arithmetic>(wide: W, out: &mut [W::Row], s: &[W::Row], rank: usize) {
    for ((out, s), (i, j)) in out.iter_mut().zip(s).zip(pairs(rank)) {
        *out = if i == j { *s } else { wide.add(*s, *s) };
    }
}

/// A symmetric matrix in full, `[rank, rank]`.
#[inline(always)]
pub(super) fn whole<R: Copy>(out: &mut [R], lower: &[R], rank: usize) {
    for (x, (i, j)) in lower.iter().zip(pairs(rank)) {
        out[i * rank + j] = *x;
        out[j * rank + i] = *x;
    }
}

/// `1 - phi^2`.
#[inline(always)]
pub(super) fn slope<W: Arithmetic>(wide: W, phi: W::Row) -> W::Row {
    wide.mul_sub_from(phi, phi, wide.splat(W::Number::one()))
}

/// The absolute value.
#[inline(always)]
pub(super) fn abs<W: Arithmetic>(wide: W, x: W::Row) -> W::Row {
    wide.max(x, wide.sub(wide.splat(W::Number::zero()), x))
}

/// `x` where it is `free`, else its opposite: of what is positive, the sign then tells.
#[inline(always)]
pub(super) fn marked<W: Arithmetic>(
    wide: W,
    x: W::Row,
    at: W::Row,
    [low, high]: [W::Number; 2],
) -> W::Row {
    let opposite = wide.sub(wide.splat(W::Number::zero()), x);
    let below = wide.where_less(at, wide.splat(high), x, opposite);
    wide.where_less(wide.splat(low), at, below, opposite)
}

/// `x` where `mark` is positive, else 0.
#[inline(always)]
pub(super) fn where_free<W: Arithmetic>(wide: W, mark: W::Row, x: W::Row) -> W::Row {
    let zero = wide.splat(W::Number::zero());
    wide.where_less(zero, mark, x, zero)
}

/// A constant for all lanes.
#[inline(always)]
pub(super) fn constant<W: Arithmetic>(wide: W, x: f32) -> W::Row {
    wide.splat(W::Number::of(x))
}
