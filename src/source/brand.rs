//! A BRAND graph's stream of binned counts in Redis: fields `samples`, `i`, `ts`, `sync`. What is lost shows in `i`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use redis::streams::{StreamId, StreamReadReply};
use redis::{RedisError, Value};

use super::port::{Bins, Port, Received, Refusal};
use super::redis::{Connection, URL, newest_id};
use super::status::{LossAccounting, Status};
use crate::inference::COUNT_MAX;
use crate::telemetry::Throttle;
use crate::wire::RejectReason;

/// Entries read at a time.
const ENTRIES: usize = 64;
/// A read waits so long for entries, milliseconds.
const BLOCK_MS: usize = 500;
/// Bins whose upstream counters are remembered for the stream back.
const SYNCS: usize = 4096;

/// The values of `samples`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// One byte; what wrapped beyond 127 is read as what it was.
    Int8,
    /// Two bytes.
    Int16,
    /// Four bytes.
    Int32,
    /// Eight bytes.
    Int64,
    /// Four bytes, floating point.
    Float32,
    /// Eight bytes, floating point.
    Float64,
}

impl Dtype {
    /// By numpy's names.
    pub const WORDS: [(&'static str, Self); 9] = [
        ("int8", Self::Int8),
        ("uint8", Self::Int8),
        ("int16", Self::Int16),
        ("uint16", Self::Int16),
        ("int32", Self::Int32),
        ("uint32", Self::Int32),
        ("int64", Self::Int64),
        ("float32", Self::Float32),
        ("float64", Self::Float64),
    ];

    fn bytes(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Int16 => 2,
            Self::Int32 | Self::Float32 => 4,
            Self::Int64 | Self::Float64 => 8,
        }
    }

    /// One value, or what it is where it is no count.
    fn count(self, b: &[u8]) -> Result<u16, String> {
        let whole = match self {
            Self::Int8 => i64::from(b[0]),
            Self::Int16 => i64::from(i16::from_le_bytes([b[0], b[1]])),
            Self::Int32 => i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::Int64 => i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            Self::Float32 | Self::Float64 => {
                let x = if self == Self::Float32 {
                    f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                } else {
                    f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
                };
                if !(x >= 0.0 && x <= f64::from(COUNT_MAX)) {
                    return Err(x.to_string());
                }
                x.round() as i64
            }
        };
        u16::try_from(whole)
            .ok()
            .filter(|c| u32::from(*c) <= COUNT_MAX)
            .ok_or_else(|| whole.to_string())
    }
}

/// Where the counts are.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Redis server.
    pub url: String,
    /// Stream of binned counts.
    pub stream: String,
    /// Its values.
    pub dtype: Dtype,
    /// `samples` holds as many values again behind the counts (spike-band power), which are left out.
    pub crossings_first: bool,
    /// Stream to which labels and metrics go back.
    pub output_stream: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: URL.into(),
            stream: "binned_spikes".into(),
            dtype: Dtype::Int8,
            crossings_first: false,
            output_stream: None,
        }
    }
}

/// How the session stands with the graph.
#[must_use]
pub fn status(session: &str, settings: &Settings) -> Status {
    let url = super::redis::without_password(&settings.url);
    Status::new(session, format!("brand {url} {}", settings.stream), LossAccounting::Exact)
}

/// Upstream counters of the newest bins, for the stream back.
#[derive(Default)]
pub struct Syncs(Mutex<VecDeque<(u64, String)>>);

impl Syncs {
    fn remember(&self, i: u64, sync: String) {
        let mut syncs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if syncs.len() == SYNCS {
            syncs.pop_front();
        }
        syncs.push_back((i, sync));
    }

    /// The counters of bin `i`, JSON; older bins' are forgotten.
    #[must_use]
    pub fn take(&self, i: u64) -> Option<String> {
        let mut syncs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = syncs.iter().position(|s| s.0 == i)?;
        syncs.drain(..=at).next_back().map(|s| s.1)
    }
}

/// Reads the stream from its newest entry on, for ever; after a lost connection from where it was.
pub async fn run(settings: Settings, port: Arc<Port>, syncs: Arc<Syncs>, status: Arc<Status>) {
    let mut connection = Connection::new(&settings.url);
    let mut reader = Reader::new(settings, port, syncs, status);
    loop {
        let mut live = connection.get().await;
        reader.status.connected(true);
        if let Err(e) = reader.read(&mut live).await {
            reader.status.connected(false);
            connection.failed(&e).await;
        }
    }
}

pub(super) struct Reader {
    settings: Settings,
    port: Arc<Port>,
    syncs: Arc<Syncs>,
    status: Arc<Status>,
    /// Id of the last entry read.
    last: Option<String>,
    /// `i` of the next one.
    expected: Option<u64>,
    flat: Vec<u16>,
    throttle: Throttle,
}

impl Reader {
    pub(super) fn new(
        settings: Settings,
        port: Arc<Port>,
        syncs: Arc<Syncs>,
        status: Arc<Status>,
    ) -> Self {
        Self {
            last: None,
            expected: None,
            flat: Vec::new(),
            throttle: Throttle::default(),
            settings,
            port,
            syncs,
            status,
        }
    }

