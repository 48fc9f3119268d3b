//! Hypotheses, or windows of training, side by side: a vector holds the same number of as many of
//! them as it has lanes, so that matrices of 6 by 6 run as full vectors. Every array is rows of so
//! many lanes, and a kernel reads each weight once for all of a row.

use std::ops::{AddAssign, Deref, DerefMut, MulAssign};

use num_traits::{Float, Zero};
use pulp::Simd;

use super::outlined::{Outlined, outlined};

/// Bytes of a line of the cache.
const LINE: usize = 64;
/// Rows that are taken at once where all of them are constants or all are sums.
pub(super) const TILE: usize = 4;
/// The same of a transposed product of rows of one vector.
const LONG_TILE: usize = 8;
/// Rows of a product that are summed at once: with a row of the other factor, as many as there are
/// registers.
const SUMS: usize = 6;

/// Numbers of lanes: `f32` in service, `f64` where a check wants the digits.
pub(crate) trait Number: Float + AddAssign + MulAssign + Default + Send + Sync {
    /// From `f32`, exactly.
    fn of(x: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

impl Number for f64 {
    fn of(x: f32) -> Self {
        x.into()
    }
}

/// Memory that begins with a line of the cache, so that no vector lies in two.
#[derive(Debug)]
pub(crate) struct Lanes<T = f32> {
    values: Vec<T>,
    from: usize,
    len: usize,
}

impl<T: Number> Lanes<T> {
    pub(crate) fn zeros(len: usize) -> Self {
        let spare = LINE / size_of::<T>() - 1;
        let values = vec![T::zero(); len + spare];
        let from = values.as_ptr().align_offset(LINE).min(spare);
        Self { values, from, len }
    }
}

impl<T> Deref for Lanes<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.values[self.from..self.from + self.len]
    }
}

impl<T> DerefMut for Lanes<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.from..self.from + self.len]
    }
}

/// `G` vectors: one number of each hypothesis of a block.
pub(super) type Row<S, const G: usize> = [<S as Simd>::f32s; G];

/// Where row `i`, column `j <= i` of a lower triangle lies that is kept row by row.
#[inline(always)]
pub(crate) fn triangle(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
}

/// A symmetric matrix from its lower triangle.
pub(super) fn unfold(triangle: &[f32], out: &mut [f32]) {
    let n = out.len().isqrt();
    let mut at = 0;
    for i in 0..n {
        for j in 0..=i {
            out[i * n + j] = triangle[at];
            out[j * n + i] = triangle[at];
            at += 1;
        }
    }
}

/// Arithmetic on rows. A row holds one number of each of what runs side by side.
pub(crate) trait Arithmetic: Copy {
    type Number: Number;
    type Row: Copy;
    /// Registers that a row takes.
    const VECTORS: usize;

    /// Lanes of a row.
    fn width(self) -> usize;
    /// Memory as rows.
    fn rows(self, x: &[Self::Number]) -> &[Self::Row];
    fn rows_mut(self, x: &mut [Self::Number]) -> &mut [Self::Row];

    fn splat(self, x: Self::Number) -> Self::Row;
    fn add(self, a: Self::Row, b: Self::Row) -> Self::Row;
    fn sub(self, a: Self::Row, b: Self::Row) -> Self::Row;
    fn mul(self, a: Self::Row, b: Self::Row) -> Self::Row;
    fn div(self, a: Self::Row, b: Self::Row) -> Self::Row;
    fn max(self, a: Self::Row, b: Self::Row) -> Self::Row;
    fn min(self, a: Self::Row, b: Self::Row) -> Self::Row;
    /// `a b + c`.
    fn mul_add(self, a: Self::Row, b: Self::Row, c: Self::Row) -> Self::Row;
    /// `c - a b`.
    fn mul_sub_from(self, a: Self::Row, b: Self::Row, c: Self::Row) -> Self::Row;
    fn sqrt(self, a: Self::Row) -> Self::Row;
    /// Within 3 ulp for |x| < 87, clamped beyond.
    fn exp(self, a: Self::Row) -> Self::Row;
    /// Within 2e-7.
    fn tanh(self, a: Self::Row) -> Self::Row;
    /// Within 1e-6 of its value for normal `x > 0`.
    fn ln(self, a: Self::Row) -> Self::Row;
    /// `log(1 + x)` within 1e-6 of its value for `x >= 0`.
    fn ln_1p(self, a: Self::Row) -> Self::Row;
    /// Lane by lane: `x` where `a < b`, else `y`.
    fn where_less(self, a: Self::Row, b: Self::Row, x: Self::Row, y: Self::Row) -> Self::Row;
    /// Does some work in a function of its own that has the vector instructions.
    fn outlined<O: Outlined>(self, work: O) -> O::Output;
    /// Over all lanes.
    fn sum(self, a: Self::Row) -> Self::Number;
    fn largest(self, a: Self::Row) -> Self::Number;

