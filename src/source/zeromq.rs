//! Counts over ZeroMQ: PULL (rigs connect) and SUB (the daemon connects to a rig that publishes).
//! The last frame of a message is a `regimed.v1.Counts`; a topic may come before it.

use std::sync::Arc;

use prost::Message;
use zeromq::{Socket, SocketRecv, ZmqMessage, ZmqResult};

use super::intake::{Intake, Refusal};
use crate::wire::{Counts, RejectReason};

/// Frames of a message at most: topic and payload.
const FRAMES_MAX: usize = 2;

/// A PULL socket bound to `endpoint`.
///
/// # Errors
/// ZeroMQ's.
pub async fn bind_pull(endpoint: &str) -> ZmqResult<zeromq::PullSocket> {
    let mut socket = zeromq::PullSocket::new();
    socket.bind(endpoint).await?;
    Ok(socket)
}

/// Hands every message to the intake, for ever.
pub async fn receive(mut socket: impl SocketRecv, intake: Arc<Intake>, message_bytes_max: usize) {
    loop {
        match socket.recv().await {
            Ok(message) => take(&message, &intake, message_bytes_max),
            // The peer's connection is over; the socket goes on with the others.
            Err(e) => tracing::debug!("ZeroMQ: {e}"),
        }
    }
}

/// Connects to a rig's PUB and receives; connects again when it is lost.
pub async fn subscribe(endpoint: String, intake: Arc<Intake>, message_bytes_max: usize) {
    loop {
        let mut socket = zeromq::SubSocket::new();
        let connected = async {
            socket.connect(&endpoint).await?;
            socket.subscribe("").await
        };
        match connected.await {
            Ok(()) => {
                tracing::info!(endpoint, "subscribed to a rig");
                receive(socket, intake.clone(), message_bytes_max).await;
            }
            Err(e) => {
                tracing::warn!(endpoint, "not connected to the rig: {e}");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

fn take(message: &ZmqMessage, intake: &Intake, message_bytes_max: usize) {
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
    match Counts::decode(payload.as_ref()) {
        // A refusal is counted and logged there: this socket has no way back to the sender.
        Ok(counts) => drop(intake.offer(&counts)),
        Err(e) => malformed(format!("expected a regimed.v1.Counts, found other bytes: {e}")),
    }
}
