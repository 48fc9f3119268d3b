//! The recurrence of a gated unit as one operation of candle's graph, with its own adjoint: step by
//! step in candle's operations, a window would be thousands of small tensors.

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};

use crate::inference::kernels::{exp, tanh};

/// `[batch, bins, 3 hidden]` drives `W x + b` and `U [hidden, 3 hidden]` to hidden states
/// `[batch, bins, hidden]`, from 0 on. See [`crate::model::RecurrentHead`] for the equations.
pub(super) struct GatedUnit {
    pub(super) batch: usize,
    pub(super) bins: usize,
    pub(super) hidden: usize,
}

/// Gates and candidate of a step.
struct Step {
    feedback: Vec<f32>,
    /// Update gate, reset gate, candidate, one behind the other.
    gates: Vec<f32>,
}

impl Step {
    fn new(hidden: usize) -> Self {
        Self { feedback: vec![0.0; 3 * hidden], gates: vec![0.0; 3 * hidden] }
    }

    #[inline(always)]
    fn take(&mut self, drive: &[f32], before: &[f32], recurrent: &[f32]) {
        let n = before.len();
        self.feedback.fill(0.0);
        for (&h, row) in before.iter().zip(recurrent.chunks_exact(3 * n)) {
            self.feedback.iter_mut().zip(row).for_each(|(f, u)| *f += h * u);
        }
        let (of_gates, of_candidates) = self.feedback.split_at(2 * n);
        let (gates, candidates) = self.gates.split_at_mut(2 * n);
        for ((g, d), f) in gates.iter_mut().zip(drive).zip(of_gates) {
            *g = 1.0 / (1.0 + exp(-(d + f)));
        }
        let parts = candidates.iter_mut().zip(&drive[2 * n..]).zip(&gates[n..]).zip(of_candidates);
        parts.for_each(|(((c, d), r), f)| *c = tanh(d + r * f));
    }
}

struct Forward<'a> {
    unit: &'a GatedUnit,
    drive: &'a [f32],
    recurrent: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let GatedUnit { bins, hidden: n, .. } = *self.unit;
        let mut step = Step::new(n);
        let start = vec![0.0f32; n];
        let windows =
            self.drive.chunks_exact(bins * 3 * n).zip(self.out.chunks_exact_mut(bins * n));
        for (drive, out) in windows {
            for t in 0..bins {
                let (done, rest) = out.split_at_mut(t * n);
                let before = if t == 0 { &start[..] } else { &done[(t - 1) * n..] };
                step.take(&drive[t * 3 * n..(t + 1) * 3 * n], before, self.recurrent);
                let (update, candidate) = (&step.gates[..n], &step.gates[2 * n..]);
                for k in 0..n {
                    rest[k] = update[k] * before[k] + (1.0 - update[k]) * candidate[k];
                }
            }
        }
    }
}

struct Backward<'a> {
    unit: &'a GatedUnit,
    drive: &'a [f32],
    recurrent: &'a [f32],
    /// The hidden states, and the loss' gradient by them.
    states: &'a [f32],
    pull: &'a [f32],
    d_drive: &'a mut [f32],
    d_recurrent: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let GatedUnit { batch, bins, hidden: n } = *self.unit;
        let mut step = Step::new(n);
        let start = vec![0.0f32; n];
        let (mut d_state, mut d_before) = (vec![0.0f32; n], vec![0.0f32; n]);
        // By the product `U h`.
        let mut d_feedback = vec![0.0f32; 3 * n];
        // Turned round, or its products would be sums along rows, which do not vectorise.
        let mut turned = vec![0.0f32; self.recurrent.len()];
        for (k, row) in self.recurrent.chunks_exact(3 * n).enumerate() {
            row.iter().enumerate().for_each(|(j, u)| turned[j * n + k] = *u);
        }
        for window in 0..batch {
            let at = |t: usize| (window * bins + t) * n;
            d_before.fill(0.0);
            for t in (0..bins).rev() {
                let before = if t == 0 { &start[..] } else { &self.states[at(t - 1)..at(t)] };
                step.take(&self.drive[3 * at(t)..3 * (at(t) + n)], before, self.recurrent);
                let d_drive = &mut self.d_drive[3 * at(t)..3 * (at(t) + n)];
                for k in 0..n {
                    d_state[k] = self.pull[at(t) + k] + d_before[k];
                    let (z, r, c) = (step.gates[k], step.gates[n + k], step.gates[2 * n + k]);
                    let d_candidate = d_state[k] * (1.0 - z) * (1.0 - c * c);
                    d_drive[k] = d_state[k] * (before[k] - c) * z * (1.0 - z);
                    d_drive[n + k] = d_candidate * step.feedback[2 * n + k] * r * (1.0 - r);
                    d_drive[2 * n + k] = d_candidate;
                    d_feedback[k] = d_drive[k];
                    d_feedback[n + k] = d_drive[n + k];
                    d_feedback[2 * n + k] = d_candidate * r;
                    d_before[k] = d_state[k] * z;
                }
                for (&h, d_row) in before.iter().zip(self.d_recurrent.chunks_exact_mut(3 * n)) {
                    d_row.iter_mut().zip(&d_feedback).for_each(|(d, f)| *d += h * f);
                }
                for (f, row) in d_feedback.iter().zip(turned.chunks_exact(n)) {
                    d_before.iter_mut().zip(row).for_each(|(d, u)| *d += f * u);
                }
            }
        }
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (from, to) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::msg("gated unit: expected contiguous tensors"))?;
    Ok(&storage.as_slice::<f32>()?[from..to])
}

