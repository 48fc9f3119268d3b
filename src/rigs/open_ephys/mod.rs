//! The Open Ephys GUI's ZMQ Interface plugin: spikes (or threshold crossings of its continuous
//! data) to bins by sample number, TTL edges, losses by message number, and the heartbeat that
//! shows us in the GUI.

mod header;
mod heartbeat;
pub(crate) mod network_events;
mod threshold;

use std::sync::Arc;
use std::time::Duration;

use zeromq::ZmqMessage;

use super::electrodes::Electrodes;
use super::subscriber::Subscriber;
use crate::clock::Received;
use crate::intake::{Assembly, Event, LossAccounting, Place, Status, Ticks};
use crate::model::nearly_equal;
use crate::telemetry::Throttle;
use crate::wire::RejectReason;
use header::{Header, Message};
pub(crate) use heartbeat::Request;
use threshold::Threshold;

/// Lost messages from which on the bins in between are taken for lost too: a block of continuous
/// data or a single spike is not.
const SPOIL_MESSAGES: u64 = 10;

/// Longer names are of no stream.
const STREAM_BYTES_MAX: usize = 256;

/// Where the plugin is, and how to take what it sends.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The plugin's data port.
    pub endpoint: String,
    /// Its heartbeat port; `None`: the data port's number plus one.
    pub heartbeat: Option<String>,
    /// Stream to read; `None`: the first that sends.
    pub stream: Option<String>,
    /// Sample rate, Hz; needed without continuous data, which carries it.
    pub sample_rate_hz: Option<f64>,
    /// Spikes may come this long after later ones, milliseconds: at least a block of the GUI's.
    pub reorder_ms: f64,
    /// Each sorted unit of an electrode is a channel.
    pub split_sorted: bool,
    /// Electrodes in the order of channels, `NAME` or `NAME:SORTED_ID`; empty: in order of their
    /// first spikes.
    pub electrodes: Vec<String>,
    /// While this TTL line (0-based) is high, bins are predicted through.
    pub blank_line: Option<u8>,
    /// Spikes are crossings of continuous data below this many standard deviations of the noise,
    /// e.g. -4.5.
    pub threshold_sd: Option<f64>,
    /// Corner of the high-pass filter before that, Hz; 0: none.
    pub high_pass_hz: f64,
    /// Regime changes are marked in the recording through this plugin.
    pub network_events: Option<NetworkEvents>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: "tcp://127.0.0.1:5556".into(),
            heartbeat: None,
            stream: None,
            sample_rate_hz: None,
            reorder_ms: 25.0,
            split_sorted: false,
            electrodes: Vec::new(),
            blank_line: None,
            threshold_sd: None,
            high_pass_hz: 300.0,
            network_events: None,
        }
    }
}

impl Settings {
    #[must_use]
    pub(crate) fn heartbeat_endpoint(&self) -> Option<String> {
        self.heartbeat.clone().or_else(|| {
            let (host, port) = self.endpoint.strip_prefix("tcp://")?.rsplit_once(':')?;
            Some(format!("tcp://{host}:{}", port.parse::<u16>().ok()?.checked_add(1)?))
        })
    }
}

/// The GUI's Network Events plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkEvents {
    /// Where it listens.
    pub endpoint: String,
    /// TTL line, from 1, as the plugin counts them.
    pub line: usize,
    /// How long the line stays high.
    pub pulse: Duration,
}

impl Default for NetworkEvents {
    fn default() -> Self {
        Self { endpoint: "tcp://127.0.0.1:5558".into(), line: 1, pulse: Duration::from_millis(50) }
    }
}

/// Connection state of the plugin.
#[must_use]
pub(crate) fn status(session: &str, settings: &Settings) -> Status {
    let what = format!("open_ephys {}", settings.endpoint);
    Status::new(session, what, LossAccounting::Exact)
}

