//! Where triggers go that are not sent by the session's thread itself.

use std::io::Write;
use std::time::{Duration, Instant};

use axum::http::{Request, Uri, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use redis::aio::MultiplexedConnection;
use serialport::SerialPort;
use tokio::net::TcpStream;

use super::settings::{HttpTarget, RedisTarget, SerialTarget, Target};
use crate::rigs::open_ephys::{self, NetworkEvents, network_events};
use crate::rigs::redis::Connection;
use crate::tasks;

/// An act that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Entries kept in a Redis stream of triggers, about.
const ENTRIES_MAX: usize = 100_000;

/// The way to a target.
pub(super) enum Line {
    /// The session's thread sends by itself.
    Direct,
    Serial(SerialTarget, Option<Box<dyn SerialPort>>),
    NetworkEvents(NetworkEvents, open_ephys::Request, bool),
    Redis(RedisTarget, String, Option<MultiplexedConnection>),
    Http(HttpTarget),
    #[cfg(feature = "lsl")]
    Lsl(Option<String>, Option<crate::rigs::lsl::Markers>),
}

fn open_port(to: &SerialTarget) -> Result<Box<dyn SerialPort>, String> {
    let device = to.device.to_string_lossy();
    serialport::new(device, to.baud).timeout(PATIENCE).open().map_err(|e| e.to_string())
}

impl Line {
    /// Opens it. One that cannot be opened yet is tried again with each act.
    pub(super) async fn open(target: &Target, session: &str) -> Self {
        match target {
            Target::Udp(_) => Self::Direct,
            Target::Serial(to) => {
                let port = open_port(to);
                if let Err(e) = &port {
                    let device = to.device.display();
                    tracing::warn!(session, "a trigger's port {device} does not open: {e}");
                }
                Self::Serial(to.clone(), port.ok())
            }
            Target::NetworkEvents(to) => {
                let request = open_ephys::Request::new(to.endpoint.clone(), PATIENCE);
                Self::NetworkEvents(to.clone(), request, false)
            }
            Target::Redis(to) => {
                let own = || format!("regimed:{session}:triggers");
                Self::Redis(to.clone(), to.stream.clone().unwrap_or_else(own), None)
            }
            Target::Http(to) => Self::Http(to.clone()),
            #[cfg(feature = "lsl")]
            Target::Lsl(to) => {
                let markers =
                    crate::rigs::lsl::Markers::offer(session, "triggers", to.listen).await;
                if let Err(e) = &markers {
                    tracing::error!(session, "LSL: triggers cannot be offered: {e}");
                }
                Self::Lsl(to.message.clone(), markers.ok())
            }
        }
    }

    /// Acts; the time when it was done. `text` says what happened, in JSON.
    ///
    /// # Errors
    /// Why it failed, in words.
    pub(super) async fn act(&mut self, text: &str, name: &str) -> Result<Instant, String> {
        let acted = async {
            match self {
                Self::Direct => Ok(()),
                Self::Serial(to, port) => write_line(to, port, text),
                Self::NetworkEvents(to, request, high) => {
                    network_events::set(request, to.line, true).await.map_err(|e| e.to_string())?;
                    *high = true;
                    Ok(())
                }
                Self::Redis(to, stream, live) => {
                    let added = add(to, stream, live, text, name).await;
                    if added.is_err() {
                        *live = None;
                    }
                    added.map_err(|e| e.to_string())
                }
                Self::Http(to) => post(to, text.to_owned()).await,
                #[cfg(feature = "lsl")]
                Self::Lsl(message, markers) => match markers {
                    Some(markers) => {
                        markers.send(message.as_deref().unwrap_or(name));
                        Ok(())
                    }
                    None => Err("its stream could not be offered".into()),
                },
            }
        };
        match tokio::time::timeout(PATIENCE, acted).await {
            Ok(done) => done.map(|()| Instant::now()),
            Err(_) => Err(format!("expected it done within {} s", PATIENCE.as_secs())),
        }
    }

    /// What follows an act: the end of a pulse.
    pub(super) async fn settle(&mut self) {
        let Self::NetworkEvents(to, request, high) = self else { return };
        if std::mem::take(high) {
            tokio::time::sleep(to.pulse).await;
            if let Err(e) = network_events::set(request, to.line, false).await {
                let endpoint = &to.endpoint;
                tracing::warn!(endpoint, "Network Events: a trigger's line stays high: {e}");
            }
        }
    }
}

/// Waits for the port's driver, not for the peer.
fn write_line(
    to: &SerialTarget,
    port: &mut Option<Box<dyn SerialPort>>,
    text: &str,
) -> Result<(), String> {
    let mut line = to.message.clone().unwrap_or_else(|| text.to_owned());
    if !line.ends_with('\n') {
        line.push('\n');
    }
    let mut open = match port.take() {
        Some(open) => open,
        None => open_port(to)?,
    };
    // A port that failed is opened anew the next time.
    open.write_all(line.as_bytes()).and_then(|()| open.flush()).map_err(|e| e.to_string())?;
    *port = Some(open);
    Ok(())
}

async fn add(
    to: &RedisTarget,
    stream: &str,
    live: &mut Option<MultiplexedConnection>,
    text: &str,
    name: &str,
) -> Result<(), redis::RedisError> {
    let connection = match live {
        Some(connection) => connection,
        none => none.insert(Connection::open(&to.url).await?),
    };
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("MAXLEN").arg("~").arg(ENTRIES_MAX).arg("*");
    command.arg("trigger").arg(name).arg("what").arg(text);
    command.query_async(connection).await
}

async fn post(to: &HttpTarget, text: String) -> Result<(), String> {
    let uri: Uri = to.url.parse().map_err(|_| "expected an address with http://".to_owned())?;
    let host = uri.host().unwrap_or_default();
    let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let connection = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await;
    let (mut sender, driver) = handshake.map_err(|e| e.to_string())?;
    // Ends with the request, or with its connection.
    let driver = tasks::spawn(driver);
    let authority = uri.authority().map_or(host, |a| a.as_str());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(text)))
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await;
    driver.abort();
    let status = answer.map_err(|e| e.to_string())?.status();
    let answered = || format!("expected an answer of success, found {status}");
    if status.is_success() { Ok(()) } else { Err(answered()) }
}