    /// `a b + c` with a number for all lanes.
    #[inline(always)]
    fn scale_add(self, a: Self::Number, b: Self::Row, c: Self::Row) -> Self::Row {
        self.mul_add(self.splat(a), b, c)
    }

    #[inline(always)]
    fn clamp(self, a: Self::Row, [low, high]: [Self::Number; 2]) -> Self::Row {
        self.min(self.max(a, self.splat(low)), self.splat(high))
    }

    /// `out_i = a_i` for all lanes.
    #[inline(always)]
    fn spread(self, out: &mut [Self::Row], a: &[Self::Number]) {
        for (out, &a) in out.iter_mut().zip(a) {
            *out = self.splat(a);
        }
    }

    /// `out_i += sum_u a_iu x_u`, `a` `[rows, columns]` with as many columns as `x` has rows.
    #[inline(always)]
    fn product(self, out: &mut [Self::Row], a: &[Self::Number], x: &[Self::Row]) {
        let columns = x.len();
        let (tiles, rest) = out.as_chunks_mut::<SUMS>();
        let (head, a) = a.split_at(tiles.len() * SUMS * columns);
        for (out, a) in tiles.iter_mut().zip(head.chunks_exact((SUMS * columns).max(1))) {
            tile(self, out, a, x);
        }
        let (rest, a) = first::<Self, 4>(self, rest, a, x);
        let (rest, a) = first::<Self, 3>(self, rest, a, x);
        let (rest, a) = first::<Self, 2>(self, rest, a, x);
        first::<Self, 1>(self, rest, a, x);
    }

    /// `out_u += sum_b a_bu x_b`, `a` `[rows, columns]` with as many rows as `x` has, and as many
    /// columns as `out`.
    #[inline(always)]
    fn transposed(self, out: &mut [Self::Row], a: &[Self::Number], x: &[Self::Row]) {
        let columns = out.len();
        // Rows of one vector leave room for more sums.
        let long = if Self::VECTORS == 1 { columns - columns % LONG_TILE } else { 0 };
        let (head, rest) = out.split_at_mut(long);
        for (t, out) in head.as_chunks_mut::<LONG_TILE>().0.iter_mut().enumerate() {
            down(self, out, a, (t * LONG_TILE, columns), x);
        }
        let (tiles, rest) = rest.as_chunks_mut::<TILE>();
        let done = long + tiles.len() * TILE;
        for (t, out) in tiles.iter_mut().enumerate() {
            down(self, out, a, (long + t * TILE, columns), x);
        }
        for (u, out) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            down(self, out, a, (done + u, columns), x);
        }
    }

    /// `sum_i a_i b_i`, lane by lane.
    #[inline(always)]
    fn inner(self, a: &[Self::Row], b: &[Self::Row]) -> Self::Row {
        let zero = self.splat(Self::Number::zero());
        let mut sums = [zero; TILE];
        let (a, a_rest) = a.as_chunks::<TILE>();
        let (b, b_rest) = b.as_chunks::<TILE>();
        for (a, b) in a.iter().zip(b) {
            for t in 0..TILE {
                sums[t] = self.mul_add(a[t], b[t], sums[t]);
            }
        }
        for (a, b) in a_rest.iter().zip(b_rest) {
            sums[0] = self.mul_add(*a, *b, sums[0]);
        }
        self.add(self.add(sums[0], sums[1]), self.add(sums[2], sums[3]))
    }
}

/// `out_u += sum_b a_b,from+u x_b` for some columns of `a`.
#[inline(always)]
fn down<W: Arithmetic, const T: usize>(
    wide: W,
    out: &mut [W::Row; T],
    a: &[W::Number],
    (from, columns): (usize, usize),
    x: &[W::Row],
) {
    let mut sums = *out;
    for (a, x) in a.chunks_exact(columns).zip(x) {
        let a = &a[from..from + T];
        for t in 0..T {
            sums[t] = wide.scale_add(a[t], *x, sums[t]);
        }
    }
    *out = sums;
}

