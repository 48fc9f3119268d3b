//! Products of states with themselves a while later, as wide as the processor goes.

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
        let mut sums = [0.0f32; LEADING];
        for (before, after) in self.earlier.iter().zip(self.later) {
            for d in 0..LEADING {
                sums[d] += before[d] * after[d];
            }
        }
        sums
    }
}
