//! Accepted connections: bounded in all and per address, each with its TLS, none of which may idle
//! without a request.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use std::future::Future;

use futures_util::Stream as Streamed;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::connection::{Connection, FIRST_REQUEST, Peer, Untaken};
use super::tls::Tls;
use crate::platform::LocalListener;
use crate::tasks;
use crate::telemetry;

/// A connection without a byte for this long after connecting is cut.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Connections that wait to be served.
const WAITING: usize = 64;
/// Bytes of a request of HTTP/1: a head.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// After an error of the system's, the next connection is taken so much later.
pub(crate) const AFTER_ERROR: Duration = Duration::from_millis(100);

/// How many connections there may be at one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub per_peer: usize,
}

/// Connections of one port that are open.
#[derive(Default)]
struct Open {
    all: HashMap<u64, Arc<Connection>>,
    peers: HashMap<IpAddr, usize>,
}

impl Open {
    fn remove(&mut self, number: u64) -> Option<Arc<Connection>> {
        let connection = self.all.remove(&number)?;
        if let Some(peer) = connection.address.map(|a| a.ip())
            && let Some(open) = self.peers.get_mut(&peer)
        {
            *open -= 1;
            if *open == 0 {
                self.peers.remove(&peer);
            }
        }
        Some(connection)
    }

    /// Closes the connection that has been idle for longest, where there is one; among those of
    /// `peer` alone, where that is given.
    fn make_room(&mut self, peer: Option<IpAddr>) -> bool {
        let now = Instant::now();
        let of_peer = |c: &Connection| peer.is_none() || c.address.map(|a| a.ip()) == peer;
        let idle = self.all.values().filter(|c| of_peer(c));
        let idle = idle.filter_map(|c| Some((c.gives_way(now)?, c.number))).min();
        let Some(connection) = idle.and_then(|(_, number)| self.remove(number)) else {
            return false;
        };
        telemetry::connection_cut("made_room");
        connection.give_up();
        true
    }
}

/// Lets connections to one port in.
#[derive(Clone)]
pub(crate) struct Admission {
    limits: Limits,
    /// Connections in all and per address under one lock, so that both bounds are checked and taken
    /// together.
    open: Arc<Mutex<Open>>,
    untaken: Arc<Untaken>,
}

/// A place among the connections, free again when it is dropped.
pub(crate) struct Place {
    connection: Arc<Connection>,
    untaken: Arc<Untaken>,
    open: Arc<Mutex<Open>>,
}

impl Admission {
    /// Limits, with no connection open.
    #[must_use]
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default(), untaken: Arc::default() }
    }

    /// A place for one more, from an address or this machine. Where all are taken, a connection
    /// that has nothing to do makes room.
    ///
    /// # Errors
    /// The bound that is reached; the refusal is counted.
    pub(crate) fn place(&self, address: Option<SocketAddr>) -> Result<Place, &'static str> {
        let refused = |reason| {
            telemetry::connection_cut(reason);
            Err(reason)
        };
        let peer = address.map(|a| a.ip());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peer
            && open.peers.get(&peer).is_some_and(|n| *n >= self.limits.per_peer)
            && !open.make_room(Some(peer))
        {
            return refused("too_many_connections_of_one_peer");
        }
        if open.all.len() >= self.limits.connections && !open.make_room(None) {
            return refused("too_many_connections");
        }
        let connection = Arc::new(Connection::new(address, self.untaken.clone()));
        open.all.insert(connection.number, connection.clone());
        if let Some(peer) = peer {
            *open.peers.entry(peer).or_default() += 1;
        }
        Ok(Place { connection, untaken: self.untaken.clone(), open: self.open.clone() })
    }
}

impl Place {
    /// The connection that has this place.
    #[must_use]
    pub(crate) fn peer(&self) -> Peer {
        Peer(self.connection.clone())
    }

    /// Sent bytes that the connections of this port have not read.
    #[must_use]
    pub(crate) fn untaken(&self) -> &Untaken {
        &self.untaken
    }

