//! Regime markers and metrics as streams of the Lab Streaming Layer (wire protocol 1.10): a Markers
//! outlet with a label at each change, and a float outlet with the posterior and the metrics of
//! every bin.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::broadcast;

use super::{
    DISCOVERY_PORT, Format, GROUPS, SERVICE_PORTS, Settings, StreamInfo, query_matches,
    test_pattern, write_numbers, write_text,
};
use crate::bus::{SessionFacts, SessionHandle, Update};
use crate::clock::monotonic_s;
use crate::rigs::DATAGRAM_BYTES;
use crate::security::AFTER_ERROR;
use crate::tasks;
use crate::wire::Decision;

/// Samples that wait for one inlet before it loses the oldest.
const WAITING: usize = 1024;
/// A silent or stuck peer is dropped after this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request.
const REQUEST_MAX: u64 = 8192;

/// A stream that is offered.
struct Outlet {
    info: StreamInfo,
    labels: Vec<String>,
    samples: broadcast::Sender<Bytes>,
}

/// Labels of the metrics' channels.
fn metric_labels(facts: &SessionFacts) -> Vec<String> {
    let posterior = facts.regime_names.iter().map(|n| format!("posterior {n}"));
    let rest = [
        "unlabelled",
        "novelty",
        "log_likelihood",
        "spectral_radius",
        "spectral_abscissa_per_s",
        "lyapunov_max_noise_free_per_s",
        "lyapunov_max_driven_per_s",
        "leading_frequency_hz",
    ];
    posterior.chain(rest.map(String::from)).collect()
}

fn metric_values(d: &Decision, regimes: usize) -> Vec<f32> {
    let mut values = d.posterior.clone();
    // Another model may know other regimes; the stream's channels stay as they were offered.
    values.resize(regimes, f32::NAN);
    values.extend([d.unlabelled, d.novelty, d.log_likelihood]);
    let metrics = d.metrics.as_ref();
    let of = |value: fn(&crate::wire::Metrics) -> Option<f32>| {
        metrics.and_then(value).unwrap_or(f32::NAN)
    };
    values.extend([
        of(|m| Some(m.spectral_radius)),
        of(|m| Some(m.spectral_abscissa_per_s)),
        of(|m| Some(m.lyapunov_max_noise_free_per_s?.mean)),
        of(|m| Some(m.lyapunov_max_driven_per_s?.mean)),
        of(|m| Some(m.leading_frequency_hz)),
    ]);
    values
}

/// Events that may wait for the journal before their stamps are forgotten.
const STAMPS_MAX: usize = 1024;

/// Offers both streams at `listen` until the session ends: `SESSION-regimes` and `SESSION-metrics`.
pub(crate) async fn run(session: Arc<SessionHandle>, listen: IpAddr, lsl_session: String) {
    let facts = session.facts();
    let labels = metric_labels(&facts);
    let regimes = facts.regime_names.len();
    let markers = StreamInfo {
        session_id: lsl_session.clone(),
        ..stream_of_markers(&facts.name, "regimes", listen)
    };
    let metrics = StreamInfo {
        kind: "Metrics".into(),
        format: Format::Float32,
        channel_count: labels.len(),
        nominal_srate: 1.0 / facts.bin_width_s,
        session_id: lsl_session,
        ..stream_of_markers(&facts.name, "metrics", listen)
    };
    let regime = vec!["regime".into()];
    let offered =
        async { io::Result::Ok((offer(markers, regime).await?, offer(metrics, labels).await?)) };
    let (markers, metrics) = match offered.await {
        Ok(both) => both,
        Err(e) => {
            return tracing::error!(session = facts.name, "LSL: streams cannot be offered: {e}");
        }
    };
    let mut subscription = session.subscribe(1);
    // Stamps of decisions whose events are still to come.
    let mut stamps: VecDeque<(u64, f64)> = VecDeque::new();
    while let Some(update) = subscription.next().await {
        let mut sample = Vec::with_capacity(64);
        // Fails without a consumer.
        match &*update {
            Update::Decision(d) => {
                // On this machine's clock, as of when the bin was received: the time since is
                // known.
                let spent_ns = (d.publish_time_ns - d.receive_time_ns).max(0);
                let stamp = monotonic_s() - spent_ns as f64 * 1e-9;
                if d.event_sequence != 0 {
                    stamps.truncate(STAMPS_MAX);
                    stamps.push_front((d.event_sequence, stamp));
                }
                write_numbers(&mut sample, stamp, &metric_values(d, regimes));
                let _ = metrics.samples.send(sample.into());
            }
            Update::Event(e) => {
                let known = stamps.iter().find(|s| s.0 == e.event_sequence).map(|s| s.1);
                write_text(&mut sample, known.unwrap_or_else(monotonic_s), &e.to);
                let _ = markers.samples.send(sample.into());
            }
        }
    }
}

