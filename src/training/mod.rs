//! Pretraining: losses and optimisation.
mod filter;
