//! Intan's RHX software: spikes over TCP, 14 bytes each. Nothing is numbered, but TCP loses nothing
//! on the way.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::backoff::Backoff;
use super::electrodes::Electrodes;
use crate::clock::Received;
use crate::intake::{Assembly, Event, LossAccounting, Place, Status, Ticks};
use crate::wire::RejectReason;

/// First bytes of a spike.
const MAGIC: [u8; 4] = 0x3AE2_710F_u32.to_le_bytes();
/// Bytes of a spike: magic, channel's name, sample, id.
const SPIKE: usize = 14;
const NAME: std::ops::Range<usize> = 4..9;
/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Longest wait for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the software is, and how to take what it sends.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its spike output, `HOST:PORT`.
    pub address: String,
    /// Rate of the sample counter, Hz.
    pub sample_rate_hz: f64,
    /// Spikes may come this long after later ones, milliseconds.
    pub reorder_ms: f64,
    /// Each id of a channel is a channel.
    pub split_sorted: bool,
    /// Channels by name, `A-010` or `A-010:ID`, in order; empty: in order of their first spikes.
    pub electrodes: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:5002".into(),
            sample_rate_hz: 30_000.0,
            reorder_ms: 10.0,
            split_sorted: false,
            electrodes: Vec::new(),
        }
    }
}

/// Connection state of the software.
#[must_use]
pub(crate) fn status(session: &str, settings: &Settings) -> Status {
    Status::new(session, format!("intan {}", settings.address), LossAccounting::Estimated)
}

/// Connects and reads, until aborted.
pub(crate) async fn run(settings: Settings, assembly: Arc<Assembly>, status: Arc<Status>) {
    let mut backoff = Backoff::new();
    let mut reported = false;
    loop {
        let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(&settings.address));
        match connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                backoff.reset();
                reported = false;
                status.connected(true);
                // Another connection may be another recording.
                let mut reader = Reader::new(&settings, assembly.clone(), status.clone());
                let end = reader.read(stream).await;
                status.connected(false);
                tracing::debug!("Intan: {end:?}");
            }
            Err(e) => {
                if !std::mem::replace(&mut reported, true) {
                    tracing::warn!(address = settings.address, "Intan: not connected: {e}");
                }
            }
        }
        backoff.pause().await;
    }
}

/// Reads the spike stream into a session.
pub struct Reader {
    electrodes: Electrodes,
    ticks: Ticks,
    /// Bytes of a spike that is not complete.
    rest: Vec<u8>,
    events: Vec<Event>,
    assembly: Arc<Assembly>,
    status: Arc<Status>,
}

impl Reader {
    /// At the start of a connection.
    pub fn new(settings: &Settings, assembly: Arc<Assembly>, status: Arc<Status>) -> Self {
        let shape = assembly.port().settings();
        let (split, n) = (settings.split_sorted, shape.n_channels);
        Self {
            electrodes: Electrodes::new(&settings.electrodes, split, n, status.clone()),
            ticks: Ticks::new(settings.sample_rate_hz, shape.bin_width_s, settings.reorder_ms),
            rest: Vec::new(),
            events: Vec::new(),
            assembly,
            status,
        }
    }

    async fn read(&mut self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            self.take(&buffer[..n], Received::now());
        }
    }

    /// Takes the next bytes, in whatever pieces they come.
    pub fn take(&mut self, bytes: &[u8], received: Received) {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut at = 0;
        while rest.len() - at >= SPIKE {
            if rest[at..at + 4] == MAGIC {
                self.spike(&rest[at..at + SPIKE], received);
                at += SPIKE;
            } else {
                // Not where a spike begins: on to the next that does.
                self.status.metrics.garbled.increment(1);
                let next = rest[at + 1..].windows(4).position(|w| w == MAGIC);
                at = next.map_or(rest.len() - 3, |n| at + 1 + n);
            }
        }
        self.rest = rest[at..].to_vec();
        self.hand_over(received);
    }

    fn hand_over(&mut self, received: Received) {
        if self.events.is_empty() {
            return;
        }
        if let Some(newest) = self.ticks.newest() {
            self.assembly.port().note_contact(self.ticks.ns(newest), received);
        }
        // Accounted for there.
        let _ = self.assembly.take("", &self.events, self.ticks.complete(), received);
        self.events.clear();
    }

    fn spike(&mut self, b: &[u8], received: Received) {
        let name = String::from_utf8_lossy(&b[NAME]);
        let id = i64::from(b[13]);
        let Some(channel) = self.electrodes.channel(name.trim_end_matches('\0'), id) else {
            return self.assembly.refused(RejectReason::UnknownChannel);
        };
        let sent = u32::from_le_bytes([b[9], b[10], b[11], b[12]]);
        let bin = match self.ticks.place(self.ticks.unwrapped(sent), received.steady_ns()) {
            Place::In(bin) => bin,
            Place::Stray => return self.assembly.refused(RejectReason::TooFarAhead),
            Place::Restarted(bin) => {
                // What came before is of the recording before.
                let events = std::mem::take(&mut self.events);
                let _ = self.assembly.take("", &events, 0, received);
                self.assembly.begin(received);
                bin
            }
        };
        self.events.push(Event { bin, channel, count: 1 });
        self.status.metrics.taken.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::{AssemblySettings, Kind, Port, PortSettings};

    fn spike(sample: u32, channel: u8) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(format!("A-{channel:03}").bytes());
        bytes.extend(sample.to_le_bytes());
        bytes.push(1);
        bytes
    }

    #[test]
    fn a_sample_gone_wrong_is_refused_and_a_run_begun_anew_is_one_new_recording() {
        let (port, mut outlet) = Port::open(PortSettings {
            session: "rig".into(),
            n_channels: 2,
            bin_width_s: 0.01,
            queue_bins: 4096,
            gap_bins_max: 1000,
        });
        let assembly = Arc::new(Assembly::new(port, AssemblySettings::default()));
        let status = Arc::new(Status::new("rig", "intan", LossAccounting::Estimated));
        let names = ["A-000", "A-001"].map(String::from).to_vec();
        let settings = Settings { electrodes: names, reorder_ms: 0.0, ..Settings::default() };
        let mut reader = Reader::new(&settings, assembly, status);
        let mut send =
            |sample: u32| reader.take(&spike(sample, (sample % 2) as u8), Received::now());
        // Ten seconds, in which some samples go wrong: one bit of each.
        for i in 0..1000u32 {
            send(5_000_000 + i * 300);
            if i % 100 == 50 {
                send((5_000_000 + i * 300) ^ (1 << 29));
            }
        }
        // Stop and run: from 0, and on the third day, when the counter is past its middle.
        for i in 0..1000u32 {
            send(i * 300);
        }
        for i in 0..1000u32 {
            send(3_000_000_000 + i * 300);
        }
        for i in 0..1000u32 {
            send(i * 300);
        }
        let mut counts = [0; 2];
        let seen: Vec<_> = std::iter::from_fn(|| outlet.pop(&mut counts)).map(|h| h.kind).collect();
        let starts = seen.iter().filter(|k| matches!(k, Kind::First | Kind::Start)).count();
        let bins = seen.iter().filter(|k| **k == Kind::Bin).count();
        assert_eq!(starts, 4, "one recording for each run");
        // The first two samples of each restarted run are not believed, and the last bins are open.
        assert!((3985..=4000).contains(&bins), "{bins} bins");
        assert!(!seen.iter().any(|k| matches!(k, Kind::Missing(_))), "{seen:?}");
    }
}
