//! The parts of a bin's work, one by one: for measuring them.

use pulp::{Simd, WithSimd};

use super::FilterBank;
use super::bank::for_each;
use super::lanes::Wide;

/// A part of a bin's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Interacting multiple models.
    Mixing,
    /// Hypernetwork, mean step and its Jacobian with respect to latents and embedding.
    Transition,
    /// Covariance through the step.
    Propagation,
    /// Rates, score and information matrix.
    Information,
    /// Gain, mean, covariance and evidence.
    Update,
    /// Posterior, moments, novelty and participation ratio.
    Summary,
    /// What is followed beside the dynamics: gains, silences, signs of unknown dynamics.
    Channels,
}

impl Stage {
    /// The stages in the order in which a bin passes them.
    pub const ALL: [Self; 7] = [
        Self::Mixing,
        Self::Transition,
        Self::Propagation,
        Self::Information,
        Self::Update,
        Self::Summary,
        Self::Channels,
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
        let layout = &bank.layout;
        match self.stage {
            Stage::Mixing => bank.mix(simd),
            Stage::Transition => {
                for_each!(block of &mut bank.blocks, wide of simd => block.linearise(wide, layout));
            }
            Stage::Propagation => {
                for_each!(block of &mut bank.blocks, wide of simd => block.propagate(wide, layout));
            }
            Stage::Information => bank.inform(simd),
            Stage::Update => bank.correct(simd),
            Stage::Summary => {
                bank.normalise(simd);
                bank.summarise(simd);
                bank.track_novelty(simd);
                bank.estimate.participation_ratio = bank.participation.take(&bank.estimate.latent);
            }
            Stage::Channels => {
                bank.learn(simd);
                bank.look(true);
            }
        }
    }
}
