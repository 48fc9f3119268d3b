//! Blackrock's processors: packets over UDP, several a datagram. Spikes carry channel and unit;
//! every packet, the heartbeat that comes each 10 ms among them, carries the clock. Nothing is
//! numbered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::DATAGRAM_BYTES;
use super::backoff::Backoff;
use super::electrodes::Electrodes;
use crate::clock::Received;
use crate::intake::{Assembly, Event, LossAccounting, Place, Status, Ticks};
use crate::wire::RejectReason;

/// Packets of the system, not of a channel, have this bit.
const CONFIGURATION: u16 = 0x8000;
/// Unit of what the sorter takes for noise.
const NOISE: u16 = 255;

/// Layout of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// 4.1 and later: headers of 16 bytes.
    V4,
    /// 3.11: headers of 8 bytes.
    V3,
}

impl Protocol {
    /// The number of each protocol.
    pub const WORDS: [(&'static str, Self); 2] = [("4.1", Self::V4), ("3.11", Self::V3)];
}

/// Where the packets come, and how to take them.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Address that the processor sends to.
    pub listen: SocketAddr,
    /// Version of the packets' headers.
    pub protocol: Protocol,
    /// Ticks of its clock a second.
    pub ticks_per_s: f64,
    /// Spikes may come this long after later ones, milliseconds.
    pub reorder_ms: f64,
    /// Each unit of a channel is a channel.
    pub split_sorted: bool,
    /// Channels by number, `12` or `12:UNIT`, in order; empty: channel 1 is the first, whatever its
    /// unit.
    pub electrodes: Vec<String>,
    /// What the sorter takes for noise is counted too.
    pub noise: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 51_002)),
            protocol: Protocol::V4,
            ticks_per_s: 1e9,
            reorder_ms: 10.0,
            split_sorted: false,
            electrodes: Vec::new(),
            noise: false,
        }
    }
}

/// Connection state of the processor.
#[must_use]
pub(crate) fn status(session: &str, settings: &Settings) -> Status {
    Status::new(session, format!("blackrock {}", settings.listen), LossAccounting::Estimated)
}

/// Takes the port for a session.
///
/// # Errors
/// It is another's. (An address that the machine does not have yet is waited for.)
pub(crate) fn bind(settings: &Settings) -> io::Result<Option<std::net::UdpSocket>> {
    match std::net::UdpSocket::bind(settings.listen) {
        Ok(socket) => {
            socket.set_nonblocking(true)?;
            Ok(Some(socket))
        }
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Ok(None),
        Err(e) => Err(e),
    }
}

/// Listens at a port that was taken, until aborted.
pub(crate) async fn run(
    settings: Settings,
    bound: Option<std::net::UdpSocket>,
    assembly: Arc<Assembly>,
    status: Arc<Status>,
) {
    let mut backoff = Backoff::new();
    let mut bound = bound.and_then(|socket| UdpSocket::from_std(socket).ok());
    let socket = loop {
        if let Some(socket) = bound.take() {
            break socket;
        }
        match UdpSocket::bind(settings.listen).await {
            Ok(socket) => break socket,
            Err(e) => tracing::warn!(listen = %settings.listen, "Blackrock: cannot listen: {e}"),
        }
        backoff.pause().await;
    };
    let mut reader = Reader::new(settings, assembly, status);
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((n, _)) => {
                reader.status.connected(true);
                reader.datagram(&buffer[..n], Received::now());
            }
            Err(e) => {
                tracing::debug!("Blackrock: {e}");
                backoff.pause().await;
            }
        }
    }
}

/// A packet's header.
struct Packet {
    tick: u64,
    channel: u16,
    kind: u16,
    /// Bytes with the header.
    bytes: usize,
}

