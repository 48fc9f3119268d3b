//! From label posteriors to decisions: hysteresis, change events, `unknown`, and scores against truth.

mod decision;
mod engine;
mod onset;
mod score;

pub use decision::{Change, DecisionRule, Label, Tracker};
pub use engine::Engine;
pub use onset::Onset;
pub use score::{ChangeScore, ChangeVerdict, Score, Verdict};
