//! The estimator of the edge of chaos as a file, and the one in the binary.

use std::path::Path;

use super::training_state::{TrainingState, TrainingStateError};
use crate::edge::{Estimator, EstimatorFault};
use crate::files;

const BUILTIN: &[u8] = include_bytes!("../../models/edge.safetensors");
const IDENTITY: &str = "estimator of the edge of chaos";
/// Largest file that is read.
const BYTES_MAX: u64 = 16 << 20;

/// Why an estimator cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EdgeFileError {
    /// An error of the system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file holds something else.
    #[error("expected what `regimed atlas` writes to edge.safetensors: {0}")]
    Format(#[from] TrainingStateError),
    /// Arrays that are no estimator's.
    #[error(transparent)]
    Fault(#[from] EstimatorFault),
}

/// The estimator in the binary.
///
/// # Errors
/// Where it was damaged before the build.
pub fn builtin_edge() -> Result<Estimator, EdgeFileError> {
    from_bytes(BUILTIN)
}

/// Reads an estimator.
///
/// # Errors
/// Errors of the system, a file of something else, arrays that are no estimator's.
pub(crate) fn read_edge(path: &Path) -> Result<Estimator, EdgeFileError> {
    from_bytes(&files::read(path, BYTES_MAX)?)
}

fn from_bytes(bytes: &[u8]) -> Result<Estimator, EdgeFileError> {
    let state = TrainingState::from_bytes(bytes)?;
    if state.identity != IDENTITY {
        let found = format!("found '{}'", state.identity);
        return Err(TrainingStateError::Format(found).into());
    }
    Ok(Estimator::from_arrays(state.arrays)?)
}

/// Writes an estimator, as a whole or not at all.
///
/// # Errors
/// Errors of the system.
pub(crate) fn write_edge(path: &Path, estimator: &Estimator) -> std::io::Result<()> {
    let arrays = estimator.arrays();
    TrainingState { steps: 0, identity: IDENTITY.into(), arrays }.write(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_estimator_is_whole_small_and_the_same_after_a_file() {
        assert!(BUILTIN.len() <= 1 << 20, "{} bytes", BUILTIN.len());
        let estimator = builtin_edge().expect("an estimator");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("edge.safetensors");
        write_edge(&path, &estimator).expect("written");
        assert_eq!(read_edge(&path).expect("read"), estimator);
    }

    #[test]
    fn files_of_something_else_are_refused_by_what_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let identity = "a training".to_owned();
        let state = TrainingState { steps: 3, identity, arrays: [].into() };
        state.write(&path).expect("written");
        let other = read_edge(&path).expect_err("another file").to_string();
        assert!(other.contains("edge.safetensors") && other.contains("'a training'"), "{other}");
        let state = TrainingState { identity: IDENTITY.into(), ..state };
        state.write(&path).expect("written");
        let empty = read_edge(&path).expect_err("no arrays").to_string();
        assert!(empty.contains("expected an array"), "{empty}");
        std::fs::write(&path, b"junk").expect("written");
        assert!(read_edge(&path).is_err());
        assert!(read_edge(&folder.path().join("none")).is_err());
    }
}
