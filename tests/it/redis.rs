//! Redis as a peer: a BRAND graph's streams, and the bus out. A Debian `redis-server` and a Python
//! publisher.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::peer::{Rig, python};
use crate::rig::{
    Daemon, PATIENCE, arg, binary, config, decisions_until, exchange, message, recording, same,
    skipped, spikes,
};
use crate::wait;

/// How a server's start went.
enum Started {
    Running(Child),
    Ended,
    Absent,
}

/// A server of its own.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        // Another process may take a port that was free a moment ago: then the next one.
        for _ in 0..10 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = free.local_addr().expect("bound").port();
            drop(free);
            match Self::run(port, folder.path()) {
                Started::Running(child) => return Some(Self { child, port, folder }),
                Started::Ended => {}
                Started::Absent => {
                    skipped(test, "redis-server is not here");
                    return None;
                }
            }
        }
        panic!("redis-server finds no port");
    }

    /// Starts a server and waits until it answers over its own Unix socket, which it opens after
    /// the port.
    fn run(port: u16, folder: &std::path::Path) -> Started {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--appendonly", "yes"])
            .args(["--unixsocket", arg(&folder.join("r.sock")), "--dir", arg(folder)])
            .stdout(Stdio::null())
            .spawn();
        let Ok(mut child) = child else { return Started::Absent };
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(folder.join("r.sock")).is_err() {
            if child.try_wait().expect("waiting").is_some() {
                return Started::Ended;
            }
            assert!(began.elapsed() < PATIENCE, "redis-server does not answer");
            wait::look_again_here();
        }
        Started::Running(child)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn end(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }

    fn begin_again(&mut self) {
        let Started::Running(child) = Self::run(self.port, self.folder.path()) else {
            panic!("it ran before");
        };
        self.child = child;
    }
}

