//! What moves.

use rand_chacha::ChaCha8Rng;

use super::super::animal::Regime;

/// An animal's state, which goes on from regime to regime.
pub(super) trait Body {
    /// Another task of a regime takes over, with a kick of a size.
    fn begin(&mut self, regime: Regime, kick: f32, rng: &mut ChaCha8Rng);

    /// One bin of time.
    fn advance(&mut self, rng: &mut ChaCha8Rng);

    /// What each channel follows, about -1 to 1, `[channels]`.
    fn observed(&self) -> &[f32];
}
