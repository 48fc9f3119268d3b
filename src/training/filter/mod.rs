//! The filter's predictive likelihood with its hand-derived adjoint, over windows of counts side by
//! side: a vector holds the same number of as many windows as it has lanes
//! (docs/decisions/0016-near-to-the-limit.md).
//!
//! Forward, per bin: time update, one-step score, measurement update, as the filter bank does it
//! for a known embedding (no `e` in the state) and Poisson counts, Newton steps halved alike:
//!
//! ```text
//! m- = (1-a) m + a (N^T tanh(M m + b) + c)       F = (1-a) I + a N^T D M      P- = F P F^T + Q
//! score = sum_i (y_i log rho_i - rho_i)          rho_i = exp(eta_i + v_i / 2), v_i = C_i P- C_i^T
//! W = (I + P- L)^-1,  P = W P-                   L = C^T diag(lambda) C, lambda = exp(eta)
//! m = m- + s P C^T (y - lambda)                s in {1, 1/2, 1/4, ..}
//! ```
//!
//! and from filtered states every few bins an open-loop forecast, scored alike without variance.
//! Backward is the adjoint of each line in reverse, checked against finite differences in `f64`.

mod adjoint;
mod algebra;
mod backward;
#[cfg(test)]
mod exact;
mod exponent;
mod factors;
mod forecast;
mod forward;
mod pass;
mod run;
mod stretch;
mod sums;
mod tapes;
mod window;

pub(crate) use exponent::Exponent;
pub(crate) use pass::{Gradient, LossShape, Pass, SessionReadout, Shared, burn_in_of};
pub(crate) use stretch::{Entry, Lane, Stretch, Weighted};
pub(crate) use window::{RivalStretch, Workspace};
