//! The model in the binary.

use std::path::Path;

use super::{Checkpoint, CheckpointError, from_bytes};

const CARD: &[u8] = include_bytes!("../../models/default/model.json");
const WEIGHTS: &[u8] = include_bytes!("../../models/default/model.safetensors");

/// The model in the binary.
///
/// # Errors
/// Where it was damaged before the build.
pub fn builtin() -> Result<Checkpoint, CheckpointError> {
    from_bytes(Path::new("(builtin)"), CARD, WEIGHTS)
}
