//! The binary and the library from outside. Tests that need a peer which is not here say so on
//! standard error in a line that begins with `SKIPPED`, and `.ci/run` counts those lines.

#[path = "../../benches/support/attack.rs"]
mod attack;
mod attacks;
mod attacks_on_the_log;
mod bad_input;
mod commands;
mod daemon;
mod decoders;
mod deploy;
mod edge;
mod endurance;
mod examples;
mod experts;
mod fit;
#[path = "../../fuzz/decoders/mod.rs"]
mod fuzz_decoders;
mod golden;
mod init;
mod interop;
mod journal;
#[cfg(feature = "lsl")]
mod lsl;
mod networks;
mod open_ephys;
mod page;
mod peer;
mod prometheus;
mod readme;
mod recognised;
mod recordings;
mod redis;
mod reference;
mod rig;
mod security;
mod self_calibration;
mod sessions;
mod sources;
mod spike_sockets;
mod tidy;
mod triggers;
mod unlabelled;
mod wait;
