//! The online fit: a bank of extended Kalman filters over `(kappa, e)` with Poisson or negative
//! binomial counts, mixed by hazard rates (interacting multiple models). No clock, no I/O, no
//! allocation after construction.

mod bank;
mod block;
mod channels;
mod estimate;
pub(crate) mod kernels;
pub(crate) mod lanes;
mod layout;
mod measurement;
pub(crate) mod outlined;
mod participation;
mod signs;
pub(crate) mod small;
mod smoother;
mod stage;
mod tape;
mod transition;
#[cfg(test)]
mod twin;

pub use bank::FilterBank;
pub use channels::Adaptation;
pub(crate) use channels::{Gains, NOVELTY_WINDOW_S, Seen};
pub use estimate::Estimate;
pub(crate) use measurement::{HALVINGS, STEP_LOSS_MAX};
pub(crate) use smoother::smooth;
pub use stage::Stage;
pub use tape::Tape;
#[cfg(test)]
pub(crate) use twin::example as example_model;

/// Why a filter bank could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BankError {
    /// A model without hypotheses.
    #[error("the model's regime prior has no components")]
    NoHypotheses,
    /// Arrays that do not fit the model's sizes.
    #[error("{what}: expected {expected} values, found {found}")]
    Size {
        /// Which array.
        what: &'static str,
        /// Values that the sizes ask for.
        expected: usize,
        /// Values found.
        found: usize,
    },
}