/// Rows of a kind of arithmetic.
pub(crate) type Rows<'a, W> = &'a [<W as Arithmetic>::Row];
pub(crate) type RowsMut<'a, W> = &'a mut [<W as Arithmetic>::Row];

/// The first `T` rows of a product where there are as many; what is left of it.
#[inline(always)]
fn first<'o, 'a, W: Arithmetic, const T: usize>(
    wide: W,
    out: &'o mut [W::Row],
    a: &'a [W::Number],
    x: &[W::Row],
) -> (&'o mut [W::Row], &'a [W::Number]) {
    if out.len() < T {
        return (out, a);
    }
    let (rows, rest) = out.split_at_mut(T);
    let (weights, left) = a.split_at(T * x.len());
    if let Ok(rows) = rows.try_into() {
        tile::<W, T>(wide, rows, weights, x);
    }
    (rest, left)
}

#[inline(always)]
fn tile<W: Arithmetic, const T: usize>(
    wide: W,
    out: &mut [W::Row; T],
    a: &[W::Number],
    x: &[W::Row],
) {
    let columns = x.len();
    let mut rows = [a; T];
    let mut left = a;
    for row in &mut rows {
        (*row, left) = left.split_at(columns);
    }
    let mut sums = *out;
    for (u, x) in x.iter().enumerate() {
        for t in 0..T {
            sums[t] = wide.scale_add(rows[t][u], *x, sums[t]);
        }
    }
    *out = sums;
}

/// Arithmetic on rows of `G` of a processor's vectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wide<S, const G: usize>(pub(crate) S);

macro_rules! unary {
    ($($name:ident($from:ident, $a:ident) $body:block)*) => {$(
        #[inline(always)]
        fn $name(self, a: Row<S, G>) -> Row<S, G> {
            let mut out = a;
            for g in 0..G {
                let ($from, $a) = (self.0, a[g]);
                out[g] = $body;
            }
            out
        }
    )*};
}

macro_rules! binary {
    ($($name:ident = $operation:ident;)*) => {$(
        #[inline(always)]
        fn $name(self, a: Row<S, G>, b: Row<S, G>) -> Row<S, G> {
            let mut out = a;
            for g in 0..G {
                out[g] = self.0.$operation(a[g], b[g]);
            }
            out
        }
    )*};
}

impl<S: Simd, const G: usize> Arithmetic for Wide<S, G> {
    type Number = f32;
    type Row = Row<S, G>;
    const VECTORS: usize = G;

    binary! {
        add = add_f32s;
        sub = sub_f32s;
        mul = mul_f32s;
        div = div_f32s;
        max = max_f32s;
        min = min_f32s;
    }

    unary! {
        sqrt(simd, a) { simd.sqrt_f32s(a) }
        exp(simd, a) { exp(simd, a) }
        tanh(simd, a) { tanh(simd, a) }
        ln(simd, a) { ln(simd, a) }
        ln_1p(simd, a) { ln_1p(simd, a) }
    }

    #[inline(always)]
    fn width(self) -> usize {
        G * S::F32_LANES
    }