/// A stream of texts that is named after a session.
fn stream_of_markers(session: &str, what: &str, listen: IpAddr) -> StreamInfo {
    StreamInfo {
        name: format!("{session}-{what}"),
        kind: "Markers".into(),
        channel_count: 1,
        format: Format::Text,
        nominal_srate: 0.0,
        source_id: format!("regimed-{session}-{what}"),
        uid: format!("regimed-{session}-{what}-{:x}", (monotonic_s() * 1e6) as u64),
        session_id: Settings::default().session_id,
        hostname: std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".into()),
        address: listen,
        data_port: 0,
        service_port: 0,
        created_at: monotonic_s(),
    }
}

/// A stream of markers, offered until it is dropped.
pub(crate) struct Markers(Offered);

impl Markers {
    /// Offers `SESSION-WHAT` at `listen`.
    ///
    /// # Errors
    /// Errors of the sockets.
    pub(crate) async fn offer(session: &str, what: &str, listen: IpAddr) -> io::Result<Self> {
        let info = stream_of_markers(session, what, listen);
        Ok(Self(offer(info, vec![what.to_owned()]).await?))
    }

    /// A marker now.
    pub(crate) fn send(&self, text: &str) {
        let mut sample = Vec::with_capacity(64);
        write_text(&mut sample, monotonic_s(), text);
        // Fails without a consumer.
        let _ = self.0.samples.send(sample.into());
    }
}

/// An outlet with its servers, which end with it.
struct Offered {
    samples: broadcast::Sender<Bytes>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn offer(mut info: StreamInfo, labels: Vec<String>) -> io::Result<Offered> {
    let listener = TcpListener::bind((info.address, 0)).await?;
    info.data_port = listener.local_addr()?.port();
    let service = service_socket(info.address).await?;
    info.service_port = service.local_addr()?.port();
    let samples = broadcast::Sender::new(WAITING);
    let outlet = Arc::new(Outlet { info, labels, samples: samples.clone() });
    let mut tasks = vec![
        tasks::spawn(answer(service, outlet.clone())),
        tasks::spawn(accept(listener, outlet.clone())),
    ];
    match discovery_socket() {
        Ok(socket) => tasks.push(tasks::spawn(answer(socket, outlet))),
        Err(e) => tracing::warn!("LSL: found only by known peers, not by multicast: {e}"),
    }
    Ok(Offered { samples, tasks })
}

/// A free one of the ports at which known peers are asked.
async fn service_socket(address: IpAddr) -> io::Result<UdpSocket> {
    for port in SERVICE_PORTS {
        if let Ok(socket) = UdpSocket::bind((address, port)).await {
            return Ok(socket);
        }
    }
    UdpSocket::bind((address, 0)).await
}

/// The multicast groups, whose port every outlet on the machine shares.
fn discovery_socket() -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, DISCOVERY_PORT)).into())?;
    for group in GROUPS {
        for interface in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            // An interface that has no multicast is passed over.
            let _ = socket.join_multicast_v4(&group, &interface);
        }
    }
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// Answers queries and time probes, until aborted.
async fn answer(socket: UdpSocket, outlet: Arc<Outlet>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buffer).await else { continue };
        let received = monotonic_s();
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let mut lines = text.lines();
        match lines.next().map(str::trim) {
            Some("LSL:shortinfo") => {
                let query = lines.next().unwrap_or_default().trim();
                let mut back = lines.next().unwrap_or_default().split_whitespace();
                let (Some(port), Some(id)) =
                    (back.next().and_then(|p| p.parse().ok()), back.next())
                else {
                    continue;
                };
                if !query_matches(query, &outlet.info) || !may_know(&outlet, from.ip()).await {
                    continue;
                }
                let text = format!("{id}\r\n{}", outlet.info.xml(None));
                let _ = socket.send_to(text.as_bytes(), (from.ip(), port)).await;
            }
            Some("LSL:timedata") => {
                let mut probe = lines.next().unwrap_or_default().split_whitespace();
                let (Some(wave), Some(sent)) = (probe.next(), probe.next()) else { continue };
                let text = format!(" {wave} {sent} {received:.9} {:.9}", monotonic_s());
                let _ = socket.send_to(text.as_bytes(), from).await;
            }
            _ => {}
        }
    }
}

