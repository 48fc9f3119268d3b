//! What nobody should do to a daemon, done to it: nothing outside stops, freezes or bloats it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use regimed::internals::recording::{Trial, in_bins};
use regimed::internals::wire::control_client::ControlClient;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::journal_record::What;
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{
    Counts, ListSessionsRequest, StartSessionRequest, StopSessionRequest, SwapModelRequest,
};
use tonic::transport::Endpoint;
use zeromq::{Socket, SocketRecv};

use crate::attack::{EMPTY_FRAMES, METHODS, address, parts, peer, pour, subscriptions};
use crate::rig::{Daemon, PATIENCE, arg, checkout, config, exchange, message, spikes};
use crate::wait;

/// Memory that an attack may take, MiB.
const MIB_MAX: f64 = 100.0;

/// A session takes a bin and decides it.
async fn is_well(daemon: &Daemon, sequence: u64) {
    let one = message("rig", sequence, &spikes(1)[0]);
    let (decisions, _) = exchange(daemon, futures_util::stream::iter([one])).await;
    assert_eq!(decisions.len(), 1);
}

/// Waits until a newcomer is let in over gRPC and HTTP.
async fn is_let_in(daemon: &Daemon) {
    let began = Instant::now();
    loop {
        let grpc = match RegimesClient::connect(daemon.grpc.clone()).await {
            Ok(mut client) => client.list_sessions(ListSessionsRequest {}).await.is_ok(),
            Err(_) => false,
        };
        if grpc && daemon.try_get("/metrics").is_ok_and(|(code, _)| code == 200) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no newcomer is let in: {}", daemon.log());
        wait::look_again().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_become_whole_take_little_memory_and_no_place_for_long() {
    let daemon = Daemon::start(&config("", &["rig"]));
    is_well(&daemon, 0).await;
    let idle = daemon.resident_mib();
    let mut calls = Vec::new();
    for method in METHODS {
        calls.extend(parts(&daemon.grpc, method, 300).await);
    }
    for _ in 0..20 {
        calls.extend(parts(&daemon.grpc, "/regimed.v1.Ingest/SendCounts", 20).await);
    }
    let began = Instant::now();
    let mut most = idle;
    while began.elapsed() < Duration::from_secs(3) {
        most = most.max(daemon.resident_mib());
        wait::pace(Duration::from_millis(50)).await;
    }
    assert!(most - idle < MIB_MAX, "{idle} MiB idle, {most} under attack");
    // Beside all that a rig's own bins are taken.
    for i in 1..50 {
        is_well(&daemon, i).await;
    }
    assert!(daemon.metric("regimed_messages_given_up_total", "no_room") > 0.0);
    daemon.wait_metric("regimed_messages_given_up_total", "not_whole", 1.0);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_read_nothing_are_not_written_to() {
    let daemon = Daemon::start(&config("[limits]\nqueue_bins = 8192\n", &["rig"]));
    is_well(&daemon, 0).await;
    let idle = daemon.resident_mib();
    // Calls with windows as large as there are, on connections that are not read.
    let mut silent = Vec::new();
    for _ in 0..10 {
        let endpoint = Endpoint::from_shared(daemon.grpc.clone()).expect("an endpoint");
        let channel = endpoint
            .initial_stream_window_size(Some((1 << 31) - 1))
            .initial_connection_window_size(Some((1 << 31) - 1))
            .connect()
            .await
            .expect("connected");
        let mut client = regimed::internals::wire::regimes_client::RegimesClient::new(channel);
        for _ in 0..50 {
            let request = regimed::internals::wire::SubscribeDecisionsRequest {
                session: "rig".into(),
                every: 1,
            };
            let stream = client.subscribe_decisions(request).await.expect("subscribed");
            silent.push(stream.into_inner());
        }
    }
    let counts = spikes(1);
    let bins = (1..2000).map(|i| message("rig", i, &counts[0]));
    let (decisions, _) =
        exchange(&daemon, futures_util::stream::iter(bins.collect::<Vec<_>>())).await;
    assert!(decisions.len() > 1000);
    let most = daemon.resident_mib();
    assert!(most - idle < 2.0 * MIB_MAX, "{idle} MiB idle, {most} with 500 silent subscribers");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_and_subscriptions_without_end_are_cut_and_cost_others_nothing() {
    let daemon = Daemon::start(&config("", &["rig"]));
    is_well(&daemon, 0).await;
    let idle = daemon.resident_mib();
    // Empty frames of one message, 24 MiB of them.
    let mut push = peer(&daemon.pull, "PUSH");
    let done = pour(&mut push, &EMPTY_FRAMES.repeat(1 << 19), 24);
    assert!(!done, "the peer is cut");
    daemon.wait_metric("regimed_connections_cut_total", "too_many_frames", 1.0);
    // Two hundred thousand subscriptions, and as often the same one.
    let mut subscriber = peer(&daemon.publish, "SUB");
    pour(&mut subscriber, &subscriptions(200_000), 1);
    daemon.wait_metric("regimed_connections_cut_total", "too_many_subscriptions", 1.0);
    let mut again = peer(&daemon.publish, "SUB");
    let again = std::thread::spawn(move || pour(&mut again, &[0u8, 2, 1, b'r'].repeat(1 << 12), 4));
    // A name that is another's.
    let mut named = TcpStream::connect(address(&daemon.publish)).expect("open");
    let mut hello = vec![0u8; 64];
    (hello[0], hello[9], hello[10]) = (0xff, 0x7f, 3);
    hello[12..16].copy_from_slice(b"NULL");
    hello.extend(b"\x04\x15\x05READY\x08Identity\x00\x00\x00\x02me");
    named.write_all(&hello).expect("sent");
    daemon.wait_metric("regimed_connections_cut_total", "identity", 1.0);
    let most = daemon.resident_mib();
    assert!(most - idle < MIB_MAX, "{idle} MiB idle, {most} under attack");
    // Another subscriber hears everything.
    let mut healthy = zeromq::SubSocket::new();
    healthy.connect(&daemon.publish).await.expect("connected");
    healthy.subscribe("rig/decision").await.expect("subscribed");
    let counts = spikes(1);
    let some = |from: u64, n: u64| {
        let bins: Vec<Counts> = (from..from + n).map(|i| message("rig", i, &counts[0])).collect();
        futures_util::stream::iter(bins)
    };
    // A subscription takes effect some time after it was made: bins are sent until one is received.
    let mut first = 1;
    let look = Duration::from_millis(100);
    while tokio::time::timeout(look, healthy.recv()).await.is_err() {
        exchange(&daemon, some(first, 1)).await;
        first += 1;
        assert!(first < 300, "nothing is received: {}", daemon.log());
    }
    while tokio::time::timeout(look, healthy.recv()).await.is_ok() {}
    let (decisions, _) = exchange(&daemon, some(first, 500)).await;
    assert_eq!(decisions.len(), 500);
    for i in first..first + 500 {
        let heard = tokio::time::timeout(PATIENCE, healthy.recv()).await.expect("in time");
        let heard = heard.expect("a message");
        let decision =
            regimed::internals::wire::Decision::decode(heard.get(1).expect("a body").as_ref());
        assert_eq!(decision.expect("a decision").sequence, i);
    }
    let _ = again.join();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_a_little_are_cut_and_newcomers_let_in() {
    let limits = "[limits]\nconnections_max = 20\nconnections_per_peer_max = 20\n";
    let daemon = Daemon::start(&config(limits, &["rig"]));
    let fragments: [&[u8]; 4] =
        [b"", b"G", b"GET /metrics HTTP/1.1\r\nHost: lo", b"PRI * HTTP/2.0\r\n\r\nSM"];
    let ports = [&daemon.grpc, &daemon.pull, &daemon.publish].map(|e| address(e));
    let mut held = Vec::new();
    for port in ports.iter().chain([&daemon.http]) {
        for i in 0..20 {
            let mut stream = TcpStream::connect(port).expect("the system takes it");
            let _ = stream.write_all(fragments[i % fragments.len()]);
            held.push(stream);
        }
        // What is cut at once leaves room for those that say nothing at all.
        wait::pace(Duration::from_millis(300)).await;
        for _ in 0..20 {
            held.push(TcpStream::connect(port).expect("the system takes it"));
        }
    }
    // Whoever has something to say is let in on every port before long.
    is_let_in(&daemon).await;
    is_well(&daemon, 0).await;
    let mut push = zeromq::PushSocket::new();
    push.connect(&daemon.pull).await.expect("connected");
    let one = message("rig", 1, &spikes(1)[0]).encode_to_vec();
    zeromq::SocketSend::send(&mut push, Bytes::from(one).into()).await.expect("sent");
    daemon.wait_metric("regimed_bins_received_total", "rig", 2.0);
    assert!(daemon.metric("regimed_connections_cut_total", "made_room") >= 1.0);
    // And who has said no more is gone after a while.
    let began = Instant::now();
    for stream in &mut held {
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        loop {
            match stream.read(&mut [0; 256]) {
                Ok(0) => break,
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
                _ => assert!(began.elapsed() < PATIENCE, "it is still open: {}", daemon.log()),
            }
        }
    }
}

/// How HTTP/2 begins, and settings that are as they are.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A question to which HTTP/2 must answer at once.
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\x0012345678";

/// Says `first`, then `again` until the other end takes no more, and reads nothing.
fn flood(port: &str, first: &[u8], again: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(port).expect("the system takes it");
    let _ = stream.write_all(first);
    stream.set_write_timeout(Some(Duration::from_millis(50))).expect("set");
    let many = again.repeat(1000);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) && stream.write_all(&many).is_ok() {}
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_take_nothing_end_when_their_place_is_given_away() {
    let limits = "[limits]\nconnections_max = 10\nconnections_per_peer_max = 10\n";
    let daemon = Daemon::start(&config(limits, &["rig"]));
    is_well(&daemon, 0).await;
    let before = daemon.metric("process_open_fds", "");
    let (grpc, http) = (address(&daemon.grpc), daemon.http.clone());
    let page = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for round in 1..4 {
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(flood(&grpc, HTTP2, PING));
            held.push(flood(&http, b"", page));
        }
        is_let_in(&daemon).await;
        is_well(&daemon, round).await;
        std::mem::forget(held);
    }
    // Those whose place was given away have ended: what is open has the bound that it should have.
    let open = daemon.metric("process_open_fds", "") - before;
    assert!(open <= 25.0, "{open} more descriptors are open: {}", daemon.log());
    // The port of HTTP/1 speaks nothing else.
    let mut other = TcpStream::connect(&http).expect("the system takes it");
    other.write_all(HTTP2).expect("sent");
    other.set_read_timeout(Some(PATIENCE)).expect("set");
    assert!(matches!(other.read(&mut [0; 64]), Ok(0) | Err(_)), "it is answered");
    assert!(daemon.metric("regimed_connections_cut_total", "http2") >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_anybody_may_make_keep_no_place() {
    let limits = "[limits]\nconnections_max = 5\nconnections_per_peer_max = 5\n";
    let daemon = Daemon::start(&config(limits, &["rig"]));
    let mut watching = Vec::new();
    for _ in 0..5 {
        let channel = Endpoint::from_shared(daemon.grpc.clone()).expect("an endpoint");
        let channel = channel.connect().await.expect("connected");
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
        let mut stream = health.watch(request).await.expect("watched").into_inner();
        assert!(stream.message().await.expect("an answer").is_some());
        watching.push((health, stream));
    }
    is_let_in(&daemon).await;
    is_well(&daemon, 0).await;
    assert!(daemon.metric("regimed_connections_cut_total", "made_room") >= 1.0);
}

fn session(name: &str, more: &str) -> StartSessionRequest {
    let config =
        format!("[[session]]\nname = \"{name}\"\nmodel = \"builtin\"\nreadout = \"0\"\n{more}");
    StartSessionRequest { config }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_nothing_and_holds_up_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("journal");
    let text = config(&format!("[journal]\nfolder = \"{}\"\n", arg(&journal)), &["rig"]);
    let mut daemon = Daemon::start(&text);
    is_well(&daemon, 0).await;
    let pipe = folder.path().join("pipe.npz");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("made");
    assert!(
        Command::new("mkfifo").arg(model.join("model.json")).status().expect("mkfifo").success()
    );
    let small = folder.path().join("small.npz");
    let counts: Vec<u16> =
        spikes(200).iter().flat_map(|b| b[..4].iter().map(|&c| c as u16)).collect();
    let recording = regimed::internals::recording::Recording {
        path: small.clone(),
        n_channels: 4,
        bin_width_s: 0.01,
        trials: vec![Trial::unlabelled("s", in_bins(counts, 4))],
        continuous: true,
        ..regimed::internals::recording::Recording::default()
    };
    regimed::internals::recording::write(&recording, &small).expect("written");
    let mut control = ControlClient::connect(daemon.grpc.clone()).await.expect("connected");
    let replay = |file: &std::path::Path, more: &str| {
        session("other", &format!("[session.replay]\nfile = \"{}\"\n{more}", arg(file)))
    };
    let threads = |daemon: &Daemon| {
        std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("its threads").count()
    };
    let named = |daemon: &Daemon, name: &str| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("its threads");
        tasks
            .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok())
            .filter(|comm| comm.starts_with(name))
            .count()
    };
    let before = threads(&daemon);
    for _ in 0..10 {
        for (request, word) in [
            (replay(&pipe, ""), "found a pipe"),
            (replay(&small, ""), "96 channels"),
            (replay(&small, "speed = 1e-300\n"), "0.001"),
            (replay(&small, "speed = -1\n"), "speed"),
            (
                StartSessionRequest {
                    config: session("other", "").config.replace("builtin", arg(&model)),
                },
                "a pipe",
            ),
            (session("other", "[session.intan]\n"), "intan.electrodes"),
            (session("rig", ""), "'rig'"),
        ] {
            let refusal = control.start_session(request).await.expect_err("refused");
            assert!(refusal.message().contains(word), "expected {word}: {refusal}");
        }
    }
    assert_eq!(named(&daemon, "session-other"), 0);
    // Threads for files come and go; sessions' stay.
    assert!(threads(&daemon) < before + 20, "{before} threads, then {}", threads(&daemon));
    is_well(&daemon, 1).await;
    let listed =
        daemon.regimes().await.list_sessions(ListSessionsRequest {}).await.expect("listed");
    assert_eq!(listed.into_inner().sessions.len(), 1);
    assert!(daemon.terminate().success());
    let mut started = Vec::new();
    regimed::internals::journal::read(&journal, |record| {
        if matches!(record.what, Some(What::SessionStarted(_))) {
            started.push(record.session);
        }
    })
    .expect("a journal");
    assert_eq!(started, ["rig"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asked_for_is_done_though_it_has_left() {
    let daemon = Daemon::start(&config("", &["rig"]));
    is_well(&daemon, 0).await;
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["model.json", "model.safetensors"] {
        let from = checkout("models/default").join(file);
        std::fs::copy(from, folder.path().join(file)).expect("copied");
    }
    let card = folder.path().join("model.json");
    let text =
        std::fs::read_to_string(&card).expect("text").replace("\"limit_cycle\"", "\"rhythm\"");
    std::fs::write(&card, text).expect("written");
    let request = SwapModelRequest {
        session: "rig".into(),
        model: arg(folder.path()).into(),
        warm_up_s: 1.0,
        ..SwapModelRequest::default()
    };
    let grpc = daemon.grpc.clone();
    let asked = request.clone();
    let asking = tokio::spawn(async move {
        let mut control = ControlClient::connect(grpc).await.expect("connected");
        let _ = control.swap_model(asked).await;
    });
    wait::until(|| daemon.log().contains("warming up another model"), || daemon.log());
    asking.abort();
    // While it is warmed up, others are answered at once, and another swap is told to wait.
    let mut control = ControlClient::connect(daemon.grpc.clone()).await.expect("connected");
    let refusal = control.swap_model(request).await.expect_err("one at a time");
    assert!(refusal.message().contains("one swap at a time"), "{refusal}");
    let pause = regimed::internals::wire::PauseSessionRequest { session: "rig".into() };
    control.pause_session(pause).await.expect("paused");
    let began = Instant::now();
    while !daemon.session("rig").await.regime_names.contains(&"rhythm".to_owned()) {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        wait::look_again().await;
    }
    // One that would be warmed up for longer than the test waits does not hold up the end.
    let long = SwapModelRequest { session: "rig".into(), warm_up_s: 60.0, ..Default::default() };
    let swapping = tokio::spawn(async move { control.swap_model(long).await });
    let begun = |daemon: &Daemon| daemon.log().matches("warming up another model").count();
    wait::until(|| begun(&daemon) == 2, || daemon.log());
    let mut daemon = daemon;
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert!(swapping.await.expect("joined").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_started_and_stopped_at_once_is_there_or_it_is_not() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let counts = spikes(1);
    for round in 0..40 {
        let run = async |start: bool| {
            let mut control = ControlClient::connect(daemon.grpc.clone()).await.expect("connected");
            if start {
                let _ = control.start_session(session("other", "")).await;
            } else {
                let _ = control.stop_session(StopSessionRequest { session: "other".into() }).await;
            }
        };
        let (a, b, c, d): ((), (), (), ()) =
            tokio::join!(run(true), run(false), run(true), run(false));
        let _ = (a, b, c, d);
        let mut control = ControlClient::connect(daemon.grpc.clone()).await.expect("connected");
        let listed = daemon.regimes().await.list_sessions(ListSessionsRequest {}).await;
        let listed = listed.expect("listed").into_inner().sessions;
        let is_listed = listed.iter().any(|s| s.name == "other");
        let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
        let one = futures_util::stream::iter([message("other", round, &counts[0])]);
        let taken = client.send_counts(one).await.expect("answered").into_inner().bins_accepted;
        assert_eq!(taken, u64::from(is_listed), "round {round}");
        let stopped = control.stop_session(StopSessionRequest { session: "other".into() }).await;
        assert_eq!(stopped.is_ok(), is_listed, "round {round}: {stopped:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_tokens_again_and_one_bad_file_holds_up_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("bad"), "first-token-0123456789").expect("written");
    std::fs::write(file("good"), "good-token-0123456789").expect("written");
    let tables = format!(
        "[[token]]\nfile = \"{}\"\nroles = [\"read\"]\n[[token]]\nfile = \"{}\"\nroles = \
         [\"control\"]\n",
        arg(&file("bad")),
        arg(&file("good"))
    );
    let daemon = Daemon::start(&config(&tables, &["rig"]));
    let list = async |token: &str| {
        let mut request = tonic::Request::new(ListSessionsRequest {});
        let value = format!("Bearer {token}").parse().expect("plain");
        request.metadata_mut().insert("authorization", value);
        daemon.regimes().await.list_sessions(request).await.map(tonic::Response::into_inner)
    };
    // A file that hangs whoever opens it, in place of the first.
    std::fs::remove_file(file("bad")).expect("removed");
    assert!(Command::new("mkfifo").arg(file("bad")).status().expect("mkfifo").success());
    std::fs::write(file("good"), "new-token-0123456789").expect("written");
    let pid = daemon.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
    let began = Instant::now();
    let sessions = loop {
        match list("new-token-0123456789").await {
            Ok(listed) => break listed.sessions,
            Err(e) => assert!(began.elapsed() < PATIENCE, "{e}"),
        }
        wait::look_again().await;
    };
    assert_eq!(sessions.len(), 1);
    assert!(list("good-token-0123456789").await.is_err());
    // What the bad file held before stays in force, and that it is bad has a name.
    let began = Instant::now();
    while !daemon.log().contains("credentials_unreadable") {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        wait::look_again().await;
    }
    assert!(list("first-token-0123456789").await.is_ok());
    assert!(daemon.log().contains("SIGHUP") && daemon.log().contains("token[0].file"));
}
