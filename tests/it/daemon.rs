//! The daemon's main job over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::StreamExt;
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{
    Counts, Decision, Event, ListSessionsRequest, SubscribeDecisionsRequest, SubscribeEventsRequest,
};
use zeromq::{Socket, SocketRecv, SocketSend};

use prost::Message;

use crate::rig::{Daemon, PATIENCE, config, exchange_until_metrics, message, spikes};
use crate::wait;

/// Sends bins over `Exchange` and gathers everything that comes back.
async fn exchange(
    daemon: &Daemon,
    session: &str,
    bins: &[Vec<u32>],
) -> (Vec<Decision>, Vec<Event>) {
    let messages: Vec<_> =
        bins.iter().enumerate().map(|(i, c)| message(session, 100 + i as u64, c)).collect();
    crate::rig::exchange(daemon, futures_util::stream::iter(messages)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bin_is_decided_in_order_and_changes_are_events() {
    let daemon = Daemon::start(&config("", &["rig"]));
    assert_eq!(daemon.get("/healthz").0, 200);
    assert_eq!(daemon.get("/readyz").0, 200);
    let bins = spikes(600);
    let (decisions, events) = exchange(&daemon, "rig", &bins).await;
    let sequences: Vec<u64> = decisions.iter().map(|d| d.sequence).collect();
    assert_eq!(sequences, (100..700).collect::<Vec<u64>>());
    for d in &decisions {
        assert!((d.posterior.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{d:?}");
        assert_eq!(d.posterior.len(), d.regime_names.len());
        assert!(d.log_likelihood.is_finite() && !d.predicted);
    }
    assert_eq!(decisions[290].regime, "limit_cycle");
    assert_eq!(decisions[590].regime, "stable_fixed_point");
    let last = events.iter().rfind(|e| e.to == "stable_fixed_point").expect("events");
    assert!(last.bin > 300 && last.onset_bin <= last.bin && last.probability >= 0.7, "{last:?}");
    assert!((last.onset_low_bin..=last.onset_high_bin).contains(&last.onset_bin), "{last:?}");
    assert!((280..=320).contains(&last.onset_bin), "the change was in bin 300: {last:?}");
    assert!(last.from_probability < 1.0 - last.probability + 1e-6, "{last:?}");
    // Whoever comes later resumes the events from any number.
    let mut client = RegimesClient::connect(daemon.grpc.clone()).await.expect("connected");
    let request =
        |after| SubscribeEventsRequest { session: "rig".into(), after_event_sequence: after };
    let stream = client.subscribe_events(request(0)).await.expect("accepted").into_inner();
    let held: Vec<Event> = stream.take(events.len()).map(|e| e.expect("an event")).collect().await;
    assert_eq!(held, events);
    if events.len() > 1 {
        let mut stream = client.subscribe_events(request(1)).await.expect("accepted").into_inner();
        assert_eq!(stream.message().await.expect("no error").as_ref(), Some(&events[1]));
    }
    let sessions = client.list_sessions(ListSessionsRequest {}).await.expect("listed").into_inner();
    assert_eq!(sessions.sessions[0].bins, 600);
    assert_eq!(sessions.sessions[0].last_event_sequence, events.len() as u64);
    assert_eq!(daemon.metric("regimed_bins_total", "session=\"rig\""), 600.0);
    assert_eq!(daemon.metric("regimed_regime_in_force", "regime=\"stable_fixed_point\""), 1.0);
    assert_eq!(daemon.metric("regimed_latency_seconds_count", "session=\"rig\""), 600.0);

    let mut more = bins[400..].iter().zip(700..).map(|(bin, s)| message("rig", s, bin));
    let decision = exchange_until_metrics(&daemon, &mut more).await;
    let metrics = decision.metrics.expect("metrics");
    assert!(metrics.spectral_radius > 0.0 && metrics.bin <= decision.bin, "{metrics:?}");
    let radius = metrics.spectral_radius_interval.expect("an interval");
    assert!(radius.low < radius.high && radius.high > 0.0, "{metrics:?}");
    assert!(metrics.leading_time_constant_s != 0.0 && metrics.participation_ratio >= 1.0);
    let free = metrics.lyapunov_max_noise_free_per_s.expect("an exponent");
    assert!(free.low <= free.mean && free.mean <= free.high, "{metrics:?}");
    assert_eq!(metrics.lyapunov_noise_free_per_s[0], free.mean);
    assert_eq!(metrics.lyapunov_driven_per_s.len(), decision.latent.len());
    assert!(metrics.bare_spectral_radius > 0.0 && metrics.fixed_points.is_some(), "{metrics:?}");
    // Half a minute of counts was not seen.
    assert_eq!(metrics.connectivity_radius, None);
}

/// Keeps every core busy twice over until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn everywhere() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..2 * std::thread::available_parallelism().map_or(1, usize::from) {
            let over = over.clone();
            std::thread::spawn(move || while !over.load(Ordering::Relaxed) {});
        }
        Self(over)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_come_where_every_core_is_busy() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let _busy = Busy::everywhere();
    let began = Instant::now();
    let bins = spikes(600);
    let mut messages = (0..)
        .zip(bins.iter().cycle())
        .map(|(s, bin)| message("rig", s, bin))
        .take_while(|_| began.elapsed() < PATIENCE);
    // One after the other: what is read once is read on.
    let mut read = Vec::new();
    while read.len() < 4 {
        let decision = exchange_until_metrics(&daemon, &mut messages).await;
        let of = decision.metrics.expect("metrics").bin;
        if read.last() != Some(&of) {
            read.push(of);
        }
    }
    println!("readings of bins {read:?} after {:.1} s", began.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_ends_at_once_where_all_is_decided_before_the_client_says_so() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let (sender, inbound) = tokio::sync::mpsc::channel(400);
    for (bin, sequence) in spikes(200).iter().zip(0..) {
        sender.send(message("rig", sequence, bin)).await.expect("room");
    }
    let inbound = futures_util::stream::unfold(inbound, |mut from| async {
        from.recv().await.map(|message| (message, from))
    });
    let mut replies = client.exchange(inbound).await.expect("accepted").into_inner();
    let (mut named, mut announced, mut decided) = (0, 0, 0);
    while (decided, announced) < (200, named) {
        let reply = tokio::time::timeout(PATIENCE, replies.message()).await.expect("in time");
        match reply.expect("no error").expect("the stream goes on").reply.expect("a reply") {
            Reply::Decision(d) => (decided, named) = (d.sequence + 1, named.max(d.event_sequence)),
            Reply::Event(e) => announced = e.event_sequence,
            Reply::Rejection(r) => panic!("rejected: {r:?}"),
        }
    }
    assert!(named > 0, "an event among them");
    drop(sender);
    // Were the last decision waited for once more, it would take five seconds.
    let end = tokio::time::timeout(std::time::Duration::from_secs(3), replies.message()).await;
    assert!(end.expect("it ends").expect("no error").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_counts_give_the_same_decisions_bit_for_bit() {
    let bins = spikes(200);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let daemon = Daemon::start(&config("", &["rig"]));
        let (decisions, _) = exchange(&daemon, "rig", &bins).await;
        let numbers: Vec<_> = decisions
            .into_iter()
            .map(|d| {
                (
                    d.regime,
                    d.posterior,
                    d.embedding_mean,
                    d.embedding_sd,
                    d.latent,
                    d.novelty.to_bits(),
                )
            })
            .collect();
        answers.push(numbers);
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bins_in_one_message_or_many_give_the_same_decisions() {
    let bins = spikes(120);
    let mut answers = Vec::new();
    for chunk in [1usize, 7, 120] {
        let daemon = Daemon::start(&config("", &["rig"]));
        let messages: Vec<_> = bins
            .chunks(chunk)
            .enumerate()
            .map(|(i, part)| Counts {
                n_channels: part[0].len() as u32,
                ..message("rig", (i * chunk) as u64, &part.concat())
            })
            .collect();
        let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
        let replies = client.exchange(futures_util::stream::iter(messages)).await.expect("taken");
        let mut replies = replies.into_inner();
        let mut numbers = Vec::new();
        while let Some(reply) = replies.message().await.expect("no error") {
            if let Some(Reply::Decision(d)) = reply.reply {
                numbers.push((d.sequence, d.regime, d.posterior, d.embedding_mean));
            }
        }
        assert_eq!(numbers.len(), 120, "decisions in chunks of {chunk}");
        answers.push(numbers);
    }
    assert!(answers.windows(2).all(|w| w[0] == w[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_have_other_bins_than_its_model() {
    let text = format!("{}bin_ms = 20\nmean_dwell_s = 10\n", config("", &["rig"]));
    let daemon = Daemon::start(&text);
    let bins = spikes(600);
    // Pairs of 10 ms bins.
    let wide: Vec<Counts> = bins
        .chunks_exact(2)
        .enumerate()
        .map(|(i, pair)| {
            let sum: Vec<u32> = pair[0].iter().zip(&pair[1]).map(|(a, b)| a + b).collect();
            Counts { bin_width_s: 0.02, ..message("rig", i as u64, &sum) }
        })
        .collect();
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let replies = client.exchange(futures_util::stream::iter(wide)).await.expect("accepted");
    let mut replies = replies.into_inner();
    let mut labels = Vec::new();
    while let Some(reply) = replies.message().await.expect("no error") {
        match reply.reply.expect("a reply") {
            Reply::Decision(d) => labels.push(d.regime),
            Reply::Event(_) => {}
            Reply::Rejection(r) => panic!("rejected: {r:?}"),
        }
    }
    assert_eq!((labels[145].as_str(), labels[295].as_str()), ("limit_cycle", "stable_fixed_point"));
}

#[tokio::test(flavor = "multi_thread")]
async fn zeromq_in_and_out_with_topics_per_session() {
    let daemon = Daemon::start(&config("", &["left", "right"]));
    let mut subscriber = zeromq::SubSocket::new();
    subscriber.connect(&daemon.publish).await.expect("connected");
    subscriber.subscribe("left/").await.expect("subscribed");
    let mut push = zeromq::PushSocket::new();
    push.connect(&daemon.pull).await.expect("connected");
    let bins = spikes(400);
    // A subscription travels; until it has arrived, decisions pass by. Send until one is seen.
    let mut sequence = 0;
    let first = loop {
        let payload = message("left", sequence, &bins[0]).encode_to_vec();
        push.send(bytes::Bytes::from(payload).into()).await.expect("sent");
        sequence += 1;
        let soon =
            tokio::time::timeout(std::time::Duration::from_millis(50), subscriber.recv()).await;
        if let Ok(received) = soon {
            break received.expect("a message");
        }
        assert!(sequence < 200, "nothing comes out: {}", daemon.log());
    };
    assert_eq!(first.get(0).map(AsRef::as_ref), Some(b"left/decision".as_slice()));
    let start = sequence;
    for (i, counts) in bins.iter().enumerate() {
        for session in ["left", "right"] {
            let payload = message(session, start + i as u64, counts).encode_to_vec();
            push.send(bytes::Bytes::from(payload).into()).await.expect("sent");
        }
        wait::pace(std::time::Duration::from_micros(300)).await;
    }
    let (mut decisions, mut events) = (0, 0);
    let mut newest = 0;
    while newest < start + 399 {
        let received =
            tokio::time::timeout(PATIENCE, subscriber.recv()).await.expect("in time").expect("ok");
        let payload = received.get(1).expect("a payload");
        match received.get(0).map(AsRef::as_ref) {
            Some(b"left/decision") => {
                let d = Decision::decode(payload.as_ref()).expect("a decision");
                assert_eq!(d.session, "left");
                assert!(d.sequence > newest || decisions == 0);
                newest = d.sequence;
                decisions += 1;
            }
            Some(b"left/event") => {
                let e = Event::decode(payload.as_ref()).expect("an event");
                assert_eq!(e.session, "left");
                events += 1;
            }
            other => panic!("topic {other:?}"),
        }
    }
    assert!(decisions >= 400 && events >= 1, "{decisions} decisions, {events} events");
    daemon.wait_metric("regimed_bins_total", "session=\"right\"", 400.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_are_predicted_through_and_duplicates_dropped() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let bins = spikes(40);
    let numbers: Vec<u64> = (0..10).chain([5, 5]).chain(14..30).chain([29]).collect();
    let messages: Vec<_> = numbers.iter().map(|&n| message("rig", n, &bins[n as usize])).collect();
    let mut decisions = RegimesClient::connect(daemon.grpc.clone())
        .await
        .expect("connected")
        .subscribe_decisions(SubscribeDecisionsRequest { session: "rig".into(), every: 1 })
        .await
        .expect("subscribed")
        .into_inner();
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let summary = client
        .send_counts(futures_util::stream::iter(messages))
        .await
        .expect("accepted")
        .into_inner();
    assert_eq!((summary.bins_accepted, summary.bins_missing), (26, 4));
    assert_eq!(summary.rejections.iter().map(|r| r.messages).sum::<u64>(), 3);
    let mut seen = Vec::new();
    for _ in 0..30 {
        let update = decisions.message().await.expect("no error").expect("an update");
        let d = update.decision.expect("a decision");
        seen.push((d.sequence, d.predicted));
        assert_eq!(update.lost, 0);
    }
    let expected: Vec<_> = (0..30).map(|n| (n, (10..14).contains(&n))).collect();
    assert_eq!(seen, expected);
    assert_eq!(daemon.metric("regimed_bins_missing_total", "rig"), 4.0);
    assert_eq!(daemon.metric("regimed_bins_late_total", "rig"), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_subscribers_hear_the_same() {
    let daemon = Daemon::start(&config("", &["rig", "other"]));
    let mut client = RegimesClient::connect(daemon.grpc.clone()).await.expect("connected");
    let mut streams = Vec::new();
    for (session, every) in [("rig", 1), ("rig", 0), ("", 1), ("rig", 10)] {
        let request = SubscribeDecisionsRequest { session: session.into(), every };
        streams.push(client.subscribe_decisions(request).await.expect("subscribed").into_inner());
    }
    exchange(&daemon, "rig", &spikes(50)).await;
    for (stream, expected) in streams.iter_mut().zip([50, 50, 50, 5]) {
        let mut all = 0;
        let mut last = 0;
        while last < if expected == 5 { 140 } else { 149 } {
            let update = tokio::time::timeout(PATIENCE, stream.message())
                .await
                .expect("in time")
                .expect("no error")
                .expect("an update");
            last = update.decision.expect("a decision").sequence;
            all += 1;
        }
        // A change is told to those that skip, too.
        assert!((expected..expected + 4).contains(&all), "{all} of {expected}");
    }
    let missing = SubscribeDecisionsRequest { session: "nobody".into(), every: 1 };
    let status = client.subscribe_decisions(missing).await.expect_err("no such session");
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert!(status.message().contains("rig") && status.message().contains("nobody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_waits() {
    let mut daemon = Daemon::start(&config("", &["rig"]));
    let mut client = RegimesClient::connect(daemon.grpc.clone()).await.expect("connected");
    let request = SubscribeDecisionsRequest { session: "rig".into(), every: 1 };
    let mut decisions = client.subscribe_decisions(request).await.expect("subscribed").into_inner();
    let bins = spikes(500);
    let mut whole = message("rig", 0, &bins[0]);
    whole.counts = bins.concat();
    let mut ingest = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let summary = ingest.send_counts(futures_util::stream::iter([whole])).await.expect("accepted");
    assert_eq!(summary.into_inner().bins_accepted, 500);
    let status = tokio::task::spawn_blocking(move || (daemon.terminate(), daemon.log()));
    let mut last = None;
    while let Ok(Some(update)) = decisions.message().await {
        last = update.decision.map(|d| d.sequence);
    }
    assert_eq!(last, Some(499));
    let (status, log) = status.await.expect("joined");
    assert!(status.success(), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_what_is_served() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let daemon = Daemon::start(&config("", &["rig"]));
    let channel = tonic::transport::Endpoint::from_shared(daemon.grpc.clone())
        .expect("an endpoint")
        .connect()
        .await
        .expect("connected");
    let mut client = HealthClient::new(channel);
    for service in ["", "regimed.v1.Ingest", "regimed.v1.Regimes"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = client.check(request).await.expect("known").into_inner();
        assert_eq!(answer.status, 1, "{service} is not serving");
    }
}
