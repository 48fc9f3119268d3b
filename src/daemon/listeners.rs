//! Ports and sockets at which the daemon listens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::net::TcpListener;

use crate::api::zeromq::gate;
use crate::api::zeromq::gate::Listener;
use crate::config::Config;
use crate::platform::{self, LocalListener, bind_local};

/// Addresses that are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// Address of gRPC.
    pub grpc: Option<SocketAddr>,
    /// ZeroMQ counts in (PULL).
    pub zeromq_pull: Option<SocketAddr>,
    /// ZeroMQ out (PUB).
    pub zeromq_publish: Option<SocketAddr>,
    /// Address of HTTP.
    pub http: Option<SocketAddr>,
}

/// Binds a port; the error names the key and the cure.
async fn listen(what: &str, key: &str, address: SocketAddr) -> Result<TcpListener> {
    gate::bind(address).await.with_context(|| {
        let todo =
            format!("{what}: cannot listen on {address} (another {key} in the configuration helps");
        if address.port() == 0 { todo + ")" } else { todo + ", or ending what uses it)" }
    })
}

fn listen_unix(key: &str, path: &Path) -> Result<LocalListener> {
    bind_local(path).with_context(|| {
        format!(
            "{key}: cannot listen at {} (another path in the configuration helps)",
            path.display()
        )
    })
}

/// All listening sockets.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) grpc: Option<TcpListener>,
    pub(super) grpc_unix: Option<LocalListener>,
    pub(super) http: Option<TcpListener>,
    pub(super) pull: Vec<Listener>,
    pub(super) publish: Vec<Listener>,
    pub(super) unix_paths: Vec<PathBuf>,
}

impl Listeners {
    /// Binds all of them.
    ///
    /// # Errors
    /// Which is taken, and what to do.
    pub(super) async fn bind(config: &Config) -> Result<Self> {
        let mut listeners = Self::default();
        if let Some(a) = config.grpc_listen {
            listeners.grpc = Some(listen("gRPC", "grpc.listen", a).await?);
        }
        if let Some(a) = config.http_listen {
            listeners.http = Some(listen("HTTP", "http.listen", a).await?);
        }
        if let Some(a) = config.zeromq_pull {
            listeners.pull.push(Listener::Tcp(listen("ZeroMQ in", "zeromq.pull", a).await?));
        }
        if let Some(a) = config.zeromq_publish {
            listeners.publish.push(Listener::Tcp(listen("ZeroMQ out", "zeromq.publish", a).await?));
        }
        if let Some(path) = &config.grpc_unix {
            listeners.grpc_unix = Some(listen_unix("grpc.unix", path)?);
        }
        if let Some(path) = &config.zeromq_pull_ipc {
            listeners.pull.push(Listener::Unix(listen_unix("zeromq.pull_ipc", path)?));
        }
        if let Some(path) = &config.zeromq_publish_ipc {
            listeners.publish.push(Listener::Unix(listen_unix("zeromq.publish_ipc", path)?));
        }
        let paths = [&config.grpc_unix, &config.zeromq_pull_ipc, &config.zeromq_publish_ipc];
        listeners.unix_paths = paths.into_iter().flatten().cloned().collect();
        Ok(listeners)
    }

    /// The addresses that were bound.
    pub(super) fn endpoints(&self) -> Endpoints {
        let address = |l: &Option<TcpListener>| l.as_ref().and_then(|l| l.local_addr().ok());
        let of = |listeners: &[Listener]| {
            listeners.iter().find_map(|f| match f {
                Listener::Tcp(listener) => listener.local_addr().ok(),
                Listener::Unix(_) => None,
            })
        };
        Endpoints {
            grpc: address(&self.grpc),
            zeromq_pull: of(&self.pull),
            zeromq_publish: of(&self.publish),
            http: address(&self.http),
        }
    }
}

/// Every connection is an open file: as many as the system allows.
pub(super) fn raise_open_files() {
    if let Err(e) = platform::raise_open_files() {
        tracing::warn!("the limit of open files stays as it is: {e}");
    }
}
