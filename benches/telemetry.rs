//! Question: what does it cost to be watched? Ten sessions of 96 channels at 100 Hz, with HTTP off
//! (no metrics are kept); with metrics, scraped every second; and with those and ten viewers of the
//! live page, one on each session. Budget: metrics take at most 5 us of processor per bin, metrics
//! and page at most 20 us (2 % of a core here); p99 from sent to decision received is at most 1.05
//! times that with both off. The cost is the difference of two daemons that run side by side, one
//! of them with both off: what else a machine does meets both. Latencies are of a daemon alone;
//! rounds of each take turns. Medians are told, and quartiles. Readings of the dynamics come once a
//! second rather than ten times: they would take ten times all else, and drown it.
//!
//!     cargo bench --bench telemetry

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::{Bin, CHANNELS, Daemon, get, processor_s, quantile, rig};

const SESSIONS: usize = 10;
const SECONDS: u64 = 8;
const ROUNDS: usize = 7;
const METRICS_US_MAX: f64 = 5.0;
const PAGE_US_MAX: f64 = 20.0;
const P99_RATIO_MAX: f64 = 1.05;

#[derive(Clone, Copy, PartialEq)]
enum Watched {
    Off,
    Metrics,
    Page,
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

/// A daemon, and who watches it.
struct Run {
    daemon: Daemon,
    going: Arc<AtomicBool>,
    frames: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    watching: Vec<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Run {
    fn start(watched: Watched) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let http = if watched == Watched::Off { "" } else { "127.0.0.1:0" };
        let mut config = format!(
            "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"{http}\"\n\
             [zeromq]\npull = \"\"\npublish = \"\"\n[metrics]\nrate_hz = 1\n"
        );
        for i in 0..SESSIONS {
            config +=
                &format!("[[session]]\nname = \"s{i}\"\nmodel = \"builtin\"\nreadout = \"0\"\n");
        }
        let daemon = Daemon::start(folder.path(), &config);
        let going = Arc::new(AtomicBool::new(true));
        let (frames, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut watching = Vec::new();
        if watched != Watched::Off {
            let (http, going) = (daemon.address("http"), going.clone());
            watching.push(std::thread::spawn(move || {
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
                watching.push(std::thread::spawn(move || {
                    // They come from other machines: the cores are the daemon's.
                    let _ = rustix::process::nice(10);
                    viewer(&http, &format!("s{i}"), &going, &frames, &bytes);
                }));
            }
        }
        Self { daemon, going, frames, bytes, watching, _folder: folder }
    }
}

struct Round {
    us_per_bin: f64,
    p99_us: f64,
    frames_hz: f64,
    kib_per_s: f64,
}

/// Daemons side by side, each with its rigs and whoever watches it.
fn round<const N: usize>(kinds: [Watched; N]) -> [Round; N] {
    let runs = kinds.map(Run::start);
    let before = runs.each_ref().map(|run| processor_s(run.daemon.child.id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut bins: [Vec<Bin>; N] = [const { Vec::new() }; N];
    runtime.expect("a runtime").block_on(async {
        let mut rigs = Vec::new();
        for (at, run) in runs.iter().enumerate() {
            let address = format!("http://{}", run.daemon.address("grpc"));
            for i in 0..SESSIONS {
                let offset = Duration::from_micros((i * N + at) as u64 * 1000 / N as u64);
                let rig = rig(address.clone(), format!("s{i}"), offset, SECONDS);
                rigs.push((at, tokio::spawn(rig)));
            }
        }
        for (at, rig) in rigs {
            bins[at].extend(rig.await.expect("measured"));
        }
    });
    // Read at once, before anything is ended.
    let after = runs.each_ref().map(|run| processor_s(run.daemon.child.id()));
    let mut spent = after.into_iter().zip(before).map(|(after, before)| after - before);
    let mut bins = bins.into_iter();
    runs.map(|run| {
        run.going.store(false, Ordering::Relaxed);
        run.watching.into_iter().for_each(|w| w.join().expect("it ends"));
        let times = bins.next().expect("each has its own").into_iter();
        let viewers = SESSIONS as f64 * SECONDS as f64;
        Round {
            us_per_bin: spent.next().expect("each has its own") * 1e6 / (viewers * 100.0),
            p99_us: quantile(times.map(|b| b.there_and_back_us).collect(), 0.99),
            frames_hz: run.frames.load(Ordering::Relaxed) as f64 / viewers,
            kib_per_s: run.bytes.load(Ordering::Relaxed) as f64 / 1024.0 / viewers,
        }
    })
}

/// Median, and the quartiles.
fn summary(of: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let values: Vec<f64> = of.collect();
    let at = |q| quantile(values.clone(), q);
    (at(0.5), at(0.25), at(0.75))
}

fn main() {
    let kinds = [Watched::Off, Watched::Metrics, Watched::Page];
    let mut alone: [Vec<Round>; 3] = [const { Vec::new() }; 3];
    let mut pairs: [Vec<[Round; 2]>; 2] = [const { Vec::new() }; 2];
    for i in 0..ROUNDS {
        // Whatever changes on the machine meanwhile meets each of them at every place.
        for j in 0..kinds.len() {
            let at = (i + j) % kinds.len();
            alone[at].extend(round([kinds[at]]));
        }
        for (j, pair) in pairs.iter_mut().enumerate() {
            pair.push(round([Watched::Off, kinds[j + 1]]));
        }
    }
    let p99 = |at: usize| summary(alone[at].iter().map(|r| r.p99_us));
    println!(
        "{SESSIONS} sessions of {CHANNELS} channels at 100 Hz, medians (quartiles) of {ROUNDS} \
         rounds of {SECONDS} s"
    );
    println!("alone                p99 sent to received, us");
    for (at, name) in ["both off", "metrics, scraped", "and 10 viewers"].iter().enumerate() {
        let (median, low, high) = p99(at);
        println!("{name:<20} {median:>8.0} ({low:.0} to {high:.0})");
    }
    println!("beside one with both off   processor us/bin   more than that one");
    let mut costs = [0.0; 2];
    for (at, name) in ["metrics, scraped", "and 10 viewers"].iter().enumerate() {
        let more = pairs[at].iter().map(|[off, on]| on.us_per_bin - off.us_per_bin);
        let (cost, low, high) = summary(more);
        let (all, _, _) = summary(pairs[at].iter().map(|[_, on]| on.us_per_bin));
        println!("{name:<26} {all:>16.1}   {cost:.1} ({low:.1} to {high:.1})");
        costs[at] = cost;
    }
    let (hz, ..) = summary(alone[2].iter().map(|r| r.frames_hz));
    let (kib, ..) = summary(alone[2].iter().map(|r| r.kib_per_s));
    println!("a viewer is sent {hz:.1} frames and {kib:.0} KiB a second");
    for (name, found, budget) in [
        ("metrics, us per bin", costs[0], METRICS_US_MAX),
        ("metrics and page, us per bin", costs[1], PAGE_US_MAX),
        ("p99 with metrics, times that with both off", p99(1).0 / p99(0).0, P99_RATIO_MAX),
        ("p99 with metrics and page", p99(2).0 / p99(0).0, P99_RATIO_MAX),
    ] {
        println!("{name:<44} {found:>7.2}   budget {budget:>4}   ratio {:.2}", found / budget);
    }
}
