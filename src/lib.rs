//! `regimed`: live dynamical-regime labels from binned spike counts.
pub mod checkpoint;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod dynamics;
pub mod inference;
pub mod model;
pub mod publish;
pub mod recording;
pub mod regime;
pub mod source;
pub mod teacher;
pub mod telemetry;
pub mod training;
pub mod wire;
