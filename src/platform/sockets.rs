//! Sockets in the file system, and the one of the system's supervisor.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// A listener in the file system.
pub(crate) use tokio::net::UnixListener as LocalListener;
/// A connection to one.
pub(crate) use tokio::net::UnixStream as LocalStream;

/// Binds a socket for this user and group alone. A socket file without a listener is replaced.
///
/// # Errors
/// Errors of the system; a socket with a listener is in use.
pub(crate) fn bind_local(path: &Path) -> io::Result<LocalListener> {
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
    let listener = LocalListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// The system's supervisor (systemd), where there is one: sd_notify(3).
pub(crate) struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// `place`: as `NOTIFY_SOCKET` has it.
    pub(crate) fn new(place: Option<&str>) -> Self {
        Self(place.and_then(|path| {
            let address = match path.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(path),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        }))
    }

    /// Tells it a state.
    pub(crate) fn notify(&self, state: &str) {
        if let Some((socket, address)) = &self.0
            && let Err(e) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::debug!("the system's supervisor cannot be notified: {e}");
        }
    }
}
