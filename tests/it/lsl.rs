//! Lab Streaming Layer: the plain-Rust inlet and outlets against liblsl (pylsl). Built with
//! `--features lsl`.

use std::time::Instant;

use serde_json::json;

use regimed::internals::wire::ListAnnotationsRequest;

use crate::peer::{Rig, python};
use crate::rig::{
    Daemon, PATIENCE, arg, config, decisions_until, exchange, message, recording, same, spikes,
};
use crate::wait;

/// A session of LSL's own for each test, so that streams of others are not found.
fn stage(test: &str) -> Option<(String, String, tempfile::TempDir)> {
    let python = python(test, &["pylsl", "numpy"])?;
    let folder = tempfile::tempdir().expect("a folder");
    let session = format!("regimed-{}-{test}", std::process::id()).replace("::", "-");
    let text = format!(
        "[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {{127.0.0.1}}\nSessionID = \
         {session}\n[log]\nlevel = -2\n"
    );
    std::fs::write(folder.path().join("lsl_api.cfg"), text).expect("written");
    Some((python, session, folder))
}

fn rig(python: &str, folder: &tempfile::TempDir, with: &serde_json::Value) -> Rig {
    let file = folder.path().join("lsl_api.cfg");
    Rig::start_with(python, "lsl", &[("LSLAPICFG", arg(&file))], with)
}

