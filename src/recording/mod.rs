//! Recordings: binned spike counts with labels, from files. Bytes in, checked trials out.

mod archive;
mod columns;
mod counts;
mod file;
mod grid;
mod hdf5;
mod keys;
mod npy;
mod npz;
mod nwb;
mod phy;
mod spikes;

use ndarray::{Array2, Axis};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::model::{COUNT_MAX, whole_ratio};
pub use archive::write;
pub(crate) use archive::{Archive, numbered, trial_starts};
pub(crate) use columns::Column;
pub(crate) use counts::CountsBuffer;
pub use counts::{Counts, Spool};
pub(crate) use file::{Kind, read_file};
pub use npy::{Array, Values};
pub(crate) use npz::read_seen;
pub use npz::{read, read_from};
pub use nwb::{read_nwb, read_nwb_from};
pub(crate) use phy::is_phy;
pub use spikes::SpikeSettings;

/// Most bins of a recording: more than a week of 10 ms.
const BINS_MAX: usize = 1 << 26;

/// A fault of a recording file.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file could not be read or written.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// Not an `.npz`, or one that is broken.
    #[error("{path}: expected a .npz file as numpy writes it, found: {found}")]
    Archive {
        /// The file.
        path: PathBuf,
        /// What the reader met.
        found: String,
    },
    /// A key that is missing, of the wrong shape, or holds what it must not.
    #[error("{path}: key '{key}': expected {expected}, found {found}")]
    Key {
        /// The file.
        path: PathBuf,
        key: String,
        /// Expected value.
        expected: String,
        /// Found value.
        found: String,
    },
    /// A bin width that does not divide into the one asked for.
    #[error(
        "{path}: expected bins of {recorded_ms} ms times a whole number, found a request for \
         {asked_ms} ms"
    )]
    BinWidth {
        /// The file.
        path: PathBuf,
        /// Width in the file, milliseconds.
        recorded_ms: f64,
        /// Width asked for, milliseconds.
        asked_ms: f64,
    },
}

impl RecordingError {
    /// A key that holds what it must not, or is missing.
    fn key(path: &Path, key: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let (path, key) = (path.to_owned(), key.to_owned());
        Self::Key { path, key, expected: expected.into(), found: found.into() }
    }
}

/// One trial: consecutive bins of one session.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Session (animal, day) name.
    pub session: String,
    /// `[bins, channels]`, row-major.
    pub counts: Array2<u16>,
    /// Task (condition) per bin.
    pub task: Vec<i64>,
    /// Regime per bin, index into the recording's names; `None` is unlabelled.
    pub regime: Vec<Option<usize>>,
    /// True dynamics, where the file holds them.
    pub truth: DynamicsTruth,
}

/// True dynamics of a simulated trial's task; `None` where the file does not hold them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DynamicsTruth {
    /// Largest Lyapunov exponent along a noise-driven trajectory, 1/s.
    pub lyapunov_max_per_s: Option<f64>,
    /// The same without noise, 1/s.
    pub lyapunov_max_noise_free_per_s: Option<f64>,
    /// Frequency, Hz; 0 where nothing oscillates.
    pub frequency_hz: Option<f64>,
    /// Number of stable fixed points.
    pub stable_points: Option<f64>,
    /// Number of unstable fixed points.
    pub unstable_points: Option<f64>,
}

/// A key of [`DynamicsTruth`]: its name in a file, the value for unknown (where there is one), and
/// its field.
type TruthKey = (&'static str, Option<f64>, fn(&mut DynamicsTruth) -> &mut Option<f64>);

/// Keys of [`DynamicsTruth`] in a file.
pub(crate) const TRUTH_KEYS: [TruthKey; 5] = [
    ("lyapunov_max_per_s", None, |t| &mut t.lyapunov_max_per_s),
    ("lyapunov_max_noise_free_per_s", None, |t| &mut t.lyapunov_max_noise_free_per_s),
    ("frequency_hz", None, |t| &mut t.frequency_hz),
    ("stable_points", Some(-1.0), |t| &mut t.stable_points),
    ("unstable_points", Some(-1.0), |t| &mut t.unstable_points),
];

impl Trial {
    /// One without labels; `counts` is `[bins, n_channels]`.
    #[must_use]
    pub fn unlabelled(session: &str, counts: Array2<u16>) -> Self {
        let bins = counts.nrows();
        Self {
            session: session.to_owned(),
            counts,
            task: vec![0; bins],
            regime: vec![None; bins],
            truth: DynamicsTruth::default(),
        }
    }

    /// Number of bins.
    #[must_use]
    pub fn n_bins(&self) -> usize {
        self.regime.len()
    }
}

/// Labelled spike counts of one or more sessions, as read from one file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recording {
    /// Where it came from, for messages.
    pub path: PathBuf,
    /// Channels per bin.
    pub n_channels: usize,
    /// Names of the channels, where the file has them: each once.
    pub channels: Option<Vec<String>>,
    /// Width of a bin, seconds.
    pub bin_width_s: f64,
    /// Distinct names; labels index into them.
    pub regime_names: Vec<String>,
    /// Trials in order.
    pub trials: Vec<Trial>,
    /// True where the trials are pieces of one stream, false where they are separate.
    pub continuous: bool,
}

