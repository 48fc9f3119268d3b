//! Blackrock's UDP packets and Intan's TCP spikes, from stand-ins in Python.

use serde_json::json;

use crate::peer::{Rig, either_side_restarts, python, two_ports};
use crate::rig::{
    Daemon, arg, config, decisions_until, exchange, message, recording, same, spikes,
};

fn session(table: &str) -> String {
    config("", &["rig"])
        + &format!("[session.events]\ndeadline_ms = 3000\nidle_ms = 800\n{table}\n")
}

/// What both have in common: the decisions of their bins, garbage, strangers, ten times the rate, a
/// clock that jumps and one that restarts, silence; every event accounted for.
async fn common(daemon: &Daemon, rig: &mut Rig) {
    let folder = tempfile::tempdir().expect("a folder");
    let bins = spikes(300);
    let file = recording(folder.path(), &bins);
    let file = arg(&file);
    let heard = decisions_until(daemon, "rig", 249).await;
    rig.ask("play", &json!({"file": file, "bins": 260, "speed": 2}));
    let mut heard = heard.await.expect("joined");
    heard.truncate(250);
    let direct = Daemon::start(&config("", &["rig"]));
    let messages: Vec<_> = (0..250).map(|i| message("rig", i, &bins[i as usize])).collect();
    let (truth, _) = exchange(&direct, futures_util::stream::iter(messages)).await;
    same(&heard, &truth);
    drop(direct);
    rig.ask("garbage", &json!({}));
    daemon.wait_metric("regimed_source_messages_total", "outcome=\"garbled\"", 1.0);
    rig.ask("stranger", &json!({}));
    daemon.wait_metric("regimed_events_rejected_total", "reason=\"unknown_channel\"", 1.0);
    rig.ask("play", &json!({"file": file, "bins": 100, "speed": 20}));
    rig.ask("jump", &json!({"samples": 90_000_000}));
    rig.ask("play", &json!({"file": file, "bins": 100, "speed": 2}));
    daemon.wait_metric("regimed_recording_starts_total", "rig", 2.0);
    rig.ask("restart", &json!({}));
    let sent = rig.ask("play", &json!({"file": file, "bins": 100, "speed": 2}));
    daemon.wait_metric("regimed_recording_starts_total", "rig", 3.0);
    daemon.wait_metric("regimed_source_stalled", "rig", 1.0);
    let sent = sent["spikes"].as_f64().expect("a number");
    daemon.wait_metric("regimed_events_received_total", "rig", sent);
    daemon.check_accounts("rig").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn intans_spikes_are_binned_and_either_side_may_be_restarted() {
    let Some(python) = python("spike_sockets::intan", &["numpy"]) else { return };
    let port = two_ports();
    let names: Vec<String> = (0..96).map(|i| format!("\"A-{i:03}\"")).collect();
    let text = session(&format!(
        "[session.intan]\naddress = \"127.0.0.1:{port}\"\nelectrodes = [{}]",
        names.join(", ")
    ));
    let daemon = Daemon::start(&text);
    let mut rig = Rig::start(&python, "intan", &json!({"port": port}));
    rig.ask("wait_daemon", &json!({}));
    common(&daemon, &mut rig).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(60));
    let begin = || Rig::start(&python, "intan", &json!({"port": port}));
    let play = json!({"file": arg(&file), "speed": 1});
    either_side_restarts(daemon, &text, rig, begin, &play).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blackrocks_packets_of_both_versions_are_binned() {
    let Some(python) = python("spike_sockets::blackrock", &["numpy"]) else { return };
    for (protocol, ticks) in [("4.1", "1e9"), ("3.11", "30000")] {
        let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr());
        let port = port.expect("a port").port();
        let daemon = Daemon::start(&session(&format!(
            "[session.blackrock]\nlisten = \"127.0.0.1:{port}\"\nprotocol = \
             \"{protocol}\"\nticks_per_s = {ticks}"
        )));
        let with = json!({"port": port, "protocol": protocol});
        let mut rig = Rig::start(&python, "blackrock", &with);
        rig.ask("noise", &json!({}));
        daemon.wait_metric("regimed_source_messages_total", "outcome=\"ignored\"", 1.0);
        common(&daemon, &mut rig).await;
    }
}
