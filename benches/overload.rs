//! Question: what do loads that no rig should make do to a healthy session beside them, and to
//! memory? Loads: a session that is sent ten times what it can do; 1000 subscribers of which half
//! never read; 200 connections that send garbage, again and again; all of these at once; every
//! attack that docs/security.md lists, at once: parts of messages on every method, frames and
//! subscriptions without end, messages that name a channel a million times, connections that say
//! nothing or a little, starts that fail; a journal whose disk takes 200 ms for every sync (a
//! library put before the system's, made with `cc`), with an event a second. Budget: the healthy
//! session's p99 at 100 Hz (sent to decision received) at most twice that of the idle daemon;
//! memory under attack at most 200 MiB above idle, at most 600 MiB in all; everything dropped
//! counted by reason; afterwards all as before. Loads come over loopback from this process on the
//! same cores, at a lower priority than the daemon's and the rig's, and end by themselves.
//!
//!     cargo bench --bench overload

#[path = "support/attack.rs"]
mod attack;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use futures_util::stream::unfold;
use regimed::internals::teacher::{Animal, AnimalSettings, Regime, Simulation};
use regimed::internals::wire::control_client::ControlClient;
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{Counts, StartSessionRequest, SubscribeDecisionsRequest};
use support::{Daemon, get, resident_mib};

const CHANNELS: usize = 96;
const SECONDS: u64 = 20;
const SUBSCRIBERS: usize = 1000;
const GARBAGE: usize = 200;
const RATIO_MAX: f64 = 2.0;
const MIB_MAX: f64 = 600.0;
const ATTACK_MIB_MAX: f64 = 200.0;

fn counts(session: &str, sequence: u64, bins: usize) -> Counts {
    let value = |i: u64| u32::from((i * 7 + sequence * 13).is_multiple_of(6));
    Counts {
        session: session.into(),
        sequence,
        n_channels: CHANNELS as u32,
        bin_width_s: 0.01,
        counts: (0..(bins * CHANNELS) as u64).map(value).collect(),
        ..Counts::default()
    }
}

/// A second of each of two regimes in turn: events to be journalled.
fn changing() -> Vec<Vec<u32>> {
    let animal = Animal::new(1, 0, AnimalSettings::default());
    let tasks = [(Regime::LimitCycle, 2001), (Regime::StableFixedPoint, 2002)]
        .map(|(regime, seed)| animal.task(regime, seed));
    let mut simulation = Simulation::new(animal.clone(), tasks[0].clone(), 11);
    let mut counts = vec![0u16; animal.n_channels()];
    (0..600)
        .map(|bin| {
            if bin % 100 == 0 {
                simulation.begin(tasks[bin / 100 % 2].clone());
            }
            simulation.bin(&mut counts);
            counts.iter().map(|&c| u32::from(c)).collect()
        })
        .collect()
}

/// A library that makes every sync of a file wait.
fn slow_disk(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("slow.c"), folder.join("slow.so"));
    let text = "#include <unistd.h>\n#include <sys/syscall.h>\n\
                int fdatasync(int fd) { usleep(200000); return syscall(SYS_fdatasync, fd); }\n";
    std::fs::write(&source, text).expect("written");
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    made.is_ok_and(|s| s.success()).then_some(library)
}

/// The healthy rig: 100 Hz, on a thread of its own that nothing else of this process holds up;
/// times from sending to receiving, us.
fn healthy(address: String, from: u64, seconds: u64) -> Vec<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let measured = move || runtime.expect("a runtime").block_on(rig(address, from, seconds));
    std::thread::spawn(measured).join().expect("measured")
}

async fn rig(address: String, from: u64, seconds: u64) -> Vec<f64> {
    static PLAYED: LazyLock<Vec<Vec<u32>>> = LazyLock::new(changing);
    let played = &*PLAYED;
    let start = Instant::now();
    let bins = seconds * 100;
    let outbound = unfold(0, move |bin| async move {
        if bin == bins {
            return None;
        }
        let due = start + Duration::from_millis(10 * bin);
        tokio::time::sleep_until(due.into()).await;
        let message = Counts {
            counts: played[bin as usize % played.len()].clone(),
            // When it was sent, past the millisecond that a sleep may be late.
            rig_time_ns: start.elapsed().as_nanos() as i64 + 1,
            ..counts("healthy", from + bin, 0)
        };
        Some((message, bin + 1))
    });
    let mut client = IngestClient::connect(address).await.expect("connected");
    let mut replies = client.exchange(outbound).await.expect("accepted").into_inner();
    let mut times = Vec::new();
    while let Some(reply) = replies.message().await.expect("no error") {
        if let Some(Reply::Decision(d)) = reply.reply {
            times.push((start.elapsed().as_nanos() as i64 - d.rig_time_ns) as f64 * 1e-3);
        }
    }
    times.drain(..100.min(times.len()));
    assert_eq!(times.len() as u64 + 100, bins, "every bin is decided");
    times.sort_by(f64::total_cmp);
    times
}

