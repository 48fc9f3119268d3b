//! The command line.

use clap::{Parser, Subcommand};
use regimed::commands::{pretrain, serve, simulate};

/// Live dynamical-regime labels, change events and edge-of-chaos metrics from binned spike counts
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pretrain(pretrain::PretrainArgs),
    Simulate(simulate::SimulateArgs),
    Serve(serve::ServeArgs),
}
