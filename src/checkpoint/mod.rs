//! The model directory: `model.safetensors` (arrays) and `model.json` (everything else), verified on
//! load. `docs/model-format.md` documents both.

mod builtin;
mod training_state;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use ndarray::{Array, Dimension, IntoDimension};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use builtin::builtin;
pub(crate) use training_state::{TRAINING_FILE, TrainingState, TrainingStateError};

use crate::dynamics::feature_count;
use crate::files;
use crate::model::{
    CHANNELS_MAX, COMPONENTS_MAX, Dimensions, Hypernetwork, MetricHead, Model, Network,
    OnlineSettings, REGIMES_MAX, Readout, RegimePrior, values,
};
use crate::recording::is_zarr;
use crate::regime::Verdict;

/// Version of the directory's format.
pub(crate) const FORMAT_VERSION: u32 = 3;
/// Oldest version that is read.
const FORMAT_VERSION_MIN: u32 = 2;
const FORMAT: &str = "regimed-model";
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
    /// No model there.
    #[error(
        "{0}: no such file (a model directory holds {WEIGHTS_FILE} and {CARD_FILE}; `regimed pretrain` makes one)"
    )]
    Missing(PathBuf),
    /// The file system's reason.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// Content that is not what it must be.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
}

/// A recording that a model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// File name.
    pub file: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of the program that trained it.
    pub regimed_version: String,
    /// Git commit of that program, where known.
    pub git_commit: String,
    /// Seed.
    pub seed: u64,
    /// Steps of Adam.
    pub steps: usize,
    /// Recordings it was trained on.
    pub data: Vec<DataFile>,
    /// Scores on held-out streams; absent where none was labelled.
    pub held_out: Option<Verdict>,
    /// The same by session, `(name, scores)`.
    pub held_out_by_session: Vec<(String, Verdict)>,
}

