//! Sums of products, as wide as the processor goes.

use pulp::{Simd, WithSimd};

use super::correlogram::LEADING;

/// Sums over a short stretch, in single precision, of all products of two directions.
pub(super) struct Products<'a> {
    pub(super) earlier: &'a [[f32; LEADING]],
    pub(super) later: &'a [[f32; LEADING]],
}

impl WithSimd for Products<'_> {
    type Output = [[f32; LEADING]; LEADING];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let mut sums = [[0.0f32; LEADING]; LEADING];
        for (before, after) in self.earlier.iter().zip(self.later) {
            for i in 0..LEADING {
                for j in 0..LEADING {
                    sums[i][j] += before[i] * after[j];
                }
            }
        }
        sums
    }
}

/// The same of each direction with itself.
pub(super) struct Squares<'a> {
    pub(super) earlier: &'a [[f32; LEADING]],
    pub(super) later: &'a [[f32; LEADING]],
}

impl WithSimd for Squares<'_> {
    type Output = [f32; LEADING];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        // Running sums, so that additions need not wait for one another.
        const RUNNING: usize = 4;
        let mut sums = [[0.0f32; LEADING]; RUNNING];
        let (before, after) =
            (self.earlier.as_chunks::<RUNNING>(), self.later.as_chunks::<RUNNING>());
        for (before, after) in before.0.iter().zip(after.0) {
            for r in 0..RUNNING {
                for d in 0..LEADING {
                    sums[r][d] += before[r][d] * after[r][d];
                }
            }
        }
        for (before, after) in before.1.iter().zip(after.1) {
            for d in 0..LEADING {
                sums[0][d] += before[d] * after[d];
            }
        }
        std::array::from_fn(|d| sums.iter().map(|s| s[d]).sum())
    }
}

/// Counts in short windows, `[windows, n]`, of which `length` make a window here.
pub(super) struct Scatter<'a> {
    pub(super) sums: &'a [f32],
    pub(super) n: usize,
    pub(super) length: usize,
    pub(super) windows: usize,
}

/// Sums over windows of counts and of their squares, by channel and of all channels together.
pub(super) struct Scattered {
    pub(super) sum: Vec<f64>,
    pub(super) square: Vec<f64>,
    pub(super) all: f64,
    pub(super) all_square: f64,
}

impl WithSimd for Scatter<'_> {
    type Output = Scattered;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Scattered {
        let Self { sums, n, length, windows } = self;
        let (mut sum, mut square) = (vec![0.0f64; n], vec![0.0f64; n]);
        let (mut all, mut all_square) = (0.0, 0.0);
        let mut counts = vec![0.0f32; n];
        for window in sums.chunks_exact(length * n).take(windows) {
            counts.fill(0.0);
            for part in window.chunks_exact(n) {
                for (c, p) in counts.iter_mut().zip(part) {
                    *c += p;
                }
            }
            let mut total = 0.0;
            for ((sum, square), count) in sum.iter_mut().zip(&mut square).zip(&counts) {
                let count = f64::from(*count);
                *sum += count;
                *square += count * count;
                total += count;
            }
            all += total;
            all_square += total * total;
        }
        Scattered { sum, square, all, all_square }
    }
}
