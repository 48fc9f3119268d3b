//! Bytes from nowhere into each of the sources, as a fuzzer makes them: whatever they are, they are
//! taken, refused or counted, and every bin is accounted for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use prost::Message;
use redis::Value;
use redis::streams::StreamId;
use zeromq::ZmqMessage;

use regimed::internals::api::{self, Frames, Side};
use regimed::internals::bus::{
    Conditions, Intake, ModelChoice, ModelSource, Parts, Plan, Registry, SelfCalibration,
    SessionHandle, tap,
};
use regimed::internals::checkpoint;
use regimed::internals::clock::Received;
use regimed::internals::intake::{
    Assembly, AssemblySettings, LossAccounting, Outlet, Port, PortSettings, Status,
};
use regimed::internals::rigs::{blackrock, brand, intan, open_ephys};
use regimed::internals::wire::{Counts, Spikes};

const SESSION: &str = "rig";
const CHANNELS: usize = 4;
/// Largest frame that the gate lets pass here.
const FRAME_BYTES_MAX: usize = 1 << 16;

/// Inputs after which a session is begun anew: what one has left behind is met by the next.
const INPUTS: u32 = 256;

/// A session of four channels that no model knows yet.
static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
    let choice = ModelChoice {
        calibration: Some(SelfCalibration { seconds: 60.0, from: None }),
        channels: Some(CHANNELS),
        ..ModelChoice::new(ModelSource::Builtin, SESSION)
    };
    let checkpoint = Arc::new(checkpoint::builtin().expect("the built-in model"));
    Arc::new(Plan::fit(SESSION, choice, checkpoint).expect("it fits"))
});

thread_local! {
    static RIG: RefCell<(u32, Option<Rig>)> = const { RefCell::new((0, None)) };
}

/// A session without a thread, and how it stands with rigs of every kind.
struct Rig {
    outlet: Outlet,
    port: Arc<Port>,
    assembly: Arc<Assembly>,
    intake: Arc<Intake>,
    status: Arc<Status>,
    counts: Vec<u16>,
}

/// Gives a session something to take, then checks its accounts.
fn with_rig(take: impl FnOnce(&Rig)) {
    RIG.with_borrow_mut(|(inputs, kept)| {
        *inputs += 1;
        if inputs.is_multiple_of(INPUTS) {
            *kept = None;
        }
        let rig = kept.get_or_insert_with(Rig::new);
        take(rig);
        rig.check();
    });
}

impl Rig {
    fn new() -> Self {
        let (port, outlet) = Port::open(PortSettings {
            session: SESSION.into(),
            n_channels: CHANNELS,
            bin_width_s: PLAN.model.bin_width_s,
            queue_bins: 64,
            gap_bins_max: 100,
        });
        let assembly = Arc::new(Assembly::new(port.clone(), AssemblySettings::default()));
        let (_, closing) = tokio::sync::watch::channel(false);
        let registry = Arc::new(Registry::new(closing, Conditions::new(None)));
        let ((_, page_counts), (_, fit_counts)) = (tap(CHANNELS), tap(CHANNELS));
        let session = Arc::new(SessionHandle::new(Parts {
            plan: PLAN.clone(),
            port: port.clone(),
            assembly: assembly.clone(),
            source: None,
            seek: None,
            page_counts,
            fit_counts,
            events_kept: 1,
            journal: None,
        }));
        let reserved = registry.reserve(SESSION, 1).expect("no other session");
        reserved.run(&session).expect("nothing ends");
        let intake = Arc::new(Intake::new(registry));
        let status = Arc::new(Status::new(SESSION, "bytes", LossAccounting::None));
        Self { outlet, port, assembly, intake, status, counts: vec![0; CHANNELS] }
    }

    /// Every bin is accounted for.
    fn check(&mut self) {
        while self.outlet.pop(&mut self.counts).is_some() {}
        let t = self.port.totals();
        assert_eq!(t.received, t.accepted + t.late + t.rejected, "{t:?}");
    }
}

