//! The recurrent head as it is served.

use pulp::{Simd, WithSimd};

use super::expert::{Expert, softmax};
use crate::inference::kernels::{exp, tanh};
use crate::inference::{Seen, Tape};
use crate::model::{RecurrentHead, values};

/// A head's hidden state, bin by bin.
#[derive(Debug)]
pub(crate) struct RecurrentFilter {
    arch: pulp::Arch,
    mean: Vec<f32>,
    /// `[n_channels, 3 hidden]`.
    input: Vec<f32>,
    bias: Vec<f32>,
    /// `[hidden, 3 hidden]`.
    recurrent: Vec<f32>,
    /// `[hidden, n_regimes]`.
    output: Vec<f32>,
    output_bias: Vec<f32>,
    hidden: Vec<f32>,
    /// `W x + b` and `U h`, `[3 hidden]`.
    drive: Vec<f32>,
    feedback: Vec<f32>,
}

impl RecurrentFilter {
    pub(crate) fn new(of: &RecurrentHead) -> Self {
        let hidden = of.recurrent.nrows();
        Self {
            arch: pulp::Arch::new(),
            mean: of.mean.to_vec(),
            input: values(&of.input).to_vec(),
            bias: of.bias.to_vec(),
            recurrent: values(&of.recurrent).to_vec(),
            output: values(&of.output).to_vec(),
            output_bias: of.output_bias.to_vec(),
            hidden: vec![0.0; hidden],
            drive: vec![0.0; 3 * hidden],
            feedback: vec![0.0; 3 * hidden],
        }
    }
}

impl Expert for RecurrentFilter {
    fn reset(&mut self) {
        self.hidden.fill(0.0);
    }

    fn update(&mut self, seen: Seen<'_>) {
        let arch = self.arch;
        arch.dispatch(Step { head: self, seen });
    }

    // The state stays as it is.
    fn predict(&mut self) {}

    fn posterior(&self, out: &mut [f32]) {
        out.copy_from_slice(&self.output_bias);
        for (&h, row) in self.hidden.iter().zip(self.output.chunks_exact(out.len())) {
            out.iter_mut().zip(row).for_each(|(o, v)| *o += h * v);
        }
        softmax(out);
    }

    fn state(&mut self, tape: &mut Tape) {
        tape.floats(&mut self.hidden);
    }

    fn is_sound(&self) -> bool {
        // Convex combinations of values of the hyperbolic tangent.
        self.hidden.iter().all(|h| h.abs() <= 1.001)
    }
}

/// One step, compiled for each set of vector instructions.
struct Step<'a> {
    head: &'a mut RecurrentFilter,
    seen: Seen<'a>,
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let RecurrentFilter { mean, input, bias, recurrent, hidden, drive, feedback, .. } =
            self.head;
        let n = hidden.len();
        drive.copy_from_slice(bias);
        for (i, row) in input.chunks_exact(3 * n).enumerate() {
            let Some(x) = self.seen.root(i, mean[i]) else { continue };
            drive.iter_mut().zip(row).for_each(|(d, w)| *d += x * w);
        }
        feedback.fill(0.0);
        for (&h, row) in hidden.iter().zip(recurrent.chunks_exact(3 * n)) {
            feedback.iter_mut().zip(row).for_each(|(f, u)| *f += h * u);
        }
        let (gates, candidates) = drive.split_at_mut(2 * n);
        let (of_gates, of_candidates) = feedback.split_at(2 * n);
        for (g, f) in gates.iter_mut().zip(of_gates) {
            *g = 1.0 / (1.0 + exp(-(*g + f)));
        }
        let (update, reset) = gates.split_at(n);
        let inside = candidates.iter_mut().zip(of_candidates).zip(reset);
        inside.for_each(|((c, f), r)| *c = tanh(*c + r * f));
        for ((h, z), c) in hidden.iter_mut().zip(update).zip(candidates.iter()) {
            *h = z * *h + (1.0 - z) * c;
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn it_follows_the_equations_of_a_gated_unit() {
        let (channels, hidden, regimes) = (5, 4, 3);
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let mut draw = |rows: usize, columns: usize| {
            Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0f32..1.0))
        };
        let of = RecurrentHead {
            mean: Array1::from(vec![0.5; channels]),
            input: draw(channels, 3 * hidden),
            bias: draw(1, 3 * hidden).row(0).to_owned(),
            recurrent: draw(hidden, 3 * hidden),
            output: draw(hidden, regimes),
            output_bias: draw(1, regimes).row(0).to_owned(),
        };
        let mut filter = RecurrentFilter::new(&of);
        let (weight, gain) = ([1.0f32, 1.0, 0.0, 1.0, 1.0], [1.0f32, 2.0, 1.0, 1.0, 0.5]);
        let mut h = vec![0.0f64; hidden];
        for t in 0..20 {
            let counts: Vec<f32> = (0..channels).map(|i| ((t * (i + 3)) % 4) as f32).collect();
            filter.update(Seen { counts: &counts, weight: &weight, gain: &gain });
            let x: Vec<f64> = (0..channels)
                .map(|i| match weight[i] > 0.0 {
                    true => f64::from(counts[i] / gain[i]).sqrt(),
                    false => f64::from(of.mean[i]),
                })
                .collect();
            let along = |w: &Array2<f32>, x: &[f64], k: usize| -> f64 {
                x.iter().enumerate().map(|(i, x)| x * f64::from(w[[i, k]])).sum()
            };
            let drive = |k: usize| along(&of.input, &x, k) + f64::from(of.bias[k]);
            let back = |k: usize| along(&of.recurrent, &h, k);
            let gate = |k: usize| 1.0 / (1.0 + (-drive(k) - back(k)).exp());
            h = (0..hidden)
                .map(|k| {
                    let (z, r) = (gate(k), gate(hidden + k));
                    let c = (drive(2 * hidden + k) + r * back(2 * hidden + k)).tanh();
                    z * h[k] + (1.0 - z) * c
                })
                .collect();
        }
        let score = |r: usize| -> f64 {
            let of_h = h.iter().enumerate().map(|(k, h)| h * f64::from(of.output[[k, r]]));
            (f64::from(of.output_bias[r]) + of_h.sum::<f64>()).exp()
        };
        let total: f64 = (0..regimes).map(score).sum();
        let mut found = vec![0.0f32; regimes];
        filter.posterior(&mut found);
        for (r, p) in found.iter().enumerate() {
            assert!((f64::from(*p) - score(r) / total).abs() < 1e-5, "{found:?}");
        }
    }
}
