//! A recogniser of regimes as a file: the built-in one, and a model's own beside its other files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::edge_file::{BYTES_MAX, LearnedFileError};
use super::training_state::{TrainingState, TrainingStateError};
use crate::files;
use crate::model::REGIMES_MAX;
use crate::recogniser::{Judged, Recogniser};

const BUILTIN: &[u8] = include_bytes!("../../models/recogniser.safetensors");
/// Name of the file in a model directory.
pub(crate) const RECOGNISER_FILE: &str = "recogniser.safetensors";

/// What a file says of itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    /// Names of the regimes.
    recogniser_of: Vec<String>,
    /// What was found on sessions that were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    judged: Option<JudgedOn>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JudgedOn {
    sessions: usize,
    right: f64,
    off: f64,
}

/// The recogniser of regimes in the binary.
///
/// # Errors
/// Where it was damaged before the build.
pub fn builtin_recogniser() -> Result<Recogniser, LearnedFileError> {
    from_bytes(BUILTIN)
}

/// Reads a recogniser.
///
/// # Errors
/// Errors of the system, a file of something else, arrays that are no recogniser's.
pub(crate) fn read_recogniser(path: &Path) -> Result<Recogniser, LearnedFileError> {
    from_bytes(&files::read(path, BYTES_MAX)?)
}

/// Writes a recogniser, as a whole or not at all.
///
/// # Errors
/// Errors of the system.
pub(crate) fn write_recogniser(path: &Path, recogniser: &Recogniser) -> std::io::Result<()> {
    let of = |Judged { sessions, right, off }| JudgedOn { sessions, right, off };
    let identity = Identity {
        recogniser_of: recogniser.names().to_vec(),
        judged: recogniser.judged().map(of),
    };
    let identity = serde_json::to_string(&identity)?;
    TrainingState { steps: 0, identity, arrays: recogniser.arrays() }.write(path)
}

fn from_bytes(bytes: &[u8]) -> Result<Recogniser, LearnedFileError> {
    let state = TrainingState::from_bytes(bytes)?;
    let identity: Identity = serde_json::from_str(&state.identity)
        .map_err(|_| TrainingStateError::Format(format!("found '{}'", state.identity)))?;
    let names = identity.recogniser_of;
    if !(2..=REGIMES_MAX).contains(&names.len()) {
        let found = format!("expected 2 to {REGIMES_MAX} regimes, found {}", names.len());
        return Err(TrainingStateError::Format(found).into());
    }
    let of = |JudgedOn { sessions, right, off }| Judged { sessions, right, off };
    Ok(Recogniser::from_arrays(names, identity.judged.map(of), state.arrays)?)
}

#[cfg(test)]
mod tests {
    use super::super::edge_file::read_edge;
    use super::*;

    #[test]
    fn the_builtin_recogniser_is_whole_small_and_the_same_after_a_file() {
        assert!(BUILTIN.len() <= 1 << 20, "{} bytes", BUILTIN.len());
        let recogniser = builtin_recogniser().expect("a recogniser");
        assert_eq!(recogniser.names(), crate::teacher::REGIME_NAMES);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(RECOGNISER_FILE);
        write_recogniser(&path, &recogniser).expect("written");
        assert_eq!(read_recogniser(&path).expect("read"), recogniser);
        assert!(read_edge(&path).is_err(), "another file");
    }

    #[test]
    fn files_of_something_else_are_refused_by_what_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(RECOGNISER_FILE);
        let refused = |identity: &str, expected: &str| {
            let state = TrainingState { steps: 0, identity: identity.into(), arrays: [].into() };
            state.write(&path).expect("written");
            let said = read_recogniser(&path).expect_err("another file").to_string();
            assert!(said.contains(expected), "{said}");
        };
        refused("a training", "found 'a training'");
        refused(r#"{"recogniser_of": ["rest"]}"#, "expected 2 to");
        refused(r#"{"recogniser_of": ["rest", "reach"]}"#, "expected an array 'inputs'");
        refused(r#"{"recogniser_of": ["rest", "reach"], "more": 1}"#, "expected what regimed");
    }
}
