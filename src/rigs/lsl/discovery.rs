//! Streams are found, and their clocks compared, by UDP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};

use super::info::StreamInfo;
use crate::clock::monotonic_s;
use crate::rigs::DATAGRAM_BYTES;
use crate::tasks;

/// Port of the multicast groups.
pub(crate) const DISCOVERY_PORT: u16 = 16571;
/// Ports at which outlets answer.
pub(crate) const SERVICE_PORTS: std::ops::Range<u16> = 16572..16604;
/// Multicast groups of the scopes from machine to site.
pub(crate) const GROUPS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(224, 0, 0, 183), Ipv4Addr::new(239, 255, 172, 215)];
/// Waits this long for answers.
const ANSWERS: Duration = Duration::from_millis(500);
/// Between probes of a wave, and between waves.
const PROBE_EVERY: Duration = Duration::from_millis(64);
const WAVE_EVERY: Duration = Duration::from_secs(2);
/// Probes of a wave; the one with the shortest round trip is believed.
const PROBES: usize = 8;

/// Queries a stream once; `None` without an answer.
///
/// # Errors
/// Errors of the system.
pub(crate) async fn resolve(query: &str, known_peers: &[String]) -> io::Result<Option<StreamInfo>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let _ = socket.set_multicast_loop_v4(true);
    let port = socket.local_addr()?.port();
    let id = format!("{:x}", (monotonic_s() * 1e6) as u64);
    let message = format!("LSL:shortinfo\r\n{query}\r\n{port} {id}\r\n");
    for group in GROUPS {
        // A group that cannot be reached here is passed over.
        let _ = socket.send_to(message.as_bytes(), (group, DISCOVERY_PORT)).await;
    }
    for peer in known_peers {
        let Ok(addresses) = lookup_host((peer.as_str(), 0)).await else { continue };
        for address in addresses.filter(SocketAddr::is_ipv4) {
            for port in SERVICE_PORTS {
                let to = SocketAddr::new(address.ip(), port);
                let _ = socket.send_to(message.as_bytes(), to).await;
            }
        }
    }
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let until = tokio::time::Instant::now() + ANSWERS;
    loop {
        let received = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await;
        let Ok(received) = received else { return Ok(None) };
        // A port without a listener answers with an error.
        let Ok((n, from)) = received else { continue };
        let text = String::from_utf8_lossy(&buffer[..n]);
        let Some((answered, xml)) = text.split_once("\r\n") else { continue };
        if answered.trim() == id
            && let Some(info) = StreamInfo::parse(xml, from.ip())
        {
            return Ok(Some(info));
        }
    }
}

/// Whether a stream is what a query asks for: `key='value'`, `starts-with(key,'value')` and
/// `contains(key,'value')`, joined by `and`. Other queries ask for nothing of ours.
#[must_use]
pub(crate) fn query_matches(query: &str, info: &StreamInfo) -> bool {
    let unquoted = |text: &str| {
        let text = text.trim();
        let quote = text.chars().next()?;
        let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
        matches!(quote, '\'' | '"').then(|| inner.to_owned())
    };
    let holds = |part: &str| -> Option<bool> {
        let part = part.trim();
        let call = |name: &str| part.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        for (name, judge) in [
            ("starts-with", (|a: &str, b: &str| a.starts_with(b)) as fn(&str, &str) -> bool),
            ("contains", |a: &str, b: &str| a.contains(b)),
        ] {
            if let Some(inner) = call(name) {
                let (key, value) = inner.split_once(',')?;
                return Some(judge(&info.field(key.trim())?, &unquoted(value)?));
            }
        }
        let (key, value) = part.split_once('=')?;
        let value = unquoted(value).unwrap_or_else(|| value.trim().to_owned());
        Some(info.field(key.trim())? == value)
    };
    query.trim().is_empty() || query.split(" and ").all(|part| holds(part) == Some(true))
}

/// The correction that maps a stream's time stamps onto our clock, kept while this lives.
pub(crate) struct Correction {
    bits: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Correction {
    /// Asks the stream's clock again and again.
    pub(crate) fn keep(info: &StreamInfo) -> Self {
        let bits = Arc::new(AtomicU64::new(0.0f64.to_bits()));
        let (to, shared) = ((info.address, info.service_port), bits.clone());
        let task = tasks::spawn(async move {
            loop {
                if let Ok(Some(seconds)) = wave(to).await {
                    shared.store(seconds.to_bits(), Ordering::Relaxed);
                }
                tokio::time::sleep(WAVE_EVERY).await;
            }
        });
        Self { bits, task }
    }

    /// Seconds to be added to a time stamp; 0 before the first answer.
    pub(crate) fn seconds(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::Relaxed))
    }
}

impl Drop for Correction {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One wave of probes.
async fn wave(to: (IpAddr, u16)) -> io::Result<Option<f64>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(to).await?;
    let mut best: Option<(f64, f64)> = None;
    let mut buffer = [0; 256];
    for probe in 0..PROBES {
        let sent = monotonic_s();
        socket.send(format!("LSL:timedata\r\n{probe} {sent:.9}\r\n").as_bytes()).await?;
        let until = tokio::time::Instant::now() + PROBE_EVERY;
        while let Ok(answer) = tokio::time::timeout_at(until, socket.recv(&mut buffer)).await {
            let now = monotonic_s();
            let text = String::from_utf8_lossy(&buffer[..answer?]).into_owned();
            let numbers: Vec<f64> =
                text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            let [wave, t0, t1, t2] = numbers[..] else { continue };
            if wave != probe as f64 {
                continue;
            }
            let round_trip = (now - t0) - (t2 - t1);
            let offset = ((t1 - t0) + (t2 - now)) / 2.0;
            if best.is_none_or(|b| round_trip < b.0) {
                best = Some((round_trip, -offset));
            }
        }
    }
    Ok(best.map(|b| b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rigs::lsl::Format;

    #[test]
    fn queries_are_understood() {
        let info = StreamInfo {
            name: "Spike rig".into(),
            kind: "Spikes".into(),
            channel_count: 96,
            format: Format::Float32,
            nominal_srate: 100.0,
            source_id: "s".into(),
            uid: "u".into(),
            session_id: "default".into(),
            hostname: "h".into(),
            address: Ipv4Addr::LOCALHOST.into(),
            data_port: 1,
            service_port: 2,
            created_at: 0.0,
        };
        for (query, expected) in [
            ("session_id='default' and name='Spike rig'", true),
            ("session_id=\"default\" and type='EEG'", false),
            ("starts-with(name,'Spike') and contains(type,'ike')", true),
            ("channel_count=96", true),
            ("count(info/desc/channel)=3", false),
            ("", true),
        ] {
            assert_eq!(query_matches(query, &info), expected, "{query}");
        }
    }
}