impl Provenance {
    /// Fills in what this program knows of itself.
    #[must_use]
    pub(crate) fn of_this_program(seed: u64, steps: usize, data: Vec<DataFile>) -> Self {
        Self {
            regimed_version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: env!("REGIMED_GIT_COMMIT").to_owned(),
            seed,
            steps,
            data,
            held_out: None,
            held_out_by_session: Vec::new(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionCard {
    name: String,
    n_channels: usize,
    /// Names of the channels, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<String>>,
    /// Counts are negative binomial, with a dispersion per channel among the arrays; else Poisson.
    negative_binomial: bool,
    /// False where the session was calibrated without labels.
    #[serde(default = "yes")]
    trusted: bool,
    prior: RegimePrior,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    format: String,
    format_version: u32,
    dimensions: Dimensions,
    bin_width_s: f64,
    regime_names: Vec<String>,
    online: OnlineSettings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metric_head: Option<MetricHead>,
    sessions: Vec<SessionCard>,
    prior: RegimePrior,
    provenance: Provenance,
    weights_sha256: String,
}

/// A model with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The model.
    pub model: Model,
    /// Where it comes from.
    pub provenance: Provenance,
    /// SHA-256 of the arrays' file, hexadecimal: the model's identity.
    pub weights_sha256: String,
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Name and hash of a data file for a model's card.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn data_file(path: &Path) -> Result<DataFile, CheckpointError> {
    let failed = |reason| CheckpointError::Io { path: path.into(), reason };
    let mut reader = files::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    // Piece by piece: recordings may be larger than memory.
    let mut piece = vec![0u8; 1 << 20];
    loop {
        let n = reader.read(&mut piece).map_err(failed)?;
        if n == 0 {
            break;
        }
        hasher.update(&piece[..n]);
    }
    let file = path.file_name().map_or(Cow::Borrowed("?"), |n| n.to_string_lossy()).into_owned();
    Ok(DataFile { file, sha256: hex(&hasher.finalize()) })
}

/// Reads and verifies a model directory.
///
/// # Errors
/// Says which file, which part, what was expected and what was found.
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
    from_bytes(dir, &read(CARD_FILE)?, &read(WEIGHTS_FILE)?)
}

/// Reads and verifies a model from the two files' bytes; `dir` is for messages.
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
    if let Some(head) = &model.metric_head
        && let Err(found) = head.check(model.regime_names.len(), feature_count(&model.dims))
    {
        let expected = "regressions that fit the model's sizes".to_owned();
        return Err(wrong(CARD_FILE, "metric_head", expected, found.to_string()));
    }
    Ok(Checkpoint { model, provenance: card.provenance, weights_sha256: card.weights_sha256 })
}

/// What is wrong: which part, expected, found.
type Fault = (String, String, String);

#[allow(clippy::needless_pass_by_value)] // words and numbers alike, given where they stand
fn fault<T>(
    what: impl Into<String>,
    expected: impl ToString,
    found: impl ToString,
) -> Result<T, Fault> {
    Err((what.into(), expected.to_string(), found.to_string()))
}

fn check_card(card: &Card) -> Result<(), Fault> {
    if let Err(found) = card.dimensions.check() {
        return fault("dimensions", "sizes in range", found);
    }
    if !(card.bin_width_s.is_finite() && card.bin_width_s > 0.0) {
        return fault("bin_width_s", "a width above 0", card.bin_width_s);
    }
    let names = &card.regime_names;
    if !(1..=REGIMES_MAX).contains(&names.len()) {
        return fault("regime_names", format!("1 to {REGIMES_MAX} names"), names.len());
    }
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() || names[..i].contains(name) {
            return fault("regime_names", "distinct names", format!("'{name}' twice or empty"));
        }
    }
    check_prior("prior", &card.prior, card)?;
    for (i, session) in card.sessions.iter().enumerate() {
        if card.sessions[..i].iter().any(|s| s.name == session.name) {
            return fault("sessions", "distinct names", format!("'{}' twice", session.name));
        }
        if !(1..=CHANNELS_MAX).contains(&session.n_channels) {
            let what = format!("session '{}' n_channels", session.name);
            return fault(what, format!("1 to {CHANNELS_MAX}"), session.n_channels);
        }
        if let Some(names) = session.channels.as_ref().filter(|c| c.len() != session.n_channels) {
            let expected = format!("{} names", session.n_channels);
            return fault(format!("session '{}' channels", session.name), expected, names.len());
        }
        check_prior(&format!("session '{}' prior", session.name), &session.prior, card)?;
    }
    let o = &card.online;
    let states = names.len() + 1;
    if o.hazard_per_bin.dim() != (states, states) {
        let found = format!("{} values", o.hazard_per_bin.len());
        return fault("online.hazard_per_bin", format!("{states} x {states} values"), found);
    }
    for (r, row) in o.hazard_per_bin.rows().into_iter().enumerate() {
        if !(row.iter().all(|&h| h >= 0.0) && row.iter().sum::<f32>() < 1.0) {
            let expected = "rates of 0 or more with a sum below 1";
            let found = format!("a sum of {}", row.iter().sum::<f32>());
            return fault(format!("online.hazard_per_bin row {r}"), expected, found);
        }
    }
    if !(o.process_noise > 0.0 && o.process_noise.is_finite()) {
        return fault("online.process_noise", "above 0", o.process_noise);
    }
    if !(0.0..1.0).contains(&o.fresh_share_min) {
        return fault("online.fresh_share_min", "from 0 and below 1", o.fresh_share_min);
    }
    for (i, p) in o.operating_points.iter().enumerate() {
        let before = i.checked_sub(1).map(|b| &o.operating_points[b]);
        let in_order = before.is_none_or(|b| {
            p.false_changes_per_min < b.false_changes_per_min
                && p.probability_min > b.probability_min
        });
        let (chance, often) = (p.probability_min, p.false_changes_per_min);
        if !((0.0..1.0).contains(&chance) && often >= 0.0 && often.is_finite() && in_order) {
            let expected = "probabilities below 1 that rise as false changes fall";
            let found = format!("{chance} for {often} false changes a minute");
            return fault(format!("online.operating_points[{i}]"), expected, found);
        }
    }
    if !(o.embedding_drift >= 0.0 && o.embedding_drift.is_finite()) {
        return fault("online.embedding_drift", "0 or more", o.embedding_drift);
    }
    if !(o.temperature > 0.0 && o.temperature.is_finite()) {
        return fault("online.temperature", "above 0", o.temperature);
    }
    let limits = o.novelty_limits;
    if !(limits.innovation_runs > 0.0 && limits.embedding_distance > 0.0) {
        let found = format!("{} and {}", limits.innovation_runs, limits.embedding_distance);
        return fault("online.novelty_limits", "limits above 0", found);
    }
    let [low, high] = o.log_rate_bounds;
    if !(low < high && low >= -40.0 && high <= 40.0) {
        return fault("online.log_rate_bounds", "low < high within 40", format!("{low}, {high}"));
    }
    Ok(())
}

