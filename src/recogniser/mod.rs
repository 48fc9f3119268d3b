//! Regimes of a population that nobody labelled.
//!
//! What is learned, on simulated animals of many kinds ([`crate::teacher`]), is how each regime
//! looks *relative to the rest of a minute*: where a window's activity lies, how it varies, lasts
//! and turns, and how all of that compares with the other windows. The names are those of the
//! ensemble, and so are the chances.

mod course;
mod features;
mod learning;
mod lesson;
mod parts;
mod recognition;
mod scale;
mod score;
mod session;
mod trust;
mod votes;

pub(crate) use learning::School;
pub(crate) use lesson::{Lesson, Use};
pub(crate) use parts::{Part, parts};
pub use recognition::{Recognised, Recogniser};
pub use scale::BIN_S;
pub(crate) use score::Score;
pub use score::{Judged, calibration_error, share_right};