/// Reads and keeps the heartbeat, until aborted.
pub(crate) async fn run(settings: Settings, assembly: Arc<Assembly>, status: Arc<Status>) {
    let mut subscriber = Subscriber::new(settings.endpoint.clone());
    let heartbeat = settings.heartbeat_endpoint();
    let mut reader = Reader::new(settings, assembly, status.clone());
    let listening = async {
        loop {
            let message = subscriber.next(|up| status.connected(up)).await;
            reader.take(&message, Received::now());
        }
    };
    let beating = async {
        match heartbeat {
            Some(endpoint) => heartbeat::keep(endpoint).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(listening, beating);
}

/// State of the messages so far.
pub struct Reader {
    settings: Settings,
    assembly: Arc<Assembly>,
    status: Arc<Status>,
    electrodes: Electrodes,
    threshold: Option<Threshold>,
    /// Number of the next message.
    expected: Option<u64>,
    stream: Option<String>,
    /// Known once the sample rate is.
    ticks: Option<Ticks>,
    /// Sample since when the blanking line is high.
    blank_since: Option<i64>,
    /// First bin with lost messages; spoils bins up to the next message.
    lost_since: Option<u64>,
    throttle: Throttle,
    events: Vec<Event>,
    /// Highest channel of continuous data so far, from 1.
    highest: i64,
}

impl Reader {
    /// Of a session that was sent nothing yet.
    pub fn new(settings: Settings, assembly: Arc<Assembly>, status: Arc<Status>) -> Self {
        let n_channels = assembly.port().settings().n_channels;
        Self {
            electrodes: Electrodes::new(
                &settings.electrodes,
                settings.split_sorted,
                n_channels,
                status.clone(),
            ),
            threshold: settings.threshold_sd.map(|sd| Threshold::new(sd, settings.high_pass_hz)),
            stream: settings.stream.clone(),
            ticks: settings.sample_rate_hz.map(|rate| {
                Ticks::new(rate, assembly.port().settings().bin_width_s, settings.reorder_ms)
            }),
            settings,
            assembly,
            status,
            expected: None,
            blank_since: None,
            lost_since: None,
            throttle: Throttle::default(),
            events: Vec::new(),
            highest: 0,
        }
    }

    /// Shows what a block of continuous data tells of the rig.
    fn show(&mut self, data: &header::Data<'_>) {
        if data.channel_num < self.highest {
            return;
        }
        self.highest = data.channel_num.saturating_add(1);
        let crosses = self.threshold.is_some();
        self.status.see(|seen| {
            seen.sample_rate_hz = Some(data.sample_rate);
            if crosses {
                seen.channels = usize::try_from(self.highest).unwrap_or(0);
                seen.names.extend(data.channel_name.as_deref().map(str::to_owned));
            }
        });
    }

    fn complain(&mut self, what: &str, detail: &str) {
        if let Some(held_back) = self.throttle.pass(std::time::Instant::now()) {
            let session = &self.assembly.port().settings().session;
            tracing::warn!(session, detail, held_back, "Open Ephys: {what}");
        }
    }

    /// Handles one message of the data socket.
    pub fn take(&mut self, message: &ZmqMessage, received: Received) {
        let header = match Header::of(message) {
            Ok(header) => header,
            Err(e) => {
                self.status.metrics.garbled.increment(1);
                return self.complain("a message was not understood", &e.to_string());
            }
        };
        self.number(header.number, received);
        if !self.is_ours(header.message.stream()) {
            self.status.metrics.ignored.increment(1);
            return;
        }
        let payload = message.get(2).map_or(&[][..], |b| b.as_ref());
        match header.message {
            Message::Data(data) => self.data(&data, payload, received),
            Message::Spike(spike) => self.spike(&spike, received),
            Message::Ttl(ttl) => self.ttl(&ttl, payload, received),
            Message::Other => {
                self.status.metrics.ignored.increment(1);
                return;
            }
        }
        self.status.metrics.taken.increment(1);
    }

    /// Accounts for a message's number: all types share one count, which restarts with an
    /// acquisition.
    fn number(&mut self, number: u64, received: Received) {
        match self.expected {
            Some(expected) if number < expected => {
                tracing::info!(
                    session = self.assembly.port().settings().session,
                    "Open Ephys: acquisition restarted"
                );
                self.assembly.begin(received);
                if let Some(ticks) = &mut self.ticks {
                    ticks.restart();
                }
                self.blank_since = None;
                self.lost_since = None;
                if let Some(sd) = self.settings.threshold_sd {
                    self.threshold = Some(Threshold::new(sd, self.settings.high_pass_hz));
                }
            }
            Some(expected) if number > expected => {
                let lost = number - expected;
                self.status.metrics.lost.increment(lost);
                if lost >= SPOIL_MESSAGES {
                    self.lost_since =
                        self.lost_since.or(self.ticks.as_ref().map(Ticks::newest_bin));
                }
            }
            _ => {}
        }
        self.expected = Some(number.saturating_add(1));
    }

    fn is_ours(&mut self, stream: Option<&str>) -> bool {
        match (&self.stream, stream) {
            (_, None) => true,
            (Some(ours), Some(stream)) => ours == stream,
            (None, Some(stream)) if stream.len() > STREAM_BYTES_MAX => false,
            (None, Some(stream)) => {
                tracing::info!(stream, "Open Ephys: listening to this stream");
                self.stream = Some(stream.to_owned());
                self.status.see(|seen| seen.stream = Some(stream.to_owned()));
                true
            }
        }
    }

    /// Bin of a sample; `None` where the rate is not known or the number is nonsense.
    fn bin(&self, sample: i64) -> Option<u64> {
        self.ticks.as_ref()?.bin(sample)
    }

    /// Advances the rig's clock to `sample`; returns its bin, where that is believed.
    fn advance(&mut self, sample: i64, received: Received) -> Option<u64> {
        let ticks = self.ticks.as_mut()?;
        let before = ticks.newest();
        let bin = match ticks.place(sample, received.steady_ns()) {
            Place::Stray => return None,
            Place::In(bin) => bin,
            Place::Restarted(bin) => {
                tracing::info!(
                    session = self.assembly.port().settings().session,
                    sample,
                    "Open Ephys: the sample numbers restarted"
                );
                self.assembly.begin(received);
                // The line keeps its level; its rise belongs to the recording before.
                self.blank_since = self.blank_since.map(|_| sample);
                self.lost_since = None;
                bin
            }
        };
        let ticks = self.ticks.as_ref()?;
        if ticks.newest() == before {
            return Some(bin);
        }
        self.assembly.port().note_contact(ticks.ns(sample), received);
        if let Some(since) = self.blank_since {
            self.assembly.spoil(ticks.bin(since).unwrap_or(bin), bin);
        }
        Some(bin)
    }

    fn hand_over(&mut self, received: Received) {
        let complete = self.ticks.as_ref().map_or(0, Ticks::complete);
        let newest = self.ticks.as_ref().map_or(0, Ticks::newest_bin);
        if let Some(from) = self.lost_since.take() {
            self.assembly.spoil(from, newest);
        }
        let events = std::mem::take(&mut self.events);
        // Accounted for there.
        let _ = self.assembly.take("", &events, complete, received);
        self.events = events;
        self.events.clear();
    }

    fn spike(&mut self, spike: &header::Spike<'_>, received: Received) {
        if self.threshold.is_some() {
            // The crossings found here are the spikes.
            return;
        }
        if self.ticks.is_none() {
            self.assembly.refused(RejectReason::Malformed);
            let detail = "sample_rate_hz is needed: no continuous data tells it";
            return self.complain("a spike was refused", detail);
        }
        let Some(channel) = self.electrodes.channel(&spike.electrode, spike.sorted_id) else {
            self.assembly.refused(RejectReason::UnknownChannel);
            let detail = format!("electrode '{}', sorted id {}", spike.electrode, spike.sorted_id);
            return self.complain("a spike of an electrode that has no channel", &detail);
        };
        let Some(bin) = self.advance(spike.sample_num, received) else {
            self.assembly.refused(RejectReason::TooFarAhead);
            let detail = format!("sample number {} is far from the others", spike.sample_num);
            return self.complain("a spike was refused", &detail);
        };
        self.events.push(Event { bin, channel, count: 1 });
        self.hand_over(received);
    }

    fn data(&mut self, data: &header::Data<'_>, payload: &[u8], received: Received) {
        self.show(data);
        let found = data.sample_rate;
        let width = self.assembly.port().settings().bin_width_s;
        let reorder = self.settings.reorder_ms;
        let rate = self.ticks.get_or_insert_with(|| Ticks::new(found, width, reorder)).rate_hz();
        if !nearly_equal(found, rate) {
            let detail = format!("expected {rate} Hz, found {found} Hz in the stream");
            return self.complain("continuous data was refused", &detail);
        }
        let end = data.sample_num.saturating_add(data.num_samples);
        // The other channels of the block are not older than this one's start.
        let to = if self.threshold.is_some() { data.sample_num } else { end };
        if self.advance(to, received).is_none() {
            let detail = format!("sample number {} is far from the others", data.sample_num);
            return self.complain("continuous data was refused", &detail);
        }
        if self.threshold.is_some() {
            self.crossings(data, payload);
        }
        self.hand_over(received);
    }

    fn crossings(&mut self, data: &header::Data<'_>, payload: &[u8]) {
        let expected = usize::try_from(data.num_samples).unwrap_or(0) * 4;
        if payload.len() != expected {
            let detail = format!("expected {expected} bytes, found {}", payload.len());
            return self.complain("continuous data was refused", &detail);
        }
        let n_channels = self.assembly.port().settings().n_channels;
        let channel = match (&data.channel_name, self.settings.electrodes.is_empty()) {
            (Some(name), false) => self.electrodes.channel(name, 0),
            _ => usize::try_from(data.channel_num).ok().filter(|c| *c < n_channels),
        };
        let Some(channel) = channel else { return };
        let Some(mut threshold) = self.threshold.take() else { return };
        let samples = payload.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        threshold.block(channel, data, samples, |sample| {
            if let Some(bin) = self.bin(sample) {
                self.events.push(Event { bin, channel, count: 1 });
            }
        });
        self.threshold = Some(threshold);
    }

    fn ttl(&mut self, ttl: &header::Ttl<'_>, payload: &[u8], received: Received) {
        let (Some(&line), Some(&state)) = (payload.first(), payload.get(1)) else {
            return self.complain("a TTL event was refused", "expected a line and a state");
        };
        if self.ticks.is_some() && self.advance(ttl.sample_num, received).is_none() {
            let detail = format!("sample number {} is far from the others", ttl.sample_num);
            return self.complain("a TTL event was refused", &detail);
        }
        self.status.metrics.ttl_edge(line);
        if self.settings.blank_line == Some(line) {
            if state != 0 {
                self.blank_since = Some(ttl.sample_num);
                if let Some(bin) = self.bin(ttl.sample_num) {
                    self.assembly.spoil(bin, bin);
                }
            } else if let Some(since) = self.blank_since.take()
                && let (Some(from), Some(to)) = (self.bin(since), self.bin(ttl.sample_num))
            {
                self.assembly.spoil(from, to);
            }
        }
        self.hand_over(received);
    }
}
