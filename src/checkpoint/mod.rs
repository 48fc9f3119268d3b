//! The model directory: `model.safetensors` (arrays) and `model.json` (everything else), verified
//! on load, and what recognises its own regimes. `docs/model-format.md` documents them.

mod arrays;
mod builtin;
mod card;
mod edge_file;
mod fault;
mod recogniser_file;
mod training_state;

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub use builtin::builtin;
pub use card::DynamicsScore;
pub(crate) use card::{DataFile, FORMAT_VERSION, Provenance};
use edge_file::LearnedFileError;
pub use edge_file::builtin_edge;
pub(crate) use edge_file::{read_edge, write_edge};
use recogniser_file::RECOGNISER_FILE;
pub use recogniser_file::builtin_recogniser;
pub(crate) use recogniser_file::write_recogniser;
pub(crate) use training_state::{TRAINING_FILE, TrainingState, TrainingStateError};

use arrays::{Arrays, assemble, named_arrays};
use card::{Card, ExpertsCard, FORMAT, FORMAT_VERSION_MIN, SessionCard, check_card};

use crate::files;
use crate::model::Model;
use crate::recogniser::Recogniser;
use crate::recording::is_zarr;

/// File of arrays.
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// File of everything else.
pub(crate) const CARD_FILE: &str = "model.json";
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why a model directory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is no model at this place.
    #[error(
        "{0}: no such file (a model directory holds {WEIGHTS_FILE} and {CARD_FILE}; `regimed \
         pretrain` makes one)"
    )]
    Missing(PathBuf),
    /// The file system's reason.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        reason: std::io::Error,
    },
    /// Content that is not what it must be.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: String,
        /// Expected value.
        expected: String,
        /// Found value.
        found: String,
    },
}

/// A model with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What was learned.
    pub model: Model,
    /// Where it comes from.
    pub provenance: Provenance,
    /// SHA-256 of the arrays' file, hexadecimal: the model's identity.
    pub weights_sha256: String,
    /// What recognises its regimes in new animals, where its own were learned.
    pub recogniser: Option<Arc<Recogniser>>,
}

impl Checkpoint {
    /// What recognises regimes in new animals: the model's own, or the built-in one.
    ///
    /// # Errors
    /// Where the built-in one was damaged before the build.
    pub(crate) fn recogniser(&self) -> Result<Arc<Recogniser>, LearnedFileError> {
        match &self.recogniser {
            Some(own) => Ok(own.clone()),
            None => Ok(Arc::new(builtin_recogniser()?)),
        }
    }
}

/// Writes what recognises a model's own regimes into its directory; where there is none, none of
/// before is left there.
///
/// # Errors
/// Errors of the system.
pub(crate) fn save_recogniser(dir: &Path, own: Option<&Recogniser>) -> std::io::Result<()> {
    let path = dir.join(RECOGNISER_FILE);
    match own {
        Some(own) => write_recogniser(&path, own),
        None if path.exists() => fs::remove_file(path),
        None => Ok(()),
    }
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Name and hash of a data file whose bytes are at hand, for a model's card.
pub(crate) fn data_file_of(path: &Path, bytes: &[u8]) -> DataFile {
    DataFile { file: file_name(path), sha256: sha256_hex(bytes) }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or(Cow::Borrowed("?"), |n| n.to_string_lossy()).into_owned()
}

/// Name of a recording and hash of the files that it is made of, for a model's card.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn data_file(path: &Path, made_of: &[PathBuf]) -> Result<DataFile, CheckpointError> {
    let mut hasher = Sha256::new();
    // Piece by piece: recordings may be larger than memory.
    let mut piece = vec![0u8; 1 << 20];
    for path in made_of {
        let failed = |reason| CheckpointError::Io { path: path.into(), reason };
        let mut reader = files::open(path).map_err(failed)?;
        loop {
            let n = reader.read(&mut piece).map_err(failed)?;
            if n == 0 {
                break;
            }
            hasher.update(&piece[..n]);
        }
    }
    Ok(DataFile { file: file_name(path), sha256: hex(&hasher.finalize()) })
}

/// Reads and verifies a model directory.
///
/// # Errors
/// Names the file and the part, with what was expected and what was found.
pub fn load(dir: &Path) -> Result<Checkpoint, CheckpointError> {
    let read = |name: &str| {
        let path = dir.join(name);
        let io = |reason: std::io::Error| match reason.kind() {
            std::io::ErrorKind::NotFound => CheckpointError::Missing(path.clone()),
            _ => CheckpointError::Io { path: path.clone(), reason },
        };
        files::read(&path, FILE_BYTES_MAX).map_err(io)
    };
    if is_zarr(dir) {
        let (path, what) = (dir.to_owned(), "folder".into());
        let (expected, found) = ("a model".into(), "a Zarr store".into());
        return Err(CheckpointError::Wrong { path, what, expected, found });
    }
    let mut checkpoint = from_bytes(dir, &read(CARD_FILE)?, &read(WEIGHTS_FILE)?)?;
    checkpoint.recogniser = own_recogniser(dir, &checkpoint.model)?;
    Ok(checkpoint)
}

