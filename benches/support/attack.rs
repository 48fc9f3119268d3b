//! What nobody should send to a daemon, for the tests and for the bench of overload.
#![allow(dead_code)] // each of them uses some of it

use std::io::Write;
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::task::JoinHandle;
use tonic::codegen::{Body, Service, http};
use tonic::transport::{Channel, Endpoint};

/// A call, or a write, that is not answered is given up after so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Methods that anybody can call where no token is asked for.
pub(crate) const METHODS: [&str; 6] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.health.v1.Health/Watch",
    "/regimed.v1.Regimes/SubscribeDecisions",
    "/regimed.v1.Control/StartSession",
    "/regimed.v1.Ingest/SendCounts",
    "/regimed.v1.Ingest/Exchange",
];

/// `HOST:PORT` of an endpoint.
pub(crate) fn address(endpoint: &str) -> String {
    endpoint.split("://").last().expect("an address").to_owned()
}

/// A call's body: bytes of a message that never becomes whole.
struct Part {
    chunks: usize,
    begun: bool,
}

impl Body for Part {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if !std::mem::replace(&mut self.begun, true) {
            // Four MiB are claimed.
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0, 0, 0x3f, 0xff, 0])))));
        }
        if self.chunks == 0 {
            return Poll::Pending;
        }
        self.chunks -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; 64 << 10])))))
    }
}

/// Begins calls of a method on one connection, each with most of a message of 4 MiB.
pub(crate) async fn parts(grpc: &str, method: &'static str, calls: usize) -> Vec<JoinHandle<()>> {
    let endpoint = Endpoint::from_shared(grpc.to_owned()).expect("an endpoint");
    let Ok(channel) = endpoint.connect().await else { return Vec::new() };
    (0..calls).map(|_| tokio::spawn(part(channel.clone(), method))).collect()
}

async fn part(mut channel: Channel, method: &'static str) {
    let request = http::Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Part { chunks: 60, begun: false }))
        .expect("a request");
    let Ok(()) = std::future::poll_fn(|c| channel.poll_ready(c)).await else { return };
    if let Ok(response) = channel.call(request).await {
        let mut body = response.into_body();
        let next = std::future::poll_fn(|c| Pin::new(&mut body).poll_frame(c));
        let _ = tokio::time::timeout(PATIENCE, next).await;
    }
}

/// An empty frame of a message that goes on.
pub(crate) const EMPTY_FRAMES: [u8; 2] = [1, 0];

/// Frames that subscribe to so many topics.
pub(crate) fn subscriptions(n: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..n {
        bytes.extend([0, 5, 1]);
        bytes.extend(i.to_be_bytes());
    }
    bytes
}

/// A ZMTP peer by hand: greeted, and known.
pub(crate) fn peer(endpoint: &str, kind: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address(endpoint)).expect("the port is open");
    let mut hello = vec![0u8; 64];
    (hello[0], hello[9], hello[10]) = (0xff, 0x7f, 3);
    hello[12..16].copy_from_slice(b"NULL");
    let mut properties = vec![11];
    properties.extend(b"Socket-Type");
    properties.extend((kind.len() as u32).to_be_bytes());
    properties.extend(kind.as_bytes());
    hello.extend([4, (6 + properties.len()) as u8, 5]);
    hello.extend(b"READY");
    hello.extend(properties);
    // The daemon may end it at any byte.
    let _ = stream.write_all(&hello);
    stream
}

/// Writes so often, or until the other end has gone: whether it was all taken.
pub(crate) fn pour(stream: &mut TcpStream, bytes: &[u8], times: usize) -> bool {
    let _ = stream.set_write_timeout(Some(PATIENCE));
    (0..times).all(|_| stream.write_all(bytes).is_ok())
}
