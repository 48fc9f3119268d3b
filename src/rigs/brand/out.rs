//! Writes labels and metrics into a BRAND graph: a stream whose entries carry `samples`, `i`, `ts`
//! and `sync` as every node's do, and further fields.

use std::sync::Arc;

use redis::RedisError;

use super::Syncs;
use crate::bus::SessionHandle;
use crate::clock::monotonic_ns;
use crate::rigs::redis::{BATCH, Connection};
use crate::wire::Decision;

/// Entries kept, about: half an hour of bins of 10 ms.
const ENTRIES_MAX: usize = 180_000;

/// Writes until the session ends; leaves out what comes while the server is away.
pub(crate) async fn run(
    session: Arc<SessionHandle>,
    url: String,
    stream: String,
    syncs: Arc<Syncs>,
) {
    let mut subscription = session.subscribe(1);
    let mut connection = Connection::new(&url);
    let mut upstream = None;
    while let Some(first) = subscription.next().await {
        let mut pipeline = redis::pipe();
        let mut next = Some(first);
        let mut n = 0;
        while let Some(update) = next {
            if let Some(decision) = update.decision() {
                // A missing bin has no counters.
                upstream = syncs.take(decision.sequence).or(upstream);
                add(&mut pipeline, &stream, decision, upstream.as_deref());
                n += 1;
            }
            next = if n < BATCH { subscription.try_next() } else { None };
        }
        if n == 0 {
            continue;
        }
        let mut live = connection.get().await;
        let sent: Result<(), RedisError> = pipeline.query_async(&mut live).await;
        match sent {
            Ok(()) => connection.worked(),
            Err(e) => connection.failed(&e).await,
        }
    }
}

fn add(pipeline: &mut redis::Pipeline, stream: &str, d: &Decision, sync: Option<&str>) {
    let little =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let command = pipeline.cmd("XADD").arg(stream).arg("MAXLEN").arg("~").arg(ENTRIES_MAX).arg("*");
    // The posterior, float32, in the order of regime_names.
    command.arg("samples").arg(little(&d.posterior));
    command.arg("i").arg(&d.sequence.to_le_bytes()[..]);
    command.arg("ts").arg(&monotonic_ns().to_le_bytes()[..]);
    command.arg("sync").arg(sync.unwrap_or("{}"));
    command.arg("label").arg(&d.regime);
    command.arg("regime_names").arg(d.regime_names.join(","));
    command.arg("changed").arg(&[u8::from(d.event_sequence != 0)][..]);
    command.arg("predicted").arg(&[u8::from(d.predicted)][..]);
    command.arg("novelty").arg(little(&[d.novelty]));
    command.arg("latents").arg(little(&d.latent));
    if let Some(m) = &d.metrics {
        command.arg("spectral_radius").arg(little(&[m.spectral_radius]));
        command.arg("spectral_abscissa_per_s").arg(little(&[m.spectral_abscissa_per_s]));
        if let Some(l) = &m.lyapunov_max_driven_per_s {
            command.arg("lyapunov_max_driven_per_s").arg(little(&[l.mean, l.low, l.high]));
        }
    }
    command.ignore();
}
