//! Where the journal's files are: a folder, or in tests something that fails on purpose.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::part::{ENDING, file_name};
use crate::files;
use crate::platform;

/// Longest file of numbers.
const NUMBERS_BYTES_MAX: u64 = 4 << 20;

/// Files that are written from the front and never changed, each known by the number of its first
/// frame.
#[allow(clippy::len_without_is_empty)]
pub(super) trait Storage: Send {
    /// One that is being written.
    type Out: Send;

    /// First numbers of all files, in order.
    ///
    /// # Errors
    /// Errors of the system, as with all others.
    fn list(&self) -> io::Result<Vec<u64>>;

    /// A file's bytes, or its first `limit`.
    fn read(&self, first: u64, limit: u64) -> io::Result<Vec<u8>>;

    /// A file's length, bytes.
    fn len(&self, first: u64) -> io::Result<u64>;

    /// A new file, in place of one of that number.
    fn create(&mut self, first: u64) -> io::Result<Self::Out>;

    /// Appends to a file.
    fn append(&mut self, out: &mut Self::Out, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything appended would survive the loss of power.
    fn sync(&mut self, out: &mut Self::Out) -> io::Result<()>;

    /// Removes a file.
    fn remove(&mut self, first: u64) -> io::Result<()>;

    /// One of the files with the newest numbers; `None` where it is not there.
    fn numbers(&self, slot: usize) -> io::Result<Option<Vec<u8>>>;

    /// Writes one of them over what it held.
    fn write_numbers(&mut self, slot: usize, bytes: &[u8]) -> io::Result<()>;
}

/// A folder of files named by the number of their first frame.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A folder, made where there is none.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        files::own_folder(path)?;
        Ok(Self(path.to_owned()))
    }

    /// A folder that is only read.
    #[must_use]
    pub(super) fn existing(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn path(&self, first: u64) -> PathBuf {
        self.0.join(file_name(first))
    }

    fn numbers_path(&self, slot: usize) -> PathBuf {
        self.0.join(format!("numbers.{slot}"))
    }

    fn sync_entries(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Storage for Folder {
    type Out = File;

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == ENDING) {
                numbers.extend(
                    path.file_stem().and_then(|n| n.to_str()).and_then(|n| n.parse::<u64>().ok()),
                );
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, first: u64, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(first))?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn len(&self, first: u64) -> io::Result<u64> {
        Ok(fs::metadata(self.path(first))?.len())
    }

    fn create(&mut self, first: u64) -> io::Result<File> {
        let file = files::own_file(&self.path(first))?;
        self.sync_entries()?;
        Ok(file)
    }

    fn append(&mut self, out: &mut File, bytes: &[u8]) -> io::Result<()> {
        out.write_all(bytes)
    }

    fn sync(&mut self, out: &mut File) -> io::Result<()> {
        out.sync_data()
    }

    fn remove(&mut self, first: u64) -> io::Result<()> {
        fs::remove_file(self.path(first))
    }

    fn numbers(&self, slot: usize) -> io::Result<Option<Vec<u8>>> {
        match files::read(&self.numbers_path(slot), NUMBERS_BYTES_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // Not one of ours any more: damaged.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Some(Vec::new())),
            Err(e) => Err(e),
        }
    }

    fn write_numbers(&mut self, slot: usize, bytes: &[u8]) -> io::Result<()> {
        let path = self.numbers_path(slot);
        let is_new = !path.exists();
        let file = platform::own_options().write(true).create(true).truncate(false).open(path)?;
        // Overwrites in place: the file is never empty.
        platform::write_at(&file, bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        // Once: an empty one after a loss of power would be a damaged one.
        if is_new { file.sync_all() } else { Ok(()) }
    }
}