/// A `Counts` message.
pub(super) fn counts(bytes: &[u8]) {
    let Ok(mut message) = Counts::decode(bytes) else { return };
    message.session = SESSION.into();
    with_rig(|rig| drop(rig.intake.offer(&message)));
}

/// A `Spikes` message.
pub(super) fn spikes(bytes: &[u8]) {
    let Ok(mut message) = Spikes::decode(bytes) else { return };
    message.session = SESSION.into();
    with_rig(|rig| drop(rig.intake.offer_spikes(&message)));
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
pub(super) fn zeromq(bytes: &[u8]) {
    for side in [Side::In, Side::Out] {
        let judged = |piece: usize| {
            let (mut check, mut pass) = (Frames::new(FRAME_BYTES_MAX, side), Vec::new());
            let result = bytes.chunks(piece).try_for_each(|p| check.pass(p, &mut pass));
            result.map(|()| pass)
        };
        assert_eq!(judged(7), judged(bytes.len().max(1)), "in any pieces");
    }
    let Some(message) = frames(parts(bytes)) else { return };
    with_rig(|rig| api::take(&message, &rig.intake, FRAME_BYTES_MAX));
}

/// Open Ephys messages: JSON header, a zero byte, payload; one after another behind four bytes
/// of 255.
pub(super) fn open_ephys(bytes: &[u8]) {
    let settings = open_ephys::Settings {
        threshold_sd: Some(-4.0),
        blank_line: Some(1),
        ..open_ephys::Settings::default()
    };
    with_rig(|rig| {
        let (assembly, status) = (rig.assembly.clone(), rig.status.clone());
        let mut reader = open_ephys::Reader::new(settings, assembly, status);
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
    });
}

/// BRAND entries: the first byte chooses the type of the counts, then parts: samples, i, ts, sync
/// of each.
pub(super) fn brand(bytes: &[u8]) {
    let Some((&dtype, rest)) = bytes.split_first() else { return };
    let words = brand::Dtype::WORDS;
    let settings = brand::Settings {
        dtype: words[usize::from(dtype) % words.len()].1,
        crossings_first: dtype >= 128,
        ..brand::Settings::default()
    };
    with_rig(|rig| {
        let syncs = Arc::new(brand::Syncs::default());
        let status = rig.status.clone();
        let mut reader = brand::Reader::new(settings, rig.port.clone(), syncs, status);
        for fields in parts(rest).chunks(4) {
            let value = |b: &Bytes| Value::BulkString(b.to_vec());
            let map: HashMap<String, Value> = ["samples", "i", "ts", "sync"]
                .into_iter()
                .zip(fields)
                .map(|(key, part)| (key.to_owned(), value(part)))
                .collect();
            let entry = StreamId { id: "1-1".into(), map, ..StreamId::default() };
            reader.take(&entry, Received::now());
        }
    });
}

/// Blackrock datagrams of either protocol: the first byte chooses, parts follow.
pub(super) fn blackrock(bytes: &[u8]) {
    let Some((&protocol, rest)) = bytes.split_first() else { return };
    let protocol =
        if protocol % 2 == 0 { blackrock::Protocol::V4 } else { blackrock::Protocol::V3 };
    let settings = blackrock::Settings { protocol, ..blackrock::Settings::default() };
    with_rig(|rig| {
        let (assembly, status) = (rig.assembly.clone(), rig.status.clone());
        let mut reader = blackrock::Reader::new(settings, assembly, status);
        parts(rest).iter().for_each(|datagram| reader.datagram(datagram, Received::now()));
    });
}

/// An Intan spike stream, in pieces.
pub(super) fn intan(bytes: &[u8]) {
    let settings = intan::Settings::default();
    with_rig(|rig| {
        let (assembly, status) = (rig.assembly.clone(), rig.status.clone());
        let mut reader = intan::Reader::new(&settings, assembly, status);
        bytes.chunks(23).for_each(|piece| reader.take(piece, Received::now()));
    });
}
