//! What goes wrong in training.

use std::collections::HashMap;

use crate::inference::BankError;

/// Why a trained state does not make a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The parameters are not finite.
    #[error(
        "training diverged: '{0}' holds values that are not finite (try a smaller --learning-rate)"
    )]
    Diverged(&'static str),
    /// A regime without embeddings.
    #[error("session '{0}': expected embeddings of every regime, found a regime without")]
    Prior(String),
    /// The bank does not take the model.
    #[error(transparent)]
    Bank(#[from] BankError),
    /// Counts that are kept in a file cannot be read.
    #[error("cannot read counts back: {0}")]
    Counts(#[from] std::io::Error),
}

/// Why a saved state cannot be restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// An array is not there.
    #[error("array '{0}' is missing")]
    Missing(String),
    /// An array is of another size.
    #[error("array '{name}': expected {expected} values, found {found}")]
    Size { name: String, expected: usize, found: usize },
}

/// Takes an array out of a saved state.
pub(super) fn take_array(
    state: &mut HashMap<String, Vec<f32>>,
    name: String,
    expected: usize,
) -> Result<Vec<f32>, RestoreError> {
    match state.remove(&name) {
        None => Err(RestoreError::Missing(name)),
        Some(array) if array.len() == expected => Ok(array),
        Some(array) => Err(RestoreError::Size { name, expected, found: array.len() }),
    }
}
