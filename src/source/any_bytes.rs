//! Bytes from nowhere into each of the sources, as a fuzzer makes them: whatever they are, they are taken, refused or
//! counted, and every bin is accounted for.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use redis::Value;
use redis::streams::StreamId;
use zeromq::ZmqMessage;

use super::gate::FrameCheck;
use super::{
    Assembly, AssemblySettings, Entry, Intake, Outlet, Port, PortSettings, Received, blackrock,
    brand, intan, open_ephys, zeromq as zeromq_source,
};
use crate::wire::{Counts, Spikes};

const SESSION: &str = "rig";
const CHANNELS: usize = 4;
/// Largest frame that the gate lets pass here.
const FRAME_BYTES_MAX: usize = 1 << 16;

/// A session without a thread.
struct Rig {
    outlet: Outlet,
    port: Arc<Port>,
    assembly: Arc<Assembly>,
    intake: Arc<Intake>,
}

impl Rig {
    fn new() -> Self {
        let outlet = Port::open(PortSettings {
            session: SESSION.into(),
            n_channels: CHANNELS,
            bin_width_s: 0.01,
            queue_bins: 64,
            gap_bins_max: 100,
        });
        let port = outlet.port.clone();
        let assembly = Arc::new(Assembly::new(port.clone(), AssemblySettings::default()));
        let intake = Arc::new(Intake::default());
        intake.insert(Entry { port: port.clone(), assembly: assembly.clone(), source: None });
        Self { outlet, port, assembly, intake }
    }

    /// Every bin is accounted for.
    fn check(mut self) {
        let mut counts = vec![0; CHANNELS];
        while self.outlet.pop(&mut counts).is_some() {}
        let t = self.port.totals();
        assert_eq!(t.received, t.accepted + t.late + t.rejected, "{t:?}");
    }
}

/// A `Counts` message.
pub fn counts(bytes: &[u8]) {
    let rig = Rig::new();
    if let Ok(mut message) = Counts::decode(bytes) {
        message.session = SESSION.into();
        let _ = rig.intake.offer(&message);
    }
    rig.check();
}

/// A `Spikes` message.
pub fn spikes(bytes: &[u8]) {
    let rig = Rig::new();
    if let Ok(mut message) = Spikes::decode(bytes) {
        message.session = SESSION.into();
        let _ = rig.intake.offer_spikes(&message);
        let _ = rig.intake.offer_spikes(&message);
    }
    rig.check();
}

/// Parts of a message, each behind a byte with its length.
fn parts(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut parts = Vec::new();
    while let Some((&n, rest)) = bytes.split_first() {
        let (part, rest) = rest.split_at(usize::from(n).min(rest.len()));
        parts.push(Bytes::copy_from_slice(part));
        bytes = rest;
    }
    parts
}

fn frames(parts: Vec<Bytes>) -> Option<ZmqMessage> {
    let mut parts = parts.into_iter();
    let mut message = ZmqMessage::from(parts.next()?);
    parts.for_each(|p| message.push_back(p));
    Some(message)
}

/// A ZeroMQ connection: its bytes through the gate, and its frames as a message.
pub fn zeromq(bytes: &[u8]) {
    let whole = FrameCheck::new(FRAME_BYTES_MAX).pass(bytes);
    let mut check = FrameCheck::new(FRAME_BYTES_MAX);
    assert_eq!(bytes.chunks(7).try_for_each(|p| check.pass(p)), whole, "in any pieces");
    let rig = Rig::new();
    if let Some(message) = frames(parts(bytes)) {
        zeromq_source::take(&message, &rig.intake, FRAME_BYTES_MAX);
    }
    rig.check();
}

/// Open Ephys messages: JSON header, a zero byte, payload; one after another behind four bytes of 255.
pub fn open_ephys(bytes: &[u8]) {
    let rig = Rig::new();
    let settings = open_ephys::Settings {
        threshold_sd: Some(-4.0),
        blank_line: Some(1),
        ..open_ephys::Settings::default()
    };
    let status = Arc::new(open_ephys::status(SESSION, &settings));
    let mut reader = open_ephys::Reader::new(settings, rig.assembly.clone(), status);
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.windows(4).position(|w| w == [255; 4]);
        let (one, next) = rest.split_at(end.unwrap_or(rest.len()));
        rest = next.get(4..).unwrap_or(&[]);
        let cut = one.iter().position(|&b| b == 0).unwrap_or(one.len());
        let (json, payload) = (&one[..cut], one.get(cut + 1..).unwrap_or(&[]));
        let parts = [&b"SPIKE"[..], json, payload].map(Bytes::copy_from_slice);
        if let Some(message) = frames(parts.to_vec()) {
            reader.take(&message, Received::now());
        }
    }
    rig.check();
}

/// BRAND entries: the first byte chooses the type of the counts, then parts: samples, i, ts, sync of each.
pub fn brand(bytes: &[u8]) {
    let Some((&dtype, rest)) = bytes.split_first() else { return };
    let rig = Rig::new();
    let words = brand::Dtype::WORDS;
    let settings = brand::Settings {
        dtype: words[usize::from(dtype) % words.len()].1,
        crossings_first: dtype >= 128,
        ..brand::Settings::default()
    };
    let status = Arc::new(brand::status(SESSION, &settings));
    let syncs = Arc::new(brand::Syncs::default());
    let mut reader = brand::Reader::new(settings, rig.port.clone(), syncs, status);
    for fields in parts(rest).chunks(4) {
        let value = |b: &Bytes| Value::BulkString(b.to_vec());
        let map: HashMap<String, Value> = ["samples", "i", "ts", "sync"]
            .into_iter()
            .zip(fields)
            .map(|(key, part)| (key.to_owned(), value(part)))
            .collect();
        let entry = StreamId { id: "1-1".into(), map, ..StreamId::default() };
        let _ = reader.entry(&entry, Received::now());
    }
    rig.check();
}

/// Blackrock datagrams of either protocol: the first byte chooses, parts follow.
pub fn blackrock(bytes: &[u8]) {
    let Some((&protocol, rest)) = bytes.split_first() else { return };
    let rig = Rig::new();
    let protocol =
        if protocol % 2 == 0 { blackrock::Protocol::V4 } else { blackrock::Protocol::V3 };
    let settings = blackrock::Settings { protocol, ..blackrock::Settings::default() };
    let status = Arc::new(blackrock::status(SESSION, &settings));
    let mut reader = blackrock::Reader::new(settings, rig.assembly.clone(), status);
    for datagram in parts(rest) {
        reader.datagram(&datagram, Received::now());
    }
    rig.check();
}

/// An Intan spike stream, in pieces.
pub fn intan(bytes: &[u8]) {
    let rig = Rig::new();
    let settings = intan::Settings::default();
    let status = Arc::new(intan::status(SESSION, &settings));
    let mut reader = intan::Reader::new(&settings, rig.assembly.clone(), status);
    for piece in bytes.chunks(23) {
        reader.take(piece, Received::now());
    }
    rig.check();
}
