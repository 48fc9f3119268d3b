//! Scalar functions and vector kernels of experts and free runs, inlined into [`pulp`]'s
//! dispatch; those of the filter bank and of training are in `lanes.rs`. Sums run in an order that
//! depends on the width of the processor's vectors alone: on one kind of processor the same input
//! gives the same bits.

use pulp::Simd;

/// Padded lengths of rows are multiples of this; of longer arrays, of [`WIDE`].
const LANES: usize = 8;
const WIDE: usize = 2 * LANES;

/// Rounds a length up to whole blocks of the widest loop.
pub(crate) fn padded(len: usize) -> usize {
    len.div_ceil(WIDE) * WIDE
}

/// Rounds a length up to whole narrow blocks.
pub(crate) fn padded_row(len: usize) -> usize {
    len.div_ceil(LANES) * LANES
}

/// `exp(x)` within 3 ulp for |x| < 87, clamped beyond; no branch, so loops over it vectorise.
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

/// `sum_i a_i b_i`, four sums at a time.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = S::as_simd_f32s(a);
    let (b, b_tail) = S::as_simd_f32s(b);
    let zero = simd.splat_f32s(0.0);
    let mut sums = [zero; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let (a_rest, b_rest) = (a4.remainder(), b4.remainder());
    for (x, y) in a4.zip(b4) {
        for (l, sum) in sums.iter_mut().enumerate() {
            *sum = simd.mul_add_e_f32s(x[l], y[l], *sum);
        }
    }
    for (x, y) in a_rest.iter().zip(b_rest) {
        sums[0] = simd.mul_add_e_f32s(*x, *y, sums[0]);
    }
    let [s0, s1, s2, s3] = sums;
    let sum = simd.add_f32s(simd.add_f32s(s0, s1), simd.add_f32s(s2, s3));
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(x, y)| x * y).sum();
    simd.reduce_sum_f32s(sum) + tail
}

/// `y += a x`.
#[inline(always)]
pub(crate) fn axpy<S: Simd>(simd: S, y: &mut [f32], a: f32, x: &[f32]) {
    let (y, y_tail) = S::as_mut_simd_f32s(y);
    let (x, x_tail) = S::as_simd_f32s(x);
    let scale = simd.splat_f32s(a);
    for (y, x) in y.iter_mut().zip(x) {
        *y = simd.mul_add_e_f32s(scale, *x, *y);
    }
    y_tail.iter_mut().zip(x_tail).for_each(|(y, x)| *y += a * x);
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
                ((f64::from(exp(x)) - expected) / expected).abs() < 3.6e-7,
                "exp({x}) = {} expected {expected}",
                exp(x)
            );
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "tanh({x})");
        }
    }

    struct Check<'a> {
        x: &'a [f32],
    }

    impl pulp::WithSimd for Check<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let x = self.x;
            for len in [5, 16, 83] {
                let expected: f32 = (0..len).map(|i| x[i] * x[i + 9]).sum();
                assert!((dot(simd, &x[..len], &x[9..9 + len]) - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn dot_matches_a_plain_loop() {
        let rows = 7;
        let x: Vec<f32> = (0..rows * 16).map(|i| (i as f32 * 0.7).sin()).collect();
        // On this processor's vectors, with lengths that leave a tail, and without vectors.
        pulp::Arch::new().dispatch(Check { x: &x });
        pulp::WithSimd::with_simd(Check { x: &x }, pulp::Scalar::new());
    }
}
