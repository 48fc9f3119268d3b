//! ZeroMQ: counts in by PULL and SUB, decisions and events out by PUB, each port behind a gate.

pub(crate) mod counts;
mod frames;
pub(crate) mod gate;
pub(crate) mod publisher;
pub(crate) mod socket_dir;

pub use counts::take;
pub use frames::{Frames, Side};
