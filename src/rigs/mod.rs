//! What rigs speak: each with its way in, and its way out where it has one.

pub(crate) mod backoff;
pub(crate) mod blackrock;
pub(crate) mod brand;
mod electrodes;
pub(crate) mod intan;
#[cfg(feature = "lsl")]
pub(crate) mod lsl;
pub(crate) mod open_ephys;
pub(crate) mod redis;
pub(crate) mod replay;
mod subscriber;

pub(crate) use subscriber::Subscriber;

/// No UDP datagram is longer.
const DATAGRAM_BYTES: usize = 65_536;
