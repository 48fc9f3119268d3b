//! Small matrices of rows, as filters need them.

use num_traits::{One, Zero};

use super::lanes::{Arithmetic, Number, triangle};

/// The smallest part of a variance that is not explained by the latents before it: rounding makes
/// it no less.
const PIVOT_MIN: f32 = 1e-6;

/// The Cholesky factor's columns of the first latents, as many as `root`'s rows are long, of a
/// covariance kept as lower triangle: `P_kk = L L^T`, `root = [L; P_ek L^-T]`.
#[inline(always)]
pub(crate) fn cholesky<W: Arithmetic>(wide: W, cov: &[W::Row], rank: usize, root: &mut [W::Row]) {
    let state = root.len() / rank;
    for j in 0..rank {
        let own = cov[triangle(j, j)];
        let mut left = own;
        for k in 0..j {
            left = wide.mul_sub_from(root[j * rank + k], root[j * rank + k], left);
        }
        let left = wide.max(left, wide.mul(own, wide.splat(W::Number::of(PIVOT_MIN))));
        let pivot = wide.sqrt(left);
        let inverse = wide.div(wide.splat(W::Number::one()), pivot);
        root[j * rank + j] = pivot;
        for i in j + 1..state {
            let mut sum = cov[triangle(i, j)];
            for k in 0..j {
                sum = wide.mul_sub_from(root[i * rank + k], root[j * rank + k], sum);
            }
            root[i * rank + j] = wide.mul(sum, inverse);
        }
    }
}

/// `out = Lambda L`, `[rank, rank]`, of a symmetric matrix kept as lower triangle and a lower
/// triangle `L` in the first rows of `root`.
#[inline(always)]
pub(crate) fn times_root<W: Arithmetic>(
    wide: W,
    information: &[W::Row],
    root: &[W::Row],
    rank: usize,
    out: &mut [W::Row],
) {
    for i in 0..rank {
        for j in 0..rank {
            let mut sum = wide.splat(W::Number::zero());
            for k in j..rank {
                let lambda = information[triangle(i.max(k), i.min(k))];
                sum = wide.mul_add(lambda, root[k * rank + j], sum);
            }
            out[i * rank + j] = sum;
        }
    }
}

/// The Cholesky factor of `I + L^T product`, `[rank, rank]`, with the inverses of its diagonal;
/// returns the log determinant. Pivots are 1 at least.
#[inline(always)]
pub(crate) fn add_and_factor<W: Arithmetic>(
    wide: W,
    root: &[W::Row],
    product: &[W::Row],
    square: &mut [W::Row],
    inverse: &mut [W::Row],
) -> W::Row {
    let rank = inverse.len();
    let (zero, one) = (wide.splat(W::Number::zero()), wide.splat(W::Number::one()));
    let mut log_det = zero;
    for j in 0..rank {
        for i in j..rank {
            let mut sum = if i == j { one } else { zero };
            for k in i..rank {
                sum = wide.mul_add(root[k * rank + i], product[k * rank + j], sum);
            }
            for k in 0..j {
                sum = wide.mul_sub_from(square[i * rank + k], square[j * rank + k], sum);
            }
            if i > j {
                square[i * rank + j] = wide.mul(sum, inverse[j]);
                continue;
            }
            let above = wide.max(wide.sub(sum, one), zero);
            log_det = wide.add(log_det, wide.ln_1p(above));
            square[j * rank + j] = wide.sqrt(wide.add(above, one));
            inverse[j] = wide.div(one, square[j * rank + j]);
        }
    }
    log_det
}

/// `x = R^-1 b` for a lower triangle `R` `[rank, rank]` given the inverses of its diagonal.
#[inline(always)]
pub(crate) fn solve<W: Arithmetic>(
    wide: W,
    r: &[W::Row],
    inverse: &[W::Row],
    b: impl Fn(usize) -> W::Row,
    x: &mut [W::Row],
) {
    let rank = x.len();
    for a in 0..rank {
        let mut sum = b(a);
        for k in 0..a {
            sum = wide.mul_sub_from(r[a * rank + k], x[k], sum);
        }
        x[a] = wide.mul(sum, inverse[a]);
    }
}

/// Rows of `U`, each a latent's or an embedding's, whitened: `R^-1 U^T` of the lower triangle
/// `root` with, below it, full rows.
#[inline(always)]
pub(crate) fn whiten<W: Arithmetic>(
    wide: W,
    root: &[W::Row],
    (square, inverse): (&[W::Row], &[W::Row]),
    white: &mut [W::Row],
) {
    let rank = inverse.len();
    let zero = wide.splat(W::Number::zero());
    for (i, (from, to)) in root.chunks_exact(rank).zip(white.chunks_exact_mut(rank)).enumerate() {
        solve(wide, square, inverse, |a| if a <= i { from[a] } else { zero }, to);
    }
}
