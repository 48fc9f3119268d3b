//! Lab Streaming Layer, wire protocol 1.10, in plain Rust: an inlet of binned counts, and outlets
//! of markers and metrics. LSL does not number samples: losses are estimated from time stamps and
//! the stream's rate.

mod discovery;
mod feed;
mod info;
pub(crate) mod notes;
pub(crate) mod outlets;
mod pace;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use discovery::{DISCOVERY_PORT, GROUPS, SERVICE_PORTS, query_matches};
pub(crate) use feed::{test_pattern, write_numbers, write_text};
pub(crate) use info::{Format, StreamInfo};
pub(crate) use outlets::Markers;

use super::backoff::Backoff;
use crate::clock::Received;
use crate::intake::{BinCounts, Bins, LossAccounting, Port, Refusal, Status};
use crate::model::COUNT_MAX;
use crate::telemetry::Throttle;
use crate::wire::RejectReason;
use feed::Feed;
use pace::Pace;

/// Without a sample for this long the stream is resolved again: a killed outlet may leave its
/// connection open.
const SILENCE: Duration = Duration::from_secs(5);

/// A stream whose nominal rate differs by no more than this share has the session's: amplifiers
/// give rounded ones.
const RATE_WITHIN: f64 = 1e-3;

/// Which stream to read, and what to send back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Stream name; empty: any.
    pub name: String,
    /// Stream type; empty: any.
    pub kind: String,
    /// Source id; empty: any.
    pub source_id: String,
    /// LSL session.
    pub session_id: String,
    /// Hosts that are queried in addition to the multicast groups.
    pub known_peers: Vec<String>,
    /// Whether regime markers and metrics are offered as streams.
    pub outlets: bool,
    /// Where they are served; beyond loopback in plain text, to everybody.
    pub listen: IpAddr,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: String::new(),
            source_id: String::new(),
            session_id: "default".into(),
            known_peers: vec!["127.0.0.1".into()],
            outlets: true,
            listen: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl Settings {
    /// The stream asked for, as LSL's queries are.
    fn query(&self) -> String {
        let wanted = [
            ("session_id", &self.session_id),
            ("name", &self.name),
            ("type", &self.kind),
            ("source_id", &self.source_id),
        ];
        let parts: Vec<String> = wanted
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key}='{value}'"))
            .collect();
        parts.join(" and ")
    }
}

/// Connection state of the stream.
#[must_use]
pub(crate) fn status(session: &str, settings: &Settings) -> Status {
    Status::new(session, format!("lsl {}", settings.query()), LossAccounting::Estimated)
}

/// Resolves the stream and reads it, until aborted; resolves it again when it is lost.
pub(crate) async fn run(settings: Settings, port: Arc<Port>, status: Arc<Status>) {
    let mut backoff = Backoff::new();
    let mut inlet = Inlet {
        pace: Pace::new(port.settings().bin_width_s),
        throttle: Throttle::default(),
        flat: Vec::new(),
        port,
        status,
    };
    loop {
        let found = discovery::resolve(&settings.query(), &settings.known_peers).await;
        let result = match found {
            Ok(Some(info)) => match inlet.check(&info) {
                Ok(()) => inlet.read(&info).await.map_err(StreamError::from),
                Err(e) => Err(e),
            },
            // No answer: ask again.
            Ok(None) => continue,
            Err(e) => Err(StreamError::from(e)),
        };
        if inlet.status.is_connected() {
            backoff.reset();
        }
        inlet.status.connected(false);
        if let (Err(e), Some(held_back)) = (result, inlet.throttle.pass(std::time::Instant::now()))
        {
            tracing::warn!(source = inlet.status.what, held_back, "LSL: {e}");
        }
        backoff.pause().await;
    }
}

/// Why a stream is not read, or not any more.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("expected a stream of {expected} channels, found '{name}' with {found}")]
    Channels { expected: usize, name: String, found: usize },
    #[error("expected a stream of numbers, found '{name}' of strings")]
    Text { name: String },
    #[error(
        "expected a stream of {expected} Hz, the rate of the session's bins, found '{name}' of \
         {found} Hz"
    )]
    Rate { expected: f64, name: String, found: f64 },
}

struct Inlet {
    port: Arc<Port>,
    status: Arc<Status>,
    pace: Pace,
    flat: Vec<u16>,
    throttle: Throttle,
}

impl Inlet {
    fn check(&self, info: &StreamInfo) -> Result<(), StreamError> {
        let shape = self.port.settings();
        let (rate, name) = (1.0 / shape.bin_width_s, info.name.clone());
        self.status.see(|seen| {
            seen.channels = info.channel_count;
            seen.stream = Some(info.name.clone());
            seen.bin_width_s = (info.nominal_srate > 0.0).then(|| 1.0 / info.nominal_srate);
        });
        if info.channel_count != shape.n_channels {
            let (expected, found) = (shape.n_channels, info.channel_count);
            return Err(StreamError::Channels { expected, name, found });
        }
        if info.format == Format::Text {
            return Err(StreamError::Text { name });
        }
        if (info.nominal_srate - rate).abs() > RATE_WITHIN * rate {
            return Err(StreamError::Rate { expected: rate, name, found: info.nominal_srate });
        }
        Ok(())
    }

    async fn read(&mut self, info: &StreamInfo) -> std::io::Result<()> {
        let mut feed = Feed::open(info).await?;
        let correction = discovery::Correction::keep(info);
        self.status.connected(true);
        self.pace.reconnected();
        loop {
            let sample = tokio::time::timeout(SILENCE, feed.next()).await;
            let Ok(sample) = sample else {
                return Err(std::io::Error::other("nothing came for a while"));
            };
            let (stamp, values) = sample?;
            let received = Received::now();
            match self.take(stamp, &values, correction.seconds(), received) {
                Ok(()) => self.status.metrics.taken.increment(1),
                Err(refusal) => {
                    self.status.metrics.garbled.increment(1);
                    self.port.refuse(refusal.reason);
                    if let Some(held_back) = self.throttle.pass(std::time::Instant::now()) {
                        tracing::warn!(
                            detail = refusal.detail,
                            held_back,
                            "LSL: a sample was refused"
                        );
                    }
                }
            }
        }
    }

    fn take(
        &mut self,
        stamp: f64,
        values: &[f64],
        correction: f64,
        received: Received,
    ) -> Result<(), Refusal> {
        let placed = self.pace.place(stamp);
        self.status.metrics.lost.increment(placed.missing);
        self.flat.clear();
        for &value in values {
            if !(value >= 0.0 && value <= f64::from(COUNT_MAX)) {
                let detail = format!("expected counts from 0 to {COUNT_MAX}, found {value}");
                return Err(Refusal::new(RejectReason::BadCount, detail));
            }
            self.flat.push(value.round() as u16);
        }
        // Our own clock's reading of the sample's time.
        let rig_time_ns = ((stamp + correction) * 1e9) as i64;
        self.port.note_contact(rig_time_ns, received);
        let bins = Bins {
            sequence: placed.sequence,
            rig_time_ns,
            counts: BinCounts::Narrow(&self.flat),
            begins: placed.begins,
        };
        // A full queue is accounted for there.
        let _ = self.port.offer(&bins, received);
        Ok(())
    }
}
