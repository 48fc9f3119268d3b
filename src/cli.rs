//! The command line.

use clap::{Parser, Subcommand};
use regimed::commands::{
    atlas, brand, calibrate, demo, doctor, edge, evaluate, export, init, inspect, journal, manual,
    pretrain, replay, serve, sessions, simulate, watch,
};

/// Live dynamical-regime labels, change events and edge-of-chaos metrics from binned spike counts
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::DemoArgs),
    Init(init::InitArgs),
    Doctor(doctor::DoctorArgs),
    Serve(serve::ServeArgs),
    Simulate(simulate::SimulateArgs),
    Pretrain(pretrain::PretrainArgs),
    Calibrate(calibrate::CalibrateArgs),
    Evaluate(evaluate::EvaluateArgs),
    Replay(replay::ReplayArgs),
    Inspect(inspect::InspectArgs),
    Edge(edge::EdgeArgs),
    Atlas(atlas::AtlasArgs),
    Watch(watch::WatchArgs),
    Sessions(sessions::SessionsArgs),
    Brand(brand::BrandArgs),
    Journal(journal::JournalArgs),
    Export(export::ExportArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}
