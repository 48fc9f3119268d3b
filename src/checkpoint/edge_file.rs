//! The estimator of the edge of chaos as a file, and the one in the binary.

use std::collections::HashMap;
use std::path::Path;

use super::training_state::{TrainingState, TrainingStateError};
use crate::edge::Estimator;
use crate::files;
use crate::learner::ArraysFault;

const EDGE: &[u8] = include_bytes!("../../models/edge.safetensors");
const EDGE_IS: &str = "estimator of the edge of chaos";
/// Largest file that is read.
pub(super) const BYTES_MAX: u64 = 16 << 20;

/// Why a file of what was learned cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LearnedFileError {
    /// An error of the system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file holds something else.
    #[error("expected what regimed writes: {0}")]
    Format(#[from] TrainingStateError),
    /// Arrays that it does not write.
    #[error(transparent)]
    Fault(#[from] ArraysFault),
}

/// The estimator in the binary.
///
/// # Errors
/// Where it was damaged before the build.
pub fn builtin_edge() -> Result<Estimator, LearnedFileError> {
    Ok(Estimator::from_arrays(arrays(EDGE, EDGE_IS)?)?)
}

/// Reads an estimator.
///
/// # Errors
/// Errors of the system, a file of something else, arrays that are no estimator's.
pub(crate) fn read_edge(path: &Path) -> Result<Estimator, LearnedFileError> {
    Ok(Estimator::from_arrays(arrays(&files::read(path, BYTES_MAX)?, EDGE_IS)?)?)
}

/// Writes an estimator, as a whole or not at all.
///
/// # Errors
/// Errors of the system.
pub(crate) fn write_edge(path: &Path, estimator: &Estimator) -> std::io::Result<()> {
    TrainingState { steps: 0, identity: EDGE_IS.into(), arrays: estimator.arrays() }.write(path)
}

fn arrays(bytes: &[u8], is: &str) -> Result<HashMap<String, Vec<f32>>, TrainingStateError> {
    let state = TrainingState::from_bytes(bytes)?;
    if state.identity != is {
        return Err(TrainingStateError::Format(format!("found '{}'", state.identity)));
    }
    Ok(state.arrays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_estimator_is_whole_small_and_the_same_after_a_file() {
        assert!(EDGE.len() <= 1 << 20, "{} bytes", EDGE.len());
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
        assert!(other.contains("what regimed writes") && other.contains("'a training'"), "{other}");
        let state = TrainingState { identity: EDGE_IS.into(), ..state };
        state.write(&path).expect("written");
        let empty = read_edge(&path).expect_err("no arrays").to_string();
        assert!(empty.contains("expected an array"), "{empty}");
        std::fs::write(&path, b"junk").expect("written");
        assert!(read_edge(&path).is_err());
        assert!(read_edge(&folder.path().join("none")).is_err());
    }
}
