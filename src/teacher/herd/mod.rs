//! Animals of several families, drawn at random, that go from regime to regime: what the recogniser
//! of regimes learns from.
//!
//! All have the same five regimes, [`Regime::ALL`], made of other things: of low-rank structure in
//! rate networks with two kinds of readout, of populations with profiles of connection, of normal
//! forms without a network. Sizes, rates, gains, noise, inputs and dwells are drawn by animal.

mod body;
mod family;
mod network;
mod normal_form;
mod readout;
mod wandering;

pub(crate) use family::{BIN_S as HERD_BIN_S, Family};
pub(crate) use wandering::wandering;
