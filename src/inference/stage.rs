//! The parts of a bin's work, one by one: for measuring them.

use pulp::{Simd, WithSimd};

use super::FilterBank;
use super::channels::Channels;
use super::hypothesis::Hypothesis;
use super::layout::Bin;

/// A part of a bin's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Interacting multiple models.
    Mixing,
    /// Hypernetwork, mean step and its Jacobian with respect to the latents.
    Factors,
    /// Jacobian with respect to the embedding.
    Tangents,
    /// Covariance through the step.
    Propagation,
    /// Rates, score and information matrix.
    Information,
    /// Gain, mean, covariance and evidence.
    Update,
    /// Posterior, moments, novelty and participation ratio.
    Summary,
}

impl Stage {
    /// The stages in the order in which a bin passes them.
    pub const ALL: [Self; 7] = [
        Self::Mixing,
        Self::Factors,
        Self::Tangents,
        Self::Propagation,
        Self::Information,
        Self::Update,
        Self::Summary,
    ];
}

impl FilterBank {
    /// Runs one stage for all hypotheses, on what the bin before left: for its time, not its
    /// result.
    #[doc(hidden)]
    pub fn run_stage(&mut self, stage: Stage) {
        let arch = self.arch;
        arch.dispatch(RunStage { bank: self, stage });
    }
}

struct RunStage<'a> {
    bank: &'a mut FilterBank,
    stage: Stage,
}

impl WithSimd for RunStage<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let bank = self.bank;
        let (l, s) = (&bank.layout, &mut bank.scratch);
        let Channels { counts, weight, baseline, expected, .. } = &mut bank.channels;
        let bin = Bin { counts, weight, baseline };
        match self.stage {
            Stage::Mixing => bank.mix(),
            Stage::Factors => bank.hypotheses.iter().for_each(|h| h.factors(simd, l, s)),
            Stage::Tangents => {
                for _ in &bank.hypotheses {
                    Hypothesis::tangents(simd, l, s);
                }
            }
            Stage::Propagation => bank.hypotheses.iter_mut().for_each(|h| h.propagate(simd, l, s)),
            Stage::Information => {
                expected.fill(0.0);
                bank.hypotheses.iter_mut().for_each(|h| h.inform(simd, l, s, bin, expected));
            }
            Stage::Update => {
                for h in &mut bank.hypotheses {
                    std::hint::black_box(h.correct(simd, l, s, bin));
                }
            }
            Stage::Summary => {
                bank.normalise();
                bank.summarise();
                bank.track_novelty();
                bank.estimate.participation_ratio = bank.participation.take(&bank.estimate.latent);
            }
        }
    }
}
