//! `regimed`: live dynamical-regime labels from binned spike counts.
pub mod checkpoint;
pub mod commands;
pub mod config;
pub mod dynamics;
pub mod inference;
pub mod model;
pub mod recording;
pub mod regime;
pub mod teacher;
pub mod training;
