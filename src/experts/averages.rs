//! Logistic regression on exponential averages, as it is served.

use pulp::{Simd, WithSimd};

use super::expert::{Expert, softmax};
use crate::inference::{Seen, Tape};
use crate::model::{AveragesHead, values};

/// The averages, bin by bin. They are of the counts' products with the weights, which is the same:
/// averages are linear.
#[derive(Debug)]
pub(crate) struct AveragesFilter {
    arch: pulp::Arch,
    mean: Vec<f32>,
    shares: Vec<f32>,
    /// `[n_channels, averages, n_regimes]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// `[averages, n_regimes]`: at the start, now, and of the newest bin alone.
    start: Vec<f32>,
    averages: Vec<f32>,
    newest: Vec<f32>,
}

impl AveragesFilter {
    pub(crate) fn new(of: &AveragesHead) -> Self {
        let (averages, channels, regimes) = of.weights.dim();
        let by_channel = of.weights.view().permuted_axes([1, 0, 2]);
        let weights: Vec<f32> = by_channel.as_standard_layout().iter().copied().collect();
        let size = averages * regimes;
        let mut start = vec![0.0f32; size];
        for (mean, row) in of.mean.iter().zip(weights.chunks_exact(size)) {
            start.iter_mut().zip(row).for_each(|(s, w)| *s += mean * w);
        }
        debug_assert_eq!(channels, of.mean.len());
        Self {
            arch: pulp::Arch::new(),
            mean: of.mean.to_vec(),
            shares: of.shares.clone(),
            weights,
            bias: values(&of.bias).to_vec(),
            averages: start.clone(),
            start,
            newest: vec![0.0; size],
        }
    }
}

impl Expert for AveragesFilter {
    fn reset(&mut self) {
        self.averages.copy_from_slice(&self.start);
    }

    fn update(&mut self, seen: Seen<'_>) {
        let arch = self.arch;
        arch.dispatch(Project { head: self, seen });
        let regimes = self.bias.len();
        let rows = self.averages.chunks_exact_mut(regimes).zip(self.newest.chunks_exact(regimes));
        for ((average, newest), share) in rows.zip(&self.shares) {
            average.iter_mut().zip(newest).for_each(|(a, n)| *a += share * (n - *a));
        }
    }

    // The averages stay as they are.
    fn predict(&mut self) {}

    fn posterior(&self, out: &mut [f32]) {
        out.copy_from_slice(&self.bias);
        for average in self.averages.chunks_exact(out.len()) {
            out.iter_mut().zip(average).for_each(|(o, a)| *o += a);
        }
        softmax(out);
    }

    fn state(&mut self, tape: &mut Tape) {
        tape.floats(&mut self.averages);
    }

    fn is_sound(&self) -> bool {
        self.averages.iter().all(|a| a.is_finite())
    }
}

/// Products of a bin's root counts with the weights.
struct Project<'a> {
    head: &'a mut AveragesFilter,
    seen: Seen<'a>,
}

impl WithSimd for Project<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let AveragesFilter { mean, weights, newest, .. } = self.head;
        newest.fill(0.0);
        for (i, row) in weights.chunks_exact(newest.len()).enumerate() {
            let Some(x) = self.seen.root(i, mean[i]) else { continue };
            newest.iter_mut().zip(row).for_each(|(n, w)| *n += x * w);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array3};

    use super::*;

    #[test]
    fn it_is_a_regression_on_every_channels_averages() {
        let shares = [0.5f32, 0.1];
        let weights = Array3::from_shape_fn((2, 3, 2), |(k, i, r)| {
            0.3 * (k as f32 + 1.0) - 0.2 * i as f32 + 0.5 * r as f32 * (1.0 - i as f32)
        });
        let of = AveragesHead {
            mean: Array1::from(vec![0.4, 0.8, 0.1]),
            shares: shares.to_vec(),
            weights: weights.clone(),
            bias: Array1::from(vec![0.1, -0.2]),
        };
        let mut filter = AveragesFilter::new(&of);
        let (weight, gain) = ([1.0f32, 1.0, 0.0], [1.0f32, 4.0, 1.0]);
        let mut averages: Vec<Vec<f64>> =
            shares.iter().map(|_| of.mean.iter().map(|m| f64::from(*m)).collect()).collect();
        for counts in [[4.0f32, 0.0, 9.0], [1.0, 16.0, 9.0], [0.0, 1.0, 0.0]] {
            filter.update(Seen { counts: &counts, weight: &weight, gain: &gain });
            for (average, share) in averages.iter_mut().zip(shares) {
                for (i, a) in average.iter_mut().enumerate() {
                    // The last channel does not inform: it stays at its mean.
                    let root = f64::from(counts[i] / gain[i]).sqrt();
                    let x = if weight[i] > 0.0 { root } else { f64::from(of.mean[i]) };
                    *a += f64::from(share) * (x - *a);
                }
            }
        }
        let score = |r: usize| -> f64 {
            let of_average = |(k, average): (usize, &Vec<f64>)| -> f64 {
                average.iter().enumerate().map(|(i, a)| a * f64::from(weights[[k, i, r]])).sum()
            };
            f64::from(of.bias[r]) + averages.iter().enumerate().map(of_average).sum::<f64>()
        };
        let expected = 1.0 / (1.0 + (score(0) - score(1)).exp());
        let mut found = [0.0f32; 2];
        filter.posterior(&mut found);
        assert!((f64::from(found[1]) - expected).abs() < 1e-5, "{found:?} for {expected}");
    }
}