/// Names that a message lists at most.
const NAMES_TOLD: usize = 5;
/// Longest name of a channel, bytes.
const CHANNEL_NAME_BYTES_MAX: usize = 256;

/// Whether `n` channels may have these names: as many, none empty or too long, each once.
fn are_names(names: &[String], n: usize) -> bool {
    let fit = |name: &String| !name.is_empty() && name.len() <= CHANNEL_NAME_BYTES_MAX;
    let mut all: Vec<&String> = names.iter().collect();
    all.sort_unstable();
    all.dedup();
    names.len() == n && all.len() == n && names.iter().all(fit)
}

/// Name of a session whose recording has none: the file's.
#[must_use]
pub(crate) fn name_of(path: &Path) -> String {
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    name.filter(|n| !n.is_empty()).unwrap_or_else(|| "0".into())
}

/// Whether a folder is a Zarr store (version 2 or 3), as NWB can be kept in.
#[must_use]
pub(crate) fn is_zarr(path: &Path) -> bool {
    [".zgroup", ".zattrs", ".zmetadata", "zarr.json"].iter().any(|name| path.join(name).exists())
}

/// That a Zarr store is not read, and what to do.
fn zarr(path: &Path) -> RecordingError {
    let found = "a Zarr store: export it to HDF5 (in Python, `NWBHDF5IO(OUT, \
                 \"w\").export(src_io=NWBZarrIO(IN, \"r\"))`)";
    RecordingError::key(path, "file", "an .npz or an NWB file in HDF5", found)
}

impl Recording {
    /// Puts the channels into the order of `names`, by name; channels that are not among them are
    /// left out. Nothing changes where the recording has no names.
    ///
    /// # Errors
    /// A name that no channel has.
    pub(crate) fn arrange(&mut self, names: &[String]) -> Result<(), RecordingError> {
        let Some(own) = &self.channels else { return Ok(()) };
        if own == names {
            return Ok(());
        }
        let place = |name: &String| own.iter().position(|o| o == name);
        let missing: Vec<&str> =
            names.iter().filter(|n| place(n).is_none()).map(String::as_str).collect();
        if !missing.is_empty() {
            let found = format!(
                "no channel {} of {} ({} has {})",
                missing.iter().take(NAMES_TOLD).copied().collect::<Vec<_>>().join(", "),
                names.len(),
                if own.len() == 1 { "it" } else { "the file" },
                own.iter().take(NAMES_TOLD).map(String::as_str).collect::<Vec<_>>().join(", ")
            );
            let expected = "the channels that the model's readout has";
            return Err(RecordingError::key(&self.path, "channels", expected, found));
        }
        let order: Vec<usize> = names.iter().filter_map(place).collect();
        for trial in &mut self.trials {
            let ordered = trial.counts.select(Axis(1), &order);
            trial.counts = ordered.as_standard_layout().into_owned();
        }
        self.n_channels = order.len();
        self.channels = Some(names.to_vec());
        Ok(())
    }

    /// Total number of bins.
    #[must_use]
    pub fn n_bins(&self) -> usize {
        self.trials.iter().map(Trial::n_bins).sum()
    }

    /// Sums bins into wider ones of `bin_ms` milliseconds, trial by trial; a trial's incomplete
    /// last bin is dropped. A wide bin has the label that most of its bins have, and a sum beyond
    /// [`COUNT_MAX`] is that.
    ///
    /// # Errors
    /// When `bin_ms` is not a whole multiple of the recorded width.
    pub fn rebin(&mut self, bin_ms: f64) -> Result<(), RecordingError> {
        let Some(factor) = whole_ratio(bin_ms / 1e3, self.bin_width_s) else {
            return Err(RecordingError::BinWidth {
                path: self.path.clone(),
                recorded_ms: self.bin_width_s * 1e3,
                asked_ms: bin_ms,
            });
        };
        if factor == 1 {
            return Ok(());
        }
        let n = self.n_channels;
        for trial in &mut self.trials {
            let bins = trial.n_bins() / factor;
            let mut counts = Array2::<u16>::zeros((bins, n));
            for (i, narrow) in trial.counts.rows().into_iter().take(bins * factor).enumerate() {
                let wide = counts.row_mut(i / factor);
                wide.into_iter()
                    .zip(narrow)
                    .for_each(|(w, c)| *w = w.saturating_add(*c).min(COUNT_MAX));
            }
            trial.counts = counts;
            trial.regime = trial.regime.chunks_exact(factor).map(majority).collect();
            trial.task = trial.task.chunks_exact(factor).map(majority).collect();
        }
        self.trials.retain(|t| t.n_bins() > 0);
        self.bin_width_s *= factor as f64;
        Ok(())
    }