/// Loads would come from other machines: here they leave the cores to the daemon and the healthy
/// rig where these want them.
fn gives_way() {
    let _ = rustix::process::nice(10);
}

fn quantile(times: &[f64], q: f64) -> f64 {
    times[(q * (times.len() - 1) as f64) as usize]
}

/// Sends as many bins as go over the wire until told to stop; how many.
async fn flood(address: String, going: Arc<AtomicBool>) -> u64 {
    let message = counts("flooded", 0, 20);
    let sent = going.clone();
    let outbound = unfold(0u64, move |n| {
        let (message, going) = (message.clone(), sent.clone());
        async move {
            if !going.load(Ordering::Relaxed) {
                return None;
            }
            // 20,000 bins a second in even steps: ten times what a session of this size is made
            // for, and more than it can do beside the others.
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((Counts { sequence: n * 20, ..message }, n + 1))
        }
    });
    let mut client = IngestClient::connect(address).await.expect("connected");
    let summary = client.send_counts(outbound).await.expect("accepted").into_inner();
    let refused: u64 = summary.rejections.iter().map(|r| r.messages).sum();
    summary.bins_accepted + 20 * refused
}

/// One that subscribes and reads, or does not; decisions read.
async fn subscriber(address: String, reads: bool, going: Arc<AtomicBool>) -> u64 {
    let mut client = RegimesClient::connect(address).await.expect("connected");
    let request = SubscribeDecisionsRequest { session: "flooded".into(), every: 100 };
    let mut stream = client.subscribe_decisions(request).await.expect("subscribed").into_inner();
    let mut read = 0;
    while going.load(Ordering::Relaxed) {
        if reads {
            match tokio::time::timeout(Duration::from_millis(500), stream.message()).await {
                Ok(Ok(Some(_))) => read += 1,
                Err(_) => {}
                Ok(_) => break,
            }
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    read
}

/// Connections that send garbage to every port, over and over; how many.
fn garbage(ports: &[String], going: &AtomicBool) -> u64 {
    let mut made = 0u64;
    while going.load(Ordering::Relaxed) {
        for (i, port) in (0..GARBAGE).zip(ports.iter().cycle()) {
            let Ok(mut stream) = TcpStream::connect(port) else { continue };
            made += 1;
            let _ = stream.set_read_timeout(Some(Duration::from_millis(2)));
            let bytes: Vec<u8> =
                (0..2000u32).map(|b| (b * 31 + i as u32 * 7 + b * b) as u8).collect();
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut [0; 64]);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    made
}

/// Parts of messages, ever again, on every method and on many connections.
async fn never_whole(grpc: String, going: Arc<AtomicBool>) -> u64 {
    let mut calls = 0;
    while going.load(Ordering::Relaxed) {
        let mut open = Vec::new();
        for method in attack::METHODS {
            open.extend(attack::parts(&grpc, method, 100).await);
        }
        for _ in 0..10 {
            open.extend(attack::parts(&grpc, "/regimed.v1.Ingest/SendCounts", 20).await);
        }
        calls += open.len() as u64;
        tokio::time::sleep(Duration::from_secs(2)).await;
        open.iter().for_each(tokio::task::JoinHandle::abort);
    }
    calls
}

/// Messages that name one channel a million times, and tables of sessions that cannot be.
async fn costly(grpc: String, going: Arc<AtomicBool>) -> u64 {
    let mut ingest = IngestClient::connect(grpc.clone()).await.expect("connected");
    let mut control = ControlClient::connect(grpc).await.expect("connected");
    let mut sent = 0;
    while going.load(Ordering::Relaxed) {
        let masked = Counts { masked_channels: vec![0; 1_000_000], ..counts("flooded", sent, 20) };
        let _ = ingest.send_counts(futures_util::stream::iter([masked])).await;
        let config = "[[session]]\nname = \"no\"\nmodel = \"builtin\"\nreadout = \"0\"\n\
                      [session.replay]\nfile = \"/dev/null\"\nspeed = 1e-300\n";
        let _ = control.start_session(StartSessionRequest { config: config.into() }).await;
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sent
}

/// Frames and subscriptions without end, and silent or nearly silent connections.
fn peers_without_end(ports: &[String], going: &AtomicBool) -> u64 {
    let (frames, topics) = (attack::EMPTY_FRAMES.repeat(1 << 19), attack::subscriptions(200_000));
    let fragments: [&[u8]; 4] =
        [b"", b"G", b"GET / HTTP/1.1\r\nHost: lo", b"PRI * HTTP/2.0\r\n\r\nSM"];
    let mut made = 0;
    let mut held = Vec::new();
    while going.load(Ordering::Relaxed) {
        let (mut push, mut sub) = (attack::peer(&ports[2], "PUSH"), attack::peer(&ports[3], "SUB"));
        attack::pour(&mut push, &frames, 8);
        attack::pour(&mut sub, &topics, 1);
        for (i, port) in (0..400).zip(ports.iter().cycle()) {
            let Ok(mut stream) = TcpStream::connect(port) else { continue };
            let _ = stream.write_all(fragments[i % fragments.len()]);
            held.push(stream);
        }
        made += 402;
        held.drain(..held.len().saturating_sub(2000));
        std::thread::sleep(Duration::from_millis(500));
    }
    made
}

/// Every attack at once; what is told of it.
fn attacked(
    runtime: &tokio::runtime::Runtime,
    (grpc, ports): (&str, &[String]),
    measure: impl FnOnce() -> Vec<f64>,
) -> (Vec<f64>, String) {
    let going = Arc::new(AtomicBool::new(true));
    let parts = runtime.spawn(never_whole(grpc.to_owned(), going.clone()));
    let costly = runtime.spawn(costly(grpc.to_owned(), going.clone()));
    let (all, on) = (ports.to_vec(), going.clone());
    let peers = std::thread::spawn(move || {
        gives_way();
        peers_without_end(&all, &on)
    });
    std::thread::sleep(Duration::from_secs(2));
    let times = measure();
    going.store(false, Ordering::Relaxed);
    let parts = runtime.block_on(parts).expect("attacked");
    let costly = runtime.block_on(costly).expect("attacked");
    let peers = peers.join().expect("attacked");
    let summary = format!(
        "{parts} calls with parts of messages, {costly} costly ones, {peers} peers without end"
    );
    (times, summary)
}

/// Most resident memory of a process while `going`, MiB.
fn watch_memory(pid: u32, going: Arc<AtomicBool>) -> std::thread::JoinHandle<f64> {
    std::thread::spawn(move || {
        let mut most: f64 = 0.0;
        while going.load(Ordering::Relaxed) {
            most = most.max(resident_mib(pid));
            std::thread::sleep(Duration::from_millis(50));
        }
        most
    })
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let session = |name: &str| {
        format!("[[session]]\nname = \"{name}\"\nmodel = \"builtin\"\nreadout = \"0\"\n")
    };
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [zeromq]\npull = \"127.0.0.1:0\"\npublish = \"127.0.0.1:0\"\n\
         [journal]\nfolder = \"{}\"\n{}{}",
        folder.path().join("journal").display(),
        session("healthy"),
        session("flooded")
    );
    let daemon = Daemon::start(folder.path(), &config);
    let pid = daemon.child.id();
    let grpc = format!("http://{}", daemon.address("grpc"));
    let http = daemon.address("http");
    let ports: Vec<String> =
        ["grpc", "http", "zeromq_pull", "zeromq_publish"].map(|p| daemon.address(p)).to_vec();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(gives_way)
        .enable_all()
        .build()
        .expect("a runtime");
    let _guard = runtime.enter();
    let series = |name: &str| -> Vec<String> {
        let text = get(&http, "/metrics");
        let of = |l: &&str| l.starts_with(name) && !l.ends_with(" 0");
        text.lines().filter(of).map(str::to_owned).collect()
    };
    let idle = healthy(grpc.clone(), 0, SECONDS);
    let idle_mib = resident_mib(pid);
    let idle_p99 = quantile(&idle, 0.99);
    println!(
        "idle           p50 {:>6.0} us, p99 {idle_p99:>6.0} us, {idle_mib:.0} MiB",
        quantile(&idle, 0.5)
    );
    let mut from = 1_000_000;
    let mut worst_mib: f64 = 0.0;
    let loads: [(&str, bool, usize, bool); 4] = [
        ("flood", true, 0, false),
        ("subscribers", true, SUBSCRIBERS, false),
        ("garbage", false, 0, true),
        ("all at once", true, SUBSCRIBERS, true),
    ];
    for (name, floods, subscribers, garbles) in loads {
        let going = Arc::new(AtomicBool::new(true));
        let readers: Vec<_> = (0..subscribers)
            .map(|i| runtime.spawn(subscriber(grpc.clone(), i % 2 == 0, going.clone())))
            .collect();
        let flooding = floods.then(|| runtime.spawn(flood(grpc.clone(), going.clone())));
        let garbling = garbles.then(|| {
            let (ports, going) = (ports.clone(), going.clone());
            std::thread::spawn(move || {
                gives_way();
                garbage(&ports, &going)
            })
        });
        std::thread::sleep(Duration::from_secs(2));
        let watching = watch_memory(pid, going.clone());
        let times = healthy(grpc.clone(), from, SECONDS);
        from += 1_000_000;
        going.store(false, Ordering::Relaxed);
        let sent = flooding.map_or(0, |f| runtime.block_on(f).expect("flooded"));
        let read: u64 = readers.into_iter().map(|r| runtime.block_on(r).expect("read")).sum();
        let made = garbling.map_or(0, |g| g.join().expect("garbled"));
        let most = watching.join().expect("watched");
        worst_mib = worst_mib.max(most);
        let p99 = quantile(&times, 0.99);
        println!(
            "{name:<14} p50 {:>6.0} us, p99 {p99:>6.0} us, {most:.0} MiB | p99 {:.2} times idle, \
             budget {RATIO_MAX}, ratio {:.2} | \
             {sent} bins flooded, {read} decisions read, {made} connections of garbage",
            quantile(&times, 0.5),
            p99 / idle_p99,
            p99 / idle_p99 / RATIO_MAX
        );
    }
    let watched = Arc::new(AtomicBool::new(true));
    let watching = watch_memory(pid, watched.clone());
    let before_mib = resident_mib(pid);
    let measured = || healthy(grpc.clone(), from, SECONDS);
    let (times, summary) = attacked(&runtime, (&grpc, &ports), measured);
    from += 1_000_000;
    watched.store(false, Ordering::Relaxed);
    let most = watching.join().expect("watched");
    worst_mib = worst_mib.max(most);
    let (p99, above) = (quantile(&times, 0.99), most - idle_mib);
    println!(
        "every attack   p50 {:>6.0} us, p99 {p99:>6.0} us, {most:.0} MiB (before {before_mib:.0}) \
         | p99 {:.2} times idle, \
         budget {RATIO_MAX}, ratio {:.2} | {above:.0} MiB above idle, budget {ATTACK_MIB_MAX}, \
         ratio {:.2} | {summary}",
        quantile(&times, 0.5),
        p99 / idle_p99,
        p99 / idle_p99 / RATIO_MAX,
        above / ATTACK_MIB_MAX
    );
    println!(
        "memory         {worst_mib:.0} MiB at most, budget {MIB_MAX}, ratio {:.2}",
        worst_mib / MIB_MAX
    );
    for name in [
        "regimed_bins_rejected_total",
        "regimed_decisions_lost_total",
        "regimed_connections_cut_total",
        "regimed_messages_rejected_total",
        "regimed_messages_given_up_total",
        "regimed_journal_dropped_total",
    ] {
        for line in series(name) {
            println!("counted        {line}");
        }
    }
    // And afterwards all is as before.
    std::thread::sleep(Duration::from_secs(7));
    let after = healthy(grpc.clone(), from, 5);
    println!(
        "afterwards     p50 {:>6.0} us, p99 {:>6.0} us, {:.0} MiB",
        quantile(&after, 0.5),
        quantile(&after, 0.99),
        resident_mib(pid)
    );
    let health = get(&http, "/health");
    assert!(!health.contains("falling_behind") && !health.contains("stuck"), "{health}");
    let Some(library) = slow_disk(folder.path()) else {
        println!("slow disk      not measured: no cc here");
        return;
    };
    let slow_folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_regimed"));
    command.env("LD_PRELOAD", library);
    let journal = slow_folder.path().join("journal");
    let here = folder.path().join("journal").display().to_string();
    let config = config.replace(&here, &journal.display().to_string());
    let slow = Daemon::start_by(slow_folder.path(), &config, command);
    let times = healthy(format!("http://{}", slow.address("grpc")), 0, SECONDS);
    let p99 = quantile(&times, 0.99);
    let text = get(&slow.address("http"), "/metrics");
    let of = |name: &str| -> f64 {
        let line = text.lines().find(|l| l.starts_with(name) && l.contains("\"journal\""));
        line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(f64::NAN)
    };
    println!(
        "slow disk      p50 {:>6.0} us, p99 {p99:>6.0} us | p99 {:.2} times idle, budget \
         {RATIO_MAX}, ratio {:.2} | \
         {:.0} records kept, {:.0} ms for a group of them",
        quantile(&times, 0.5),
        p99 / idle_p99,
        p99 / idle_p99 / RATIO_MAX,
        of("regimed_journal_records_total"),
        1e3 * of("regimed_journal_commit_seconds_sum") / of("regimed_journal_commit_seconds_count")
    );
}
