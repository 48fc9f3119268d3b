//! What a model's low-rank network does: spectra of its linearisation, Lyapunov exponents.

mod flow;
mod lyapunov;
mod spectrum;

pub use flow::Flow;
pub use lyapunov::{LyapunovSum, kaplan_yorke_dimension};
pub use spectrum::{Spectrum, SpectrumInterval, StatePosterior, spectrum, spectrum_interval};
