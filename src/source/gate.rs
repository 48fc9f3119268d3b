//! A gate before a ZeroMQ socket: the library reserves memory for whatever length a frame claims, and
//! queues without a small bound for a subscriber that has stopped reading. Connections pass through
//! here, where frame headers (ZMTP 3, RFC 23) are read and both are cut off.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::security::Admission;
use crate::telemetry;

/// Length of a ZMTP greeting.
const GREETING: usize = 64;
/// Time between two parts of a greeting.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// Largest command frame (READY, SUBSCRIBE, ...): none of ours is longer.
const COMMAND_BYTES_MAX: u64 = 4096;
/// A peer that takes nothing for so long is cut off.
const STALLED: Duration = Duration::from_secs(5);
/// Bytes that wait for one peer at most: beyond, it is cut off, and begins anew when it connects again.
pub const WAITING_BYTES_MAX: usize = 4 << 20;
/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;
/// What keeping a piece costs beside its bytes, about.
const CHUNK_COST: usize = 64;

/// Reads frame headers in a stream of bytes as they pass.
#[derive(Debug)]
pub(super) struct FrameCheck {
    frame_bytes_max: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting { seen: usize },
    Flags,
    Length { command: bool, left: u8, length: u64 },
    Body { left: u64 },
}

impl FrameCheck {
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max: frame_bytes_max as u64, state: State::Greeting { seen: 0 } }
    }

    /// The greeting is complete.
    fn is_greeted(&self) -> bool {
        !matches!(self.state, State::Greeting { .. })
    }

    /// Takes the next bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while let Some(&byte) = bytes.first() {
            let mut used = 1;
            self.state = match self.state {
                State::Greeting { seen } => {
                    let expected = match seen {
                        0 => Some(0xff),
                        9 => Some(0x7f),
                        _ => None,
                    };
                    if expected.is_some_and(|e| e != byte) || (seen == 10 && byte < 3) {
                        return Err("not_zmtp_3");
                    }
                    if seen + 1 == GREETING {
                        State::Flags
                    } else {
                        State::Greeting { seen: seen + 1 }
                    }
                }
                State::Flags => {
                    if byte & !0b111 != 0 {
                        return Err("bad_frame");
                    }
                    let left = if byte & 0b010 == 0 { 1 } else { 8 };
                    State::Length { command: byte & 0b100 != 0, left, length: 0 }
                }
                State::Length { command, left, length } => {
                    let length = length << 8 | u64::from(byte);
                    let max = if command { COMMAND_BYTES_MAX } else { self.frame_bytes_max };
                    match left {
                        1 if length > max => return Err("oversized_frame"),
                        1 if length == 0 => State::Flags,
                        1 => State::Body { left: length },
                        _ => State::Length { command, left: left - 1, length },
                    }
                }
                State::Body { left } => {
                    used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    match left - used as u64 {
                        0 => State::Flags,
                        left => State::Body { left },
                    }
                }
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }
}

/// Where the socket behind a gate listens: a Unix socket in a private folder, removed at the end.
#[derive(Debug)]
pub struct Backyard {
    folder: PathBuf,
}

impl Backyard {
    /// A new folder that only this user can enter.
    ///
    /// # Errors
    /// The file system's.
    pub fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        for attempt in 0..100 {
            let nanos = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| d.subsec_nanos());
            let name = format!("regimed-{}-{nanos}-{attempt}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Ok(Self { folder }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::other("no name was free for a private folder"))
    }

