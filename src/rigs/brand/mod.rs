//! A BRAND graph's stream of binned counts in Redis: fields `samples`, `i`, `ts`, `sync`. Losses
//! show in `i`.

pub(crate) mod out;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use redis::streams::{StreamId, StreamReadReply};
use redis::{RedisError, Value};

use super::redis::{Connection, URL, id_order, newest_id};
use crate::clock::Received;
use crate::intake::{BinCounts, Bins, LossAccounting, Port, Refusal, Status};
use crate::model::COUNT_MAX;
use crate::telemetry::Throttle;
use crate::wire::RejectReason;

/// Entries read at a time.
const ENTRIES: usize = 64;
/// A read waits this long for entries, milliseconds.
const BLOCK_MS: usize = 500;
/// Bins whose upstream counters are remembered for the stream back.
const SYNCS: usize = 4096;
/// Fields of an entry that are named to people at most.
const FIELDS_TOLD: usize = 16;
/// Longer counters are not remembered: they are a few numbers by name.
const SYNC_BYTES_MAX: usize = 4096;

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
    /// Numpy's name of each type.
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

    /// One value as a count.
    fn count(self, b: &[u8]) -> Result<u16, NotACount> {
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
                    return Err(NotACount(x.to_string()));
                }
                x.round() as i64
            }
        };
        u16::try_from(whole)
            .ok()
            .filter(|c| *c <= COUNT_MAX)
            .ok_or_else(|| NotACount(whole.to_string()))
    }
}

/// A value that is no count, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected counts from 0 to {COUNT_MAX}, found {0}")]
struct NotACount(String);

/// Where the counts are.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Redis server.
    pub url: String,
    /// Stream of binned counts.
    pub stream: String,
    /// Its values.
    pub dtype: Dtype,
    /// `samples` holds as many values again behind the counts (spike-band power), which are left
    /// out.
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

