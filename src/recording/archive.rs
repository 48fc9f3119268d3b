//! Writing `.npz`: array by array, and whole recordings.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use zip::{ZipWriter, write::SimpleFileOptions};

use super::{Recording, RecordingError, TRUTH_KEYS, Trial, npy};

/// A new `.npz` being written, array by array.
pub(crate) struct Archive<'a> {
    path: &'a Path,
    zip: ZipWriter<BufWriter<File>>,
}

impl<'a> Archive<'a> {
    /// Creates the file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn create(path: &'a Path) -> Result<Self, RecordingError> {
        let io = |reason| RecordingError::Io { path: path.to_owned(), reason };
        let zip = ZipWriter::new(BufWriter::new(File::create(path).map_err(io)?));
        Ok(Self { path, zip })
    }

    fn io(&self, reason: std::io::Error) -> RecordingError {
        RecordingError::Io { path: self.path.to_owned(), reason }
    }

    /// Adds one array; `fill` writes it as `.npy`.
    fn add(
        &mut self,
        key: &str,
        fill: impl FnOnce(&mut ZipWriter<BufWriter<File>>) -> std::io::Result<()>,
    ) -> Result<(), RecordingError> {
        self.zip
            .start_file(format!("{key}.npy"), SimpleFileOptions::default())
            .map_err(|e| self.io(std::io::Error::other(e)))?;
        fill(&mut self.zip).map_err(|e| self.io(e))
    }

    /// Adds 32-bit floats.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn f32(
        &mut self,
        key: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<(), RecordingError> {
        self.add(key, |w| npy::write_f32(w, shape, values))
    }

    /// Adds 64-bit floats.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn f64(
        &mut self,
        key: &str,
        shape: &[usize],
        values: &[f64],
    ) -> Result<(), RecordingError> {
        self.add(key, |w| npy::write_f64(w, shape, values))
    }

    /// Adds signed 64-bit integers.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn i64(&mut self, key: &str, values: &[i64]) -> Result<(), RecordingError> {
        self.add(key, |w| npy::write_i64(w, &[values.len()], values))
    }

    /// Appends values as they are stored in a file: little-endian, row by row.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn raw(
        &mut self,
        key: &str,
        kind: &str,
        shape: &[usize],
        values: &mut impl Read,
    ) -> Result<(), RecordingError> {
        self.zip
            .start_file(format!("{key}.npy"), SimpleFileOptions::default().large_file(true))
            .map_err(|e| self.io(std::io::Error::other(e)))?;
        let written = npy::write_header(&mut self.zip, kind, shape)
            .and_then(|()| std::io::copy(values, &mut self.zip));
        written.map(drop).map_err(|e| self.io(e))
    }

    /// Adds strings.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn strings(&mut self, key: &str, values: &[String]) -> Result<(), RecordingError> {
        self.add(key, |w| npy::write_strings(w, values))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn finish(self) -> Result<(), RecordingError> {
        let path = self.path;
        let io = |reason| RecordingError::Io { path: path.to_owned(), reason };
        self.zip.finish().map_err(|e| io(std::io::Error::other(e)))?.flush().map_err(io)
    }
}

/// Writes a recording: `[trials, bins, channels]` where all trials are equally long, else
/// `[bins, channels]` with `trial_start`.
///
/// # Errors
/// When the file cannot be written.
pub fn write(recording: &Recording, path: &Path) -> Result<(), RecordingError> {
    let mut archive = Archive::create(path)?;
    let trials = &recording.trials;
    let equal = trials.windows(2).all(|w| w[0].n_bins() == w[1].n_bins());
    let stack = equal && trials.len() > 1;
    let shape = if stack {
        vec![trials.len(), trials[0].n_bins(), recording.n_channels]
    } else {
        vec![recording.n_bins(), recording.n_channels]
    };
    let counts: Vec<u16> = trials.iter().flat_map(|t| t.counts.iter().copied()).collect();
    if counts.iter().all(|&c| c <= 255) {
        let bytes: Vec<u8> = counts.iter().map(|&c| c as u8).collect();
        archive.add("counts", |w| npy::write_bytes(w, &shape, &bytes))?;
    } else {
        archive.add("counts", |w| npy::write_u16(w, &shape, &counts))?;
    }
    archive.f64("bin_width_s", &[], &[recording.bin_width_s])?;
    if let Some(channels) = &recording.channels {
        archive.strings("channels", channels)?;
    }
    let continuous = [u8::from(recording.continuous)];
    archive.add("continuous", |w| npy::write_bytes(w, &[], &continuous))?;
    if !stack {
        archive.i64("trial_start", &trial_starts(trials.iter().map(Trial::n_bins)))?;
    }
    let sessions: Vec<String> = trials.iter().map(|t| t.session.clone()).collect();
    archive.strings("session", &sessions)?;
    let task: Vec<i64> = trials.iter().flat_map(|t| t.task.iter().copied()).collect();
    archive.i64("task", &task)?;
    if !recording.regime_names.is_empty() {
        let regime: Vec<i64> = trials.iter().flat_map(|t| numbered(&t.regime)).collect();
        archive.i64("regime", &regime)?;
        archive.strings("regime_names", &recording.regime_names)?;
    }
    for (key, absent, place) in TRUTH_KEYS {
        let known: Vec<Option<f64>> = trials.iter().map(|t| *place(&mut { t.truth })).collect();
        let values: Option<Vec<f64>> = known.iter().map(|v| v.or(absent)).collect();
        if let Some(values) = values.filter(|_| known.iter().any(Option::is_some)) {
            archive.f64(key, &[values.len()], &values)?;
        }
    }
    archive.finish()
}

/// First bin of each of several trials, one after another.
pub(crate) fn trial_starts(lengths: impl Iterator<Item = usize>) -> Vec<i64> {
    lengths
        .scan(0, |at, n| {
            let start = *at;
            *at += n;
            Some(start as i64)
        })
        .collect()
}

/// Labels as a file has them: -1 is unlabelled.
pub(crate) fn numbered(labels: &[Option<usize>]) -> impl Iterator<Item = i64> {
    labels.iter().map(|r| r.map_or(-1, |r| r as i64))
}