impl CustomOp2 for GatedUnit {
    fn name(&self) -> &'static str {
        "gated-unit"
    }

    fn cpu_fwd(
        &self,
        drive: &CpuStorage,
        drive_layout: &Layout,
        recurrent: &CpuStorage,
        recurrent_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = (self.batch, self.bins, self.hidden);
        let mut out = vec![0.0f32; self.batch * self.bins * self.hidden];
        pulp::Arch::new().dispatch(Forward {
            unit: self,
            drive: contiguous(drive, drive_layout)?,
            recurrent: contiguous(recurrent, recurrent_layout)?,
            out: &mut out,
        });
        Ok((CpuStorage::F32(out), Shape::from(shape)))
    }

    fn bwd(
        &self,
        drive: &Tensor,
        recurrent: &Tensor,
        states: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let (drive_values, recurrent_values) = (flat(drive)?, flat(recurrent)?);
        let (states, pull) = (flat(states)?, flat(upstream)?);
        let mut d_drive = vec![0.0f32; drive_values.len()];
        let mut d_recurrent = vec![0.0f32; recurrent_values.len()];
        pulp::Arch::new().dispatch(Backward {
            unit: self,
            drive: &drive_values,
            recurrent: &recurrent_values,
            states: &states,
            pull: &pull,
            d_drive: &mut d_drive,
            d_recurrent: &mut d_recurrent,
        });
        Ok((
            Some(Tensor::from_vec(d_drive, drive.shape(), drive.device())?),
            Some(Tensor::from_vec(d_recurrent, recurrent.shape(), recurrent.device())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_adjoint_matches_finite_differences() {
        let (batch, bins, hidden) = (2, 7, 3);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut draw =
            |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let sizes = [batch * bins * 3 * hidden, hidden * 3 * hidden];
        let (at, along) = (sizes.map(&mut draw), sizes.map(&mut draw));
        let pull = draw(batch * bins * hidden);
        let loss = |by: f32| {
            let moved: Vec<Vec<f32>> = (0..2)
                .map(|p| at[p].iter().zip(&along[p]).map(|(x, d)| x + by * d).collect())
                .collect();
            let device = &Device::Cpu;
            let drive = Var::from_slice(&moved[0], (batch, bins, 3 * hidden), device);
            let recurrent = Var::from_slice(&moved[1], (hidden, 3 * hidden), device);
            let (drive, recurrent) = (drive.expect("a tensor"), recurrent.expect("a tensor"));
            let unit = GatedUnit { batch, bins, hidden };
            let states = drive.apply_op2(&recurrent, unit).expect("states");
            let pull = Tensor::from_slice(&pull, (batch, bins, hidden), device).expect("a tensor");
            let loss = (states * pull).expect("a product").sum_all().expect("a sum");
            (loss, drive, recurrent)
        };
        let (found, drive, recurrent) = loss(0.0);
        let gradients = found.backward().expect("gradients");
        let slope: f64 = [(&drive, &along[0]), (&recurrent, &along[1])]
            .into_iter()
            .map(|(var, along)| {
                let g = gradients.get(var.as_tensor()).expect("a gradient");
                let g = g.flatten_all().and_then(|g| g.to_vec1::<f32>()).expect("values");
                g.iter().zip(along).map(|(g, d)| f64::from(g * d)).sum::<f64>()
            })
            .sum();
        let value = |by: f32| f64::from(loss(by).0.to_scalar::<f32>().expect("a number"));
        let step = 1e-2;
        let expected = (value(step) - value(-step)) / (2.0 * f64::from(step));
        assert!((slope - expected).abs() < 1e-2 * expected.abs(), "{slope} for {expected}");
    }
}
