//! A session's numbers on disk, for the next start: one small file, replaced about once a second.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::files;

/// What such a file begins with: the version of its layout is in it.
const MAGIC: &[u8; 8] = b"RGMDSTA1";
/// Largest file that is read.
const BYTES_MAX: u64 = 64 << 20;

/// A session at a moment.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    /// What its numbers belong to: model, readout and rule. Another's are of no use.
    #[prost(string, tag = "1")]
    pub fingerprint: String,
    /// The daemon's wall clock, ns since the Unix epoch.
    #[prost(int64, tag = "2")]
    pub time_ns: i64,
    /// The newest bin's number, as the rig sent it.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// The numbers, as [`crate::inference::Tape`] has them.
    #[prost(fixed32, repeated, tag = "4")]
    pub words: Vec<u32>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("expected a saved state, found {0}")]
    Damaged(&'static str),
}

/// A session's file.
fn path(folder: &Path, session: &str) -> PathBuf {
    folder.join(format!("{session}.state"))
}

impl Snapshot {
    /// Writes it in place of the former. Not synced: after a loss of power it may be the former, or
    /// none.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write(&self, folder: &Path, session: &str) -> io::Result<()> {
        let body = self.encode_to_vec();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(body);
        let place = path(folder, session);
        let partial = place.with_extension("partial");
        files::own_file(&partial)?.write_all(&bytes)?;
        std::fs::rename(partial, place)
    }

    /// Reads the saved state of a session.
    ///
    /// # Errors
    /// Errors of the file system; damage is named.
    pub fn read(folder: &Path, session: &str) -> Result<Self, SnapshotError> {
        let place = path(folder, session);
        Self::decode_file(&files::read(&place, BYTES_MAX)?)
    }

    /// Decodes the bytes of a file.
    ///
    /// # Errors
    /// Names the damage.
    pub fn decode_file(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(SnapshotError::Damaged("another kind of file"));
        };
        let Some((crc, body)) = rest.split_first_chunk::<4>() else {
            return Err(SnapshotError::Damaged("a file cut short"));
        };
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(SnapshotError::Damaged("a checksum that does not fit"));
        }
        Self::decode(body).map_err(|_| SnapshotError::Damaged("a body that cannot be read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_any_change_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let snapshot = Snapshot {
            fingerprint: "f".into(),
            time_ns: 5,
            sequence: 6,
            words: vec![7, f32::NAN.to_bits()],
        };
        snapshot.write(folder.path(), "rig").expect("written");
        assert_eq!(Snapshot::read(folder.path(), "rig").expect("read"), snapshot);
        let file = folder.path().join("rig.state");
        let good = std::fs::read(&file).expect("bytes");
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            assert!(Snapshot::decode_file(&bytes).is_err(), "byte {at}");
            assert!(Snapshot::decode_file(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(matches!(Snapshot::read(folder.path(), "other"), Err(SnapshotError::Io(_))));
    }
}
