//! Three windows side by side in `f64`, for checks by finite differences.

use crate::inference::lanes::Arithmetic;
use crate::inference::outlined::Outlined;

pub(super) const LANES: usize = 3;

type Row = [f64; LANES];

#[derive(Debug, Clone, Copy)]
pub(super) struct Exact;

fn each(f: impl Fn(usize) -> f64) -> Row {
    std::array::from_fn(f)
}

impl Arithmetic for Exact {
    type Number = f64;
    type Row = Row;
    const VECTORS: usize = 1;

    fn width(self) -> usize {
        LANES
    }
    fn rows(self, x: &[f64]) -> &[Row] {
        x.as_chunks().0
    }
    fn rows_mut(self, x: &mut [f64]) -> &mut [Row] {
        x.as_chunks_mut().0
    }
    fn splat(self, x: f64) -> Row {
        [x; LANES]
    }
    fn add(self, a: Row, b: Row) -> Row {
        each(|l| a[l] + b[l])
    }
    fn sub(self, a: Row, b: Row) -> Row {
        each(|l| a[l] - b[l])
    }
    fn mul(self, a: Row, b: Row) -> Row {
        each(|l| a[l] * b[l])
    }
    fn div(self, a: Row, b: Row) -> Row {
        each(|l| a[l] / b[l])
    }
    fn max(self, a: Row, b: Row) -> Row {
        each(|l| a[l].max(b[l]))
    }
    fn min(self, a: Row, b: Row) -> Row {
        each(|l| a[l].min(b[l]))
    }
    fn mul_add(self, a: Row, b: Row, c: Row) -> Row {
        each(|l| a[l] * b[l] + c[l])
    }
    fn mul_sub_from(self, a: Row, b: Row, c: Row) -> Row {
        each(|l| c[l] - a[l] * b[l])
    }
    fn sqrt(self, a: Row) -> Row {
        a.map(f64::sqrt)
    }
    fn exp(self, a: Row) -> Row {
        a.map(f64::exp)
    }
    fn tanh(self, a: Row) -> Row {
        a.map(f64::tanh)
    }
    fn ln(self, a: Row) -> Row {
        a.map(f64::ln)
    }
    fn ln_1p(self, a: Row) -> Row {
        a.map(f64::ln_1p)
    }
    fn where_less(self, a: Row, b: Row, x: Row, y: Row) -> Row {
        each(|l| if a[l] < b[l] { x[l] } else { y[l] })
    }
    fn outlined<O: Outlined>(self, work: O) -> O::Output {
        work.run()
    }
    fn sum(self, a: Row) -> f64 {
        a.iter().sum()
    }
    fn largest(self, a: Row) -> f64 {
        a.iter().fold(f64::NEG_INFINITY, |most, x| most.max(*x))
    }
}
