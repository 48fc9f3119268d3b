//! Vector kernels of the filter bank. Every loop runs over fixed lanes in a fixed order, so a result
//! does not depend on the machine's vector width. All are inlined into [`pulp`]'s dispatch.

use num_traits::Float;

/// Floating point of the filter: `f32` in service, `f64` where a check wants the digits.
pub(crate) trait Real:
    Float + std::ops::AddAssign + std::ops::SubAssign + std::ops::MulAssign + Send + Sync
{
    /// Fast exponential.
    fn fast_exp(self) -> Self;
    /// Fast hyperbolic tangent.
    fn fast_tanh(self) -> Self;
    /// From `f32`, exactly.
    fn of(x: f32) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn fast_exp(self) -> Self {
        exp(self)
    }
    #[inline(always)]
    fn fast_tanh(self) -> Self {
        tanh(self)
    }
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

impl Real for f64 {
    fn fast_exp(self) -> Self {
        self.exp()
    }
    fn fast_tanh(self) -> Self {
        self.tanh()
    }
    fn of(x: f32) -> Self {
        x.into()
    }
}

/// Lanes of a block; padded lengths are multiples of this.
pub(crate) const LANES: usize = 8;
const WIDE: usize = 2 * LANES;

/// Rounds a length up to whole blocks of the widest loop.
pub(crate) fn padded(len: usize) -> usize {
    len.div_ceil(WIDE) * WIDE
}

/// Rounds a length up to whole narrow blocks.
pub(crate) fn padded_row(len: usize) -> usize {
    len.div_ceil(LANES) * LANES
}

/// `exp(x)` within 2 ulp for |x| < 87, clamped beyond; no branch, so loops over it vectorise.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4; // ln 2 in two parts
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    p * scale
}

/// `tanh(x)` within 2e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let x = x.clamp(-9.0, 9.0);
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `sum_i a_i b_i` over whole blocks.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; WIDE];
    let (a, b) = (a.chunks_exact(WIDE), b.chunks_exact(WIDE));
    for (x, y) in a.zip(b) {
        for l in 0..WIDE {
            lanes[l] += x[l] * y[l];
        }
    }
    reduce(&lanes)
}

/// `sum_i a_i b_i` over narrow blocks (rows of the covariance).
#[inline(always)]
pub(crate) fn dot_row(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (x, y) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for l in 0..LANES {
            lanes[l] += x[l] * y[l];
        }
    }
    (lanes[0] + lanes[4]) + (lanes[1] + lanes[5]) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))
}

#[inline(always)]
fn reduce(lanes: &[f32; WIDE]) -> f32 {
    let mut half = [0.0f32; 8];
    for l in 0..8 {
        half[l] = lanes[l] + lanes[l + 8];
    }
    (half[0] + half[4]) + (half[1] + half[5]) + ((half[2] + half[6]) + (half[3] + half[7]))
}

/// `y += a x` over whole narrow blocks.
#[inline(always)]
pub(crate) fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.chunks_exact_mut(LANES).zip(x.chunks_exact(LANES)) {
        for l in 0..LANES {
            y[l] += a * x[l];
        }
    }
}

/// `y += sum_b a_b X_b`, rows of `x` as long as `y`; four rows at a time keep `y` in registers.
#[inline(always)]
pub(crate) fn gemv_t(y: &mut [f32], a: &[f32], x: &[f32]) {
    let len = y.len();
    let mut b = 0;
    while b + 4 <= a.len() {
        let (x0, rest) = x[b * len..(b + 4) * len].split_at(len);
        let (x1, rest) = rest.split_at(len);
        let (x2, x3) = rest.split_at(len);
        let rows = x0
            .chunks_exact(LANES)
            .zip(x1.chunks_exact(LANES))
            .zip(x2.chunks_exact(LANES).zip(x3.chunks_exact(LANES)));
        for (y, ((x0, x1), (x2, x3))) in y.chunks_exact_mut(LANES).zip(rows) {
            for l in 0..LANES {
                y[l] += (a[b] * x0[l] + a[b + 1] * x1[l]) + (a[b + 2] * x2[l] + a[b + 3] * x3[l]);
            }
        }
        b += 4;
    }
    while b < a.len() {
        axpy(y, a[b], &x[b * len..(b + 1) * len]);
        b += 1;
    }
}

/// Inverts the `n` by `n` row-major matrix `a` in place of `inverse` by Gauss-Jordan elimination
/// with partial pivoting (`a` is destroyed). Returns `log |det a|`; not finite when singular.
#[inline(always)]
pub(crate) fn invert<T: Real>(a: &mut [T], inverse: &mut [T], n: usize) -> T {
    inverse[..n * n].fill(T::zero());
    for i in 0..n {
        inverse[i * n + i] = T::one();
    }
    let mut log_det = T::zero();
    for col in 0..n {
        let mut pivot = col;
        for row in col + 1..n {
            if a[row * n + col].abs() > a[pivot * n + col].abs() {
                pivot = row;
            }
        }
        if pivot != col {
            for j in 0..n {
                a.swap(col * n + j, pivot * n + j);
                inverse.swap(col * n + j, pivot * n + j);
            }
        }
        let p = a[col * n + col];
        log_det += p.abs().ln();
        let scale = p.recip();
        for j in 0..n {
            a[col * n + j] *= scale;
            inverse[col * n + j] *= scale;
        }
        for row in 0..n {
            let factor = a[row * n + col];
            if row == col || factor == T::zero() {
                continue;
            }
            for j in 0..n {
                let (x, y) = (a[col * n + j], inverse[col * n + j]);
                a[row * n + j] -= factor * x;
                inverse[row * n + j] -= factor * y;
            }
        }
    }
    log_det
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_tanh_match_the_standard_library() {
        for i in -20_000..20_000 {
            let x = i as f32 * 0.004;
            let expected = f64::from(x).exp();
            assert!(
                ((f64::from(exp(x)) - expected) / expected).abs() < 4e-6,
                "exp({x}) = {} expected {expected}",
                exp(x)
            );
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 4e-7, "tanh({x})");
        }
    }

    #[test]
    fn invert_gives_identity_and_determinant() {
        let source = [4.0, 1.0, -2.0, 0.5, 3.0, 1.0, 0.0, -1.0, 2.0f32];
        let (mut a, mut inverse) = (source, [0.0; 9]);
        let log_det = invert(&mut a, &mut inverse, 3);
        for i in 0..3 {
            for j in 0..3 {
                let x: f32 = (0..3).map(|k| source[i * 3 + k] * inverse[k * 3 + j]).sum();
                assert!((x - f32::from(u8::from(i == j))).abs() < 1e-6);
            }
        }
        // det by Sarrus: 4*(6+1) - 1*(1-0) + (-2)*(-0.5-0) = 28
        assert!((log_det - 28f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn gemv_matches_a_plain_loop() {
        let rows = 7;
        let x: Vec<f32> = (0..rows * 16).map(|i| (i as f32 * 0.7).sin()).collect();
        let a: Vec<f32> = (0..rows).map(|i| (i as f32).cos()).collect();
        let mut y = vec![0.0; 16];
        gemv_t(&mut y, &a, &x);
        for j in 0..16 {
            let expected: f32 = (0..rows).map(|b| a[b] * x[b * 16 + j]).sum();
            assert!((y[j] - expected).abs() < 1e-5);
        }
        assert!((dot(&x[..16], &x[16..32]) - dot_row(&x[..16], &x[16..32])).abs() < 1e-5);
    }
}
