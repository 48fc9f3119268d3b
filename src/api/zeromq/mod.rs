//! ZeroMQ: counts in by PULL and SUB, decisions and events out by PUB, each port behind a gate.

pub mod counts;
mod frames;
pub mod gate;
pub mod publisher;
pub mod socket_dir;

pub(crate) use frames::Frames;
pub use frames::Side;
