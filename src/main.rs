//! Parse, dispatch, exit code.

mod cli;

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use regimed::commands::{
    atlas, brand, calibrate, demo, doctor, edge, evaluate, export, init, inspect, journal, manual,
    pretrain, replay, serve, sessions, simulate, watch,
};

fn main() -> ExitCode {
    abort_on_panic();
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Pretrain(args) => pretrain::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Edge(args) => edge::run(&args),
        Command::Atlas(args) => atlas::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Sessions(args) => sessions::run(&args),
        Command::Brand(args) => brand::run(&args),
        Command::Journal(args) => journal::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Completions(args) => manual::completions(&args, Cli::command()),
        Command::Man(args) => manual::man(&args, Cli::command()),
    };
    match result {
        Ok(()) => {
            regimed::drain_log();
            ExitCode::SUCCESS
        }
        Err(e) => {
            regimed::last_word(&format!("regimed: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Exit code of a program whose reader has gone, as shells know it.
const UNREAD: i32 = 128 + 13;

/// Time to write a panic's message: the reader of standard error may be stuck.
const REPORT: Duration = Duration::from_secs(2);

/// A panic is a bug, and a daemon that has lost a thread must not look alive. (A profile setting
/// would do the same, and build every dependency twice:
/// docs/decisions/0002-panics-abort-by-hook.md.)
fn abort_on_panic() {
    std::panic::set_hook(Box::new(move |info| {
        // A `println!` into a closed pipe, as before `| head`, is no bug.
        let what = info.payload().downcast_ref::<String>();
        if what.is_some_and(|what| what.starts_with("failed printing to std")) {
            std::process::exit(UNREAD);
        }
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let report =
            format!("\nthread '{}' {info}\n{backtrace}\n", thread.name().unwrap_or("<unnamed>"));
        // On another thread, because standard error may block.
        let (done, written) = mpsc::channel();
        std::thread::spawn(move || {
            regimed::drain_log();
            let _ = std::io::stderr().write_all(report.as_bytes());
            let _ = done.send(());
        });
        let _ = written.recv_timeout(REPORT);
        std::process::abort();
    }));
}
