//! From label posteriors to decisions: hysteresis, change events, `unknown`, and scores against
//! truth.

mod decision;
mod engine;
mod onset;
mod score;

pub(crate) use decision::{Change, NoSigns, Tracker};
pub use decision::{DecisionRule, Label};
pub use engine::Engine;
pub use score::{ChangeScore, Score};
pub(crate) use score::{ChangeVerdict, Followed, Scored, Verdict, quantile};