    /// Path of a socket in it.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Backyard {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A place at which peers arrive.
#[derive(Debug)]
pub enum Front {
    /// Over the network.
    Tcp(TcpListener),
    /// On this machine.
    Unix(UnixListener),
}

impl Front {
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

/// Takes connections for ever and passes each to the Unix socket behind.
pub async fn serve(front: Front, behind: PathBuf, frame_bytes_max: usize, admission: Admission) {
    loop {
        match front.accept().await {
            Ok((peer, from)) => {
                // A refused one is dropped here, and counted there.
                let Ok(place) = admission.place(from.map(|a| a.ip())) else { continue };
                let address = from.map_or("a Unix socket".into(), |a| a.to_string());
                let behind = behind.clone();
                tokio::spawn(async move {
                    let _place = place;
                    if let Some(reason) = connection(peer, &behind, frame_bytes_max).await {
                        telemetry::connection_cut(reason);
                        tracing::warn!(address, reason, "ZeroMQ connection cut");
                    }
                });
            }
            Err(e) => {
                // Out of descriptors, most likely: it passes, or nothing else works either.
                tracing::warn!("ZeroMQ connection not accepted: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection to its end; the reason where it was cut.
async fn connection(
    (mut peer_read, mut peer_write): Peer,
    behind: &Path,
    frame_bytes_max: usize,
) -> Option<&'static str> {
    let Ok(mut inner) = UnixStream::connect(behind).await else { return Some("shutting_down") };
    let (mut inner_read, mut inner_write) = inner.split();
    let inward = async {
        let mut check = FrameCheck::new(frame_bytes_max);
        let mut buffer = vec![0u8; CHUNK];
        loop {
            let reading = peer_read.read(&mut buffer);
            let read = if check.is_greeted() {
                reading.await
            } else {
                // Whoever does not even greet takes a place from others.
                match tokio::time::timeout(GREETING_TIME, reading).await {
                    Ok(read) => read,
                    Err(_) => return Some("said_nothing"),
                }
            };
            let n = match read {
                Ok(0) | Err(_) => return None,
                Ok(n) => n,
            };
            if let Err(reason) = check.pass(&buffer[..n]) {
                return Some(reason);
            }
            if inner_write.write_all(&buffer[..n]).await.is_err() {
                return None;
            }
        }
    };
    // Whatever the socket behind has is taken from it at once: its own queue, which has no small bound, stays
    // empty, and what waits here has one.
    let waiting = AtomicUsize::new(0);
    let (chunks, mut taken) = mpsc::unbounded_channel::<Vec<u8>>();
    let outward = async {
        let mut buffer = vec![0u8; CHUNK];
        loop {
            let n = match inner_read.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => n,
            };
            let cost = n + CHUNK_COST;
            if waiting.fetch_add(cost, Ordering::Relaxed) + cost > WAITING_BYTES_MAX {
                return Some("slow_subscriber");
            }
            if chunks.send(buffer[..n].to_vec()).is_err() {
                return None;
            }
        }
    };
    let onward = async {
        while let Some(chunk) = taken.recv().await {
            match tokio::time::timeout(STALLED, peer_write.write_all(&chunk)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some("stalled_subscriber"),
            }
            waiting.fetch_sub(chunk.len() + CHUNK_COST, Ordering::Relaxed);
        }
        None
    };
    tokio::select! {
        reason = inward => reason,
        reason = outward => reason,
        reason = onward => reason,
    }
}

/// Binds a port.
///
/// # Errors
/// The system's.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Binds a Unix socket, for this user and group alone. A socket file that nobody listens at any more is replaced.
///
/// # Errors
/// The system's; a socket at which somebody listens is taken.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "expected a socket, found a file",
            ));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting() -> Vec<u8> {
        let mut g = vec![0u8; GREETING];
        g[0] = 0xff;
        g[9] = 0x7f;
        g[10] = 3;
        g
    }

    #[test]
    fn frames_pass_and_oversized_ones_do_not() {
        let mut stream = greeting();
        stream.extend([0b100, 3, 1, 2, 3]); // a command
        stream.extend([0b000, 0]); // an empty frame
        stream.extend([0b010, 0, 0, 0, 0, 0, 0, 1, 0]); // a long frame of 256 bytes
        stream.extend(vec![7; 256]);
        for cut in [1, 3, 64, stream.len()] {
            let mut check = FrameCheck::new(256);
            for part in stream.chunks(cut) {
                assert_eq!(check.pass(part), Ok(()));
            }
            assert_eq!(check.state, State::Flags);
            let huge = [0b010, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
            assert_eq!(check.pass(&huge), Err("oversized_frame"));
        }
        assert_eq!(FrameCheck::new(1).pass(b"GET / HTTP/1.1"), Err("not_zmtp_3"));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_judged_alike(
            tail in proptest::collection::vec(any::<u8>(), 0..600),
            cut in 1usize..70,
        ) {
            let mut stream = greeting();
            stream.extend(tail);
            let whole = FrameCheck::new(300).pass(&stream);
            let mut check = FrameCheck::new(300);
            let pieces = stream.chunks(cut).try_for_each(|p| check.pass(p));
            prop_assert_eq!(whole, pieces);
        }
    }
}
