//! A gate before a ZeroMQ socket, which bounds what the library does not: it reserves memory for
//! whatever length a frame claims, keeps every frame of a message until the last, keeps every
//! subscription of a peer, and queues without a small bound for a subscriber that has stopped
//! reading.
//!
//! The gate accepts the connections, reads the frames' headers (ZMTP 3, RFC 23) as bytes pass, and
//! forwards the bytes to the library's socket over a private Unix socket, because the library takes
//! no connection that it has not opened itself (docs/decisions/0003). On the way out it takes
//! whatever the library has at once, so that the library's own queue stays empty and everything
//! that waits for a slow peer waits here, under a bound. A peer that exceeds a bound is cut: ZeroMQ
//! peers reconnect by themselves, while an error message has no place in the protocol.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::frames::{Frames, Side};
use crate::platform::{LocalListener, LocalStream};
use crate::security::{AFTER_ERROR, Account, Admission, InFlight, Place, Untaken};
use crate::tasks;
use crate::telemetry;

/// Time for the greeting and the READY command.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A connection without traffic in either direction is cut after this time; ZeroMQ peers reconnect
/// by themselves.
const IDLE: Duration = Duration::from_secs(3600);
/// A peer that does not read for this long is cut.
const STALLED: Duration = Duration::from_secs(5);
/// Most bytes that wait for one peer; beyond, the connection is cut and starts empty when the peer
/// reconnects.
pub(crate) const WAITING_BYTES_MAX: usize = 4 << 20;
/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;
/// The same, where all peers together leave so much that memory is in danger.
const WAITING_BYTES_MAX_IN_NEED: usize = 256 << 10;
/// Approximate cost of keeping a piece, in addition to its bytes.
const CHUNK_COST: usize = 64;
/// Frames that a subscriber may send at once; what it sends beyond is taken more slowly.
const FREE_FRAMES: u64 = 2000;
/// Time for each frame beyond.
const FRAME_TIME: Duration = Duration::from_micros(100);

#[derive(Clone)]
pub(crate) struct Gate {
    /// Path of the private Unix socket that the library listens at.
    pub behind: PathBuf,
    /// Which way messages go.
    pub side: Side,
    /// Largest message, bytes.
    pub message_bytes_max: usize,
    /// How many connections may be open, in all and from one address.
    pub admission: Admission,
    /// Room for messages that are not whole.
    pub in_flight: Arc<InFlight>,
}

/// A place at which peers arrive.
#[derive(Debug)]
pub(crate) enum Listener {
    /// Over the network.
    Tcp(TcpListener),
    /// On this machine.
    Unix(LocalListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Peer, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                let (read, write) = stream.into_split();
                Ok(((Box::new(read), Box::new(write)), Some(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let (read, write) = stream.into_split();
                Ok(((Box::new(read), Box::new(write)), None))
            }
        }
    }
}

/// Both halves of a peer's connection.
type Peer = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

impl Gate {
    /// Accepts connections until aborted, and connects each to the socket behind the gate.
    pub(crate) async fn serve(self, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok((peer, from)) => {
                    // `place` has counted one that it refuses.
                    let Ok(place) = self.admission.place(from) else { continue };
                    let address = from.map_or("a Unix socket".into(), |a| a.to_string());
                    let gate = self.clone();
                    tasks::spawn(async move {
                        if let Some(reason) = gate.connection(peer, place).await {
                            telemetry::connection_cut(reason);
                            // Port scans and health checks: not worth a warning.
                            if reason == "said_nothing" {
                                tracing::debug!(address, reason, "ZeroMQ connection cut");
                            } else {
                                tracing::warn!(address, reason, "ZeroMQ connection cut");
                            }
                        }
                    });
                }
                Err(e) => {
                    // Out of descriptors, most likely: it passes, or nothing else works either.
                    tracing::warn!("ZeroMQ connection not accepted: {e}");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    /// One connection to its end; the reason where it was cut.
    async fn connection(
        &self,
        (peer_read, peer_write): Peer,
        place: Place,
    ) -> Option<&'static str> {
        let Ok(mut inner) = LocalStream::connect(&self.behind).await else {
            return Some("shutting_down");
        };
        let (inner_read, inner_write) = inner.split();
        tokio::select! {
            reason = self.inward(peer_read, inner_write, &place) => reason,
            reason = outward(inner_read, peer_write, place.untaken()) => reason,
            // Counted where it was taken.
            () = place.taken() => None,
        }
    }

    async fn inward(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        place: &Place,
    ) -> Option<&'static str> {
        let mut frames = Frames::new(self.message_bytes_max, self.side);
        let mut account = Account::new(self.in_flight.clone(), place.peer().number());
        let (mut buffer, mut pass) = (vec![0u8; CHUNK], Vec::new());
        let handshake_until = tokio::time::Instant::now() + HANDSHAKE_TIME;
        // A connection keeps its place once its handshake is complete; before, a newcomer may take
        // it.
        let mut in_use = None;
        loop {
            let until = deadline(&frames, handshake_until);
            let overdue = async {
                let Some((until, reason)) = until else { std::future::pending().await };
                tokio::time::sleep_until(until).await;
                reason
            };
            let given_up = std::future::poll_fn(|context| account.poll_given_up(context));
            // A peer whose bytes are always ready wins the biased select: its deadline is checked
            // here too.
            if let Some((at, reason)) = until
                && at <= tokio::time::Instant::now()
            {
                return Some(reason);
            }
            let n = tokio::select! {
                biased;
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return None,
                    Ok(n) => n,
                },
                reason = overdue => return Some(reason),
                _ = given_up => return Some("message_given_up"),
            };
            pass.clear();
            if let Err(reason) = frames.pass(&buffer[..n], &mut pass) {
                return Some(reason);
            }
            account.set(frames.incomplete(), n);
            if in_use.is_none() && frames.is_ready() {
                in_use = Some(place.peer().request(true));
            }
            if to.write_all(&pass).await.is_err() {
                return None;
            }
            if self.side == Side::Out && frames.seen() > FREE_FRAMES {
                let beyond = u32::try_from(frames.take_seen(FREE_FRAMES)).unwrap_or(u32::MAX);
                tokio::time::sleep(FRAME_TIME.saturating_mul(beyond)).await;
            }
        }
    }
}