    /// Keeps of each session the trials `from..to`, given as fractions of its whole; of a session
    /// with a single trial, its bins.
    pub fn keep(&mut self, from: f64, to: f64) {
        let range = |n: usize| {
            let at = |f: f64| ((n as f64 * f).round() as usize).min(n);
            at(from)..at(to)
        };
        let mut all = std::collections::HashMap::<String, usize>::new();
        self.trials.iter().for_each(|t| *all.entry(t.session.clone()).or_default() += 1);
        let mut seen = std::collections::HashMap::<String, usize>::new();
        self.trials.retain_mut(|trial| {
            let total = all[&trial.session];
            if total == 1 {
                let kept = range(trial.n_bins());
                trial.counts = trial.counts.slice_axis(Axis(0), kept.clone().into()).to_owned();
                trial.regime = trial.regime[kept.clone()].to_vec();
                trial.task = trial.task[kept].to_vec();
                return trial.n_bins() > 0;
            }
            let at = seen.entry(trial.session.clone()).or_default();
            *at += 1;
            range(total).contains(&(*at - 1))
        });
    }

    /// Trials grouped into streams that are played without a break: all of a continuous recording's
    /// trials of one session in a row, else each trial alone.
    #[must_use]
    pub fn streams(&self) -> Vec<Trial> {
        self.stream_trials().into_iter().map(|trials| self.joined(trials)).collect()
    }

    /// Indices of the trials that each of [`Self::streams`] is made of.
    pub(crate) fn stream_trials(&self) -> Vec<Range<usize>> {
        let mut streams: Vec<Range<usize>> = Vec::new();
        for (i, trial) in self.trials.iter().enumerate() {
            match streams.last_mut() {
                Some(last)
                    if self.continuous && self.trials[last.start].session == trial.session =>
                {
                    last.end = i + 1;
                }
                _ => streams.push(i..i + 1),
            }
        }
        streams
    }

    fn joined(&self, trials: Range<usize>) -> Trial {
        let mut joined = self.trials[trials.start].clone();
        for trial in &self.trials[trials.start + 1..trials.end] {
            let one_width = "trials of a recording have its channels";
            joined.counts.append(Axis(0), trial.counts.view()).expect(one_width);
            joined.task.extend(&trial.task);
            joined.regime.extend(&trial.regime);
        }
        joined
    }
}

/// Counts, bin after bin, as `[bins, n_channels]`; an incomplete bin at the end is dropped.
#[must_use]
pub fn in_bins(mut counts: Vec<u16>, n_channels: usize) -> Array2<u16> {
    let bins = counts.len() / n_channels.max(1);
    counts.truncate(bins * n_channels);
    Array2::from_shape_vec((bins, n_channels), counts).expect("as many counts as bins hold")
}

/// The most frequent value of a chunk, the earliest one among equals.
fn majority<T: PartialEq + Copy>(values: &[T]) -> T {
    let count = |v: &T| values.iter().filter(|x| *x == v).count();
    values.iter().rev().max_by_key(|v| count(v)).copied().unwrap_or(values[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;

    #[test]
    fn channels_are_put_in_order_by_their_names() {
        let names = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut recording = Recording {
            n_channels: 3,
            channels: Some(names(&["a", "b", "c"])),
            bin_width_s: 0.01,
            trials: vec![Trial::unlabelled("s", in_bins(vec![1, 2, 3, 4, 5, 6], 3))],
            ..Recording::default()
        };
        recording.arrange(&names(&["c", "a"])).expect("there");
        assert_eq!(
            (values(&recording.trials[0].counts), recording.n_channels),
            (&[3, 1, 6, 4][..], 2)
        );
        let error = recording.arrange(&names(&["a", "x"])).expect_err("no x").to_string();
        assert!(error.contains("no channel x of 2"), "{error}");
        assert!(!are_names(&names(&["a", "a"]), 2) && !are_names(&names(&["a", ""]), 2));
    }
}