    #[inline(always)]
    fn outlined<O: Outlined>(self, work: O) -> O::Output {
        outlined(self.0, work)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Row<S, G> {
        [self.0.splat_f32s(x); G]
    }

    #[inline(always)]
    fn mul_add(self, a: Row<S, G>, b: Row<S, G>, c: Row<S, G>) -> Row<S, G> {
        let mut out = c;
        for g in 0..G {
            out[g] = self.0.mul_add_e_f32s(a[g], b[g], c[g]);
        }
        out
    }

    #[inline(always)]
    fn mul_sub_from(self, a: Row<S, G>, b: Row<S, G>, c: Row<S, G>) -> Row<S, G> {
        let mut out = c;
        for g in 0..G {
            out[g] = self.0.negate_mul_add_e_f32s(a[g], b[g], c[g]);
        }
        out
    }

    #[inline(always)]
    fn where_less(self, a: Row<S, G>, b: Row<S, G>, x: Row<S, G>, y: Row<S, G>) -> Row<S, G> {
        let mut out = x;
        for g in 0..G {
            out[g] = self.0.select_f32s(self.0.less_than_f32s(a[g], b[g]), x[g], y[g]);
        }
        out
    }

    #[inline(always)]
    fn sum(self, a: Row<S, G>) -> f32 {
        let mut all = a[0];
        for vector in &a[1..] {
            all = self.0.add_f32s(all, *vector);
        }
        self.0.reduce_sum_f32s(all)
    }

    #[inline(always)]
    fn largest(self, a: Row<S, G>) -> f32 {
        let mut all = a[0];
        for vector in &a[1..] {
            all = self.0.max_f32s(all, *vector);
        }
        self.0.reduce_max_f32s(all)
    }

    #[inline(always)]
    fn rows(self, x: &[f32]) -> &[Row<S, G>] {
        S::as_simd_f32s(x).0.as_chunks().0
    }

    #[inline(always)]
    fn rows_mut(self, x: &mut [f32]) -> &mut [Row<S, G>] {
        S::as_mut_simd_f32s(x).0.as_chunks_mut().0
    }
}

impl<S: Simd, const G: usize> Wide<S, G> {
    /// Lane by lane: `x` where `a` is finite, else `y`.
    #[inline(always)]
    pub(super) fn where_finite(self, a: Row<S, G>, x: Row<S, G>, y: Row<S, G>) -> Row<S, G> {
        let zero = self.0.splat_f32s(0.0);
        let mut out = x;
        for g in 0..G {
            // Infinity and NaN times 0 are NaN.
            let finite = self.0.equal_f32s(self.0.mul_f32s(a[g], zero), zero);
            out[g] = self.0.select_f32s(finite, x[g], y[g]);
        }
        out
    }
}

/// A power series, coefficients from the highest power down.
#[inline(always)]
fn series<S: Simd, const N: usize>(simd: S, x: S::f32s, coefficients: [f32; N]) -> S::f32s {
    let mut sum = simd.splat_f32s(coefficients[0]);
    for c in &coefficients[1..] {
        sum = simd.mul_add_e_f32s(sum, x, simd.splat_f32s(*c));
    }
    sum
}

#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer
    let splat = |x: f32| simd.splat_f32s(x);
    let x = simd.min_f32s(simd.max_f32s(x, splat(-87.0)), splat(88.0));
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(MAGIC));
    let n = simd.sub_f32s(shifted, splat(MAGIC));
    // ln 2 in two parts.
    let r = simd.mul_add_e_f32s(n, splat(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(n, splat(2.121_944_4e-4), r);
    let p = series(simd, r, [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]);
    let bits = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let scale = simd.add_u32s(bits, simd.splat_u32s(0x3f80_0000));
    simd.mul_f32s(p, simd.transmute_f32s_u32s(scale))
}

#[inline(always)]
fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |x: f32| simd.splat_f32s(x);
    let x = simd.min_f32s(simd.max_f32s(x, splat(-9.0)), splat(9.0));
    let power = exp(simd, simd.add_f32s(x, x));
    let share = simd.div_f32s(splat(2.0), simd.add_f32s(power, splat(1.0)));
    simd.sub_f32s(splat(1.0), share)
}

/// With `x = m 2^n`, m in `[sqrt(1/2), sqrt 2)`, and `log m = 2 atanh((m - 1) / (m + 1))`.
#[inline(always)]
fn ln<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let splat = |x: f32| simd.splat_f32s(x);
    let above = simd.splat_u32s(0x3f80_0000 - ROOT_HALF);
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(x), above);
    let m = simd.and_u32s(bits, simd.splat_u32s(0x007f_ffff));
    let m = simd.transmute_f32s_u32s(simd.add_u32s(m, simd.splat_u32s(ROOT_HALF)));
    // The exponent, which is at most 255, as the last bits of 2^23.
    let n = simd.wrapping_dyn_shr_u32s(bits, simd.splat_u32s(23));
    let n = simd.transmute_f32s_u32s(simd.or_u32s(n, simd.splat_u32s(0x4b00_0000)));
    let n = simd.sub_f32s(n, splat(8_388_608.0 + 127.0));
    let one = splat(1.0);
    let z = simd.div_f32s(simd.sub_f32s(m, one), simd.add_f32s(m, one));
    let odd = series(simd, simd.mul_f32s(z, z), [1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0, 1.0]);
    let log_m = simd.mul_f32s(simd.add_f32s(z, z), odd);
    simd.mul_add_e_f32s(n, splat(std::f32::consts::LN_2), log_m)
}

