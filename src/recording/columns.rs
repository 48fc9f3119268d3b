//! Arrays of unknown length: gathered in files next to the archive, then copied into it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::RecordingError;
use super::archive::Archive;

/// One array that grows, `[rows, width...]`.
pub(crate) struct Column {
    key: String,
    /// numpy's name of the type, and its size.
    kind: (&'static str, usize),
    /// Values of a row; `None`: the array has one dimension.
    width: Option<usize>,
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl Column {
    fn create(
        folder: &Path,
        key: &str,
        kind: (&'static str, usize),
        width: Option<usize>,
    ) -> io::Result<Self> {
        let path = folder.join(format!("{key}.column"));
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Self { key: key.to_owned(), kind, width, path, file: BufWriter::new(file), bytes: 0 })
    }

    /// Of 32-bit floats.
    ///
    /// # Errors
    /// Errors of the file system, as with all others.
    pub(crate) fn f32(folder: &Path, key: &str, width: Option<usize>) -> io::Result<Self> {
        Self::create(folder, key, ("<f4", 4), width)
    }

    /// Of signed 64-bit integers.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn i64(folder: &Path, key: &str) -> io::Result<Self> {
        Self::create(folder, key, ("<i8", 8), None)
    }

    /// Adds bytes of values, little-endian.
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Adds a row of floats; as many as the width is, or one.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn floats(&mut self, row: &[f32]) -> io::Result<()> {
        row.iter().try_for_each(|v| self.push(&v.to_le_bytes()))
    }

    /// Adds a whole number.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn whole(&mut self, value: i64) -> io::Result<()> {
        self.push(&value.to_le_bytes())
    }

    /// Copies it into an archive, and removes its file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn finish(self, archive: &mut Archive<'_>) -> Result<(), RecordingError> {
        let io = |reason| RecordingError::Io { path: self.path.clone(), reason };
        let mut file = self.file.into_inner().map_err(|e| io(e.into_error()))?;
        file.rewind().map_err(io)?;
        let per_row = self.kind.1 * self.width.unwrap_or(1).max(1);
        let rows = (self.bytes / per_row as u64) as usize;
        let shape: Vec<usize> = std::iter::once(rows).chain(self.width).collect();
        archive.raw(&self.key, self.kind.0, &shape, &mut BufReader::new(file))?;
        std::fs::remove_file(&self.path).map_err(io)
    }
}
