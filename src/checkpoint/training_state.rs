//! An unfinished training as a file: safetensors with the trainer's arrays, the number of steps
//! done, and an identity of the data and settings.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::files;
use crate::files::write_whole;

/// File of a training that is not finished, in the folder of its model.
pub(crate) const TRAINING_FILE: &str = "training.safetensors";
/// Longest file.
const BYTES_MAX: u64 = 4 << 30;

/// A training that is not finished.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrainingState {
    /// Steps done.
    pub steps: usize,
    /// What must be the same for it to go on.
    pub identity: String,
    /// The trainer's arrays by name.
    pub arrays: HashMap<String, Vec<f32>>,
}

/// Why a training's state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TrainingStateError {
    /// An error of the system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file holds something else.
    #[error("not a training state: {0}")]
    Format(String),
}

impl TrainingState {
    /// Writes it, as a whole or not at all.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let bytes: Vec<(&str, Vec<u8>)> = self
            .arrays
            .iter()
            .map(|(name, v)| (name.as_str(), v.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, b)| Ok((*name, TensorView::new(Dtype::F32, vec![b.len() / 4], b)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(std::io::Error::other)?;
        let notes = HashMap::from([
            ("step".to_owned(), self.steps.to_string()),
            ("identity".to_owned(), self.identity.clone()),
        ]);
        let file = safetensors::serialize(views, Some(notes)).map_err(std::io::Error::other)?;
        write_whole(path, &file)
    }

    /// Reads a saved state of a training.
    ///
    /// # Errors
    /// Errors of the system, and a file that holds something else.
    pub(crate) fn read(path: &Path) -> Result<Self, TrainingStateError> {
        Self::from_bytes(&files::read(path, BYTES_MAX)?)
    }

    /// From a file's bytes.
    ///
    /// # Errors
    /// Bytes of something else.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, TrainingStateError> {
        let format = |e: safetensors::SafeTensorError| TrainingStateError::Format(e.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let notes = header.metadata().clone().unwrap_or_default();
        let steps = notes.get("step").and_then(|s| s.parse().ok());
        let steps = steps.ok_or_else(|| TrainingStateError::Format("no step".into()))?;
        let values = |data: &[u8]| {
            data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let arrays = SafeTensors::deserialize(bytes)
            .map_err(format)?
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, values(view.data())))
            .collect();
        Ok(Self { steps, identity: notes.get("identity").cloned().unwrap_or_default(), arrays })
    }
}
