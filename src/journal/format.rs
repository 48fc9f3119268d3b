//! The journal's bytes: frames with a number and a checksum, and finding them again among damaged
//! ones.
//!
//! A file is a header and frames, all integers little-endian:
//!
//! ```text
//! header  8  magic "RGMDJRN1"
//!         8  number of the first frame
//!         4  CRC-32 (IEEE) of the 16 bytes before
//!         4  zero
//! frame   4  marker "RGJ1"
//!         4  length of the payload, at most PAYLOAD_BYTES_MAX
//!         8  number, one more than the frame before
//!         4  CRC-32 (IEEE) of length, number and payload
//!         n  payload
//! ```

use std::ops::Range;

/// Length of a file's header.
pub const HEADER_BYTES: usize = 24;
/// Length of the head before a payload.
pub const FRAME_BYTES: usize = 20;
/// Longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
const MAGIC: &[u8; 8] = b"RGMDJRN1";
const MARKER: &[u8; 4] = b"RGJ1";

/// The header of a file whose first record has the number `first`.
#[must_use]
pub fn header(first: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&first.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Number of the first frame, from the header; `None` where it is damaged.
#[must_use]
pub fn first_number(bytes: &[u8]) -> Option<u64> {
    let whole = bytes.get(..HEADER_BYTES)?;
    let crc = u32::from_le_bytes(whole[16..20].try_into().ok()?);
    let sound = &whole[..8] == MAGIC
        && crc32fast::hash(&whole[..16]) == crc
        && whole[20..].iter().all(|b| *b == 0);
    sound.then(|| u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|i| whole[i])))
}

fn checksum(length_and_number: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length_and_number);
    hasher.update(payload);
    hasher.finalize()
}

/// Appends a frame. The payload is at most [`PAYLOAD_BYTES_MAX`] long.
pub fn push(out: &mut Vec<u8>, number: u64, payload: &[u8]) {
    debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
    let at = out.len();
    out.extend_from_slice(MARKER);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    let crc = checksum(&out[at + 4..at + 16], payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Content of a place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A sound frame: its number and where its payload is.
    Frame {
        /// Number of the record.
        number: u64,
        /// Place of the payload in the bytes.
        payload: Range<usize>,
    },
    /// Bytes in which there is none, up to the next sound frame or the end.
    Damage {
        /// Their place in the file.
        bytes: Range<usize>,
        /// They may be what a crash leaves of frames that were being written: a frame cut short by
        /// the end of the file, or blocks that were never filled. Otherwise frames that were whole
        /// have been changed.
        torn: bool,
    },
}

/// Reads frames one after another; damaged bytes are passed over.
#[derive(Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// Finds the frames in a file's bytes, from `at` on.
    #[must_use]
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    /// Where the next is looked for.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// A sound frame that begins at `at`.
    fn sound(&self, at: usize) -> Option<(u64, Range<usize>)> {
        let head = self.bytes.get(at..at + FRAME_BYTES)?;
        let length = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
        if &head[..4] != MARKER || length > PAYLOAD_BYTES_MAX {
            return None;
        }
        let payload = at + FRAME_BYTES..at + FRAME_BYTES + length;
        let crc = u32::from_le_bytes(head[16..20].try_into().ok()?);
        let sound = checksum(&head[4..16], self.bytes.get(payload.clone())?) == crc;
        sound
            .then(|| (u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|i| head[i])), payload))
    }

    /// Whether damaged bytes at the end are such as a crash leaves.
    fn is_torn(&self, at: usize) -> bool {
        let rest = &self.bytes[at..];
        let zeros = rest.iter().all(|&b| b == 0);
        let begun = match rest.get(..FRAME_BYTES) {
            // Less than a frame's head.
            None => true,
            Some(head) => {
                let length = u32::from_le_bytes([4, 5, 6, 7].map(|i| head[i])) as usize;
                &head[..4] == MARKER
                    && length <= PAYLOAD_BYTES_MAX
                    && FRAME_BYTES + length > rest.len()
            }
        };
        zeros || begun
    }
}