/// What recognises a model's own regimes, where its directory has it.
fn own_recogniser(dir: &Path, model: &Model) -> Result<Option<Arc<Recogniser>>, CheckpointError> {
    let path = dir.join(RECOGNISER_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |what: &str, expected: &str, found: String| CheckpointError::Wrong {
        path: path.clone(),
        what: what.into(),
        expected: expected.into(),
        found,
    };
    let recogniser = recogniser_file::read_recogniser(&path)
        .map_err(|e| wrong("content", "a recogniser of regimes", e.to_string()))?;
    if let Some(other) = recogniser.names().iter().find(|n| !model.regime_names.contains(n)) {
        return Err(wrong("regimes", "regimes of the model", format!("'{other}'")));
    }
    Ok(Some(Arc::new(recogniser)))
}

/// Reads and verifies a model from the two files' bytes, without a recogniser; `dir` is for
/// messages.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(dir: &Path, card: &[u8], weights: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let wrong = |file: &str, what: &str, expected: String, found: String| CheckpointError::Wrong {
        path: dir.join(file),
        what: what.to_owned(),
        expected,
        found,
    };
    // The version first: another version's card need not parse.
    #[derive(Deserialize)]
    struct Version {
        format: String,
        format_version: u32,
    }
    let no_card =
        |e: serde_json::Error| wrong(CARD_FILE, "content", "a model card".into(), e.to_string());
    let version: Version = serde_json::from_slice(card).map_err(no_card)?;
    if version.format != FORMAT
        || !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version.format_version)
    {
        return Err(wrong(
            CARD_FILE,
            "format",
            format!("{FORMAT} {FORMAT_VERSION_MIN} to {FORMAT_VERSION}"),
            format!("{} {}", version.format, version.format_version),
        ));
    }
    let card: Card = serde_json::from_slice(card).map_err(no_card)?;
    let found = sha256_hex(weights);
    if found != card.weights_sha256 {
        return Err(wrong(WEIGHTS_FILE, "SHA-256", card.weights_sha256, found));
    }
    check_card(&card)
        .map_err(|(what, expected, found)| wrong(CARD_FILE, &what, expected, found))?;
    let arrays = Arrays::read(weights)
        .map_err(|(what, expected, found)| wrong(WEIGHTS_FILE, &what, expected, found))?;
    let model = assemble(&card, arrays)
        .map_err(|(what, expected, found)| wrong(WEIGHTS_FILE, &what, expected, found))?;
    let Card { provenance, weights_sha256, .. } = card;
    Ok(Checkpoint { model, provenance, weights_sha256, recogniser: None })
}

/// Writes a model directory, creating it where needed. Both files are complete before either gets
/// its name.
///
/// # Errors
/// Errors of the file system.
pub fn save(dir: &Path, model: &Model, provenance: &Provenance) -> Result<(), CheckpointError> {
    let arrays = named_arrays(model);
    let bytes: Vec<Vec<u8>> = arrays
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let wrong = |found: String| CheckpointError::Wrong {
        path: dir.join(WEIGHTS_FILE),
        what: "arrays".into(),
        expected: "arrays that can be written".into(),
        found,
    };
    let views = arrays
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| wrong(e.to_string()))?;
    let weights = safetensors::serialize(views, None).map_err(|e| wrong(e.to_string()))?;
    let sessions = model
        .readouts
        .iter()
        .map(|r| SessionCard {
            name: r.session.clone(),
            n_channels: r.n_channels(),
            channels: r.channels.clone(),
            negative_binomial: r.dispersion.is_some(),
            trusted: r.trusted,
            prior: r.prior.clone(),
            experts: r.experts.as_ref().map(ExpertsCard::of),
        })
        .collect();
    let card = Card {
        format: FORMAT.into(),
        format_version: FORMAT_VERSION,
        dimensions: model.dims,
        bin_width_s: model.bin_width_s,
        regime_names: model.regime_names.clone(),
        online: model.online.clone(),
        _metric_head: None,
        sessions,
        prior: model.prior.clone(),
        provenance: provenance.clone(),
        weights_sha256: sha256_hex(&weights),
    };
    let json = serde_json::to_vec_pretty(&card).map_err(|e| wrong(e.to_string()))?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |reason| CheckpointError::Io { path, reason }
    };
    fs::create_dir_all(dir).map_err(io(dir))?;
    for (name, bytes) in [(WEIGHTS_FILE, &weights), (CARD_FILE, &json)] {
        files::write_whole(&dir.join(name), bytes).map_err(io(&dir.join(name)))?;
    }
    Ok(())
}
