//! How near to the edge of chaos a population is, from its counts alone: no model is fitted to
//! them.
//!
//! Whether a network is chaotic shows in how its shared activity moves: in the timing, smoothness
//! and shape of what channels have in common, not in how much of it there is. An estimator learned
//! on simulated networks of many kinds ([`crate::teacher`]), whose exponents are exact, reads the
//! largest driven Lyapunov exponent off such features. Its readings are conditional on that
//! ensemble.
//!
//! What takes longer than a decision yields within (docs/decisions/0016).

mod chance;
mod correlogram;
mod estimator;
mod features;
mod meter;
mod persistence;
mod products;
mod window;

pub use estimator::{DrivenExponent, EdgeReading, Estimator};
pub(crate) use estimator::{EXPONENT_MAX_PER_S, Example, clipped};
pub(crate) use features::{FEATURES, features};
pub use meter::EdgeMeter;
pub(crate) use window::{SECONDS_MAX, SECONDS_MIN, Window};
