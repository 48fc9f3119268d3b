//! Question: what does it cost to be watched? Ten sessions of 96 channels at 100 Hz, with HTTP off (no metrics are kept);
//! with metrics, scraped every second; and with those and ten viewers of the live page, one on each session.
//! Budget: metrics take at most 5 us of processor per bin, metrics and page at most 60 us (6 % of a core here); p99 from
//! sent to decision received is at most 1.5 times that with both off. Rounds of each take turns in one run; medians are told.
//! Readings of the dynamics come once a second rather than ten times: they would take ten times all else, and drown it.
//!
//!     cargo bench --bench telemetry

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::{Bin, CHANNELS, Daemon, get, quantile, rig};

const SESSIONS: usize = 10;
const SECONDS: u64 = 8;
const ROUNDS: usize = 7;
const METRICS_US_MAX: f64 = 5.0;
const PAGE_US_MAX: f64 = 60.0;
const P99_RATIO_MAX: f64 = 1.5;

#[derive(Clone, Copy, PartialEq)]
enum Watched {
    Off,
    Metrics,
    Page,
}

/// Processor time of a process so far, s.
fn processor_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

/// A viewer that reads all it is sent until told to stop; its frames and bytes are counted.
fn viewer(http: &str, session: &str, going: &AtomicBool, frames: &AtomicU64, bytes: &AtomicU64) {
    let mut stream = TcpStream::connect(http).expect("connected");
    write!(stream, "GET /api/stream?session={session} HTTP/1.1\r\nHost: {http}\r\n\r\n")
        .expect("sent");
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
    let mut buffer = vec![0; 1 << 16];
    while going.load(Ordering::Relaxed) {
        let Ok(n) = stream.read(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(&buffer[..n]);
        frames.fetch_add(text.matches("event: frame").count() as u64, Ordering::Relaxed);
        bytes.fetch_add(n as u64, Ordering::Relaxed);
    }
}

struct Round {
    us_per_bin: f64,
    p99_us: f64,
    frames_hz: f64,
    kib_per_s: f64,
}

fn round(watched: Watched) -> Round {
    let folder = tempfile::tempdir().expect("a folder");
    let http = if watched == Watched::Off { "" } else { "127.0.0.1:0" };
    let mut config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"{http}\"\n[zeromq]\npull = \"\"\npublish = \"\"\n[metrics]\nrate_hz = 1\n"
    );
    for i in 0..SESSIONS {
        config += &format!("[[session]]\nname = \"s{i}\"\nmodel = \"builtin\"\nreadout = \"0\"\n");
    }
    let daemon = Daemon::start(folder.path(), &config);
    let going = Arc::new(AtomicBool::new(true));
    let (frames, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut others = Vec::new();
    if watched != Watched::Off {
        let (http, going) = (daemon.address("http"), going.clone());
        others.push(std::thread::spawn(move || {
            while going.load(Ordering::Relaxed) {
                assert!(get(&http, "/metrics").contains("regimed_latency_seconds"));
                std::thread::sleep(Duration::from_secs(1));
            }
        }));
    }
    if watched == Watched::Page {
        for i in 0..SESSIONS {
            let (http, going) = (daemon.address("http"), going.clone());
            let (frames, bytes) = (frames.clone(), bytes.clone());
            others.push(std::thread::spawn(move || {
                // They come from other machines: the cores are the daemon's.
                let _ = rustix::process::nice(10);
                viewer(&http, &format!("s{i}"), &going, &frames, &bytes);
            }));
        }
    }
    let address = format!("http://{}", daemon.address("grpc"));
    let before = processor_s(daemon.child.id());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bins: Vec<Bin> = runtime.expect("a runtime").block_on(async {
        let rigs: Vec<_> = (0..SESSIONS)
            .map(|i| {
                let offset = Duration::from_millis(i as u64);
                tokio::spawn(rig(address.clone(), format!("s{i}"), offset, SECONDS))
            })
            .collect();
        let mut bins = Vec::new();
        for rig in rigs {
            bins.extend(rig.await.expect("measured"));
        }
        bins
    });
    let spent = processor_s(daemon.child.id()) - before;
    going.store(false, Ordering::Relaxed);
    others.into_iter().for_each(|o| o.join().expect("it ends"));
    let times = bins.iter().map(|bin| bin.there_and_back_us).collect();
    let viewers = SESSIONS as f64 * SECONDS as f64;
    Round {
        us_per_bin: spent * 1e6 / (SESSIONS as f64 * SECONDS as f64 * 100.0),
        p99_us: quantile(times, 0.99),
        frames_hz: frames.load(Ordering::Relaxed) as f64 / viewers,
        kib_per_s: bytes.load(Ordering::Relaxed) as f64 / 1024.0 / viewers,
    }
}

fn median(rounds: &[Round], of: fn(&Round) -> f64) -> f64 {
    quantile(rounds.iter().map(of).collect(), 0.5)
}

fn main() {
    let kinds = [Watched::Off, Watched::Metrics, Watched::Page];
    let mut rounds: [Vec<Round>; 3] = [const { Vec::new() }; 3];
    for i in 0..ROUNDS {
        // Whatever changes on the machine meanwhile meets each of them at every place.
        for j in 0..kinds.len() {
            let at = (i + j) % kinds.len();
            rounds[at].push(round(kinds[at]));
        }
    }
    let [off, metrics, page] = &rounds;
    let spread = |of: &[Round], q| quantile(of.iter().map(|r| r.us_per_bin).collect(), q);
    let us = |of| median(of, |r| r.us_per_bin);
    let p99 = |of| median(of, |r| r.p99_us);
    println!(
        "{SESSIONS} sessions of {CHANNELS} channels at 100 Hz, medians of {ROUNDS} rounds of {SECONDS} s"
    );
    println!("                     processor us/bin   p99 sent to received us");
    for (name, of) in [("both off", off), ("metrics, scraped", metrics), ("and 10 viewers", page)] {
        let (low, high) = (spread(of, 0.0), spread(of, 1.0));
        println!("{name:<20} {:>16.1} ({low:.0} to {high:.0}) {:>15.0}", us(of), p99(of));
    }
    let (hz, kib) = (median(page, |r| r.frames_hz), median(page, |r| r.kib_per_s));
    println!("a viewer is sent {hz:.1} frames and {kib:.0} KiB a second");
    for (name, found, budget) in [
        ("metrics, us per bin", us(metrics) - us(off), METRICS_US_MAX),
        ("metrics and page, us per bin", us(page) - us(off), PAGE_US_MAX),
        ("p99 with metrics, times that with both off", p99(metrics) / p99(off), P99_RATIO_MAX),
        ("p99 with metrics and page", p99(page) / p99(off), P99_RATIO_MAX),
    ] {
        println!("{name:<44} {found:>7.2}   budget {budget:>4}   ratio {:.2}", found / budget);
    }
}