/// Bytes that wait for one peer, among those that wait for all.
struct Waiting<'a> {
    all: &'a Untaken,
    own: AtomicUsize,
}

impl Waiting<'_> {
    /// Reserves room for more waiting bytes; false where there is none.
    fn has_room_for(&self, bytes: usize) -> bool {
        self.all.add(bytes);
        let own = self.own.fetch_add(bytes, Ordering::Relaxed) + bytes;
        own <= if self.all.is_much() { WAITING_BYTES_MAX_IN_NEED } else { WAITING_BYTES_MAX }
    }

    fn remove(&self, bytes: usize) {
        self.own.fetch_sub(bytes, Ordering::Relaxed);
        self.all.remove(bytes);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.remove(*self.own.get_mut());
    }
}

/// When a peer that sends nothing more is cut off, and why; `None` for a subscriber, which may be
/// silent for ever.
fn deadline(
    frames: &Frames,
    handshake_until: tokio::time::Instant,
) -> Option<(tokio::time::Instant, &'static str)> {
    if !frames.is_ready() {
        Some((handshake_until, "said_nothing"))
    } else if frames.is_silent() {
        Some((tokio::time::Instant::now() + IDLE, "idle"))
    } else {
        None
    }
}

/// Takes whatever the socket behind has at once: its own queue, which has no small bound, stays
/// empty, and what waits here has one.
async fn outward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    all: &Untaken,
) -> Option<&'static str> {
    let waiting = Waiting { all, own: AtomicUsize::new(0) };
    let (chunks, mut taken) = mpsc::unbounded_channel::<Vec<u8>>();
    let gathering = async {
        let mut buffer = vec![0u8; CHUNK];
        loop {
            let n = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => n,
            };
            if !waiting.has_room_for(n + CHUNK_COST) {
                return Some("slow_subscriber");
            }
            if chunks.send(buffer[..n].to_vec()).is_err() {
                return None;
            }
            if waiting.all.is_much() {
                // First what the peer takes at once.
                tokio::task::yield_now().await;
            }
        }
    };
    let sending = async {
        while let Some(chunk) = taken.recv().await {
            match tokio::time::timeout(STALLED, to.write_all(&chunk)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some("stalled_subscriber"),
            }
            waiting.remove(chunk.len() + CHUNK_COST);
        }
        None
    };
    tokio::select! {
        reason = gathering => reason,
        reason = sending => reason,
    }
}

/// Binds a port.
///
/// # Errors
/// Errors of the system.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}
