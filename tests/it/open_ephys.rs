//! Open Ephys: the daemon against a stand-in of the ZMQ Interface plugin on libzmq.

use serde_json::json;

use crate::peer::{Rig, either_side_restarts, python, two_ports};
use crate::rig::{
    Daemon, PATIENCE, arg, config, decisions_until, exchange, message, recording, same, spikes,
};
use crate::wait;

/// A session that listens to the plugin; `deadline_ms` is long where the test's peer may be slow.
fn session(name: &str, port: u16, more: &str, deadline_ms: u64) -> String {
    let electrodes: Vec<String> = (1..=96).map(|i| format!("\"Electrode {i}\"")).collect();
    format!(
        "\n[[session]]\nname = \"{name}\"\nmodel = \"builtin\"\nreadout = \"0\"\n\
         [session.events]\ndeadline_ms = {deadline_ms}\n\
         [session.open_ephys]\nendpoint = \"tcp://127.0.0.1:{port}\"\nsample_rate_hz = \
         30000\nelectrodes = [{}]\n{more}\n",
        electrodes.join(", ")
    )
}

fn plugin(test: &str) -> Option<(String, u16)> {
    Some((python(test, &["zmq", "numpy"])?, two_ports()))
}

#[tokio::test(flavor = "multi_thread")]
async fn spikes_by_sample_number_give_the_decisions_of_their_bins() {
    let Some((python, port)) = plugin("open_ephys::bins") else { return };
    let marks = two_ports();
    let more = format!(
        "[session.open_ephys.network_events]\nendpoint = \"tcp://127.0.0.1:{marks}\"\nline = \
         3\npulse_ms = 5\n"
    );
    // The daemon is there before the GUI.
    let text = config("", &["direct"]) + &session("rig", port, &more, 5000);
    let daemon = Daemon::start(&text);
    let folder = tempfile::tempdir().expect("a folder");
    let bins = spikes(400);
    let file = recording(folder.path(), &bins);
    let mut rig =
        Rig::start(&python, "open_ephys", &json!({"port": port, "network_events": marks}));
    rig.ask("wait_daemon", &json!({}));
    let heard = decisions_until(&daemon, "rig", 399).await;
    let sent = rig.ask("play", &json!({"file": arg(&file), "speed": 2, "silent_tail": 10}));
    let heard = heard.await.expect("joined");
    let direct: Vec<_> =
        bins.iter().enumerate().map(|(i, c)| message("direct", i as u64, c)).collect();
    let (decisions, events) = exchange(&daemon, futures_util::stream::iter(direct)).await;
    same(&heard, &decisions);
    let spikes: u32 = bins.iter().flatten().sum();
    assert_eq!(sent["spikes"], spikes);
    daemon.check_accounts("rig").await;
    assert_eq!(daemon.metric("regimed_events_binned_total", "rig"), f64::from(spikes));
    assert_eq!(daemon.metric("regimed_source_messages_lost_total", "rig"), 0.0);
    // The rig's time is the sample's; the clock's offset is the time of day of sample 0, about.
    let session = daemon.session("rig").await;
    assert_eq!(heard[10].rig_time_ns, 110_000_000);
    assert!(session.clock.expect("a clock").offset_s > 1e9);
    assert!(heard.iter().all(|d| d.publish_time_ns >= d.receive_time_ns));
    // Every change was marked in the recording.
    let began = std::time::Instant::now();
    loop {
        let ttl = rig.ask("status", &json!({}))["ttl"].clone();
        let ttl: Vec<&str> =
            ttl.as_array().expect("a list").iter().filter_map(|t| t.as_str()).collect();
        if ttl.len() >= 2 * events.len() {
            assert!(
                !ttl.is_empty()
                    && ttl.chunks(2).all(|t| t == ["TTL Line=3 State=1", "TTL Line=3 State=0"])
            );
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{ttl:?} for {} events", events.len());
        wait::look_again().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_spikes_a_second_of_384_electrodes_are_all_binned() {
    let Some((python, port)) = plugin("open_ephys::load") else { return };
    let text = config("", &[])
        + &format!(
            "\n[[session]]\nname = \"rig\"\nmodel = \"builtin\"\nchannels = 384\ncalibrate_s = \
             600\n\
             [session.events]\ndeadline_ms = 5000\nidle_ms = 20000\n\
             [session.open_ephys]\nendpoint = \"tcp://127.0.0.1:{port}\"\nsample_rate_hz = 30000\n"
        );
    // The GUI is there before the daemon.
    let mut rig = Rig::start(&python, "open_ephys", &json!({"port": port}));
    let daemon = Daemon::start(&text);
    rig.ask("wait_daemon", &json!({}));
    let load = json!({"electrodes": 384, "spikes_per_s": 20_000, "seconds": 2});
    let sent = rig.ask("load", &load);
    let sent = sent["spikes"].as_f64().expect("a number");
    daemon.wait_metric("regimed_events_received_total", "rig", sent);
    daemon.check_accounts("rig").await;
    assert_eq!(daemon.metric("regimed_events_binned_total", "rig"), sent, "of {sent} spikes");
    assert_eq!(daemon.metric("regimed_source_messages_lost_total", "rig"), 0.0);
    assert_eq!(daemon.metric("regimed_bins_rejected_total", "rig"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_losses_jumps_bursts_and_strangers_are_accounted_for() {
    let Some((python, port)) = plugin("open_ephys::trouble") else { return };
    let daemon = Daemon::start(&(config("", &[]) + &session("rig", port, "", 5000)));
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(300));
    let file = arg(&file);
    let mut rig = Rig::start(&python, "open_ephys", &json!({"port": port}));
    rig.ask("wait_daemon", &json!({}));
    rig.ask("play", &json!({"file": file, "bins": 50, "speed": 2, "silent_tail": 5}));
    rig.ask("garbage", &json!({}));
    daemon.wait_metric("regimed_source_messages_total", "outcome=\"garbled\"", 4.0);
    // A loss too long to be a block: the bins in between are predicted through.
    rig.ask("lose", &json!({"messages": 500}));
    rig.ask("jump", &json!({"samples": 3000}));
    rig.ask("play", &json!({"file": file, "first": 50, "bins": 50, "speed": 2, "silent_tail": 5}));
    daemon.wait_metric("regimed_source_messages_lost_total", "rig", 500.0);
    daemon.wait_metric("regimed_bins_missing_total", "rig", 10.0);
    assert_eq!(daemon.metric("regimed_recording_starts_total", "rig"), 1.0);
    // Ten times the rate.
    rig.ask(
        "play",
        &json!({"file": file, "first": 100, "bins": 50, "speed": 10, "silent_tail": 5}),
    );
    // An electrode that is not in the list.
    let named =
        json!({"file": file, "first": 150, "bins": 5, "names": "Probe {}", "silent_tail": 5});
    rig.ask("play", &named);
    daemon.wait_metric("regimed_events_rejected_total", "reason=\"unknown_channel\"", 1.0);
    // The acquisition clock jumps ahead without a new acquisition.
    rig.ask("jump", &json!({"samples": 30_000_000}));
    rig.ask("play", &json!({"file": file, "first": 150, "bins": 50, "speed": 2, "silent_tail": 5}));
    daemon.wait_metric("regimed_recording_starts_total", "rig", 2.0);
    // A new acquisition is no loss.
    let lost = daemon.metric("regimed_source_messages_lost_total", "rig");
    rig.ask("acquisition", &json!({}));
    rig.ask("play", &json!({"file": file, "first": 200, "bins": 50, "speed": 2, "silent_tail": 5}));
    daemon.wait_metric("regimed_recording_starts_total", "rig", 3.0);
    assert_eq!(daemon.metric("regimed_source_messages_lost_total", "rig"), lost);
    let sent = rig.ask("status", &json!({}))["spikes"].as_f64().expect("a number");
    daemon.wait_metric("regimed_events_received_total", "rig", sent);
    daemon.check_accounts("rig").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_be_killed_and_a_rig_that_stalls_is_known() {
    let Some((python, port)) = plugin("open_ephys::restart") else { return };
    let text = config("", &[]) + &session("rig", port, "", 60);
    let text = text.replace("deadline_ms = 60", "deadline_ms = 60\nidle_ms = 300");
    let daemon = Daemon::start(&text);
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(100));
    let play = json!({"file": arg(&file), "bins": 50, "speed": 1, "silent_tail": 5});
    let start = json!({"port": port});
    let mut rig = Rig::start(&python, "open_ephys", &start);
    rig.ask("wait_daemon", &json!({}));
    rig.ask("play", &play);
    // Nothing more comes: what was open closes, then the rig counts as gone and no bin is made up.
    daemon.wait_metric("regimed_source_stalled", "rig", 1.0);
    let bins = daemon.check_accounts("rig").await.bins_accepted;
    assert!((50..=60 + 40).contains(&bins), "{bins} bins");
    rig.ask("play", &play);
    daemon.wait_metric("regimed_bins_total", "rig", bins as f64 + 40.0);
    let begin = || Rig::start(&python, "open_ephys", &start);
    either_side_restarts(daemon, &text, rig, begin, &play).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crossings_of_continuous_data_are_spikes_and_a_line_blanks() {
    let Some((python, port)) = plugin("open_ephys::crossings") else { return };
    let more = "threshold_sd = -5.0\nblank_line = 2\n";
    let daemon = Daemon::start(&(config("", &[]) + &session("rig", port, more, 5000)));
    let mut rig = Rig::start(&python, "open_ephys", &json!({"port": port}));
    rig.ask("wait_daemon", &json!({}));
    let planted: Vec<_> = (0..40).map(|i| json!([i % 2, 30_000 + i * 1000])).collect();
    // Electrodes are named in the configuration; here the channels' names are not among them.
    rig.ask("noise", &json!({"channels": 2, "blocks": 250, "spikes": planted}));
    daemon.wait_metric("regimed_source_messages_total", "outcome=\"taken\"", 500.0);
    assert_eq!(daemon.metric("regimed_events_received_total", "rig"), 0.0);
    drop(daemon);
    let text = config("", &[]) + &session("rig", port, more, 5000).replace("Electrode ", "CH");
    let daemon = Daemon::start(&text);
    rig.ask("wait_daemon", &json!({}));
    rig.ask("acquisition", &json!({}));
    rig.ask("noise", &json!({"channels": 2, "blocks": 250, "spikes": planted}));
    daemon.wait_metric("regimed_events_binned_total", "rig", 38.0);
    let found = daemon.metric("regimed_events_binned_total", "rig");
    assert!(found <= 46.0, "{found} crossings of 40 spikes");
    rig.ask("short_data", &json!({}));
    let missing = daemon.metric("regimed_bins_missing_total", "rig");
    rig.ask("ttl_in", &json!({"line": 2, "state": 1}));
    rig.ask("noise", &json!({"channels": 2, "blocks": 20, "spikes": []}));
    rig.ask("ttl_in", &json!({"line": 2, "state": 0}));
    rig.ask("noise", &json!({"channels": 2, "blocks": 100, "spikes": [[0, 250 * 300 + 35 * 300]]}));
    daemon.wait_metric("regimed_bins_missing_total", "rig", missing + 15.0);
    assert_eq!(daemon.metric("regimed_ttl_edges_total", "line=\"2\""), 2.0);
    assert!(daemon.log().contains("expected 1200 bytes, found 10"), "{}", daemon.log());
    daemon.check_accounts("rig").await;
}
