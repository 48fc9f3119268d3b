//! Question: what do real-time priority and a core of its own bring, where a machine is busy? One
//! session of 96 channels at 100 Hz, two threads that compute all the time on each core, the daemon
//! as it is, by `chrt --rr 20`, and so on the last core alone (`taskset`). From receiving a bin to
//! handing its decision out, as the daemon says. Needs the right to set priorities (root); tells so
//! and ends where it has none. No budget: docs/deploy.md quotes it.
//!
//!     cargo bench --bench realtime

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{Daemon, quantile, rig};

const SECONDS: u64 = 12;
const ROUNDS: usize = 3;

/// Times from received to handed out, us.
fn round(by: &[&str]) -> Vec<f64> {
    let folder = tempfile::tempdir().expect("a folder");
    let config = "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"\"\n\
                  [zeromq]\npull = \"\"\npublish = \"\"\n\
                  [[session]]\nname = \"s\"\nmodel = \"builtin\"\nreadout = \"0\"\n";
    let binary = env!("CARGO_BIN_EXE_regimed");
    let mut command = Command::new(by.first().unwrap_or(&binary));
    if !by.is_empty() {
        command.args(&by[1..]).arg(binary);
    }
    let daemon = Daemon::start_by(folder.path(), config, command);
    let address = format!("http://{}", daemon.address("grpc"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bins = runtime.expect("a runtime").block_on(rig(
        address,
        "s".into(),
        Duration::from_millis(100),
        SECONDS,
    ));
    bins.iter().map(|bin| bin.inside_us).collect()
}

fn main() {
    let may = Command::new("chrt").args(["--rr", "20", "true"]).status();
    if !may.is_ok_and(|s| s.success()) {
        println!("not measured: real-time priorities cannot be set here (chrt, as root)");
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let last = (cores - 1).to_string();
    let going = Arc::new(AtomicBool::new(true));
    let busy: Vec<_> = (0..2 * cores)
        .map(|_| {
            let going = going.clone();
            std::thread::spawn(move || {
                let mut x = 1u64;
                while going.load(Ordering::Relaxed) {
                    x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005) + 1);
                }
            })
        })
        .collect();
    let kinds: [(&str, Vec<&str>); 3] = [
        ("as it is", vec![]),
        ("real-time priority", vec!["chrt", "--rr", "20"]),
        ("and on one core", vec!["taskset", "--cpu-list", &last, "chrt", "--rr", "20"]),
    ];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (to, (_, by)) in times.iter_mut().zip(&kinds) {
            to.extend(round(by));
        }
    }
    going.store(false, Ordering::Relaxed);
    busy.into_iter().for_each(|b| b.join().expect("it ends"));
    println!("{cores} cores, {} threads that compute; received to handed out, us", 2 * cores);
    for ((name, _), of) in kinds.iter().zip(times) {
        let at = |q| quantile(of.clone(), q);
        println!(
            "{name:<20} p50 {:>7.0}   p99 {:>7.0}   longest {:>7.0}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}
