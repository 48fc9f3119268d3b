//! How many directions the population moves in: the participation ratio of the log rates'
//! covariance.

use super::layout::gram;
use super::tape::Tape;
use crate::model::Readout;

/// Exponentially weighted covariance of the latents `S`, and the participation ratio of `C S C^T`
/// through `C^T C`.
#[derive(Debug)]
pub(super) struct Participation {
    rank: usize,
    rate: f32,
    mean: Vec<f32>,
    /// `[rank, rank]`, as are the next two.
    cov: Vec<f32>,
    /// `C^T C`.
    gram: Vec<f32>,
    square: Vec<f32>,
    off: Vec<f32>,
}

impl Participation {
    pub(super) fn new(rank: usize, rate: f32, readout: &Readout) -> Self {
        Self {
            rank,
            rate,
            mean: vec![0.0; rank],
            cov: vec![0.0; rank * rank],
            gram: gram(readout, rank),
            square: vec![0.0; rank * rank],
            off: vec![0.0; rank],
        }
    }

    /// Another recording begins.
    pub(super) fn reset(&mut self) {
        self.mean.fill(0.0);
        self.cov.fill(0.0);
    }

    /// Its state for the tape.
    pub(super) fn state(&mut self, tape: &mut Tape) {
        tape.floats(&mut self.mean);
        tape.floats(&mut self.cov);
    }

    /// Every number is one that could have come about.
    pub(super) fn is_sound(&self) -> bool {
        self.mean.iter().chain(&self.cov).all(|v| v.is_finite())
    }

    /// The ratio with one more bin's latents, 1 to `rank`.
    #[inline(always)]
    pub(super) fn take(&mut self, latent: &[f32]) -> f32 {
        let (rank, g) = (self.rank, self.rate);
        for r in 0..rank {
            self.off[r] = latent[r] - self.mean[r];
        }
        for r in 0..rank {
            self.mean[r] += g * self.off[r];
            for q in 0..rank {
                let c = &mut self.cov[r * rank + q];
                *c = (1.0 - g) * (*c + g * self.off[r] * self.off[q]);
            }
        }
        let (mut trace, mut trace_sq) = (0.0f32, 0.0f32);
        for r in 0..rank {
            for q in 0..rank {
                self.square[r * rank + q] =
                    (0..rank).map(|k| self.cov[r * rank + k] * self.gram[k * rank + q]).sum();
            }
            trace += self.square[r * rank + r];
        }
        for r in 0..rank {
            for q in 0..rank {
                trace_sq += self.square[r * rank + q] * self.square[q * rank + r];
            }
        }
        if trace_sq > 0.0 { (trace * trace / trace_sq).clamp(1.0, rank as f32) } else { 1.0 }
    }
}