#[inline(always)]
fn ln_1p<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let near = series(
        simd,
        x,
        [-1.0 / 8.0, 1.0 / 7.0, -1.0 / 6.0, 1.0 / 5.0, -0.25, 1.0 / 3.0, -0.5, 1.0],
    );
    let near = simd.mul_f32s(x, near);
    let far = ln(simd, simd.add_f32s(x, simd.splat_f32s(1.0)));
    simd.select_f32s(simd.less_than_f32s(x, simd.splat_f32s(0.1)), near, far)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every check on the vectors of a processor and one after the other.
    struct Check;

    impl pulp::WithSimd for Check {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            functions(Wide::<S, 1>(simd));
            products(Wide::<S, 1>(simd));
            products(Wide::<S, 2>(simd));
        }
    }

    fn functions<S: Simd>(wide: Wide<S, 1>) {
        let at = |x: f32, f: fn(Wide<S, 1>, Row<S, 1>) -> Row<S, 1>| -> f64 {
            let largest = wide.largest(f(wide, wide.splat(x)));
            f64::from(largest)
        };
        for i in -20_000..20_000 {
            let x = i as f32 * 0.004;
            let exact = f64::from(x);
            let relative = |found: f64, expected: f64| ((found - expected) / expected).abs();
            let found = at(x, Wide::exp);
            assert!(relative(found, exact.exp()) < 3.6e-7, "exp({x}) = {found}");
            assert!((at(x, Wide::tanh) - exact.tanh()).abs() < 2e-7, "tanh({x})");
            let positive = (0.2 * x).exp();
            let exact = f64::from(positive);
            assert!(relative(at(positive, Wide::ln_1p), exact.ln_1p()) < 1e-6, "{positive}");
            let off = (at(x.exp(), Wide::ln) - f64::from(x.exp()).ln()).abs();
            assert!(off < 1e-6 * f64::from(x).abs().max(1.0), "ln(exp {x}) is {off} off");
        }
    }

    fn products<S: Simd, const G: usize>(wide: Wide<S, G>) {
        let width = G * S::F32_LANES;
        let fill = |rows: usize, phase: f32| {
            let mut lanes = Lanes::zeros(rows * width);
            let wave = |i: usize| (0.7 * i as f32 + phase).sin();
            lanes.iter_mut().enumerate().for_each(|(i, x)| *x = wave(i));
            lanes
        };
        let columns = 5;
        for rows in 0..12 {
            let a: Vec<f32> = (0..rows * columns).map(|i| (i as f32).cos()).collect();
            let (x, mut out) = (fill(columns, 0.1), fill(rows, 0.9));
            let before = out.to_vec();
            wide.product(wide.rows_mut(&mut out), &a, wide.rows(&x));
            for (at, found) in out.iter().enumerate() {
                let (i, lane) = (at / width, at % width);
                let expected: f32 =
                    (0..columns).map(|u| a[i * columns + u] * x[u * width + lane]).sum();
                assert!((found - before[at] - expected).abs() < 1e-5, "{rows} rows, at {at}");
            }
            if rows > 0 {
                let mut out = fill(rows, 0.9);
                wide.transposed(wide.rows_mut(&mut out), &a, wide.rows(&x));
                for (at, found) in out.iter().enumerate() {
                    let (i, lane) = (at / width, at % width);
                    let expected: f32 =
                        (0..columns).map(|b| a[b * rows + i] * x[b * width + lane]).sum();
                    assert!((found - before[at] - expected).abs() < 1e-5, "{rows}, at {at}");
                }
            }
            let (one, other) = (fill(rows, 0.3), fill(rows, 0.5));
            let each: f32 = one.iter().zip(other.iter()).map(|(a, b)| a * b).sum();
            let found = wide.sum(wide.inner(wide.rows(&one), wide.rows(&other)));
            assert!((found - each).abs() < 1e-4, "{found} for {each}");
        }
    }

    #[test]
    fn rows_agree_with_plain_loops() {
        pulp::Arch::new().dispatch(Check);
        pulp::WithSimd::with_simd(Check, pulp::Scalar::new());
    }

    #[test]
    fn memory_begins_with_a_line_of_the_cache() {
        for len in [0, 1, 5, 64, 1000] {
            let lanes = Lanes::<f32>::zeros(len);
            assert_eq!(lanes.len(), len);
            assert_eq!(lanes.as_ptr().align_offset(LINE), 0);
        }
    }
}
