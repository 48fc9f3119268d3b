//! Spike events, parts of bins, Unix sockets, replayed recordings: everything that needs no peer
//! but us.

use std::time::Duration;

use prost::Message;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::{Counts, RejectReason, Spikes, SpikesSummary};
use serde_json::json;
use zeromq::{Socket, SocketSend};

use crate::peer::{Rig, python, two_ports};
use crate::rig::{
    Daemon, arg, checkout, config, decisions_until, exchange, message, recording, same, spikes,
};
use crate::wait;

/// The events of a bin of 10 ms, at times in it that differ.
fn events(
    session: &str,
    publisher: &str,
    bin: u64,
    counts: &[u32],
    keep: fn(usize) -> bool,
) -> Spikes {
    let mut message = Spikes {
        session: session.into(),
        publisher: publisher.into(),
        message_number: bin + 1,
        until_ns: (bin as i64 + 1) * 10_000_000,
        ..Spikes::default()
    };
    for (channel, &count) in counts.iter().enumerate().filter(|(c, _)| keep(*c)) {
        for i in 0..count {
            message.time_ns.push(bin as i64 * 10_000_000 + (i64::from(i) * 7_919_391) % 10_000_000);
            message.channel.push(channel as u32);
        }
    }
    message
}

async fn send_spikes(daemon: &Daemon, messages: Vec<Spikes>) -> SpikesSummary {
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let sent = client.send_spikes(futures_util::stream::iter(messages)).await;
    sent.expect("accepted").into_inner()
}

/// A session of the built-in model whose bins close late, so that a slow machine closes none early.
fn patient(name: &str, deadline_ms: u64) -> String {
    config("", &[name])
        + &format!("[session.events]\ndeadline_ms = {deadline_ms}\nidle_ms = 20000\n")
}