    /// Resolves when another has been given its place.
    pub(crate) async fn taken(&self) {
        std::future::poll_fn(|context| self.connection.poll_given_up(context)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(self.connection.number);
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How HTTP/2 begins.
const HTTP2: &[u8] = b"PRI ";

/// An accepted connection. It is closed when it makes no request, sends something else, or reads
/// nothing.
pub(crate) struct Stream {
    io: Box<dyn Io>,
    place: Place,
    /// Next check whether the connection has outstayed its bounds.
    look: Pin<Box<Sleep>>,
    /// HTTP/1 alone.
    http1: Option<Http1>,
    /// Why it is to end: counted once.
    ends: Option<&'static str>,
}

/// Requirements on an HTTP/1 connection, whose requests are read whole. HTTP/2 has its own bounds:
/// it refuses unexpected frames.
struct Http1 {
    /// Bytes received that match HTTP/2's preface; `None` once one did not.
    as_http2: Option<usize>,
}

impl Http1 {
    fn new() -> Self {
        Self { as_http2: Some(0) }
    }

    /// Bytes came, `unread` with those before of which no request was made.
    fn judge(&mut self, bytes: &[u8], unread: usize) -> Result<(), &'static str> {
        if let Some(seen) = self.as_http2
            && !bytes.is_empty()
        {
            let left = &HTTP2[seen..];
            let n = left.len().min(bytes.len());
            if left[..n] != bytes[..n] {
                self.as_http2 = None;
            } else if n == left.len() {
                return Err("http2");
            } else {
                self.as_http2 = Some(seen + n);
            }
        }
        if unread > REQUEST_BYTES_MAX { Err("oversized_request") } else { Ok(()) }
    }
}

impl Stream {
    fn new(io: Box<dyn Io>, place: Place, http1: bool) -> Self {
        let look = Box::pin(tokio::time::sleep(FIRST_REQUEST));
        Self { io, place, look, http1: http1.then(Http1::new), ends: None }
    }

    /// Who is at the other end.
    #[must_use]
    pub(crate) fn peer(&self) -> Peer {
        self.place.peer()
    }

    /// An error where the connection is to end. Asked wherever the connection is used: one that is
    /// blocked by what it is to send is not read.
    fn judge(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(reason) = self.ends {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason));
        }
        if self.place.connection.poll_given_up(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "made_room"));
        }
        while self.look.as_mut().poll(context).is_ready() {
            match self.place.connection.overdue(Instant::now()) {
                Ok(next) => self.look.as_mut().reset(next.into()),
                Err(reason) => return Err(self.cut(reason)),
            }
        }
        Ok(())
    }

    fn cut(&mut self, reason: &'static str) -> io::Error {
        telemetry::connection_cut(reason);
        self.ends = Some(reason);
        io::Error::new(io::ErrorKind::ConnectionAborted, reason)
    }

    fn wrote(&self, wrote: &Poll<io::Result<usize>>) {
        match wrote {
            Poll::Ready(Ok(n)) => self.place.connection.written(*n),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.place.connection.blocked(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.judge(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let bytes = &buffer.filled()[before..];
        let unread = self.place.connection.read(bytes.len());
        if let Some(http1) = &mut self.http1
            && let Err(reason) = http1.judge(bytes, unread)
        {
            return Poll::Ready(Err(self.cut(reason)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.judge(context)?;
        let wrote = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(&wrote);
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.judge(context)?;
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
        self.judge(context)?;
        let wrote = Pin::new(&mut self.io).poll_write_vectored(context, bufs);
        self.wrote(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Connected for Stream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.place.peer()
    }
}

/// Connections that were let in, one after another.
pub(crate) struct Incoming {
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
                let address = stream.place.connection.address.unwrap_or(self.address);
                (stream, address)
            }
            // The source of admissions lives as long as the daemon.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Protocol and access control of a port.
pub(crate) struct Listening {
    /// Who is let in.
    pub admission: Admission,
    /// Encrypts, where there is one.
    pub tls: Option<Arc<Tls>>,
    /// HTTP/1 alone; otherwise HTTP/2.
    pub http1: bool,
}

/// Admits connections as long as the server takes them.
///
/// # Errors
/// Errors of the system, where the listener has no address.
pub(crate) fn admit(listener: TcpListener, how: Listening) -> io::Result<Incoming> {
    let address = listener.local_addr()?;
    let (sender, streams) = mpsc::channel(WAITING);
    tasks::spawn(async move {
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
            // `place` has counted one that it refuses.
            let Ok(place) = how.admission.place(Some(from)) else { continue };
            let (sender, tls) = (sender.clone(), how.tls.clone());
            tasks::spawn(async move {
                let began = tokio::select! {
                    began = tokio::time::timeout(FIRST_WORD, begin(stream, tls)) => began,
                    () = place.taken() => return,
                };
                match began {
                    Ok(Ok(io)) => {
                        let _ = sender.send(Stream::new(io, place, how.http1)).await;
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

/// The same for a Unix socket, whose file permissions control access: no TLS, no tokens.
#[must_use]
pub(crate) fn admit_unix(listener: LocalListener, admission: Admission) -> Incoming {
    let (sender, streams) = mpsc::channel(WAITING);
    tasks::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = admission.place(None) else { continue };
                    let stream = Stream::new(Box::new(stream), place, false);
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
        let [a, b] = [1, 2].map(|n| Some(SocketAddr::from(([10, 0, 0, n], 1000 + u16::from(n)))));
        let first = admission.place(a);
        let second = admission.place(a);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(admission.place(a).err(), Some("too_many_connections_of_one_peer"));
        let third = admission.place(b);
        assert!(third.is_ok());
        assert_eq!(admission.place(None).err(), Some("too_many_connections"));
        drop(first);
        let fourth = admission.place(a);
        assert!(fourth.is_ok());
        drop((second, third, fourth));
        let open = admission.open.lock().expect("no panic");
        assert!(open.peers.is_empty() && open.all.is_empty());
    }

    #[tokio::test]
    async fn who_has_nothing_to_do_makes_room_and_who_has_does_not() {
        let admission = Admission::new(Limits { connections: 2, per_peer: 2 });
        let address = Some(SocketAddr::from(([10, 0, 0, 1], 1)));
        let busy = admission.place(address).expect("room");
        let request = busy.peer().request(true);
        let idle = admission.place(address).expect("room");
        assert!(admission.place(address).is_err(), "not at once");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let newcomer = admission.place(address).expect("room is made");
        idle.taken().await;
        assert!(admission.place(address).is_err(), "the newcomer is new");
        // The client's own close frees nobody else's place.
        drop(idle);
        assert!(admission.place(address).is_err());
        drop((request, newcomer));
        assert!(admission.place(address).is_ok());
    }
}
