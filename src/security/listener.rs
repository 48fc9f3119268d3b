//! Connections as they are let in: so many in all and from one address, each with its TLS, none that only waits.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream as Streamed;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::transport::server::Connected;

use super::tls::Tls;
use crate::telemetry;

/// Whoever says nothing for so long after connecting is cut off.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Connections that wait to be served.
const WAITING: usize = 64;
/// After an error of the system's, the next connection is taken so much later.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub per_peer: usize,
}

/// Counts connections that are open.
#[derive(Clone)]
pub struct Admission {
    all: Arc<Semaphore>,
    per_peer: usize,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place among the connections, free again when it is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    peer: Option<IpAddr>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Admission {
    /// None is open.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            per_peer: limits.per_peer,
            peers: Arc::default(),
        }
    }

    /// A place for one more, from an address or this machine.
    ///
    /// # Errors
    /// Why there is none; counted.
    pub fn place(&self, peer: Option<IpAddr>) -> Result<Place, &'static str> {
        let refused = |reason| {
            telemetry::connection_cut(reason);
            Err(reason)
        };
        let Ok(permit) = self.all.clone().try_acquire_owned() else {
            return refused("too_many_connections");
        };
        if let Some(peer) = peer {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            let open = peers.entry(peer).or_default();
            if *open >= self.per_peer {
                return refused("too_many_connections_of_one_peer");
            }
            *open += 1;
        }
        Ok(Place { _permit: permit, peer, peers: self.peers.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = peers.get_mut(&peer) {
            *open -= 1;
            if *open == 0 {
                peers.remove(&peer);
            }
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` on a Unix socket, whose file says who may come.
    pub address: Option<SocketAddr>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that was let in.
pub struct Stream {
    io: Box<dyn Io>,
    peer: Peer,
    _place: Place,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Connected for Stream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

/// Connections that were let in, one after another.
pub struct Incoming {
    streams: mpsc::Receiver<Stream>,
    address: SocketAddr,
}

impl Streamed for Incoming {
    type Item = io::Result<Stream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.streams.poll_recv(context).map(|stream| stream.map(Ok))
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.streams.recv().await {
            Some(stream) => {
                let address = stream.peer.address.unwrap_or(self.address);
                (stream, address)
            }
            // What lets in lives as long as the daemon.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Lets connections in, for as long as somebody takes them.
///
/// # Errors
/// The system's, where the listener has no address.
pub fn admit(
    listener: TcpListener,
    admission: Admission,
    tls: Option<Arc<Tls>>,
) -> io::Result<Incoming> {
    let address = listener.local_addr()?;
    let (sender, streams) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Out of descriptors, most likely: it passes, or nothing else works either.
                    tracing::warn!("a connection was not accepted: {e}");
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            // A refused one is dropped here, and counted there.
            let Ok(place) = admission.place(Some(from.ip())) else { continue };
            let (sender, tls) = (sender.clone(), tls.clone());
            tokio::spawn(async move {
                let peer = Peer { address: Some(from) };
                let began = begin(stream, tls);
                match tokio::time::timeout(FIRST_WORD, began).await {
                    Ok(Ok(io)) => {
                        let _ = sender.send(Stream { io, peer, _place: place }).await;
                    }
                    Ok(Err(e)) => {
                        telemetry::connection_cut("no_handshake");
                        tracing::debug!(%from, "a connection came to nothing: {e}");
                    }
                    Err(_) => telemetry::connection_cut("said_nothing"),
                }
            });
        }
    });
    Ok(Incoming { streams, address })
}

/// A connection's first word: TLS, or any byte at all.
async fn begin(stream: TcpStream, tls: Option<Arc<Tls>>) -> io::Result<Box<dyn Io>> {
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => Ok(Box::new(tls.acceptor().accept(stream).await?)),
        None => {
            if stream.peek(&mut [0]).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(Box::new(stream))
        }
    }
}

/// The same for a Unix socket, whose file says who may come: neither TLS nor tokens.
#[must_use]
pub fn admit_unix(listener: UnixListener, admission: Admission) -> Incoming {
    let (sender, streams) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = admission.place(None) else { continue };
                    let peer = Peer { address: None };
                    let stream = Stream { io: Box::new(stream), peer, _place: place };
                    if sender.send(stream).await.is_err() {
                        return;
                    }
                }
                Err(e) => {
                    tracing::warn!("a connection was not accepted: {e}");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    });
    Incoming { streams, address: SocketAddr::from(([127, 0, 0, 1], 0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_one_peer_and_given_back() {
        let admission = Admission::new(Limits { connections: 3, per_peer: 2 });
        let [a, b] = [1, 2].map(|n| Some(IpAddr::from([10, 0, 0, n])));
        let first = admission.place(a);
        let second = admission.place(a);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(admission.place(a).err(), Some("too_many_connections_of_one_peer"));
        let third = admission.place(b);
        assert!(third.is_ok());
        assert_eq!(admission.place(None).err(), Some("too_many_connections"));
        drop(first);
        assert!(admission.place(a).is_ok());
        drop((second, third));
        assert!(admission.peers.lock().expect("no panic").is_empty());
    }
}