fn check_prior(what: &str, prior: &RegimePrior, card: &Card) -> Result<(), Fault> {
    let d = card.dimensions.embedding;
    let n = prior.components.len();
    if !(1..=COMPONENTS_MAX).contains(&n) {
        return fault(what, format!("1 to {COMPONENTS_MAX} components"), n);
    }
    for (i, c) in prior.components.iter().enumerate() {
        let here = format!("{what} component {i}");
        if let Some(found) = c.regime.filter(|r| *r >= card.regime_names.len()) {
            return fault(here, format!("a regime below {}", card.regime_names.len()), found);
        }
        if !(c.weight > 0.0 && c.weight <= 1.0) {
            return fault(here, "a weight in (0, 1]", c.weight);
        }
        if c.mean.len() != d || c.covariance.len() != d * d {
            let found = format!("{} and {} values", c.mean.len(), c.covariance.len());
            return fault(here, format!("{d} and {} values", d * d), found);
        }
        if !c.mean.iter().all(|x| x.is_finite()) {
            return fault(here, "a finite mean", "one that is not");
        }
        let covariance =
            nalgebra::DMatrix::from_iterator(d, d, c.covariance.iter().map(|&x| f64::from(x)));
        if covariance.cholesky().is_none() {
            return fault(here, "a positive definite covariance", "one that is not");
        }
    }
    let total: f32 = prior.components.iter().map(|c| c.weight).sum();
    if (total - 1.0).abs() > 1e-3 {
        return fault(what, "weights that sum to 1", total);
    }
    Ok(())
}

/// Arrays of the weights file by name, `f32`.
struct Arrays(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Arrays {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let file = match SafeTensors::deserialize(bytes) {
            Ok(file) => file,
            Err(e) => return fault("content", "a safetensors file", e),
        };
        let mut arrays = HashMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                return fault(name, "F32", format!("{:?}", view.dtype()));
            }
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            if !values.iter().all(|x| x.is_finite()) {
                return fault(name, "finite values", "NaN or infinity");
            }
            arrays.insert(name, (view.shape().to_vec(), values));
        }
        Ok(Self(arrays))
    }

    fn take<D: Dimension>(
        &mut self,
        name: &str,
        shape: impl IntoDimension<Dim = D>,
    ) -> Result<Array<f32, D>, Fault> {
        let shape = shape.into_dimension();
        let expected = || format!("{:?}", shape.slice());
        let Some((found, values)) = self.0.remove(name) else {
            return fault(name, format!("an array of shape {}", expected()), "no such array");
        };
        if found != shape.slice() {
            return fault(name, format!("shape {}", expected()), format!("{found:?}"));
        }
        let array = Array::from_shape_vec(shape.clone(), values);
        array.or_else(|e| fault(name, format!("shape {}", expected()), e))
    }
}

