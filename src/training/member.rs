//! A training with what is learned beside it.

use super::trainer::Trainer;
use crate::model::Experts;

/// One of the trainings that are done side by side, with its sessions' other experts.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    /// The training at its current step.
    pub trainer: &'a Trainer,
    /// Empty where there are none.
    pub experts: &'a [Option<Experts>],
}

impl<'a> Member<'a> {
    /// Without other experts.
    #[must_use]
    pub fn alone(trainer: &'a Trainer) -> Self {
        Self { trainer, experts: &[] }
    }
}
