//! One file per command of the binary.

pub mod pretrain;
mod progress;
pub mod recordings;
pub mod serve;
pub mod simulate;