/// What the same bins are decided to be when they come as counts.
async fn expected(bins: &[Vec<u32>]) -> Vec<regimed::internals::wire::Decision> {
    let daemon = Daemon::start(&config("", &["rig"]));
    let messages: Vec<Counts> =
        bins.iter().enumerate().map(|(i, c)| message("rig", i as u64, c)).collect();
    exchange(&daemon, futures_util::stream::iter(messages)).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn events_over_grpc_and_zeromq_give_the_decisions_of_their_bins() {
    let bins = spikes(200);
    let truth = expected(&bins).await;
    let total: u64 = bins.iter().flatten().map(|&c| u64::from(c)).sum();
    for over_grpc in [true, false] {
        let daemon = Daemon::start(&patient("rig", 20_000));
        let heard = decisions_until(&daemon, "rig", 199).await;
        let all = (0..).zip(&bins).map(|(b, c)| events("rig", "", b, c, |_| true));
        if over_grpc {
            let summary = send_spikes(&daemon, all.collect()).await;
            assert_eq!((summary.events_received, summary.events_binned), (total, total));
        } else {
            let mut push = zeromq::PushSocket::new();
            push.connect(&daemon.pull).await.expect("connected");
            for message in all {
                let mut frames = zeromq::ZmqMessage::from("regimed.v1.Spikes");
                frames.push_back(message.encode_to_vec().into());
                push.send(frames).await.expect("sent");
            }
            daemon.wait_metric("regimed_events_binned_total", "rig", total as f64);
        }
        same(&heard.await.expect("joined"), &truth);
        daemon.check_accounts("rig").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_publishers_feed_one_session_with_events_or_with_parts_of_bins() {
    let bins = spikes(200);
    let truth = expected(&bins).await;
    let text = patient("rig", 20_000) + "publishers = 2\n";
    let daemon = Daemon::start(&text);
    let heard = decisions_until(&daemon, "rig", 199).await;
    // The right one runs ahead of the left one by a few bins.
    let left: Vec<Spikes> =
        (0..).zip(&bins).map(|(b, c)| events("rig", "left", b, c, |c| c < 40)).collect();
    let right: Vec<Spikes> =
        (0..).zip(&bins).map(|(b, c)| events("rig", "right", b, c, |c| c >= 40)).collect();
    let order: Vec<Spikes> = (0..210)
        .flat_map(|i: usize| {
            [right.get(i).cloned(), i.checked_sub(10).and_then(|i| left.get(i).cloned())]
        })
        .flatten()
        .collect();
    send_spikes(&daemon, order).await;
    same(&heard.await.expect("joined"), &truth);
    drop(daemon);

    let daemon = Daemon::start(&text);
    let heard = decisions_until(&daemon, "rig", 199).await;
    let part = |b: u64, publisher: &str, channels: std::ops::Range<u32>| Counts {
        channels: channels.clone().collect(),
        publisher: publisher.into(),
        n_channels: channels.len() as u32,
        ..message("rig", b, &bins[b as usize][channels.start as usize..channels.end as usize])
    };
    let mut messages = vec![part(0, "left", 0..40)];
    messages.extend((0..200).map(|b| part(b, "right", 40..96)));
    messages.extend((1..200).map(|b| part(b, "left", 0..40)));
    // A bin that was sent twice, and channels that are not there.
    messages.push(part(50, "left", 0..40));
    messages.push(Counts { channels: vec![96], n_channels: 1, ..message("rig", 200, &[1]) });
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let sent = client.send_counts(futures_util::stream::iter(messages)).await;
    let summary = sent.expect("accepted").into_inner();
    same(&heard.await.expect("joined"), &truth);
    let reasons: Vec<_> = summary.rejections.iter().map(|r| (r.reason(), r.messages)).collect();
    let expected = [(RejectReason::DuplicateOrLate, 1), (RejectReason::UnknownChannel, 1)];
    assert_eq!(reasons, expected, "{summary:?}");
    daemon.check_accounts("rig").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_lost_strange_and_unnumbered_events_are_accounted_for() {
    let bins = spikes(300);
    let daemon = Daemon::start(&patient("rig", 20_000));
    let at = |b: usize| events("rig", "", b as u64, &bins[b], |_| true);
    let n = |b: usize| bins[b].iter().map(|&c| u64::from(c)).sum::<u64>();
    let mut messages: Vec<Spikes> = (0..100).map(at).collect();
    // Bin 50 again, as an unnumbered message: its bin has closed.
    messages.push(Spikes { message_number: 0, ..at(50) });
    // Messages 100 to 109 are lost.
    messages.extend((110..150).map(at));
    let mut strange = at(150);
    strange.message_number = 0;
    (strange.time_ns[0], strange.channel[1]) = (i64::MAX, 96);
    messages.push(strange);
    messages.push(Spikes { time_ns: vec![1, 2], channel: vec![1], ..at(151) });
    messages.push(Spikes { publisher: "x".repeat(65), ..at(151) });
    let summary = send_spikes(&daemon, messages).await;
    assert_eq!(summary.events_late, n(50), "{summary:?}");
    assert_eq!(summary.messages_lost, 10, "{summary:?}");
    assert_eq!(summary.events_rejected, 2 + 2 + n(151), "{summary:?}");
    let accounted = summary.events_binned + summary.events_late + summary.events_rejected;
    assert_eq!(summary.events_received, accounted, "{summary:?}");
    let accounts = daemon.check_accounts("rig").await;
    // Bins 0 to 99, 111 to 150: where messages were lost, nothing is made up.
    assert_eq!(accounts.bins_accepted, 100 + 40, "{accounts:?}");
    assert_eq!(daemon.session("rig").await.bins_missing, 11);
    // The rig's clock is set an hour ahead, and then back.
    for shift in [3_600_000_000_000i64, 0] {
        let shifted = (200..300).map(|b| {
            let mut m = Spikes { message_number: 0, ..at(b) };
            m.until_ns += shift;
            m.time_ns.iter_mut().for_each(|t| *t += shift);
            m
        });
        let starts = daemon.metric("regimed_recording_starts_total", "rig");
        send_spikes(&daemon, shifted.collect()).await;
        daemon.wait_metric("regimed_recording_starts_total", "rig", starts + 1.0);
        daemon.check_accounts("rig").await;
    }
    // Ten times what the queue holds at once.
    let burst: Vec<Spikes> = (0..10_000)
        .map(|b| events("rig", "", 400 + b, &bins[b as usize % 300], |_| true))
        .collect();
    send_spikes(&daemon, burst).await;
    daemon.check_accounts("rig").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_or_stalled_publisher_does_not_hold_bins_up() {
    let text = config("", &["rig"]) + "[session.events]\ndeadline_ms = 40\nidle_ms = 400\n";
    let daemon = Daemon::start(&text);
    let bins = spikes(60);
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|m: Spikes| (m, receiver))
    });
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let sent = tokio::spawn(async move { client.send_spikes(stream).await });
    let mut due = tokio::time::Instant::now();
    // The left one falls silent after 20 bins; the right one goes on in real time.
    for b in 0..60u64 {
        due += Duration::from_millis(10);
        tokio::time::sleep_until(due).await;
        let counts = &bins[b as usize];
        if b < 20 {
            sender.send(events("rig", "left", b, counts, |c| c < 40)).await.expect("sent");
        }
        sender.send(events("rig", "right", b, counts, |c| c >= 40)).await.expect("sent");
    }
    // All bins but the last few have closed although one publisher says nothing.
    daemon.wait_metric("regimed_bins_total", "rig", 55.0);
    assert_eq!(daemon.metric("regimed_source_stalled", "rig"), 0.0);
    // Nobody says anything: after the idle time the rig is gone, and its bins are not made up.
    daemon.wait_metric("regimed_source_stalled", "rig", 1.0);
    let bins_then = daemon.metric("regimed_bins_total", "rig");
    // The supervisor looks four times a second: more than enough bins of 10 ms to be made up.
    let stalled = || daemon.get("/health").1.contains("source_stalled");
    wait::until(stalled, || daemon.get("/health").1);
    assert_eq!(daemon.metric("regimed_bins_total", "rig"), bins_then);
    drop(sender);
    sent.await.expect("joined").expect("accepted");
    daemon.check_accounts("rig").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_and_refusals_of_counts_are_accounted_for() {
    let daemon = Daemon::start(&config("[limits]\nqueue_bins = 64\n", &["rig"]));
    let bins = spikes(100);
    let many = Counts { n_channels: 96, ..message("rig", 0, &bins[..40].concat()) };
    let mut messages: Vec<Counts> =
        (0..100).map(|i| Counts { sequence: i * 40, ..many.clone() }).collect();
    messages.push(message("rig", 3990, &bins[0]));
    messages.push(Counts { bin_width_s: 0.02, ..message("rig", 4000, &bins[0]) });
    messages.push(message("rig", 4000, &bins[0][..50]));
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let sent = client.send_counts(futures_util::stream::iter(messages)).await;
    let summary = sent.expect("accepted").into_inner();
    let accounts = daemon.check_accounts("rig").await;
    assert_eq!(accounts.bins_received, 4003);
    assert_eq!(accounts.bins_accepted, summary.bins_accepted);
    assert!(accounts.bins_rejected >= 2, "{accounts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rigs_clock_is_followed() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let bins = spikes(50);
    let zero = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|m: Counts| (m, receiver))
    });
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let sent = tokio::spawn(async move { client.send_counts(stream).await });
    // The rig's clock shows the time since the start, and an hour more from the middle on.
    for (b, counts) in bins.iter().enumerate() {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        let mut rig = now - zero + Duration::from_secs(1);
        if b >= 25 {
            rig += Duration::from_secs(3600);
        }
        let rig_time_ns = rig.as_nanos() as i64;
        sender
            .send(Counts { rig_time_ns, ..message("rig", b as u64, counts) })
            .await
            .expect("sent");
        wait::pace(Duration::from_millis(5)).await;
    }
    drop(sender);
    sent.await.expect("joined").expect("accepted");
    let clock = daemon.session("rig").await.clock.expect("a clock");
    let expected = zero.as_secs_f64() - 3601.0;
    assert!((clock.offset_s - expected).abs() < 0.1, "{clock:?} for {expected}");
    assert_eq!(clock.jumps, 1);
    assert_eq!(daemon.metric("regimed_clock_jumps_total", "rig"), 1.0);
    assert!((daemon.metric("regimed_clock_offset_seconds", "rig") - expected).abs() < 0.1);
    assert!(daemon.metric("regimed_transport_delay_seconds_count", "rig") >= 49.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_serve_what_ports_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let text = config("", &["rig"])
        .replace("[grpc]\n", &format!("[grpc]\nunix = \"{}\"\n", path("grpc.sock")))
        .replace(
            "[zeromq]\n",
            &format!(
                "[zeromq]\npull_ipc = \"ipc://{}\"\npublish_ipc = \"{}\"\n",
                path("in.sock"),
                path("out.sock")
            ),
        );
    // A socket file that nobody listens at is replaced.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("in.sock")).expect("bound"));
    let mut daemon = Daemon::start(&text);
    let bins = spikes(100);
    let mut sub = zeromq::SubSocket::new();
    sub.connect(&format!("ipc://{}", path("out.sock"))).await.expect("connected");
    sub.subscribe("rig/").await.expect("subscribed");
    let mut push = zeromq::PushSocket::new();
    push.connect(&format!("ipc://{}", path("in.sock"))).await.expect("connected");
    for (b, counts) in bins.iter().enumerate() {
        push.send(message("rig", b as u64, counts).encode_to_vec().into()).await.expect("sent");
    }
    daemon.wait_metric("regimed_bins_processed_total", "rig", 100.0);
    let heard =
        tokio::time::timeout(crate::rig::PATIENCE, zeromq::SocketRecv::recv(&mut sub)).await;
    // The subscription may be later than the first bins; one more comes for sure.
    if heard.is_err() {
        push.send(message("rig", 100, &bins[0]).encode_to_vec().into()).await.expect("sent");
        zeromq::SocketRecv::recv(&mut sub).await.expect("heard");
    }
    let endpoint = format!("unix://{}", path("grpc.sock"));
    let channel = tonic::transport::Endpoint::try_from(endpoint).expect("an endpoint");
    let channel = channel.connect().await.expect("connected");
    let mut client = regimed::internals::wire::regimes_client::RegimesClient::new(channel);
    let listed = client
        .list_sessions(regimed::internals::wire::ListSessionsRequest {})
        .await
        .expect("listed");
    assert!(listed.into_inner().sessions[0].bins >= 100);
    assert!(daemon.terminate().success());
    assert!(!folder.path().join("grpc.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_a_rig_with_its_own_clock() {
    let folder = tempfile::tempdir().expect("a folder");
    let bins = spikes(300);
    let file = recording(folder.path(), &bins);
    let replay = |more: &str| {
        config("", &["rig"]) + &format!("[session.replay]\nfile = \"{}\"\n{more}\n", arg(&file))
    };
    let truth = expected(&bins).await;
    // As fast as the session takes it: nothing is dropped.
    let daemon = Daemon::start(&replay("speed = 0"));
    daemon.wait_metric("regimed_bins_total", "rig", 300.0);
    let accounts = daemon.check_accounts("rig").await;
    assert_eq!((accounts.bins_accepted, accounts.bins_rejected), (300, 0));
    // Played again from the start: the same decisions.
    let heard = decisions_until(&daemon, "rig", 599).await;
    let at = daemon.grpc.clone();
    let seek =
        |to: &'static str| crate::rig::run(&["sessions", "--at", &at, "seek", "rig", "--to", to]);
    assert!(seek("0").0);
    let mut heard = heard.await.expect("joined");
    assert_eq!(heard[10].rig_time_ns, 110_000_000);
    heard.iter_mut().for_each(|d| d.sequence -= 300);
    // The label in force stays over a start; the numbers are those of the first time.
    let label = |d: &regimed::internals::wire::Decision| (d.sequence, d.posterior.clone());
    assert!(heard.iter().map(label).eq(truth.iter().map(label)));
    assert!(seek("2.5").0);
    daemon.wait_metric("regimed_bins_total", "rig", 650.0);
    let (good, _, stderr) = seek("-1");
    assert!(!good && stderr.contains("from 0"), "{stderr}");
    drop(daemon);
    // In a loop, twice as fast as it was: bins go on, each round is a recording of its own.
    let daemon = Daemon::start(&replay("speed = 20\nloop = true\nstart_s = 2.9"));
    daemon.wait_metric("regimed_recording_starts_total", "rig", 3.0);
    let a = daemon.session("rig").await.accounts.expect("accounts");
    assert!(
        a.bins_received >= 310 && a.bins_received == a.bins_accepted + a.bins_rejected,
        "{a:?}"
    );
    drop(daemon);
    // A recording of other channels is refused with both numbers.
    let narrow: Vec<Vec<u32>> = bins.iter().map(|b| b[..7].to_vec()).collect();
    recording(folder.path(), &narrow);
    let config_file = folder.path().join("c.toml");
    std::fs::write(&config_file, replay("")).expect("written");
    let (good, _, stderr) = crate::rig::run(&["serve", "--config", arg(&config_file)]);
    assert!(
        !good && stderr.contains("expected 96 channels") && stderr.contains("found 7"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_never_reads_is_cut_off_and_costs_little() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(300));
    let text = config("", &["rig"])
        + &format!("[session.replay]\nfile = \"{}\"\nspeed = 0\nloop = true\n", arg(&file));
    let daemon = Daemon::start(&text);
    let subscribe = async || {
        let mut socket = zeromq::SubSocket::new();
        socket.connect(&daemon.publish).await.expect("connected");
        socket.subscribe("rig/decision").await.expect("subscribed");
        socket
    };
    daemon.wait_metric("regimed_bins_processed_total", "rig", 1000.0);
    let before = daemon.resident_mib();
    let idle = subscribe().await;
    daemon.wait_metric("regimed_connections_cut_total", "subscriber", 1.0);
    let seen = daemon.metric("regimed_bins_processed_total", "rig");
    daemon.wait_metric("regimed_bins_processed_total", "rig", seen + 10_000.0);
    let grown = daemon.resident_mib() - before;
    assert!(grown < 20.0, "{grown} MiB");
    // One that reads hears of bins all the while.
    let mut good = subscribe().await;
    for _ in 0..100 {
        let heard = tokio::time::timeout(crate::rig::PATIENCE, zeromq::SocketRecv::recv(&mut good));
        heard.await.expect("in time").expect("a message");
    }
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn zeromq_rigs_and_the_daemon_may_come_and_go_in_any_order() {
    let modules = ["zmq", "grpc_tools.protoc", "numpy"];
    let Some(python) = python("sources::zeromq_restart", &modules) else { return };
    let (pull, publish) = (two_ports(), two_ports());
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(100));
    let text = patient("rig", 5000)
        .replace("pull = \"127.0.0.1:0\"", &format!("pull = \"127.0.0.1:{pull}\""))
        .replace("[zeromq]\n", &format!("[zeromq]\nsubscribe = [\"tcp://127.0.0.1:{publish}\"]\n"));
    let start = |kind: &str, port: u16| {
        let (endpoint, proto) = (format!("tcp://127.0.0.1:{port}"), checkout("proto"));
        let with = json!({"endpoint": endpoint, "proto": arg(&proto), "kind": kind});
        Rig::start(&python, "events", &with)
    };
    // The rig that pushes is there before the daemon: what it sent meanwhile comes.
    let mut push = start("PUSH", pull);
    let play = |at: u64| {
        json!({"file": arg(&file), "session": "rig", "bins": 100, "speed": 4,
               "begin_ns": at * 10_000_000_000, "number": 100 * at + 1})
    };
    push.ask("play", &play(1));
    let daemon = Daemon::start(&text);
    daemon.wait_metric("regimed_bins_total", "rig", 90.0);
    daemon.check_accounts("rig").await;
    // The daemon dies and comes back: the rig goes on by itself.
    daemon.kill();
    let daemon = Daemon::start(&text);
    push.ask("play", &play(2));
    daemon.wait_metric("regimed_bins_total", "rig", 90.0);
    drop(push);
    // A rig that publishes comes after the daemon, dies, and comes back.
    for round in [3, 5] {
        let mut publisher = start("PUB", publish);
        let before = daemon.metric("regimed_bins_total", "rig");
        let mut at = round;
        while daemon.metric("regimed_bins_total", "rig") < before + 50.0 {
            publisher.ask("play", &play(at));
            at += 1;
            assert!(at < round + 20, "{}", daemon.log());
        }
        drop(publisher);
    }
    daemon.check_accounts("rig").await;
}