impl Redis {
    /// What the server answers to a command, over its Unix socket.
    fn ask(&self, command: &[&str]) -> String {
        let socket = self.folder.path().join("r.sock");
        let out = Command::new("redis-cli").args(["-s", arg(&socket)]).args(command).output();
        String::from_utf8_lossy(&out.expect("redis-cli").stdout).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peers(test: &str) -> Option<(String, Redis)> {
    Some((python(test, &["redis", "numpy"])?, Redis::start(test)?))
}

fn brand(url: &str, more: &str) -> String {
    config("", &["rig"])
        + &format!("[session.brand]\nredis = \"{url}\"\noutput_stream = \"regimes\"\n{more}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn brands_stream_gives_the_decisions_of_its_bins_and_gets_them_back() {
    let Some((python, mut redis)) = peers("redis::brand") else { return };
    let daemon = Daemon::start(&brand(&redis.url(), ""));
    daemon.wait_metric("regimed_source_connected", "rig", 1.0);
    let folder = tempfile::tempdir().expect("a folder");
    let bins = spikes(300);
    let file = recording(folder.path(), &bins);
    let file = arg(&file);
    let mut rig = Rig::start(&python, "brand", &json!({"url": redis.url()}));
    let heard = decisions_until(&daemon, "rig", 299).await;
    rig.ask("play", &json!({"file": file, "bins": 300, "speed": 4}));
    let heard = heard.await.expect("joined");
    let direct = Daemon::start(&config("", &["rig"]));
    let messages: Vec<_> = (0..).zip(&bins).map(|(i, c)| message("rig", i, c)).collect();
    let (truth, _) = exchange(&direct, futures_util::stream::iter(messages)).await;
    same(&heard, &truth);
    let back = rig.ask("read_back", &json!({"stream": "regimes", "count": 300}));
    let back = back.as_array().expect("entries");
    assert_eq!(back.len(), 300);
    for (entry, d) in back.iter().zip(&heard) {
        assert_eq!(entry["i"], d.sequence);
        assert_eq!(entry["sync"]["nsp_idx"], d.sequence * 10);
        assert_eq!(
            (entry["label"].as_str(), &entry["ts"]),
            (Some(d.regime.as_str()), &json!(true))
        );
        let posterior: Vec<f32> =
            serde_json::from_value(entry["posterior"].clone()).expect("numbers");
        assert_eq!(posterior, d.posterior);
    }
    daemon.check_accounts("rig").await;
    // Garbage, losses, a graph that is started again, ten times the rate.
    rig.ask("garbage", &json!({}));
    daemon.wait_metric("regimed_source_messages_total", "outcome=\"garbled\"", 2.0);
    rig.ask("lose", &json!({"bins": 7}));
    rig.ask("play", &json!({"file": file, "bins": 50, "speed": 10}));
    daemon.wait_metric("regimed_bins_missing_total", "rig", 7.0);
    assert_eq!(daemon.metric("regimed_source_messages_lost_total", "rig"), 7.0);
    rig.ask("restart", &json!({}));
    rig.ask("play", &json!({"file": file, "bins": 50, "speed": 0}));
    daemon.wait_metric("regimed_recording_starts_total", "rig", 2.0);
    // Nothing comes: no gap shows it, the watchdog does. Then the graph's clock is an hour ahead.
    daemon.wait_metric("regimed_source_stalled", "rig", 1.0);
    rig.ask(
        "play",
        &json!({"file": file, "bins": 50, "speed": 1, "ahead_ns": 3_600_000_000_000u64}),
    );
    daemon.wait_metric("regimed_clock_jumps_total", "rig", 1.0);
    assert_eq!(daemon.metric("regimed_source_stalled", "rig"), 0.0);
    // Redis goes away and comes back: the stream goes on from where it was read.
    let before = daemon.metric("regimed_bins_total", "rig");
    daemon.wait_metric("regimed_bins_total", "rig", 450.0);
    assert!(before <= 450.0);
    redis.end();
    daemon.wait_rig_lost("rig");
    redis.begin_again();
    let mut rig = Rig::start(&python, "brand", &json!({"url": redis.url()}));
    rig.ask("lose", &json!({"bins": 100}));
    rig.ask("play", &json!({"file": file, "bins": 50, "speed": 4}));
    daemon.wait_metric("regimed_bins_total", "rig", 500.0);
    assert_eq!(daemon.metric("regimed_source_messages_lost_total", "rig"), 7.0);
    let accounts = daemon.check_accounts("rig").await;
    // What was garbage is among the bins received, and rejected.
    assert_eq!(accounts.bins_rejected, 2, "{accounts:?}");
}

#[test]
fn every_dtype_of_a_graph_is_read() {
    let Some((python, redis)) = peers("redis::dtypes") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(20));
    for (i, dtype) in ["int16", "int32", "float32", "float64"].iter().enumerate() {
        let stream = format!("binned_{i}");
        let more = format!("stream = \"{stream}\"\ndtype = \"{dtype}\"\ncrossings_first = true\n");
        let daemon = Daemon::start(&brand(&redis.url(), &more));
        daemon.wait_metric("regimed_source_connected", "rig", 1.0);
        let mut rig = Rig::start(&python, "brand", &json!({"url": redis.url(), "stream": stream}));
        rig.ask("play", &json!({"file": arg(&file), "dtype": dtype, "power": true}));
        daemon.wait_metric("regimed_bins_total", "rig", 20.0);
        assert_eq!(daemon.metric("regimed_bins_rejected_total", "rig"), 0.0);
    }
}

/// A node as a supervisor starts it.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_takes_its_parameters_from_the_graph_and_reports_its_state() {
    let Some((python, redis)) = peers("redis::node") else { return };
    let mut rig = Rig::start(&python, "brand", &json!({"url": redis.url()}));
    let node = |name: &str, more: Value| {
        let mut parameters = json!({
            "model": "builtin", "readout": "0", "channels": 96, "bin_ms": 10,
            "input_stream": "binned_spikes",
            "output_stream": "regimes", "grpc": {"listen": ""}, "http": {"listen": ""},
            "zeromq": {"pull": "", "publish": ""}});
        if let (Some(to), Some(from)) = (parameters.as_object_mut(), more.as_object()) {
            to.extend(from.clone());
        }
        let module = "../regimed";
        json!({"nickname": name, "name": "regimed", "module": module, "parameters": parameters})
    };
    let nodes = json!({
        "0": {"nickname": "bin", "name": "bin_multiple", "parameters": {}},
        "1": node("regime", json!({})),
        "2": node("wrong", json!({"channels": 5})),
    });
    rig.ask("graph", &json!({"nodes": nodes}));
    let start = |name: &str| {
        let socket = redis.folder.path().join("r.sock");
        let port = redis.port.to_string();
        let mut command = Command::new(binary());
        command.args(["brand", "-n", name, "-i", "127.0.0.1", "-p", &port, "-s", arg(&socket)]);
        Node(command.arg("--unknown-flag").stderr(Stdio::piped()).spawn().expect("it starts"))
    };
    let mut wait_state = |name: &str, state: &str| {
        let began = Instant::now();
        loop {
            let states = rig.ask("states", &json!({"nickname": name}));
            if states.as_array().expect("states").last() == Some(&json!(state)) {
                return states;
            }
            assert!(began.elapsed() < PATIENCE, "{name}: {states}, not {state}");
            wait::look_again_here();
        }
    };
    let mut good = start("regime");
    wait_state("regime", "NODE_READY");
    let bad = start("wrong");
    wait_state("wrong", "NODE_FATAL_ERROR");
    drop(bad);
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(100));
    let mut other = Rig::start(&python, "brand", &json!({"url": redis.url()}));
    // The node reads from the newest entry on.
    let reads = || redis.ask(&["CLIENT", "LIST"]).contains("cmd=xread");
    wait::until(reads, || redis.ask(&["CLIENT", "LIST"]));
    other.ask("play", &json!({"file": arg(&file), "speed": 4}));
    let back = other.ask("read_back", &json!({"stream": "regimes", "count": 100}));
    assert_eq!(back.as_array().expect("entries").len(), 100);
    let pid = good.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    let states = wait_state("regime", "NODE_SHUTDOWN");
    assert_eq!(states, json!(["initialized", "NODE_READY", "NODE_SHUTDOWN"]));
    assert!(good.0.wait().expect("ended").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_a_consumer_group_once_and_in_order_over_a_restart_of_redis() {
    let Some((python, mut redis)) = peers("redis::bus") else { return };
    let text = config("", &["rig"])
        + &format!(
            "probability_min = 0.4\ndwell_ms = 0\n[session.redis]\nurl = \"{}\"\nentries_max = \
             100\n",
            redis.url()
        );
    let daemon = Daemon::start(&text);
    let mut rig = Rig::start(&python, "brand", &json!({"url": redis.url()}));
    let (decisions, events) = ("regimed:rig:decisions", "regimed:rig:events");
    rig.ask("group", &json!({"stream": events, "group": "fleet"}));
    daemon.wait_metric("regimed_bus_out_connected", "rig", 1.0);
    let bins = spikes(900);
    let send = |from: usize, to: usize| {
        let messages: Vec<_> = (from..to).map(|i| message("rig", i as u64, &bins[i])).collect();
        exchange(&daemon, futures_util::stream::iter(messages))
    };
    let mut announced = send(0, 300).await.1;
    redis.end();
    // Events while Redis is away.
    announced.extend(send(300, 600).await.1);
    redis.begin_again();
    announced.extend(send(600, 900).await.1);
    assert!(announced.len() >= 3, "{} events", announced.len());
    let mut rig = Rig::start(&python, "brand", &json!({"url": redis.url()}));
    let read = |rig: &mut Rig, consumer: &str| {
        let n = announced.len();
        let with = json!({"stream": events, "group": "fleet", "consumer": consumer, "count": n});
        rig.ask("read_group", &with).as_array().expect("entries").clone()
    };
    let entries = read(&mut rig, "one");
    let numbers: Vec<_> = entries.iter().map(|e| e["event_sequence"].as_str()).collect();
    let expected: Vec<String> = announced.iter().map(|e| e.event_sequence.to_string()).collect();
    assert_eq!(numbers, expected.iter().map(|n| Some(n.as_str())).collect::<Vec<_>>());
    for (entry, event) in entries.iter().zip(&announced) {
        assert_eq!(
            (entry["to"].as_str(), entry["from"].as_str()),
            (Some(event.to.as_str()), Some(event.from.as_str()))
        );
    }
    daemon.wait_metric("regimed_bus_out_entries_total", "kind=\"event\"", announced.len() as f64);
    // Decisions are trimmed, and those of the outage are counted as lost.
    daemon.wait_metric("regimed_bus_out_entries_total", "kind=\"decision\"", 300.0);
    let length = rig.ask("length", &json!({"stream": decisions})).as_u64().expect("a number");
    assert!((1..=300).contains(&length), "{length} decisions kept");
}

/// One bin of a graph, under an id of its own.
async fn bin(
    redis: &mut ::redis::aio::MultiplexedConnection,
    id: &str,
    i: u64,
    fields: &[(&str, &[u8])],
) {
    let mut command = ::redis::cmd("XADD");
    command.arg("binned_spikes").arg(id).arg("i").arg(i.to_le_bytes().as_slice());
    for (name, value) in fields {
        command.arg(*name).arg(*value);
    }
    let () = command.query_async(redis).await.expect("added");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_or_was_emptied_is_told_once_and_read_on() {
    let Some(server) = Redis::start("redis::refuses") else { return };
    let client = ::redis::Client::open(server.url()).expect("an address");
    let began = Instant::now();
    let mut redis = loop {
        match client.get_multiplexed_async_connection().await {
            Ok(redis) => break redis,
            // Not quite there yet.
            Err(e) => assert!(began.elapsed() < PATIENCE, "{e}"),
        }
        wait::look_again().await;
    };
    // Something else under the stream's name.
    let () = ::redis::cmd("SET")
        .arg("binned_spikes")
        .arg("x")
        .query_async(&mut redis)
        .await
        .expect("set");
    let daemon = Daemon::start(&brand(&server.url(), ""));
    let began = Instant::now();
    while !daemon.log().contains("WRONGTYPE") {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        wait::look_again().await;
    }
    // It is asked again, and again it refuses.
    let refusals = |stats: &str| -> u64 {
        let stream = stats.lines().filter(|line| line.starts_with("cmdstat_x"));
        let failed = stream.filter_map(|line| line.split("failed_calls=").nth(1));
        failed.filter_map(|n| n.trim().parse::<u64>().ok()).sum()
    };
    let stats = || server.ask(&["INFO", "commandstats"]);
    wait::until(|| refusals(&stats()) >= 3, stats);
    assert_eq!(daemon.log().matches("WRONGTYPE").count(), 1, "{}", daemon.log());
    let () =
        ::redis::cmd("DEL").arg("binned_spikes").query_async(&mut redis).await.expect("deleted");
    let counts = vec![1u8; 96];
    let began = Instant::now();
    let mut i = 0;
    // The reader begins at the newest: bins are added until one is heard.
    while daemon.metric("regimed_bins_total", "rig") < 1.0 {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        bin(&mut redis, "*", i, &[("samples", &counts)]).await;
        i += 1;
        wait::look_again().await;
    }
    // Emptied, and filled again under smaller ids.
    let heard = daemon.metric("regimed_bins_total", "rig");
    let () =
        ::redis::cmd("DEL").arg("binned_spikes").query_async(&mut redis).await.expect("deleted");
    let began = Instant::now();
    while !daemon.log().contains("was emptied") {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        wait::look_again().await;
    }
    for n in 0..20 {
        bin(&mut redis, &format!("1-{}", n + 1), i + n, &[("samples", &counts)]).await;
    }
    daemon.wait_metric("regimed_bins_total", "rig", heard + 20.0);
    // What is refused is received and rejected, its reason told once.
    let before = daemon.log().matches("an entry was refused").count();
    for n in 0..10 {
        bin(&mut redis, &format!("2-{}", n + 1), i + 20 + n, &[("samples", &counts[..5])]).await;
    }
    daemon.wait_metric("regimed_bins_rejected_total", "rig", 10.0);
    daemon.check_accounts("rig").await;
    assert_eq!(
        daemon.log().matches("an entry was refused").count(),
        before + 1,
        "{}",
        daemon.log()
    );
    // Counters that are none are not kept.
    let huge = vec![b'x'; 1 << 20];
    let began = Instant::now();
    let mut n = 0;
    // What is told is told once a second at most.
    while !daemon.log().contains("4096 bytes in 'sync'") {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        let id = format!("3-{}", n + 1);
        bin(&mut redis, &id, i + 20 + n, &[("samples", &counts), ("sync", &huge)]).await;
        n += 1;
        wait::look_again().await;
    }
    // The bins themselves are taken.
    daemon.wait_metric("regimed_bins_total", "rig", heard + 20.0 + n as f64);
}
