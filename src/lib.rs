//! Live dynamical-regime labels, regime-change events and edge-of-chaos metrics from binned spike
//! counts.
//!
//! A hypernetwork, pretrained on labelled recordings and then frozen, maps a *task embedding* to
//! the low-rank weights of a rate network ([JEDI, arXiv
//! 2603.10489](https://arxiv.org/abs/2603.10489)). The daemon fits the embedding online, bin by
//! bin, with a bank of filters, and publishes the regime of the population. The binary is a thin
//! shell around this library; ARCHITECTURE.md shows the whole.
//!
//! In reading order, from the numbers up:
//!
//! 1. [`model`]: what is assumed of the population: hypernetwork, low-rank network, readouts,
//!    prior.
//! 2. [`inference`]: the online fit, a bank of filters over latent state and embedding.
//! 3. [`dynamics`]: what a fitted network does near a state.
//! 4. [`regime`]: from posteriors to labels, change events and scores.
//! 5. [`training`]: learning a model, and calibrating it to a new session.
//! 6. [`teacher`]: simulated networks with known truth.
//! 7. [`recording`], [`checkpoint`], [`config`], [`journal`]: files.
//! 8. [`wire`], [`security`], [`source`], [`publish`], [`telemetry`]: what goes in and out.
//! 9. [`daemon`], [`commands`]: all of it put together.
//!
//! Modules 1 to 6 are pure: no clock, no I/O, no global state; random generators are passed in.

pub(crate) mod api;
pub(crate) mod bus;
pub(crate) mod checkpoint;
pub(crate) mod clock;
pub mod commands;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod dynamics;
mod files;
pub(crate) mod inference;
pub(crate) mod intake;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod internals;
pub(crate) mod journal;
pub(crate) mod model;
pub(crate) mod recording;
pub(crate) mod regime;
pub(crate) mod rigs;
pub(crate) mod security;
mod sync;
pub(crate) mod teacher;
pub(crate) mod telemetry;
pub(crate) mod training;
pub(crate) mod wire;

pub use telemetry::{drain_log, last_word};
