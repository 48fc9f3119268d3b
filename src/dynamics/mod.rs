//! What a model's low-rank network does near a state: spectra of its linearisation.

mod spectrum;

pub use spectrum::{Spectrum, SpectrumInterval, StatePosterior, spectrum, spectrum_interval};
