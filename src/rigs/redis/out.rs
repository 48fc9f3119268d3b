//! A session's decisions and events to Redis streams, for readers of several daemons in one place:
//! `NAME:decisions` and `NAME:events`. Events are written in order and none is left out while the
//! daemon or its journal holds them; decisions are dropped while the server is away.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};

use super::{BATCH, Connection, OutSettings, newest};
use crate::bus::{NewestEvent, SessionHandle, Subscription};
use crate::telemetry::BusOutMetrics;
use crate::wire::{Decision, Event};

/// Interval of checks for events where none was announced: the server may be back.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Names of a session's streams: decisions, events.
#[must_use]
pub(crate) fn streams(session: &str, settings: &OutSettings) -> [String; 2] {
    let name = settings.stream.clone().unwrap_or_else(|| format!("regimed:{session}"));
    [format!("{name}:decisions"), format!("{name}:events")]
}

/// Writes both streams until the session ends.
pub(crate) async fn run(session: Arc<SessionHandle>, settings: OutSettings) {
    let metrics = BusOutMetrics::new(&session.facts().name);
    let [decisions, events] = streams(&session.facts().name, &settings);
    let every = settings.decisions_every as u64;
    let subscription = (every > 0).then(|| session.subscribe(every));
    tokio::join!(
        write_events(&session, &settings, &events, &metrics),
        write_decisions(subscription, &settings, &decisions, &metrics),
    );
}

async fn write_events(
    session: &Arc<SessionHandle>,
    settings: &OutSettings,
    stream: &str,
    metrics: &BusOutMetrics,
) {
    let mut connection = Connection::new(&settings.url);
    let mut newest_event = NewestEvent::of(session);
    let mut after = None;
    loop {
        let mut live = connection.get().await;
        metrics.connected(true);
        match send_events(session, settings, stream, &mut live, &mut after).await {
            Ok(written) => {
                connection.worked();
                metrics.events.increment(written);
                if session.is_ended() {
                    return;
                }
                // Fails when the session has ended: one more round.
                let _ = tokio::time::timeout(LOOK_EVERY, newest_event.changed()).await;
            }
            Err(e) => {
                metrics.connected(false);
                // The last written event is not known now.
                after = None;
                connection.failed(&e).await;
                if session.is_ended() {
                    return;
                }
            }
        }
    }
}

/// Writes the events after the last that is in the stream; how many.
async fn send_events(
    session: &Arc<SessionHandle>,
    settings: &OutSettings,
    stream: &str,
    live: &mut MultiplexedConnection,
    after: &mut Option<u64>,
) -> Result<u64, RedisError> {
    let mut last = match *after {
        Some(last) => last,
        None => written_before(live, stream, session.events.numbering()).await?,
    };
    let mut written = 0;
    loop {
        let events = match session.events.after(last).await {
            Ok(events) => events,
            Err(e) => {
                tracing::error!(stream, "Redis: events are missing: {e}");
                last = e.nearest();
                continue;
            }
        };
        let Some(newest) = events.last() else {
            *after = Some(last);
            return Ok(written);
        };
        let mut pipeline = redis::pipe();
        for event in &events {
            add_event(
                &mut pipeline,
                stream,
                settings.events_max,
                session.events.numbering(),
                event,
            );
        }
        let () = pipeline.query_async(live).await?;
        last = newest.event_sequence;
        written += events.len() as u64;
    }
}

/// Number of the last event in the stream that is of `numbering`.
async fn written_before(
    live: &mut MultiplexedConnection,
    stream: &str,
    numbering: &str,
) -> Result<u64, RedisError> {
    let Some(entry) = newest(live, stream).await? else { return Ok(0) };
    let text = |field: &str| match entry.map.get(field) {
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    let ours = text("run") == numbering;
    Ok(if ours { text("event_sequence").parse().unwrap_or(0) } else { 0 })
}

fn add_event(pipeline: &mut Pipeline, stream: &str, max: usize, numbering: &str, e: &Event) {
    let fields: [(&str, String); 11] = [
        ("session", e.session.clone()),
        ("run", numbering.to_owned()),
        ("event_sequence", e.event_sequence.to_string()),
        ("bin", e.bin.to_string()),
        ("sequence", e.sequence.to_string()),
        ("onset_bin", e.onset_bin.to_string()),
        ("from", e.from.clone()),
        ("to", e.to.clone()),
        ("probability", e.probability.to_string()),
        ("rig_time_ns", e.rig_time_ns.to_string()),
        ("decision_time_ns", e.decision_time_ns.to_string()),
    ];
    let command = pipeline.cmd("XADD").arg(stream).arg("MAXLEN").arg("~").arg(max).arg("*");
    for (name, value) in fields {
        command.arg(name).arg(value);
    }
    command.arg("event").arg(e.encode_to_vec()).ignore();
}

async fn write_decisions(
    subscription: Option<Subscription>,
    settings: &OutSettings,
    stream: &str,
    metrics: &BusOutMetrics,
) {
    let Some(mut subscription) = subscription else { return };
    let mut connection = Connection::new(&settings.url);
    let mut lost = 0;
    while let Some(first) = subscription.next().await {
        let mut pipeline = redis::pipe();
        let mut n = 0;
        let mut next = Some(first);
        while let Some(update) = next {
            if let Some(decision) = update.decision() {
                add_decision(&mut pipeline, stream, settings.entries_max, decision);
                n += 1;
            }
            next = if n < BATCH { subscription.try_next() } else { None };
        }
        metrics.lost.increment(subscription.lost() - lost);
        lost = subscription.lost();
        if n == 0 {
            continue;
        }
        let mut live = connection.get().await;
        let sent: Result<(), RedisError> = pipeline.query_async(&mut live).await;
        match sent {
            Ok(()) => {
                connection.worked();
                metrics.decisions.increment(n as u64);
            }
            Err(e) => {
                metrics.lost.increment(n as u64);
                connection.failed(&e).await;
            }
        }
    }
}

fn add_decision(pipeline: &mut Pipeline, stream: &str, max: usize, d: &Decision) {
    let command = pipeline.cmd("XADD").arg(stream).arg("MAXLEN").arg("~").arg(max).arg("*");
    command.arg("session").arg(&d.session);
    command.arg("sequence").arg(d.sequence);
    command.arg("bin").arg(d.bin);
    command.arg("regime").arg(&d.regime);
    command.arg("novelty").arg(d.novelty.to_string());
    command.arg("decision").arg(d.encode_to_vec()).ignore();
}