/// Connection state of the graph.
#[must_use]
pub(crate) fn status(session: &str, settings: &Settings) -> Status {
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

/// Reads the stream from its newest entry on, until aborted; after a lost connection from the last
/// entry read.
pub(crate) async fn run(
    settings: Settings,
    port: Arc<Port>,
    syncs: Arc<Syncs>,
    status: Arc<Status>,
) {
    let mut connection = Connection::new(&settings.url);
    let mut reader = Reader::new(settings, port, syncs, status);
    loop {
        let mut live = connection.get().await;
        match reader.read(&mut live).await {
            Ok(()) => {
                reader.status.connected(true);
                connection.worked();
            }
            Err(e) => {
                reader.status.connected(false);
                connection.failed(&e).await;
            }
        }
    }
}

/// A bin of an entry.
struct Bin {
    i: u64,
    rig_time_ns: i64,
    counts: Vec<u16>,
    received: Received,
}

/// Reads entries of the stream into a session.
pub struct Reader {
    settings: Settings,
    port: Arc<Port>,
    syncs: Arc<Syncs>,
    status: Arc<Status>,
    /// Id of the last entry read.
    last: Option<String>,
    /// `i` of the next one.
    expected: Option<u64>,
    /// A bin whose number is smaller than it should be.
    held: Option<Bin>,
    /// Fields that hold numbers as bytes, and of which width.
    binary: Vec<(&'static str, usize)>,
    /// Why the entry before was refused, where it was.
    refused: Option<RejectReason>,
    flat: Vec<u16>,
    throttle: Throttle,
}

impl Reader {
    /// Of a session that was sent nothing yet.
    pub fn new(
        settings: Settings,
        port: Arc<Port>,
        syncs: Arc<Syncs>,
        status: Arc<Status>,
    ) -> Self {
        Self {
            last: None,
            expected: None,
            held: None,
            binary: Vec::new(),
            refused: None,
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
            // `$` would miss entries between two reads.
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
        if reply.is_none() && self.was_emptied(live, &last).await? {
            tracing::warn!(stream, last, "BRAND: the stream was emptied: read from its begin");
            self.last = Some("0-0".into());
            return Ok(());
        }
        self.last = Some(last);
        let received = Received::now();
        for entry in reply.into_iter().flat_map(|r| r.keys).flat_map(|k| k.ids) {
            self.take(&entry, received);
            self.last = Some(entry.id);
        }
        Ok(())
    }

    /// Whether a quiet stream ends before what was read of it: it was deleted or emptied, and new
    /// entries may have smaller ids.
    async fn was_emptied(
        &self,
        live: &mut redis::aio::MultiplexedConnection,
        last: &str,
    ) -> Result<bool, RedisError> {
        let newest = newest_id(live, &self.settings.stream).await?;
        Ok(id_order(&newest) < id_order(last))
    }

    /// Takes an entry. A refused one is counted as received and rejected; its reason is logged
    /// once.
    pub fn take(&mut self, entry: &StreamId, received: Received) {
        match self.entry(entry, received) {
            Ok(()) => {
                self.status.metrics.taken.increment(1);
                self.refused = None;
            }
            Err(refusal) => {
                self.status.metrics.garbled.increment(1);
                self.port.refuse(refusal.reason);
                if self.refused.replace(refusal.reason) != Some(refusal.reason) {
                    self.complain("an entry was refused", &refusal.detail);
                }
            }
        }
    }

    fn complain(&mut self, what: &str, detail: &str) {
        if let Some(held_back) = self.throttle.pass(std::time::Instant::now()) {
            let session = &self.port.settings().session;
            tracing::warn!(session, detail, held_back, "BRAND: {what}");
        }
    }

    fn entry(&mut self, entry: &StreamId, received: Received) -> Result<(), Refusal> {
        let n_channels = self.port.settings().n_channels;
        let samples = bytes(entry, "samples")?;
        let width = self.settings.dtype.bytes();
        let values = if self.settings.crossings_first { 2 * n_channels } else { n_channels };
        if samples.len() != values * width {
            let each = if self.settings.crossings_first { 2 * width } else { width };
            self.status.see(|seen| seen.channels = samples.len() / each);
            let detail = format!(
                "expected {values} values of {width} bytes in 'samples', found {} bytes",
                samples.len()
            );
            return Err(Refusal::new(RejectReason::ChannelCount, detail));
        }
        self.flat.clear();
        for value in samples.chunks_exact(width).take(n_channels) {
            match self.settings.dtype.count(value) {
                Ok(count) => self.flat.push(count),
                Err(e) => return Err(Refusal::new(RejectReason::BadCount, e.to_string())),
            }
        }
        let i = self.number(entry, "i")?;
        let ts = self.number(entry, "ts").unwrap_or(0);
        if let Ok(sync) = bytes(entry, "sync") {
            if sync.len() > SYNC_BYTES_MAX {
                let found = sync.len();
                let detail = format!(
                    "expected at most {SYNC_BYTES_MAX} bytes in 'sync', found {found}: left out"
                );
                self.complain("the counters of an entry were left out", &detail);
            } else {
                self.syncs.remember(i, String::from_utf8_lossy(sync).into_owned());
            }
        }
        let rig_time_ns = i64::try_from(ts).unwrap_or(0);
        if let Some(held) = self.held.take() {
            // It continues from there: the graph was restarted. Otherwise one entry was damaged.
            let begins = held.i.checked_add(1) == Some(i);
            self.offer(&held, begins);
        }
        let bin = Bin { i, rig_time_ns, counts: std::mem::take(&mut self.flat), received };
        // There is one writer and one order: a smaller number waits until the next one shows what
        // it is.
        if self.expected.is_some_and(|expected| i < expected) {
            self.held = Some(bin);
        } else {
            self.offer(&bin, false);
            self.flat = bin.counts;
        }
        Ok(())
    }

    /// Offers a bin to the session, which counts a refusal.
    fn offer(&mut self, bin: &Bin, begins: bool) {
        let Bin { i, rig_time_ns, counts, received } = bin;
        let counts = BinCounts::Narrow(counts);
        let bins = Bins { sequence: *i, rig_time_ns: *rig_time_ns, counts, begins };
        let out_of_order = |r: &Refusal| {
            matches!(r.reason, RejectReason::DuplicateOrLate | RejectReason::TooFarAhead)
        };
        match self.port.offer(&bins, *received) {
            // A damaged number: nothing is lost before it, and the next bin follows the last.
            Err(refusal) if out_of_order(&refusal) => {
                self.complain("an entry is out of order", &refusal.detail);
            }
            _ => {
                let lost = self.expected.filter(|_| !begins).map_or(0, |e| i.saturating_sub(e));
                // Beyond what is predicted through, the writer has restarted its numbering.
                let is_gap = lost <= self.port.settings().gap_bins_max as u64;
                self.status.metrics.lost.increment(if is_gap { lost } else { 0 });
                self.expected = Some(i.saturating_add(1));
                self.port.note_contact(*rig_time_ns, *received);
            }
        }
    }

    /// A number, as text or as little-endian bytes of any width. Digits alone are text, but in a
    /// stream that has sent numbers of that width which are not.
    fn number(&mut self, entry: &StreamId, field: &'static str) -> Result<u64, Refusal> {
        let bytes = bytes(entry, field)?;
        let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
        let known = self.binary.contains(&(field, bytes.len()));
        if digits && !known {
            let text = std::str::from_utf8(bytes).ok().and_then(|t| t.parse().ok());
            return text.ok_or_else(|| not_a_number(field, bytes));
        }
        if !matches!(bytes.len(), 1 | 2 | 4 | 8) {
            return Err(not_a_number(field, bytes));
        }
        if !known {
            self.binary.push((field, bytes.len()));
        }
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(whole))
    }
}

fn not_a_number(field: &str, bytes: &[u8]) -> Refusal {
    let detail = format!(
        "expected a number in '{field}', as digits or of 1, 2, 4 or 8 bytes, found {} bytes",
        bytes.len()
    );
    Refusal::new(RejectReason::Malformed, detail)
}

/// Names of an entry's fields, to show.
#[must_use]
pub(crate) fn fields(entry: &StreamId) -> String {
    let mut names: Vec<&str> = entry.map.keys().map(String::as_str).take(FIELDS_TOLD).collect();
    names.sort_unstable();
    names.join(", ").chars().take(256).collect()
}

/// An entry's field.
fn bytes<'a>(entry: &'a StreamId, field: &str) -> Result<&'a [u8], Refusal> {
    match entry.map.get(field) {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        _ => Err(Refusal::new(
            RejectReason::Malformed,
            format!("expected a field '{field}', found {}", fields(entry)),
        )),
    }
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
            assert_eq!(
                dtype.count(&bytes),
                expected.map_err(|found| NotACount(found.to_owned())),
                "{dtype:?}"
            );
            assert_eq!(dtype.bytes(), bytes.len());
        }
    }

    fn reader() -> (Reader, crate::intake::Outlet) {
        let (port, outlet) = Port::open(crate::intake::PortSettings {
            session: "rig".into(),
            n_channels: 2,
            bin_width_s: 0.01,
            queue_bins: 64,
            gap_bins_max: 10,
        });
        let status = Arc::new(Status::new("rig", "brand", LossAccounting::Exact));
        let settings = Settings::default();
        (Reader::new(settings, port, Arc::default(), status), outlet)
    }

    fn entry(fields: &[(&str, &[u8])]) -> StreamId {
        let value =
            |(name, bytes): &(&str, &[u8])| ((*name).to_owned(), Value::BulkString(bytes.to_vec()));
        StreamId {
            id: "1-1".into(),
            map: fields.iter().map(value).collect(),
            ..StreamId::default()
        }
    }

    #[test]
    fn numbers_are_read_as_what_they_are() {
        let (mut r, _outlet) = reader();
        let mut read = |bytes: &[u8]| r.number(&entry(&[("i", bytes)]), "i").ok();
        assert_eq!(read(b"12345678"), Some(12_345_678), "eight digits are no eight bytes");
        assert_eq!(read(b"7"), Some(7));
        assert_eq!(read(b"1"), Some(1));
        assert_eq!(read(&300u16.to_le_bytes()), Some(300));
        assert_eq!(read(&70_000u32.to_le_bytes()), Some(70_000));
        assert_eq!(read(&(1u64 << 40).to_le_bytes()), Some(1 << 40));
        // In a stream of bytes some look like digits.
        assert_eq!(read(&u32::from_le_bytes(*b"1234").to_le_bytes()), Some(0x3433_3231));
        for nonsense in [&b""[..], b"12x", b"99999999999999999999999"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn every_entry_is_accounted_for_and_one_out_of_order_changes_nothing() {
        let (mut r, mut outlet) = reader();
        let mut take = |i: u64| {
            let number = i.to_le_bytes();
            r.take(&entry(&[("samples", &[1, 2]), ("i", &number)]), Received::now());
        };
        (100..110).for_each(&mut take);
        take(1 << 59);
        take(3);
        (110..120).for_each(&mut take);
        // A graph that was started again.
        (0..10).for_each(&mut take);
        for broken in [
            entry(&[("samples", &[1, 2])]),
            entry(&[("samples", &[1]), ("i", b"7")]),
            entry(&[("i", b"7")]),
            entry(&[("samples", &[1, 2]), ("i", b"xyz")]),
        ] {
            r.take(&broken, Received::now());
        }
        let totals = r.port.totals();
        assert_eq!((totals.received, totals.accepted, totals.late), (36, 30, 1));
        assert_eq!(totals.rejected, 5);
        let mut counts = [0; 2];
        let seen: Vec<_> = std::iter::from_fn(|| outlet.pop(&mut counts)).collect();
        assert_eq!(seen[0].kind, crate::intake::Kind::First);
        let starts = seen.iter().filter(|h| h.kind == crate::intake::Kind::Start).count();
        assert_eq!((starts, seen.len()), (1, 32));
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
