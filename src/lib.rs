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
//! 1. `model`: the generative model: hypernetwork, low-rank network, readouts, prior.
//! 2. `inference`: the online fit, a bank of filters over latent state and embedding.
//! 3. `experts`: other experts on the regime beside the bank, and one posterior of them all.
//! 4. `dynamics`: what a fitted network does near a state, and in the long run.
//! 5. `regime`: from posteriors to labels, change events and scores.
//! 6. `teacher`: simulated networks with known truth; what small networks (`learner`) learned of
//!    them: `edge`, how near to the edge of chaos a population is, from its counts alone, and
//!    `recogniser`, regimes of a population that nobody labelled.
//! 7. `platform`, `clock`, `files`, `sync`, `wire`, `telemetry`, `security`, `journal`: ground
//!    services.
//! 8. `recording`, `checkpoint`, `training`: learning from files.
//! 9. `intake`, `bus`, `rigs`, `triggers`, `api`: what comes in, what is held of a session, what
//!    rigs speak, what is done about regimes, what others call.
//! 10. `config`, `daemon`, `commands`: all of it put together.
//!
//! Rooms 1 to 6 are pure: no clock, no I/O, no global state; random generators are passed in.

// Numbers.
pub(crate) mod dynamics;
pub(crate) mod edge;
pub(crate) mod experts;
pub(crate) mod inference;
mod learner;
pub(crate) mod model;
pub(crate) mod platform;
mod recogniser;
pub(crate) mod regime;
pub(crate) mod teacher;

// Ground services.
pub(crate) mod clock;
mod files;
pub(crate) mod journal;
pub(crate) mod security;
mod sync;
mod tasks;
pub(crate) mod telemetry;
pub(crate) mod wire;

// Learning from files.
pub(crate) mod checkpoint;
pub(crate) mod recording;
pub(crate) mod training;

// The outside world.
pub(crate) mod api;
pub(crate) mod bus;
pub(crate) mod intake;
pub(crate) mod rigs;
pub(crate) mod triggers;

// Composition.
pub mod commands;
pub(crate) mod config;
pub(crate) mod daemon;

#[doc(hidden)]
#[allow(missing_docs)]
pub mod internals;

pub use telemetry::{drain_log, last_word};
