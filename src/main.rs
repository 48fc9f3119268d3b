//! Parse, dispatch, exit code.

mod cli;

use clap::Parser;
use cli::{Cli, Command};
use regimed::commands::{pretrain, serve, simulate};

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::Pretrain(args) => pretrain::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Serve(args) => serve::run(&args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("regimed: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
