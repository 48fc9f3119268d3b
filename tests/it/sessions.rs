//! Sessions at run time: started, stopped, paused, given other models.

use std::time::Duration;

use regimed::internals::wire::control_client::ControlClient;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::{
    Counts, SessionState, SubscribeDecisionsRequest, SubscribeEventsRequest, SwapModelRequest,
};

use crate::rig::{Daemon, arg, checkout, config, decisions_until, message, run, spikes};

fn sessions(daemon: &Daemon, args: &[&str]) -> (bool, String, String) {
    run(&[&["sessions", "--at", &daemon.grpc], args].concat())
}

async fn send(daemon: &Daemon, session: &str, bins: &[Vec<u32>], first: u64) -> u64 {
    let messages: Vec<Counts> = (first..).zip(bins).map(|(i, c)| message(session, i, c)).collect();
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let sent = client.send_counts(futures_util::stream::iter(messages)).await;
    sent.expect("accepted").into_inner().bins_accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_start_pause_and_stop_while_others_run() {
    let daemon = Daemon::start(&config("", &["first"]));
    let bins = spikes(100);
    let all = SubscribeDecisionsRequest { session: String::new(), every: 1 };
    let mut everything =
        daemon.regimes().await.subscribe_decisions(all).await.expect("subscribed").into_inner();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s.toml");
    let table = "[[session]]\nname = \"second\"\nmodel = \"builtin\"\nreadout = \"0\"\n";
    std::fs::write(&file, table).expect("written");
    let (good, shown, error) = sessions(&daemon, &["start", arg(&file)]);
    assert!(good && shown.contains("second (running): 96 channels"), "{shown}{error}");
    // Once more, and with faults: said as `serve --check` would.
    let (good, _, error) = sessions(&daemon, &["start", arg(&file)]);
    assert!(!good && error.contains("'second'"), "{error}");
    std::fs::write(&file, table.replace("readout", "redout") + "[grpc]\nlisten = \"\"\n")
        .expect("written");
    let (good, _, error) = sessions(&daemon, &["start", arg(&file)]);
    assert!(!good && error.contains("redout"), "{error}");
    assert_eq!(send(&daemon, "second", &bins, 0).await, 100);
    // Who asked for all sessions hears of one that began later.
    let update = tokio::time::timeout(crate::rig::PATIENCE, everything.message()).await;
    let decision = update.expect("in time").expect("no error").expect("an update").decision;
    assert_eq!(decision.expect("a decision").session, "second");

    assert!(sessions(&daemon, &["pause", "second"]).0);
    assert_eq!(daemon.session("second").await.state(), SessionState::Paused);
    assert_eq!(send(&daemon, "second", &bins[..10], 100).await, 0);
    assert_eq!(daemon.metric("regimed_bins_rejected_total", "reason=\"paused\""), 10.0);
    assert_eq!(daemon.metric("regimed_session_state", "state=\"paused\""), 1.0);
    assert!(sessions(&daemon, &["resume", "second"]).0);
    assert_eq!(send(&daemon, "second", &bins[10..20], 110).await, 10);
    // What was refused is a gap.
    let accounts = daemon.check_accounts("second").await;
    assert_eq!((accounts.bins_received, accounts.bins_rejected), (120, 10));
    assert_eq!(daemon.session("second").await.bins_missing, 10);

    // Its own stream ends with it; the first session goes on.
    let heard = decisions_until(&daemon, "second", u64::MAX).await;
    let request = SubscribeEventsRequest { session: "second".into(), after_event_sequence: 0 };
    let events = daemon.regimes().await.subscribe_events(request).await.expect("subscribed");
    let events = tokio::spawn(async move {
        let mut events = events.into_inner();
        while let Ok(Some(_)) = events.message().await {}
    });
    let (good, shown, error) = sessions(&daemon, &["stop", "second"]);
    assert!(
        good && shown.contains("(stopped)") && shown.contains("110 accepted"),
        "{shown}{error}"
    );
    assert!(heard.await.expect("joined").is_empty());
    tokio::time::timeout(crate::rig::PATIENCE, events).await.expect("events end").expect("joined");
    assert_eq!(send(&daemon, "second", &bins[..1], 200).await, 0);
    assert_eq!(send(&daemon, "first", &bins, 0).await, 100);
    assert_eq!(daemon.metric("regimed_session_state", "session=\"second\",state=\"stopped\""), 1.0);
    let (good, shown, _) = sessions(&daemon, &[]);
    assert!(good && shown.contains("first (running)") && !shown.contains("second"), "{shown}");
    for absent in [["stop", "second"], ["pause", "nobody"]] {
        let (good, _, error) = sessions(&daemon, &absent);
        assert!(!good && error.contains("expected one of the sessions first"), "{error}");
    }
    // The name is free again.
    std::fs::write(&file, table).expect("written");
    assert!(sessions(&daemon, &["start", arg(&file)]).0);
    assert_eq!(send(&daemon, "second", &bins, 0).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_swapped_between_two_bins() {
    let daemon = Daemon::start(&config("", &["rig"]));
    // The same model with its regimes named and ordered otherwise: one name is not in it any more.
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["model.json", "model.safetensors"] {
        std::fs::copy(checkout("models/default").join(file), folder.path().join(file))
            .expect("copied");
    }
    let card = folder.path().join("model.json");
    let text = std::fs::read_to_string(&card).expect("text");
    let renamed = text.replace("\"limit_cycle\"", "\"rhythm\"");
    assert_ne!(renamed, text);
    std::fs::write(&card, renamed).expect("written");

    let bins = spikes(1200);
    let heard = decisions_until(&daemon, "rig", 1199).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|m: Counts| (m, receiver))
    });
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let sent = tokio::spawn(async move { client.send_counts(stream).await });
    let feed = tokio::spawn(async move {
        let mut due = tokio::time::Instant::now();
        for (b, counts) in bins.iter().enumerate() {
            due += Duration::from_millis(4);
            tokio::time::sleep_until(due).await;
            sender.send(message("rig", b as u64, counts)).await.expect("sent");
        }
    });
    daemon.wait_metric("regimed_bins_total", "rig", 200.0);
    let mut control = ControlClient::connect(daemon.grpc.clone()).await.expect("connected");
    let swap = |model: &str, readout: &str| SwapModelRequest {
        session: "rig".into(),
        model: model.into(),
        readout: readout.into(),
        warm_up_s: 1.0,
        false_changes_per_min: 0.0,
    };
    // What does not fit is refused, and nothing changes.
    for (request, word) in [
        (swap("/nowhere", ""), "/nowhere"),
        (swap("builtin", "nobody"), "'nobody'"),
        (SwapModelRequest { warm_up_s: -1.0, ..swap("builtin", "") }, "warm_up_s"),
        (SwapModelRequest { false_changes_per_min: -1.0, ..swap("", "") }, "above 0, found -1"),
    ] {
        let refusal = control.swap_model(request).await.expect_err("refused");
        assert!(refusal.message().contains(word), "{refusal}");
    }
    let shown =
        control.swap_model(swap(arg(folder.path()), "")).await.expect("swapped").into_inner();
    assert!(shown.regime_names.contains(&"rhythm".to_owned()), "{shown:?}");
    assert_eq!(shown.false_changes_per_min, 0.0);
    // Another rate of false changes alone: the same model goes on.
    let rarer = SwapModelRequest { false_changes_per_min: 0.5, ..swap("", "") };
    let same = control.swap_model(rarer).await.expect("swapped").into_inner();
    assert_eq!((same.false_changes_per_min, &same.model), (0.5, &shown.model));
    feed.await.expect("joined");
    sent.await.expect("joined").expect("accepted");
    let heard = heard.await.expect("joined");
    // Every bin has its decision: one stream, no gap, nothing predicted.
    assert!(heard.iter().map(|d| d.sequence).eq(0..1200));
    assert!(heard.iter().zip(0..).all(|(d, i)| d.bin == i && !d.predicted));
    let at = heard.iter().position(|d| d.regime_names.contains(&"rhythm".to_owned()));
    let at = at.expect("decisions of the other model");
    assert!(at > 200 && at < 1000, "swapped at bin {at}");
    assert!(heard[at..].iter().all(|d| d.regime_names.contains(&"rhythm".to_owned())));
    // It was warmed up: it knows at once what the former model knew, by its own name.
    assert_eq!(heard[at - 1].regime, "limit_cycle", "before bin {at}");
    let rhythm = heard[at].regime_names.iter().position(|n| n == "rhythm").expect("named");
    assert!(heard[at].posterior[rhythm] > 0.5, "{:?}", heard[at].posterior);
    assert_eq!(heard[at + 20].regime, "rhythm");
    assert_eq!(heard[1190].regime, "stable_fixed_point");
    assert_eq!(daemon.metric("regimed_model_swaps_total", "rig"), 2.0);
    assert_eq!(daemon.metric("regimed_regime_in_force", "limit_cycle"), 0.0);
    assert_eq!(daemon.metric("regimed_regime_in_force", "stable_fixed_point"), 1.0);
    let log = daemon.log();
    assert!(log.contains("model swapped"), "{log}");
    // A session to which nothing comes takes another model too.
    let shown = control.swap_model(swap("builtin", "")).await.expect("swapped").into_inner();
    assert!(shown.regime_names.contains(&"limit_cycle".to_owned()), "{shown:?}");
    daemon.check_accounts("rig").await;
}
