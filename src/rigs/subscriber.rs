//! A ZeroMQ SUB socket that connects to a rig, and reconnects when the rig has gone. (The library's
//! own reconnection waits up to half a minute.)

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use zeromq::{Socket, SocketEvent, SocketRecv, SubSocket, ZmqMessage, ZmqResult};

use super::backoff::Backoff;

struct Connection {
    socket: SubSocket,
    events: BoxStream<'static, SocketEvent>,
}

/// The socket, whatever its connection is doing.
pub(crate) struct Subscriber {
    endpoint: String,
    connection: Option<Connection>,
    backoff: Backoff,
    reported: bool,
}

impl Subscriber {
    /// A subscriber that connects when it is first read.
    #[must_use]
    pub(crate) fn new(endpoint: String) -> Self {
        Self { endpoint, connection: None, backoff: Backoff::new(), reported: false }
    }

    async fn connect(endpoint: &str) -> ZmqResult<Connection> {
        let mut socket = SubSocket::new();
        let events = socket.monitor().boxed();
        socket.connect(endpoint).await?;
        socket.subscribe("").await?;
        Ok(Connection { socket, events })
    }

    /// The next message; calls `connected` when the connection opens or closes.
    pub(crate) async fn next(&mut self, connected: impl Fn(bool)) -> ZmqMessage {
        loop {
            let Some(connection) = &mut self.connection else {
                match Self::connect(&self.endpoint).await {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.backoff.reset();
                        self.reported = false;
                        connected(true);
                    }
                    Err(e) => {
                        if !std::mem::replace(&mut self.reported, true) {
                            let endpoint = &self.endpoint;
                            tracing::warn!(endpoint, "not connected, trying again: {e}");
                        }
                        self.backoff.pause().await;
                    }
                }
                continue;
            };
            let lost = tokio::select! {
                biased;
                message = connection.socket.recv() => match message {
                    Ok(message) => return message,
                    Err(e) => {
                        tracing::debug!("ZeroMQ: {e}");
                        true
                    }
                },
                event = connection.events.next() => {
                    matches!(event, None | Some(SocketEvent::Disconnected(_)))
                }
            };
            if lost {
                self.connection = None;
                connected(false);
            }
        }
    }
}
