//! A frame's payload: one `JournalRecord`, whose number is the frame's.

use prost::Message;

use crate::wire::JournalRecord;

/// Encodes a record as the payload of a frame.
#[must_use]
pub(super) fn payload(record: &JournalRecord) -> Vec<u8> {
    record.encode_to_vec()
}

/// A frame's record.
#[must_use]
pub(super) fn record(number: u64, payload: &[u8]) -> Option<JournalRecord> {
    let mut record = JournalRecord::decode(payload).ok()?;
    record.number = number;
    Some(record)
}