fn text(session: &str, more: &str) -> String {
    config("", &["rig"])
        + &format!("[session.lsl]\nname = \"bins\"\nsession_id = \"{session}\"\n{more}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_come_in_and_markers_and_metrics_go_out() {
    let Some((python, session, folder)) = stage("lsl::round") else { return };
    let daemon = Daemon::start(&text(&session, ""));
    let mut rig = rig(&python, &folder, &json!({"name": "bins", "channels": 96}));
    daemon.wait_metric("regimed_source_connected", "rig", 1.0);
    rig.ask("wait_consumer", &json!({}));
    let described = rig.ask("listen", &json!({"markers": "rig-regimes", "metrics": "rig-metrics"}));
    assert_eq!(
        (described["type"].as_str(), described["rate"].as_f64()),
        (Some("Markers"), Some(0.0))
    );
    let labels: Vec<&str> =
        described["labels"].as_array().expect("labels").iter().filter_map(|l| l.as_str()).collect();
    assert_eq!(described["metrics"], labels.len());
    assert!(
        labels.contains(&"posterior limit_cycle") && labels.contains(&"spectral_radius"),
        "{labels:?}"
    );
    let bins = spikes(400);
    let file = recording(folder.path(), &bins);
    let heard = decisions_until(&daemon, "rig", 399).await;
    rig.ask("play", &json!({"file": arg(&file), "speed": 1}));
    let heard = heard.await.expect("joined");
    let direct = Daemon::start(&config("", &["rig"]));
    let messages: Vec<_> = (0..).zip(&bins).map(|(i, c)| message("rig", i, c)).collect();
    let (truth, events) = exchange(&direct, futures_util::stream::iter(messages)).await;
    same(&heard, &truth);
    let got = rig.ask("heard", &json!({}));
    let markers = got["markers"]["samples"].as_array().expect("markers");
    let texts: Vec<_> = markers.iter().filter_map(|m| m[0].as_str()).collect();
    assert_eq!(texts, events.iter().map(|e| e.to.as_str()).collect::<Vec<_>>());
    let metrics = got["metrics"]["samples"].as_array().expect("metrics");
    assert_eq!(metrics.len(), 400);
    let at = labels.iter().position(|l| *l == "posterior limit_cycle").expect("a label");
    let name = heard[0].regime_names.iter().position(|n| n == "limit_cycle").expect("a regime");
    for (sample, d) in metrics.iter().zip(&heard) {
        let found = sample[at].as_f64().expect("a number");
        assert!((found - f64::from(d.posterior[name])).abs() < 1e-6);
    }
    // Time stamps are on liblsl's own clock: the last one a second and a bit ago.
    let ages = got["metrics"]["ages"].as_array().expect("ages");
    let last = ages.last().and_then(serde_json::Value::as_f64).expect("an age");
    assert!((0.5..10.0).contains(&last), "{last} s");
    // A sample's time, corrected, is when it was sent: what it took to us is little.
    let clock = daemon.session("rig").await.clock.expect("a clock");
    assert!(clock.offset_s > 0.0 && clock.jumps == 0, "{clock:?}");
    let session = daemon.session("rig").await;
    assert_eq!(session.source.expect("a source").loss_accounting, "estimated");
    daemon.check_accounts("rig").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_is_found_again_and_a_gap_is_estimated() {
    let Some((python, session, folder)) = stage("lsl::lost") else { return };
    // The stream is there before the daemon.
    let with = json!({"name": "bins", "channels": 96, "dtype": "int16"});
    let mut first = rig(&python, &folder, &with);
    let daemon = Daemon::start(&text(&session, "outlets = false"));
    first.ask("wait_consumer", &json!({}));
    let file = recording(folder.path(), &spikes(200));
    let file = arg(&file);
    first.ask("play", &json!({"file": file, "bins": 50}));
    daemon.wait_metric("regimed_bins_total", "rig", 50.0);
    // Samples that were never sent, or lost.
    first.ask("play", &json!({"file": file, "bins": 50, "shift": 0.5}));
    daemon.wait_metric("regimed_bins_total", "rig", 100.0);
    let lost = daemon.metric("regimed_source_messages_lost_total", "rig");
    assert!((30.0..=80.0).contains(&lost), "{lost} samples");
    // Ten times the rate at once.
    first.ask("play", &json!({"file": file, "bins": 100, "speed": 0, "shift": 1.0}));
    daemon.wait_metric("regimed_bins_total", "rig", 200.0);
    // Values that are no counts, silence, and a clock that goes back by an hour.
    first.ask("garbage", &json!({"channels": 96}));
    daemon.wait_metric("regimed_source_messages_total", "outcome=\"garbled\"", 3.0);
    daemon.wait_metric("regimed_source_stalled", "rig", 1.0);
    let starts = daemon.metric("regimed_recording_starts_total", "rig");
    first.ask("play", &json!({"file": file, "bins": 50, "shift": -3600.0}));
    daemon.wait_metric("regimed_bins_total", "rig", 250.0);
    assert_eq!(daemon.metric("regimed_recording_starts_total", "rig"), starts + 1.0);
    // The outlet dies; another with the same name comes, of another format.
    drop(first);
    daemon.wait_rig_lost("rig");
    // One that does not fit is refused with both numbers.
    let narrow = rig(&python, &folder, &json!({"name": "bins", "channels": 5}));
    let began = Instant::now();
    while !daemon.log().contains("expected a stream of 96 channels, found 'bins' with 5") {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        wait::look_again_here();
    }
    drop(narrow);
    let with = json!({"name": "bins", "channels": 96, "dtype": "double64"});
    let mut second = rig(&python, &folder, &with);
    second.ask("wait_consumer", &json!({}));
    second.ask("play", &json!({"file": file, "bins": 50}));
    daemon.wait_metric("regimed_bins_total", "rig", 300.0);
    assert!(daemon.metric("regimed_source_connections_total", "rig") >= 2.0);
    daemon.check_accounts("rig").await;
}

#[test]
fn init_and_doctor_listen_to_a_stream() {
    let Some(python) = python("lsl::init", &["pylsl", "numpy"]) else { return };
    let name = format!("bins-{}", std::process::id());
    let with = json!({ "name": name, "channels": 96 });
    let at = format!("name={name}");
    let expected = [&format!("name = \"{name}\"")[..], "channels = 96"];
    crate::init::heard("lsl", &at, || Rig::start(&python, "lsl", &with), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn markers_of_task_software_become_notes() {
    let Some((python, session, folder)) = stage("lsl::notes") else { return };
    let text = config("", &["rig"])
        + &format!("[session.lsl_notes]\ntype = \"Markers\"\nsession_id = \"{session}\"\n");
    let daemon = Daemon::start(&text);
    let bins = spikes(400);
    let messages: Vec<_> = (0..).zip(&bins).map(|(i, c)| message("rig", i, c)).collect();
    exchange(&daemon, futures_util::stream::iter(messages)).await;
    let with = json!({
        "name": "task", "channels": 1, "dtype": "string", "rate": 0.0, "kind": "Markers",
    });
    let mut task = rig(&python, &folder, &with);
    task.ask("wait_consumer", &json!({}));
    task.ask("mark", &json!({ "text": "trial 1: go" }));
    // One that took a second to come is noted where it belongs.
    task.ask("mark", &json!({ "text": "x".repeat(300), "ago_s": 1.0 }));
    // What cannot be noted is said, and the stream goes on.
    task.ask("mark", &json!({ "text": "y".repeat(2000) }));
    task.ask("mark", &json!({ "text": "last" }));
    let began = Instant::now();
    let noted = loop {
        let request = ListAnnotationsRequest { session: "rig".into() };
        let listed = daemon.regimes().await.list_annotations(request).await.expect("listed");
        let noted = listed.into_inner().annotations;
        if noted.iter().any(|a| a.text == "last") {
            break noted;
        }
        assert!(began.elapsed() < PATIENCE, "{noted:?} {}", daemon.log());
        wait::look_again().await;
    };
    let said: Vec<(&str, &str, u64)> =
        noted.iter().map(|a| (a.text.as_str(), a.source.as_str(), a.bin)).collect();
    let long = "x".repeat(300);
    assert_eq!((said[0].0, said[0].1), ("trial 1: go", "lsl task"), "{said:?}");
    assert_eq!((said[1].0, said[2].0), (long.as_str(), "last"), "{said:?}");
    assert!((290..=300).contains(&said[1].2), "a second before bin 399: {said:?}");
    assert!(said[0].2 >= 390, "{said:?}");
    assert!(daemon.log().contains("text: expected 1 to 1000 bytes, found 2000"));
    // The outlet goes and comes again.
    drop(task);
    wait::until(|| daemon.log().contains("LSL markers: "), || daemon.log());
    let mut task = rig(&python, &folder, &with);
    task.ask("wait_consumer", &json!({}));
    task.ask("mark", &json!({ "text": "again" }));
    let again = || daemon.get("/api/sessions/rig/annotations").1;
    wait::until(|| again().contains("\"again\""), again);
}
