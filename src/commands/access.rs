//! How a client shows who it is: TLS and tokens of daemons that ask for them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// Access to a daemon that asks who comes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AccessArgs {
    /// File with the token that the daemon asks for
    #[arg(long, global = true, value_name = "FILE", env = "REGIMED_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Authority (PEM) of the daemon's certificate, for https:// endpoints
    #[arg(long, global = true, value_name = "FILE", env = "REGIMED_CA")]
    pub ca: Option<PathBuf>,
    /// Own certificate (PEM), where the daemon asks for one
    #[arg(long, global = true, value_name = "FILE", env = "REGIMED_CLIENT_CERT")]
    pub client_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "REGIMED_CLIENT_KEY")]
    pub client_key: Option<PathBuf>,
}

/// Adds the token to every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A daemon that answers.
pub(crate) type Connection = InterceptedService<Channel, Bearer>;

/// A gRPC endpoint, `http://` added where it is missing.
fn endpoint(text: &str) -> Result<String> {
    match text.split_once("://") {
        Some(("http" | "https", _)) => Ok(text.to_owned()),
        None => Ok(format!("http://{text}")),
        Some((scheme, _)) => {
            bail!("expected a gRPC endpoint such as http://127.0.0.1:7733, found {scheme}://")
        }
    }
}

impl AccessArgs {
    fn read(path: &PathBuf, flag: &str) -> Result<String> {
        std::fs::read_to_string(path)
            .with_context(|| format!("{flag}: cannot read {}", path.display()))
    }

    fn bearer(&self) -> Result<Bearer> {
        let Some(path) = &self.token_file else { return Ok(Bearer(None)) };
        let text = Self::read(path, "--token-file")?;
        let token = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
        let Some(token) = token else {
            bail!("--token-file: expected a token in {}, found none", path.display());
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .context("--token-file: expected a token of plain characters")?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    fn tls(&self) -> Result<ClientTlsConfig> {
        let mut tls = ClientTlsConfig::new();
        let Some(ca) = &self.ca else {
            bail!(
                "expected --ca FILE, the authority of the daemon's certificate, for an https:// \
                 endpoint"
            );
        };
        tls = tls.ca_certificate(Certificate::from_pem(Self::read(ca, "--ca")?));
        match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => {
                let cert = Self::read(cert, "--client-cert")?;
                tls = tls.identity(Identity::from_pem(cert, Self::read(key, "--client-key")?));
            }
            (None, None) => {}
            _ => bail!("expected --client-cert and --client-key together, found one of them"),
        }
        Ok(tls)
    }

    /// Connects to a daemon, which `at` names.
    pub(crate) async fn connect(&self, at: &str) -> Result<Connection> {
        let at = endpoint(at)?;
        let mut endpoint = Endpoint::from_shared(at.clone())
            .with_context(|| format!("expected an endpoint, found '{at}'"))?;
        if at.starts_with("https://") {
            endpoint = endpoint.tls_config(self.tls()?)?;
        }
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("no daemon answers at {at} (is `regimed serve` running?)"))?;
        Ok(InterceptedService::new(channel, self.bearer()?))
    }
}