    async fn read(
        &mut self,
        live: &mut redis::aio::MultiplexedConnection,
    ) -> Result<(), RedisError> {
        let stream = self.settings.stream.as_str();
        let last = match &self.last {
            Some(last) => last.clone(),
            // `$` would miss what comes between two reads.
            None => newest_id(live, stream).await?,
        };
        let reply: Option<StreamReadReply> = redis::cmd("XREAD")
            .arg("COUNT")
            .arg(ENTRIES)
            .arg("BLOCK")
            .arg(BLOCK_MS)
            .arg("STREAMS")
            .arg(stream)
            .arg(&last)
            .query_async(live)
            .await?;
        self.last = Some(last);
        let received = Received::now();
        for entry in reply.into_iter().flat_map(|r| r.keys).flat_map(|k| k.ids) {
            match self.entry(&entry, received) {
                Ok(()) => self.status.metrics.taken.increment(1),
                Err(refusal) => {
                    self.status.metrics.garbled.increment(1);
                    if let Some(held_back) = self.throttle.pass(std::time::Instant::now()) {
                        let session = &self.port.settings().session;
                        let detail = refusal.detail;
                        tracing::warn!(session, detail, held_back, "BRAND: an entry was refused");
                    }
                }
            }
            self.last = Some(entry.id);
        }
        Ok(())
    }

    pub(super) fn entry(&mut self, entry: &StreamId, received: Received) -> Result<(), Refusal> {
        let n_channels = self.port.settings().n_channels;
        let samples = bytes(entry, "samples")?;
        let width = self.settings.dtype.bytes();
        let values = if self.settings.crossings_first { 2 * n_channels } else { n_channels };
        if samples.len() != values * width {
            let detail = format!(
                "expected {values} values of {width} bytes in 'samples', found {} bytes",
                samples.len()
            );
            self.port.refuse(RejectReason::ChannelCount);
            return Err(Refusal::new(RejectReason::ChannelCount, detail));
        }
        self.flat.clear();
        for value in samples.chunks_exact(width).take(n_channels) {
            match self.settings.dtype.count(value) {
                Ok(count) => self.flat.push(count),
                Err(found) => {
                    let detail = format!("expected counts from 0 to {COUNT_MAX}, found {found}");
                    self.port.refuse(RejectReason::BadCount);
                    return Err(Refusal::new(RejectReason::BadCount, detail));
                }
            }
        }
        let i = number(entry, "i")?;
        let ts = number(entry, "ts").unwrap_or(0);
        if let Ok(sync) = bytes(entry, "sync") {
            self.syncs.remember(i, String::from_utf8_lossy(sync).into_owned());
        }
        // One writer, one order: a smaller number is a graph that was started again.
        let begins = self.expected.is_some_and(|expected| i < expected);
        self.status.metrics.lost.increment(self.expected.map_or(0, |e| i.saturating_sub(e)));
        self.expected = Some(i.saturating_add(1));
        let rig_time_ns = i64::try_from(ts).unwrap_or(0);
        self.port.heard(rig_time_ns, received);
        let bins = Bins { sequence: i, rig_time_ns, counts: &self.flat, begins };
        // A full queue is accounted for there.
        let _ = self.port.offer_bins(&bins, received);
        Ok(())
    }
}

/// An entry's field.
fn bytes<'a>(entry: &'a StreamId, field: &str) -> Result<&'a [u8], Refusal> {
    match entry.map.get(field) {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        _ => Err(Refusal::new(
            RejectReason::Malformed,
            format!("expected a field '{field}', found {:?}", entry.map.keys()),
        )),
    }
}

/// An unsigned number of eight bytes, or written out.
fn number(entry: &StreamId, field: &str) -> Result<u64, Refusal> {
    let bytes = bytes(entry, field)?;
    if let Ok(b) = <[u8; 8]>::try_from(bytes) {
        return Ok(u64::from_le_bytes(b));
    }
    std::str::from_utf8(bytes).ok().and_then(|t| t.parse().ok()).ok_or_else(|| {
        Refusal::new(
            RejectReason::Malformed,
            format!("expected a number of 8 bytes in '{field}', found {} bytes", bytes.len()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_dtype() {
        for (dtype, bytes, expected) in [
            (Dtype::Int8, vec![200], Ok(200)),
            (Dtype::Int16, vec![3, 1], Ok(259)),
            (Dtype::Int32, vec![7, 0, 0, 0], Ok(7)),
            (Dtype::Int32, (-1i32).to_le_bytes().to_vec(), Err("-1")),
            (Dtype::Int64, 5000i64.to_le_bytes().to_vec(), Err("5000")),
            (Dtype::Float32, 2.6f32.to_le_bytes().to_vec(), Ok(3)),
            (Dtype::Float64, f64::NAN.to_le_bytes().to_vec(), Err("NaN")),
        ] {
            assert_eq!(dtype.count(&bytes), expected.map_err(String::from), "{dtype:?}");
            assert_eq!(dtype.bytes(), bytes.len());
        }
    }

    #[test]
    fn counters_are_found_once_and_old_ones_forgotten() {
        let syncs = Syncs::default();
        for i in 0..5000 {
            syncs.remember(i, i.to_string());
        }
        assert_eq!(syncs.take(10), None);
        assert_eq!(syncs.take(4000).as_deref(), Some("4000"));
        assert_eq!(syncs.take(3999), None);
        assert_eq!(syncs.take(4001).as_deref(), Some("4001"));
    }
}
