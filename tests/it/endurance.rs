//! Overload and faults: what no rig should do is bounded and counted, and what is wrong has a name.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use regimed::internals::bus::Condition;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::{Counts, SubscribeDecisionsRequest};

use crate::rig::{Daemon, PATIENCE, binary, checkout, config, exchange, message, spikes};
use crate::wait;

/// Resident memory that a small overload may take, MiB.
const MIB_MAX: f64 = 300.0;

#[tokio::test(flavor = "multi_thread")]
async fn an_overload_is_bounded_counted_and_passes() {
    let daemon = Arc::new(Daemon::start(&config("", &["healthy", "flooded"])));
    let going = Arc::new(AtomicBool::new(true));
    let mut loads = Vec::new();
    // Subscribers, of which half never read.
    for i in 0..100 {
        let (grpc, going) = (daemon.grpc.clone(), going.clone());
        loads.push(tokio::spawn(async move {
            let mut client = regimed::internals::wire::regimes_client::RegimesClient::connect(grpc)
                .await
                .expect("connected");
            let request = SubscribeDecisionsRequest { session: "flooded".into(), every: 1 };
            let mut stream =
                client.subscribe_decisions(request).await.expect("subscribed").into_inner();
            while going.load(Ordering::Relaxed) {
                if i % 2 == 0 {
                    let _ =
                        tokio::time::timeout(Duration::from_millis(100), stream.message()).await;
                } else {
                    wait::pace(Duration::from_millis(50)).await;
                }
            }
        }));
    }
    // More bins than can be done.
    let (grpc, flooding) = (daemon.grpc.clone(), going.clone());
    let counts = spikes(20).concat();
    loads.push(tokio::spawn(async move {
        let one = Counts { counts, ..message("flooded", 0, &vec![0; 96]) };
        let outbound = futures_util::stream::unfold(0u64, move |n| {
            let (one, flooding) = (one.clone(), flooding.clone());
            async move {
                if !flooding.load(Ordering::Relaxed) {
                    return None;
                }
                tokio::task::yield_now().await;
                Some((Counts { sequence: n * 20, ..one }, n + 1))
            }
        });
        let mut client = IngestClient::connect(grpc).await.expect("connected");
        client.send_counts(outbound).await.expect("accepted");
    }));
    // Garbage on every port.
    let ports: Vec<String> = [&daemon.grpc, &daemon.pull, &daemon.publish]
        .map(|e| e.split("://").last().expect("an address").to_owned())
        .into_iter()
        .chain([daemon.http.clone()])
        .collect();
    let garbling = going.clone();
    let garbage = std::thread::spawn(move || {
        while garbling.load(Ordering::Relaxed) {
            for port in &ports {
                if let Ok(mut stream) = TcpStream::connect(port) {
                    let bytes: Vec<u8> = (0..600u32).map(|b| (b * b * 31) as u8).collect();
                    let _ = stream.write_all(&bytes);
                }
            }
            wait::pace_here(Duration::from_millis(10));
        }
    });
    let began = Instant::now();
    while !daemon.get("/health").1.contains("falling_behind") {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.get("/health").1);
        wait::look_again().await;
    }
    // Beside all that a healthy session has each of its bins decided.
    let bins = spikes(200);
    let paced = futures_util::stream::unfold(0, move |i| {
        let one = bins.get(i).map(|c| message("healthy", i as u64, c));
        async move {
            wait::pace(Duration::from_millis(5)).await;
            one.map(|m| (m, i + 1))
        }
    });
    let (decisions, _) = exchange(&daemon, paced).await;
    assert_eq!(decisions.len(), 200);
    let most = daemon.resident_mib();
    assert!(most < MIB_MAX, "{most} MiB");
    going.store(false, Ordering::Relaxed);
    for load in loads {
        load.await.expect("a load");
    }
    garbage.join().expect("garbage");
    let accounts = daemon.check_accounts("flooded").await;
    assert!(accounts.bins_rejected > 0, "{accounts:?}");
    daemon.check_accounts("healthy").await;
    assert!(daemon.metric("regimed_connections_cut_total", "not_zmtp_3") > 0.0);
    let began = Instant::now();
    while daemon.get("/health").1.contains("falling_behind") {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.get("/health").1);
        wait::look_again().await;
    }
    assert_eq!(daemon.metric("regimed_condition", "falling_behind"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dynamics_that_the_model_does_not_know_for_long_are_a_mismatch() {
    let daemon = Daemon::start(&config("[limits]\nqueue_bins = 8192\n", &["rig"]));
    // Channels that take turns for a second: nothing a fitted network does.
    let strange = |bin: u64| -> Vec<u32> {
        (0..96).map(|c| if (bin / 100 + c).is_multiple_of(8) { 3 } else { 0 }).collect()
    };
    let messages: Vec<_> = (0..4500).map(|i| message("rig", i, &strange(i))).collect();
    let (decisions, _) = exchange(&daemon, futures_util::stream::iter(messages)).await;
    assert_eq!(decisions.last().expect("decisions").regime, "unknown");
    let began = Instant::now();
    loop {
        let conditions = daemon.session("rig").await.conditions;
        if let Some(mismatch) = conditions.iter().find(|c| c.name == "model_mismatch") {
            assert!(mismatch.detail.contains("expected") && mismatch.since_ns > 0, "{mismatch:?}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{conditions:?}");
        wait::look_again().await;
    }
    assert!(daemon.log().contains("model_mismatch"), "{}", daemon.log());
    assert_eq!(daemon.metric("regimed_condition", "model_mismatch"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rig_that_falls_silent_is_a_condition_until_it_is_heard_again() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let bins = spikes(20);
    let part = |from: usize| {
        let messages: Vec<_> =
            (from..from + 10).map(|i| message("rig", i as u64, &bins[i])).collect();
        futures_util::stream::iter(messages)
    };
    let wait = async |holds: bool| {
        let began = Instant::now();
        while daemon.get("/health").1.contains("source_stalled") != holds {
            assert!(began.elapsed() < PATIENCE, "{}", daemon.get("/health").1);
            wait::look_again().await;
        }
    };
    exchange(&daemon, part(0)).await;
    wait(true).await;
    let health = daemon.get("/health").1;
    assert!(health.contains("\"status\":\"degraded\"") && health.contains("\"cure\""), "{health}");
    exchange(&daemon, part(10)).await;
    wait(false).await;
    assert!(daemon.log().contains("well again"), "{}", daemon.log());
}

#[test]
fn every_condition_has_a_documented_cure() {
    let text = std::fs::read_to_string(checkout("docs/operations.md")).expect("the page");
    for condition in Condition::ALL {
        assert!(text.contains(&format!("* `{}`:", condition.name())), "{}", condition.name());
    }
}

#[test]
fn the_systems_supervisor_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("notify");
    let socket = UnixDatagram::bind(&place).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut command = Command::new(binary());
    command.env("NOTIFY_SOCKET", &place).env("WATCHDOG_USEC", "2000000");
    let mut daemon = Daemon::start_by(&config("", &["rig"]), command);
    let next = || {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).expect("told in time");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert_eq!(next(), "READY=1");
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    assert!(began.elapsed() < Duration::from_secs(6), "often enough");
    assert!(daemon.terminate().success());
    let last = std::iter::repeat_with(next).find(|s| s != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}
