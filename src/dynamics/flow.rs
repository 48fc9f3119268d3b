//! The fitted network under one embedding, as a map of its latents: `kappa -> kappa'` and its
//! tangents.

use pulp::{Arch, Simd, WithSimd};

use super::lyapunov::LyapunovSum;
use crate::inference::kernels::{axpy, dot, tanh};
use crate::model::{Model, values};

/// `kappa' = (1-a) kappa + a (N(e)^T tanh(M kappa + b) + c(e))` for a fixed `e`, and its Jacobian
/// `(1-a) I + a N(e)^T D M`, `D = diag tanh'(M kappa + b)`.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    arch: Arch,
    rank: usize,
    units: usize,
    leak: f32,
    /// `M` transposed, `[rank, units]`.
    m: Vec<f32>,
    offset: Vec<f32>,
    /// `N(e)` transposed, `[rank, units]`.
    n: Vec<f32>,
    c: Vec<f32>,
    /// `tanh` and, over it, `N` times its slope, of one step.
    phi: Vec<f32>,
    weighted: Vec<f32>,
    /// `N^T D M`, `[rank, rank]`.
    feedback: Vec<f32>,
    work: Vec<f64>,
}

/// One step, with tangents where there are any.
struct Step<'a> {
    flow: &'a mut Flow,
    kappa: &'a mut [f32],
    jacobian: bool,
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { flow: f, kappa, jacobian } = self;
        let (rank, units) = (f.rank, f.units);
        f.phi.copy_from_slice(&f.offset);
        for r in 0..rank {
            axpy(simd, &mut f.phi, kappa[r], &f.m[r * units..(r + 1) * units]);
        }
        f.phi.iter_mut().for_each(|x| *x = tanh(*x));
        for r in 0..rank {
            let n = &f.n[r * units..(r + 1) * units];
            let drive = dot(simd, n, &f.phi) + f.c[r];
            if jacobian {
                for ((w, n), p) in f.weighted.iter_mut().zip(n).zip(&f.phi) {
                    *w = n * (1.0 - p * p);
                }
                for q in 0..rank {
                    f.feedback[r * rank + q] =
                        dot(simd, &f.weighted, &f.m[q * units..(q + 1) * units]);
                }
            }
            kappa[r] += f.leak * (drive - kappa[r]);
        }
    }
}

impl Flow {
    /// Under embedding `e`, `[embedding]`.
    #[must_use]
    pub(super) fn new(model: &Model, e: &[f32]) -> Self {
        let (rank, units) = (model.dims.rank, model.dims.units);
        let m = model.network.m.t().iter().copied().collect();
        let mut flow = Self {
            arch: Arch::new(),
            rank,
            units,
            leak: model.network.leak,
            m,
            offset: model.network.offset.to_vec(),
            n: Vec::new(),
            c: Vec::new(),
            phi: vec![0.0; units],
            weighted: vec![0.0; units],
            feedback: vec![0.0; rank * rank],
            work: vec![0.0; rank],
        };
        flow.set_embedding(model, e);
        flow
    }

    /// Continues under another embedding.
    pub(super) fn set_embedding(&mut self, model: &Model, e: &[f32]) {
        let factors = model.hypernetwork.factors(e);
        self.n = values(&factors.n).to_vec();
        self.c = factors.c.to_vec();
    }

    /// One noise-free step of `kappa [rank]`.
    pub(super) fn step(&mut self, kappa: &mut [f32]) {
        let arch = self.arch;
        arch.dispatch(Step { flow: self, kappa, jacobian: false });
    }

    /// One noise-free step; the Jacobian's feedback part is that of where it began.
    pub(super) fn step_with_feedback(&mut self, kappa: &mut [f32]) -> &[f32] {
        let arch = self.arch;
        arch.dispatch(Step { flow: self, kappa, jacobian: true });
        &self.feedback
    }

    /// One noise-free step of `kappa` and of tangents along it.
    pub(super) fn step_with_tangents(&mut self, kappa: &mut [f32], sum: &mut LyapunovSum) {
        self.step_with_feedback(kappa);
        let (rank, a) = (self.rank, f64::from(self.leak));
        for v in sum.tangents().chunks_exact_mut(rank) {
            for (r, w) in self.work.iter_mut().enumerate() {
                let row = &self.feedback[r * rank..(r + 1) * rank];
                let pushed: f64 = row.iter().zip(v.iter()).map(|(j, v)| f64::from(*j) * v).sum();
                *w = (1.0 - a) * v[r] + a * pushed;
            }
            v.copy_from_slice(&self.work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::example_model;

    #[test]
    fn a_step_and_its_jacobian_are_the_models() {
        let model = example_model();
        let e: Vec<f32> = (0..model.dims.embedding).map(|i| 0.3 * (i as f32).sin()).collect();
        let factors = model.hypernetwork.factors(&e);
        let start: Vec<f32> = (0..model.dims.rank).map(|i| (1.0 + i as f32).cos()).collect();
        let mut expected = vec![0.0; model.dims.rank];
        model.advance(&factors, &start, &mut expected);
        let jacobian = model.reduced_jacobian(&factors, &start);
        let mut flow = Flow::new(&model, &e);
        let mut found = start.clone();
        let feedback = flow.step_with_feedback(&mut found);
        for (f, j) in feedback.iter().zip(&jacobian) {
            assert!((f64::from(*f) - j).abs() < 1e-5, "{feedback:?} for {jacobian:?}");
        }
        for (f, x) in found.iter().zip(&expected) {
            assert!((f - x).abs() < 1e-5, "{found:?} for {expected:?}");
        }
        let mut stepped = start;
        flow.step(&mut stepped);
        assert_eq!(stepped, found);
    }
}