/// Streams that are served on loopback are known to this machine alone.
async fn may_know(outlet: &Outlet, who: IpAddr) -> bool {
    !outlet.info.address.is_loopback()
        || who.is_loopback()
        // An address that can be bound is this machine's.
        || UdpSocket::bind((who, 0)).await.is_ok()
}

async fn accept(listener: TcpListener, outlet: Arc<Outlet>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let outlet = outlet.clone();
                tasks::spawn(async move {
                    if let Err(e) = serve(stream, &outlet).await {
                        tracing::debug!("LSL: an inlet is gone: {e}");
                    }
                });
            }
            Err(_) => tokio::time::sleep(AFTER_ERROR).await,
        }
    }
}

/// One inlet, to its end.
async fn serve(stream: TcpStream, outlet: &Outlet) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(REQUEST_MAX)).lines();
    let next = async |lines: &mut tokio::io::Lines<_>| {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        io::Result::Ok(line.map_err(|_| io::ErrorKind::TimedOut)??.unwrap_or_default())
    };
    let request = next(&mut lines).await?;
    let mut words = request.split_whitespace();
    match words.next() {
        Some("LSL:fullinfo") => {
            write.write_all(outlet.info.xml(Some(&outlet.labels)).as_bytes()).await
        }
        Some("LSL:shortinfo") => {
            if query_matches(next(&mut lines).await?.trim(), &outlet.info) {
                write.write_all(outlet.info.xml(None).as_bytes()).await?;
            }
            Ok(())
        }
        Some("LSL:streamfeed/110") => {
            let uid = words.next().unwrap_or_default().to_owned();
            while !next(&mut lines).await?.trim().is_empty() {}
            if !uid.is_empty() && uid != outlet.info.uid {
                return write.write_all(b"LSL/110 404 Not found\r\n\r\n").await;
            }
            // Subscribed before the answer: nothing between it and the first sample is missed.
            let samples = outlet.samples.subscribe();
            let head = format!(
                "LSL/110 200 OK\r\nUID: {}\r\nByte-Order: 1234\r\nSuppress-Subnormals: 0\r\n\
                 Data-Protocol-Version: 110\r\n\r\n",
                outlet.info.uid
            );
            write.write_all(head.as_bytes()).await?;
            write.write_all(&pattern(&outlet.info)).await?;
            feed(samples, &mut write).await
        }
        _ => Ok(()),
    }
}

/// The two samples that both sides know.
fn pattern(info: &StreamInfo) -> Vec<u8> {
    const STAMP: f64 = 123_456.789;
    let mut bytes = Vec::new();
    for offset in [4, 2] {
        let values = test_pattern(info.format, info.channel_count, offset);
        if info.format == Format::Text {
            write_text(&mut bytes, STAMP, &values[0].to_string());
        } else {
            let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            write_numbers(&mut bytes, STAMP, &values);
        }
    }
    bytes
}

async fn feed(
    mut samples: broadcast::Receiver<Bytes>,
    write: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    loop {
        match samples.recv().await {
            Ok(sample) => {
                let written = tokio::time::timeout(PATIENCE, write.write_all(&sample)).await;
                written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
            // Too slow: the oldest are gone, as with any inlet of LSL.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}
