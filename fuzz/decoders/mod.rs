//! Every decoder of what comes from outside, by name: any bytes may be given, and none may panic,
//! hang, or take memory beyond what they are worth. `fuzz/` runs each under coverage; the tests run
//! each on random bytes, on good examples with a few bytes changed, and on whatever a fuzzer has
//! found.

mod sources;

use std::io::Cursor;
use std::path::Path;

use serde_json::Value;

use regimed::internals::journal::{Snapshot, format};
use regimed::internals::recording::SpikeSettings;
use regimed::internals::wire::JournalRecord;
use regimed::internals::{checkpoint, config, recording};

/// A decoder that takes any bytes.
pub(crate) type Decoder = fn(&[u8]);

/// All of them.
pub(crate) const ALL: [(&str, Decoder); 13] = [
    ("counts", sources::counts),
    ("spikes", sources::spikes),
    ("zeromq", sources::zeromq),
    ("open_ephys", sources::open_ephys),
    ("brand", sources::brand),
    ("blackrock", sources::blackrock),
    ("intan", sources::intan),
    ("npz", npz),
    ("nwb", nwb),
    ("model", model),
    ("config", toml),
    ("journal", journal),
    ("state", state),
];

/// One by its name.
#[must_use]
pub(crate) fn named(name: &str) -> Option<Decoder> {
    ALL.iter().find(|d| d.0 == name).map(|d| d.1)
}

fn npz(bytes: &[u8]) {
    let _ = recording::read_from(Cursor::new(bytes), Path::new("x.npz"));
    let _ = recording::Array::read(&mut &*bytes);
}

fn nwb(bytes: &[u8]) {
    let how = SpikeSettings {
        labels: Some("trials/condition".into()),
        tasks: Some("trials/target".into()),
        ..SpikeSettings::default()
    };
    let _ = recording::read_nwb_from(bytes, Path::new("x.nwb"), &SpikeSettings::default());
    let _ = recording::read_nwb_from(bytes, Path::new("x.nwb"), &how);
}

/// A card, a zero byte, weights. The card's checksum is made to fit, or nothing would get past it.
fn model(bytes: &[u8]) {
    let cut = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let (card, weights) = (&bytes[..cut], bytes.get(cut + 1..).unwrap_or(&[]));
    let _ = checkpoint::from_bytes(Path::new("x"), card, weights);
    if let Ok(Value::Object(mut parsed)) = serde_json::from_slice(card) {
        parsed.insert("weights_sha256".into(), checkpoint::sha256_hex(weights).into());
        let card = Value::Object(parsed).to_string();
        let _ = checkpoint::from_bytes(Path::new("x"), card.as_bytes(), weights);
    }
}

fn toml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = config::parse(Path::new("x.toml"), &text);
    let _ = config::parse_session(&text);
}

fn journal(bytes: &[u8]) {
    let _ = format::first_number(bytes);
    let mut end = 0;
    for found in format::Frames::new(bytes, 0) {
        match found {
            format::Found::Frame { payload, .. } => {
                end = payload.end;
                let _ = <JournalRecord as prost::Message>::decode(&bytes[payload]);
            }
            format::Found::Damage { bytes, .. } => end = bytes.end,
        }
    }
    assert_eq!(end, bytes.len(), "every byte is in a frame or damaged");
}

fn state(bytes: &[u8]) {
    let _ = Snapshot::decode_file(bytes);
    let mut framed = b"RGMDSTA1".to_vec();
    framed.extend(crc32fast::hash(bytes).to_le_bytes());
    framed.extend(bytes);
    let _ = Snapshot::decode_file(&framed);
}