impl Iterator for Frames<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let at = self.at;
        if at >= self.bytes.len() {
            return None;
        }
        if let Some((number, payload)) = self.sound(at) {
            self.at = payload.end;
            return Some(Found::Frame { number, payload });
        }
        let next = (at + 1..self.bytes.len())
            .find(|&i| self.bytes[i] == MARKER[0] && self.sound(i).is_some());
        self.at = next.unwrap_or(self.bytes.len());
        Some(Found::Damage { bytes: at..self.at, torn: next.is_none() && self.is_torn(at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
        let mut bytes = header(7).to_vec();
        let mut frames = Vec::new();
        for (i, payload) in payloads.iter().enumerate() {
            let from = bytes.len();
            push(&mut bytes, 7 + i as u64, payload);
            frames.push(from..bytes.len());
        }
        (bytes, frames)
    }

    /// Frames by number, and damage.
    type All = (Vec<(u64, Vec<u8>)>, Vec<(Range<usize>, bool)>);

    fn read(bytes: &[u8]) -> All {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for found in Frames::new(bytes, HEADER_BYTES) {
            match found {
                Found::Frame { number, payload } => good.push((number, bytes[payload].to_vec())),
                Found::Damage { bytes, torn } => bad.push((bytes, torn)),
            }
        }
        (good, bad)
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..12)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payloads in payloads()) {
            let (bytes, _) = file(&payloads);
            prop_assert_eq!(first_number(&bytes), Some(7));
            let (good, bad) = read(&bytes);
            let expected: Vec<_> = (7..).zip(payloads).collect();
            prop_assert_eq!(good, expected);
            prop_assert!(bad.is_empty());
        }

        #[test]
        fn a_changed_bit_costs_the_frame_it_is_in(
            payloads in payloads(),
            place in any::<proptest::sample::Index>(),
            bit in 0u8..8,
        ) {
            let (mut bytes, frames) = file(&payloads);
            let at = HEADER_BYTES + place.index(bytes.len() - HEADER_BYTES);
            bytes[at] ^= 1 << bit;
            let hit = frames.iter().position(|f| f.contains(&at)).expect("in a frame");
            let (good, bad) = read(&bytes);
            let numbered = (7..).zip(payloads).enumerate();
            let expected: Vec<_> =
                numbered.filter(|(i, _)| *i != hit).map(|(_, frame)| frame).collect();
            prop_assert_eq!(good, expected);
            prop_assert_eq!(bad.len(), 1);
            prop_assert_eq!(bad[0].0.clone(), frames[hit].clone());
        }

        #[test]
        fn a_file_cut_short_is_torn_and_keeps_what_is_whole(
            payloads in payloads(),
            place in any::<proptest::sample::Index>(),
            zeros in 0usize..64,
        ) {
            let (bytes, frames) = file(&payloads);
            let cut = HEADER_BYTES + place.index(bytes.len() - HEADER_BYTES);
            let whole = frames.iter().filter(|f| f.end <= cut).count();
            let (good, bad) = read(&bytes[..cut]);
            prop_assert_eq!(good.len(), whole);
            prop_assert!(bad.iter().all(|(_, torn)| *torn), "{:?}", bad);
            // Unwritten blocks behind the last whole frame.
            let end = frames.get(whole.wrapping_sub(1)).map_or(HEADER_BYTES, |f| f.end);
            let mut unfilled = bytes[..end].to_vec();
            unfilled.resize(end + zeros, 0);
            let (good, bad) = read(&unfilled);
            prop_assert_eq!(good.len(), whole);
            prop_assert!(bad.iter().all(|(_, torn)| *torn), "{:?}", bad);
        }

        #[test]
        fn any_bytes_are_frames_or_damage_without_a_hole(
            tail in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut at = 0;
            for found in Frames::new(&tail, 0) {
                let (from, to) = match found {
                    Found::Frame { payload, .. } => (payload.start - FRAME_BYTES, payload.end),
                    Found::Damage { bytes, .. } => (bytes.start, bytes.end),
                };
                prop_assert_eq!(from, at);
                at = to;
            }
            prop_assert_eq!(at, tail.len());
            let _ = first_number(&tail);
        }
    }

    #[test]
    fn a_changed_header_is_known() {
        for at in 0..HEADER_BYTES {
            let mut bytes = header(9);
            bytes[at] ^= 0x10;
            assert_eq!(first_number(&bytes), None, "byte {at}");
        }
    }
}