impl Packet {
    fn of(protocol: Protocol, b: &[u8]) -> Option<Self> {
        let two = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        match protocol {
            Protocol::V4 if b.len() >= 16 => {
                let tick = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
                let bytes = 16 + 4 * usize::from(two(12));
                Some(Self { tick, channel: two(8), kind: two(10), bytes })
            }
            Protocol::V3 if b.len() >= 8 => {
                let tick = u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                let bytes = 8 + 4 * usize::from(b[7]);
                Some(Self { tick, channel: two(4), kind: u16::from(b[6]), bytes })
            }
            _ => None,
        }
    }
}

/// Reads datagrams into a session.
pub struct Reader {
    settings: Settings,
    /// `None`: channels by their own numbers.
    listed: Option<Electrodes>,
    ticks: Ticks,
    assembly: Arc<Assembly>,
    status: Arc<Status>,
    events: Vec<Event>,
    /// Highest channel so far.
    highest: usize,
}

impl Reader {
    /// Of a session that was sent nothing yet.
    pub fn new(settings: Settings, assembly: Arc<Assembly>, status: Arc<Status>) -> Self {
        let shape = assembly.port().settings();
        let (split, n) = (settings.split_sorted, shape.n_channels);
        let listed = (!settings.electrodes.is_empty() || split)
            .then(|| Electrodes::new(&settings.electrodes, split, n, status.clone()));
        let ticks = Ticks::new(settings.ticks_per_s, shape.bin_width_s, settings.reorder_ms);
        Self { settings, listed, ticks, assembly, status, events: Vec::new(), highest: 0 }
    }

    /// Takes one datagram.
    pub fn datagram(&mut self, mut bytes: &[u8], received: Received) {
        let mut any = false;
        while !bytes.is_empty() {
            let packet = Packet::of(self.settings.protocol, bytes);
            let Some(packet) = packet.filter(|p| p.bytes <= bytes.len()) else {
                self.status.metrics.garbled.increment(1);
                break;
            };
            bytes = &bytes[packet.bytes..];
            any |= self.packet(&packet, received);
        }
        if any {
            self.hand_over(received);
        }
    }

    fn hand_over(&mut self, received: Received) {
        if let Some(newest) = self.ticks.newest() {
            self.assembly.port().note_contact(self.ticks.ns(newest), received);
        }
        // Accounted for there.
        let _ = self.assembly.take("", &self.events, self.ticks.complete(), received);
        self.events.clear();
    }

    /// Whether its clock is believed.
    fn packet(&mut self, p: &Packet, received: Received) -> bool {
        let is_spike = p.channel != 0 && p.channel & CONFIGURATION == 0;
        let counts = is_spike && (p.kind != NOISE || self.settings.noise);
        // A packet without spikes still carries the clock.
        let tick = match self.settings.protocol {
            Protocol::V4 => i64::try_from(p.tick).unwrap_or(-1),
            Protocol::V3 => self.ticks.unwrapped(p.tick as u32),
        };
        let bin = match self.ticks.place(tick, received.steady_ns()) {
            Place::In(bin) => Some(bin),
            Place::Stray => None,
            Place::Restarted(bin) => {
                // What came before is of the recording before.
                let events = std::mem::take(&mut self.events);
                let _ = self.assembly.take("", &events, 0, received);
                self.assembly.begin(received);
                Some(bin)
            }
        };
        if !counts {
            self.status.metrics.ignored.increment(1);
            return bin.is_some();
        }
        if usize::from(p.channel) > self.highest {
            self.highest = usize::from(p.channel);
            self.status.see(|seen| seen.channels = seen.channels.max(self.highest));
        }
        let channel = match &mut self.listed {
            Some(listed) => listed.channel(&p.channel.to_string(), i64::from(p.kind)),
            None => Some(usize::from(p.channel) - 1)
                .filter(|c| *c < self.assembly.port().settings().n_channels),
        };
        match (bin, channel) {
            (Some(bin), Some(channel)) => {
                self.events.push(Event { bin, channel, count: 1 });
                self.status.metrics.taken.increment(1);
            }
            (None, _) => self.assembly.refused(RejectReason::TooFarAhead),
            (_, None) => self.assembly.refused(RejectReason::UnknownChannel),
        }
        bin.is_some()
    }
}
