//! Markers of a stream as a session's notes: what task software says of its trials, beside what
//! the dynamics say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::feed::Feed;
use super::info::{Format, StreamInfo};
use super::{Settings, discovery};
use crate::bus::SessionHandle;
use crate::clock::monotonic_s;
use crate::rigs::backoff::Backoff;
use crate::telemetry::Throttle;

/// Without a marker for this long it is asked whether the stream is still there: markers are rare,
/// and a killed outlet may leave its connection open.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Notes a second at most: a stream of data is no stream of markers.
const PER_S: u32 = 100;
/// A marker that seems older than this, or younger, is of a clock that is not known yet, seconds.
const AGE_MAX_S: f64 = 10.0;

/// Resolves the stream and notes what it says, until aborted; resolves it again when it is lost.
pub(crate) async fn run(settings: Settings, session: Arc<SessionHandle>) {
    let mut backoff = Backoff::new();
    let mut throttle = Throttle::default();
    loop {
        let found = discovery::resolve(&settings.query(), &settings.known_peers).await;
        let result = match found {
            Ok(Some(info)) => {
                backoff.reset();
                listen(&info, &settings, &session).await
            }
            // No answer: ask again.
            Ok(None) => continue,
            Err(e) => Err(e),
        };
        if let (Err(e), Some(held_back)) = (result, throttle.pass(Instant::now())) {
            tracing::warn!(session = session.name(), held_back, "LSL markers: {e}");
        }
        backoff.pause().await;
    }
}

async fn listen(
    info: &StreamInfo,
    settings: &Settings,
    session: &SessionHandle,
) -> std::io::Result<()> {
    if info.format != Format::Text {
        let (name, found) = (&info.name, info.format.name());
        return Err(std::io::Error::other(format!(
            "expected a stream of strings, found '{name}' of {found}"
        )));
    }
    let mut feed = Feed::open(info).await?;
    let correction = discovery::Correction::keep(info);
    let source: String = format!("lsl {}", info.name).chars().take(48).collect();
    tracing::info!(session = session.name(), stream = info.name, "LSL markers become notes");
    let (mut second, mut noted) = (Instant::now(), 0);
    loop {
        let (stamp, texts) = {
            let next = feed.next_texts();
            tokio::pin!(next);
            loop {
                tokio::select! {
                    sample = &mut next => break sample?,
                    () = tokio::time::sleep(LOOK_EVERY) => still_there(info, settings).await?,
                }
            }
        };
        if second.elapsed() >= Duration::from_secs(1) {
            (second, noted) = (Instant::now(), 0);
        }
        noted += 1;
        if noted > PER_S {
            return Err(std::io::Error::other(format!(
                "expected at most {PER_S} markers a second, found more of '{}'",
                info.name
            )));
        }
        let age_s = monotonic_s() - (stamp + correction.seconds());
        let age_s = if age_s.abs() <= AGE_MAX_S { age_s.max(0.0) } else { 0.0 };
        if let Err(e) = session.annotate(&texts.join(", "), &source, age_s) {
            tracing::warn!(session = session.name(), "LSL markers: {e}");
        }
    }
}

/// Whether the stream still answers.
async fn still_there(info: &StreamInfo, settings: &Settings) -> std::io::Result<()> {
    let query = format!("uid='{}'", info.uid);
    // A datagram may be lost.
    for _ in 0..3 {
        if discovery::resolve(&query, &settings.known_peers).await?.is_some() {
            return Ok(());
        }
    }
    Err(std::io::Error::other(format!("the stream '{}' is gone", info.name)))
}
