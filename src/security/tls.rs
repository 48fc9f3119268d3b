//! TLS from files, exchanged without a restart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// Files are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    /// What the files say.
    fn load(&self, protocol: &[u8]) -> Result<ServerConfig> {
        let certs = |path: &PathBuf, key: &str| -> Result<Vec<CertificateDer<'static>>> {
            let read = || {
                let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)?.collect();
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
        let key = PrivateKeyDer::from_pem_file(&self.key)
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
    looked: Instant,
    changed: Vec<Option<SystemTime>>,
    acceptor: TlsAcceptor,
}

/// TLS of one listener.
pub struct Tls {
    files: TlsFiles,
    protocol: &'static [u8],
    now: Mutex<Now>,
}

impl Tls {
    /// Reads the files; `protocol` is what is spoken inside (ALPN).
    ///
    /// # Errors
    /// Which file, and what was expected there.
    pub fn open(files: TlsFiles, protocol: &'static [u8]) -> Result<Self> {
        let changed = files.changed();
        let acceptor = TlsAcceptor::from(Arc::new(files.load(protocol)?));
        let now = Mutex::new(Now { looked: Instant::now(), changed, acceptor });
        Ok(Self { files, protocol, now })
    }

    /// What accepts the next connection; files that have changed are read again, and where that fails all stays as it
    /// was.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.looked.elapsed() > LOOK_EVERY {
            now.looked = Instant::now();
            let changed = self.files.changed();
            if changed != now.changed {
                now.changed = changed;
                match self.files.load(self.protocol) {
                    Ok(config) => {
                        now.acceptor = TlsAcceptor::from(Arc::new(config));
                        tracing::info!("TLS certificates have changed");
                    }
                    Err(e) => tracing::error!("TLS certificates stay as they were: {e:#}"),
                }
            }
        }
        now.acceptor.clone()
    }
}
