//! TLS from files, exchanged without a restart.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// Longest file of certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;

use crate::files;

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authority of clients' certificates; where it is given, every client must have one.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    fn load(&self, protocol: &[u8]) -> Result<ServerConfig> {
        let certs = |path: &PathBuf, key: &str| -> Result<Vec<CertificateDer<'static>>> {
            let read = || {
                let pem = files::read(path, FILE_BYTES_MAX)?;
                let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
                anyhow::Ok(all?)
            };
            let found = read().with_context(|| {
                format!("{key}: expected PEM certificates in {}", path.display())
            })?;
            if found.is_empty() {
                bail!("{key}: expected PEM certificates in {}, found none", path.display());
            }
            Ok(found)
        };
        let key = files::read(&self.key, FILE_BYTES_MAX)
            .map_err(anyhow::Error::from)
            .and_then(|pem| Ok(PrivateKeyDer::from_pem_slice(&pem)?))
            .with_context(|| format!("tls.key: expected a PEM key in {}", self.key.display()))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for cert in certs(path, "tls.client_ca")? {
                    roots.add(cert).context("tls.client_ca")?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().context("tls.client_ca")?)
            }
        };
        let mut config = builder
            .with_single_cert(certs(&self.cert, "tls.cert")?, key)
            .context("tls.cert and tls.key do not belong together")?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }

    /// When each was changed last.
    fn changed(&self) -> Vec<Option<SystemTime>> {
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
            .collect()
    }
}

struct Now {
    changed: Vec<Option<SystemTime>>,
    acceptor: TlsAcceptor,
}

/// TLS of one listener.
pub(crate) struct Tls {
    files: TlsFiles,
    protocol: &'static [u8],
    /// Read for every handshake, replaced when the files have changed; connections keep their own.
    now: RwLock<Now>,
}

impl Tls {
    /// Reads the files; `protocol` is the protocol inside TLS (ALPN).
    ///
    /// # Errors
    /// Names the file, and what was expected there.
    pub(crate) fn open(files: TlsFiles, protocol: &'static [u8]) -> Result<Self> {
        let changed = files.changed();
        let acceptor = TlsAcceptor::from(Arc::new(files.load(protocol)?));
        Ok(Self { files, protocol, now: RwLock::new(Now { changed, acceptor }) })
    }

    /// What accepts the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.now.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// Reads the files again where they have changed. Blocks while reading; no connection waits for
    /// it.
    ///
    /// # Errors
    /// Why they cannot be read: all stays as it was.
    pub(crate) fn reread(&self) -> Result<()> {
        let changed = self.files.changed();
        if changed == self.now.read().unwrap_or_else(PoisonError::into_inner).changed {
            return Ok(());
        }
        let config = self.files.load(self.protocol).context("certificates stay as they were")?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Now { changed, acceptor };
        tracing::info!("TLS certificates have changed");
        Ok(())
    }
}
