//! Counts over ZeroMQ: PULL (rigs connect) and SUB (the daemon connects to a rig that publishes).
//! The last frame of a message is a `regimed.v1.Counts`, with any topic or none before it; after
//! the topic `regimed.v1.Spikes` it is a message of that name.

use std::sync::Arc;

use prost::Message;
use zeromq::{Socket, SocketRecv, ZmqMessage, ZmqResult};

use crate::bus::Intake;
use crate::intake::Refusal;
use crate::rigs::Subscriber;
use crate::wire::codec::take_apart;
use crate::wire::{Counts, RejectReason, Spikes};

/// Frames of a message at most: topic and payload.
const FRAMES_MAX: usize = 2;
/// Topic of spike events.
const SPIKES_TOPIC: &[u8] = b"regimed.v1.Spikes";

/// A PULL socket bound to `endpoint`.
///
/// # Errors
/// Errors of the ZeroMQ library.
pub(crate) async fn bind_pull(endpoint: &str) -> ZmqResult<zeromq::PullSocket> {
    let mut socket = zeromq::PullSocket::new();
    socket.bind(endpoint).await?;
    Ok(socket)
}

/// Hands every message to the intake until aborted.
pub(crate) async fn receive(
    mut socket: impl SocketRecv,
    intake: Arc<Intake>,
    message_bytes_max: usize,
) {
    loop {
        match socket.recv().await {
            Ok(message) => take(&message, &intake, message_bytes_max),
            // One peer's connection has ended; the socket serves the others.
            Err(e) => tracing::debug!("ZeroMQ: {e}"),
        }
    }
}

/// Connects to a rig's PUB and receives; connects again when it is lost.
pub(crate) async fn subscribe(endpoint: String, intake: Arc<Intake>, message_bytes_max: usize) {
    let mut subscriber = Subscriber::new(endpoint.clone());
    let log_connection =
        |connected: bool| tracing::info!(endpoint, connected, "rig that publishes counts");
    loop {
        let message = subscriber.next(log_connection).await;
        take(&message, &intake, message_bytes_max);
    }
}

/// Hands a message's counts or spikes to their session; anything else is counted as malformed and
/// logged.
pub fn take(message: &ZmqMessage, intake: &Intake, message_bytes_max: usize) {
    let malformed = |detail: String| {
        intake.note("", &Refusal::new(RejectReason::Malformed, detail));
    };
    let frames = message.len();
    if frames > FRAMES_MAX {
        return malformed(format!("expected a topic and a message, found {frames} frames"));
    }
    let Some(payload) = message.get(frames.saturating_sub(1)) else {
        return malformed("expected a message, found no frame".into());
    };
    if payload.len() > message_bytes_max {
        let found = payload.len();
        return malformed(format!("expected at most {message_bytes_max} bytes, found {found}"));
    }
    if frames == 2 && message.get(0).is_some_and(|topic| topic.as_ref() == SPIKES_TOPIC) {
        match take_apart(payload.len(), || Spikes::decode(payload.as_ref())) {
            Ok(spikes) => drop(intake.offer_spikes(&spikes)),
            Err(e) => malformed(format!("expected a regimed.v1.Spikes, found other bytes: {e}")),
        }
        return;
    }
    match take_apart(payload.len(), || Counts::decode(payload.as_ref())) {
        // A refusal is counted and logged there: this socket has no way back to the sender.
        Ok(counts) => drop(intake.offer(&counts)),
        Err(e) => malformed(format!("expected a regimed.v1.Counts, found other bytes: {e}")),
    }
}
