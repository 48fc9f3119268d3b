//! Sizes that all of the room goes by.

use crate::teacher::HERD_BIN_S;

/// Width of the bins that are read, seconds.
pub const BIN_S: f64 = HERD_BIN_S;
/// Bins of a window, from one to the next, and of those that it is compared with.
pub(super) const WINDOW: usize = 48;
pub(super) const STEP: usize = 12;
pub(super) const NEIGHBOUR: usize = 100;
/// A recording is read in parts of about this many bins.
pub(super) const PART: usize = 3000;
/// Fewer bins say nothing.
pub(super) const PART_MIN: usize = 1000;

/// A channel with fewer spikes a bin is left out; fewer channels tell nothing.
pub(super) const COUNT_MIN: f32 = 0.006;
pub(super) const CHANNELS_MIN: usize = 8;

/// Probability of each regime, `[regimes]`.
pub(super) type Chances = Vec<f32>;
