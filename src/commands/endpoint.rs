//! Endpoints as people write them.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use zeromq::{PushSocket, Socket, SocketSend};

use prost::Message;

use super::access::AccessArgs;
use crate::tasks;
use crate::wire::ingest_client::IngestClient;
use crate::wire::{Counts, IngestSummary};

/// Messages that wait to be sent over gRPC.
const WAITING: usize = 1024;

/// A ZeroMQ connection stays open for this long after the last message.
const LINGER: Duration = Duration::from_millis(300);

/// A way to send counts.
pub(crate) enum Sender {
    ZeroMq(PushSocket),
    Grpc {
        messages: mpsc::Sender<Counts>,
        summary: tokio::task::JoinHandle<Result<IngestSummary, tonic::Status>>,
    },
}

impl Sender {
    /// `tcp://` and `ipc://` are ZeroMQ (PUSH connects to the daemon's PULL), `http://` and
    /// `https://` are gRPC.
    pub(crate) async fn connect(text: &str, access: &AccessArgs) -> Result<Self> {
        if text.starts_with("tcp://") || text.starts_with("ipc://") {
            let mut socket = PushSocket::new();
            socket.connect(text).await.with_context(|| {
                format!("nothing answers at {text} (is `regimed serve` running?)")
            })?;
            return Ok(Self::ZeroMq(socket));
        }
        let mut client = IngestClient::new(access.connect(text).await?);
        let (messages, receiver) = mpsc::channel(WAITING);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|m: Counts| (m, receiver))
        });
        let summary = tasks::spawn(async move {
            client.send_counts(stream).await.map(tonic::Response::into_inner)
        });
        Ok(Self::Grpc { messages, summary })
    }

    pub(crate) async fn send(&mut self, counts: Counts) -> Result<()> {
        match self {
            Self::ZeroMq(socket) => {
                let payload = bytes::Bytes::from(counts.encode_to_vec());
                socket.send(payload.into()).await.context("the daemon is gone")
            }
            Self::Grpc { messages, .. } => {
                messages.send(counts).await.ok().context("the daemon ended the stream")
            }
        }
    }

    /// The daemon's account, where the way has one.
    pub(crate) async fn finish(self) -> Result<Option<IngestSummary>> {
        match self {
            Self::ZeroMq(socket) => {
                // What the library has not written yet it drops at the close.
                tokio::time::sleep(LINGER).await;
                let left = socket.close().await;
                if !left.is_empty() {
                    tracing::debug!("closing: {left:?}");
                }
                Ok(None)
            }
            Self::Grpc { messages, summary } => {
                drop(messages);
                Ok(Some(summary.await?.context("the daemon ended the stream")?))
            }
        }
    }
}
