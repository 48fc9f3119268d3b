//! What every expert beside the filter bank does.

use crate::inference::{Seen, Tape};

/// An expert on a session's regime, bin by bin.
pub(crate) trait Expert {
    /// Nothing seen yet.
    fn reset(&mut self);
    /// One bin.
    fn update(&mut self, seen: Seen<'_>);
    /// A missing bin.
    fn predict(&mut self);
    /// Posterior over the regimes given that it is one of them, `[n_regimes]`.
    fn posterior(&self, out: &mut [f32]);
    /// Writes its state to the tape, or reads it from there.
    fn state(&mut self, tape: &mut Tape);
    /// Whether its numbers could have come about.
    fn is_sound(&self) -> bool;
}

/// Scores to probabilities.
pub(super) fn softmax(scores: &mut [f32]) {
    let top = scores.iter().copied().fold(f32::MIN, f32::max);
    let mut total = 0.0;
    for s in scores.iter_mut() {
        *s = (*s - top).exp();
        total += *s;
    }
    scores.iter_mut().for_each(|p| *p /= total);
}
