//! Decisions and events over ZeroMQ PUB: frame 0 is the topic `SESSION/decision` or
//! `SESSION/event`, frame 1 the protobuf message.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage, ZmqResult};

use crate::bus::Update;

/// The socket that all sessions share.
pub(crate) struct Publisher {
    /// An asynchronous lock: the library's `send` needs `&mut`, and several sessions publish. It
    /// only fills queues, so it is held for microseconds.
    socket: Mutex<PubSocket>,
}

/// A session's topics.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    decision: Bytes,
    event: Bytes,
}

impl Topics {
    #[must_use]
    pub(crate) fn new(session: &str) -> Self {
        let topic = |kind: &str| Bytes::from(format!("{session}/{kind}"));
        Self { decision: topic("decision"), event: topic("event") }
    }
}

impl Publisher {
    /// A PUB socket bound to `endpoint`.
    ///
    /// # Errors
    /// Errors of the ZeroMQ library.
    pub(crate) async fn bind(endpoint: &str) -> ZmqResult<Arc<Self>> {
        let mut socket = PubSocket::new();
        socket.bind(endpoint).await?;
        Ok(Arc::new(Self { socket: Mutex::new(socket) }))
    }

    /// Sends an update to its subscribers. This only fills the socket's queues, so a slow
    /// subscriber delays nobody.
    pub(crate) async fn publish(&self, topics: &Topics, update: &Update) {
        let (topic, message) = match update {
            Update::Decision(decision) => (&topics.decision, decision.bytes()),
            Update::Event(event) => (&topics.event, event.bytes()),
        };
        let mut frames = ZmqMessage::from(topic.clone());
        frames.push_back(message);
        if let Err(e) = self.socket.lock().await.send(frames).await {
            tracing::debug!("ZeroMQ: {e}");
        }
    }
}
