//! The parts of a bin's work, one by one: for measuring them.

use pulp::{Simd, WithSimd};

use super::FilterBank;
use super::bank::for_each;
use super::lanes::Wide;
use super::outlined::{Outlined, outlined};

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

/// Parts of a bin, each a function of its own for each set of vector instructions.
macro_rules! parts {
    ($($part:ident, $method:ident($bank:ident, $simd:ident) -> $output:ty $does:block)*) => {
        impl FilterBank {$(
            #[inline(always)]
            pub(super) fn $method<S: Simd>(&mut self, simd: S) -> $output {
                outlined(simd, $part(self, simd))
            }
        )*}
        $(
            struct $part<'a, S>(&'a mut FilterBank, S);

            impl<S: Simd> Outlined for $part<'_, S> {
                type Output = $output;

                #[inline(always)]
                fn run(self) -> $output {
                    let Self($bank, $simd) = self;
                    $does
                }
            }
        )*
    };
}

parts! {
    Mixing, mix(bank, simd) -> () { bank.mix_within(simd) }
    Transition, linearise(bank, simd) -> () {
        for_each!(block of &mut bank.blocks, wide of simd => block.linearise(wide, &bank.layout));
    }
    Propagation, propagate(bank, simd) -> () {
        for_each!(block of &mut bank.blocks, wide of simd => block.propagate(wide, &bank.layout));
    }
    Pooling, pool(bank, simd) -> () { bank.pool_within(simd) }
    Information, inform(bank, simd) -> () { bank.inform_within(simd) }
    Update, correct(bank, simd) -> () { bank.correct_within(simd) }
    Normalising, normalise(bank, simd) -> f32 { bank.normalise_within(simd) }
    Summary, summarise(bank, simd) -> () { bank.summarise_within(simd) }
    Novelty, track_novelty(bank, simd) -> () { bank.track_novelty_within(simd) }
    Learning, learn(bank, simd) -> () { bank.learn_within(simd) }
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
        match self.stage {
            Stage::Mixing => bank.mix(simd),
            Stage::Transition => bank.linearise(simd),
            Stage::Propagation => bank.propagate(simd),
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