fn assemble(card: &Card, mut arrays: Arrays) -> Result<Model, Fault> {
    let Dimensions { embedding: d, rank, units, hidden: [h1, h2] } = card.dimensions;
    let hypernetwork = Hypernetwork {
        w1: arrays.take("hypernetwork.w1", [d, h1])?,
        b1: arrays.take("hypernetwork.b1", [h1])?,
        w2: arrays.take("hypernetwork.w2", [h1, h2])?,
        b2: arrays.take("hypernetwork.b2", [h2])?,
        wn: arrays.take("hypernetwork.wn", [h2, rank, units])?,
        n0: arrays.take("hypernetwork.n0", [rank, units])?,
        wc: arrays.take("hypernetwork.wc", [h2, rank])?,
    };
    let leak = arrays.take("network.leak", [1])?[0];
    let network = Network {
        m: arrays.take("network.m", [units, rank])?,
        offset: arrays.take("network.offset", [units])?,
        leak,
        process_variance: arrays.take("network.process_variance", [rank])?,
        initial_variance: arrays.take("network.initial_variance", [rank])?,
    };
    if !(leak > 0.0 && leak < 1.0) {
        return fault("network.leak", "between 0 and 1", leak);
    }
    for (name, values) in [
        ("network.process_variance", &network.process_variance),
        ("network.initial_variance", &network.initial_variance),
    ] {
        if let Some(v) = values.iter().find(|v| **v <= 0.0) {
            return fault(name, "variances above 0", v);
        }
    }
    let mut readouts = Vec::new();
    for (i, session) in card.sessions.iter().enumerate() {
        let n = session.n_channels;
        let dispersion = match session.negative_binomial {
            true => Some(arrays.take(&format!("readout.{i}.dispersion"), [n])?),
            false => None,
        };
        if let Some(alpha) = dispersion.iter().flatten().find(|a| **a < 0.0) {
            return fault(format!("readout.{i}.dispersion"), "values of 0 or more", alpha);
        }
        readouts.push(Readout {
            session: session.name.clone(),
            loading: arrays.take(&format!("readout.{i}.loading"), [n, rank])?,
            baseline: arrays.take(&format!("readout.{i}.baseline"), [n])?,
            channels: session.channels.clone(),
            dispersion,
            trusted: session.trusted,
            prior: session.prior.clone(),
        });
    }
    if let Some(name) = arrays.0.keys().next() {
        return fault("arrays", "only those of the model card", format!("'{name}' beside them"));
    }
    Ok(Model {
        dims: card.dimensions,
        bin_width_s: card.bin_width_s,
        regime_names: card.regime_names.clone(),
        hypernetwork,
        network,
        readouts,
        prior: card.prior.clone(),
        online: card.online.clone(),
        metric_head: card.metric_head.clone(),
    })
}

/// Writes a model directory, creating it where needed. Both files are complete before either gets its
/// name.
///
/// # Errors
/// The file system's.
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
        })
        .collect();
    let card = Card {
        format: FORMAT.into(),
        format_version: FORMAT_VERSION,
        dimensions: model.dims,
        bin_width_s: model.bin_width_s,
        regime_names: model.regime_names.clone(),
        online: model.online.clone(),
        metric_head: model.metric_head.clone(),
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
        write_whole(&dir.join(name), bytes).map_err(io(&dir.join(name)))?;
    }
    Ok(())
}

/// Writes a file beside its place, syncs it, then renames it there.
///
/// # Errors
/// The file system's.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = fs::File::create(&partial)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

type NamedArray<'a> = (String, Vec<usize>, Cow<'a, [f32]>);

fn named_arrays(model: &Model) -> Vec<NamedArray<'_>> {
    let (h, n) = (&model.hypernetwork, &model.network);
    let mut arrays = vec![
        named("hypernetwork.w1", &h.w1),
        named("hypernetwork.b1", &h.b1),
        named("hypernetwork.w2", &h.w2),
        named("hypernetwork.b2", &h.b2),
        named("hypernetwork.wn", &h.wn),
        named("hypernetwork.n0", &h.n0),
        named("hypernetwork.wc", &h.wc),
        ("network.leak".into(), vec![1], Cow::Owned(vec![n.leak])),
        named("network.m", &n.m),
        named("network.offset", &n.offset),
        named("network.process_variance", &n.process_variance),
        named("network.initial_variance", &n.initial_variance),
    ];
    for (i, r) in model.readouts.iter().enumerate() {
        arrays.push(named(&format!("readout.{i}.loading"), &r.loading));
        arrays.push(named(&format!("readout.{i}.baseline"), &r.baseline));
        if let Some(alpha) = &r.dispersion {
            arrays.push(named(&format!("readout.{i}.dispersion"), alpha));
        }
    }
    arrays
}

fn named<'a, D: Dimension>(name: &str, array: &'a Array<f32, D>) -> NamedArray<'a> {
    (name.to_owned(), array.shape().to_vec(), Cow::Borrowed(values(array)))
}
