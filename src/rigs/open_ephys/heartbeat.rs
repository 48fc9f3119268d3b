//! Requests that may go unanswered: the REQ socket is replaced when no reply comes ("lazy pirate").

use std::time::Duration;

use zeromq::{ReqSocket, Socket, SocketRecv, SocketSend};

/// Between heartbeats.
const EVERY: Duration = Duration::from_secs(2);
/// Without a reply for this long the socket is replaced.
const PATIENCE: Duration = Duration::from_secs(10);

/// A REQ socket to one peer.
pub(crate) struct Request {
    endpoint: String,
    socket: Option<ReqSocket>,
    patience: Duration,
}

impl Request {
    /// Not connected yet.
    #[must_use]
    pub(crate) fn new(endpoint: String, patience: Duration) -> Self {
        Self { endpoint, socket: None, patience }
    }

    /// Sends a text and waits for the reply.
    ///
    /// # Errors
    /// Why none came; the next request is on a new socket.
    pub(crate) async fn ask(&mut self, text: String) -> Result<String, RequestError> {
        let asked = tokio::time::timeout(self.patience, async {
            let socket = match &mut self.socket {
                Some(socket) => socket,
                none => {
                    let mut socket = ReqSocket::new();
                    socket.connect(&self.endpoint).await?;
                    none.insert(socket)
                }
            };
            socket.send(text.into()).await?;
            let reply = socket.recv().await?;
            let text = reply.get(0).map_or(&[][..], |b| b.as_ref());
            Ok(String::from_utf8_lossy(text).into_owned())
        });
        let reply = asked.await.unwrap_or(Err(RequestError::Late));
        if reply.is_err() {
            self.socket = None;
        }
        reply
    }
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Zmq(#[from] zeromq::ZmqError),
    #[error("no reply in time")]
    Late,
    /// Another reply than was expected.
    #[error("found '{0}'")]
    Unexpected(String),
}

/// Sends heartbeats to the GUI, until aborted.
pub(crate) async fn keep(endpoint: String) {
    let uuid = format!("regimed-{}", std::process::id());
    let beat = format!(r#"{{"application":"regimed","uuid":"{uuid}","type":"heartbeat"}}"#);
    let mut request = Request::new(endpoint.clone(), PATIENCE);
    let mut answered = None;
    loop {
        let reply = request.ask(beat.clone()).await;
        if answered != Some(reply.is_ok()) {
            match &reply {
                Ok(reply) => tracing::info!(endpoint, reply, "Open Ephys: heartbeat"),
                Err(e) => tracing::warn!(endpoint, "Open Ephys: no heartbeat: {e}"),
            }
            answered = Some(reply.is_ok());
        }
        tokio::time::sleep(EVERY).await;
    }
}
