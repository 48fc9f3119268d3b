//! A recording by its path, whatever kind of file or folder it is.

use std::path::{Path, PathBuf};

use super::{Recording, RecordingError, SpikeSettings, is_phy, npz, nwb, phy};

/// Kinds of recordings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Counts in an `.npz`.
    Npz,
    /// An NWB file.
    Nwb,
    /// A folder of Phy or Kilosort.
    Phy,
}

impl Kind {
    /// The kind of a path.
    #[must_use]
    pub(crate) fn of(path: &Path) -> Self {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("nwb")) {
            Self::Nwb
        } else if is_phy(path) {
            Self::Phy
        } else {
            Self::Npz
        }
    }

    /// Whether it holds spikes, which are binned as asked.
    #[must_use]
    pub(crate) fn has_spikes(self) -> bool {
        self != Self::Npz
    }

    /// The files that it is made of.
    #[must_use]
    pub(crate) fn files(self, path: &Path) -> Vec<PathBuf> {
        if self == Self::Phy { phy::phy_files(path) } else { vec![path.to_owned()] }
    }
}

/// Reads a recording. Counts keep the bins that they were recorded in.
///
/// # Errors
/// Names the file and the part, with what was expected and what was found.
pub(crate) fn read_file(path: &Path, how: &SpikeSettings) -> Result<Recording, RecordingError> {
    match Kind::of(path) {
        Kind::Npz => npz::read(path),
        Kind::Nwb => nwb::read_nwb(path, how),
        Kind::Phy => phy::read_phy(path, how),
    }
}
