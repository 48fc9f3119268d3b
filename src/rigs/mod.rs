//! What rigs speak: each with its way in, and its way out where it has one.

pub(crate) mod backoff;
pub mod blackrock;
pub mod brand;
mod electrodes;
pub mod intan;
#[cfg(feature = "lsl")]
pub mod lsl;
pub mod open_ephys;
pub mod redis;
pub mod replay;
mod subscriber;

pub(crate) use subscriber::Subscriber;
