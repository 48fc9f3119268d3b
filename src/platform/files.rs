//! Files of this user alone, and reading and writing at a place.

use std::fs::{DirBuilder, File, FileType, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt,
};
use std::path::Path;

/// Mode of a folder that only this user can enter.
pub(crate) const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// What is found where a file is expected.
#[must_use]
pub(crate) fn kind(of: FileType) -> &'static str {
    match of {
        k if k.is_file() => "a file",
        k if k.is_dir() => "a folder",
        k if k.is_fifo() => "a pipe",
        k if k.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Makes a folder, and those above it, that only this user can enter.
///
/// # Errors
/// Errors of the system.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path)
}

/// A folder that is new.
///
/// # Errors
/// Errors of the system, and a folder that is there.
pub(crate) fn new_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)
}

/// Options that make files which only this user can read.
#[must_use]
pub(crate) fn own_options() -> OpenOptions {
    let mut options = File::options();
    options.mode(PRIVATE_FILE);
    options
}

/// Closes a file to all others: one that was there before may have been open to them.
///
/// # Errors
/// Errors of the system.
pub(crate) fn owner_only(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(PRIVATE_FILE))
}

/// Whose it is, and what others may do.
#[must_use]
pub(crate) fn owner(of: &Metadata) -> (u32, u32) {
    (of.uid(), of.mode() & 0o777)
}

/// Reads from a place on, until the buffer is full.
///
/// # Errors
/// Errors of the system, and a file that ends before.
pub(crate) fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(into, at)
}

/// Writes from a place on.
///
/// # Errors
/// Errors of the system.
pub(crate) fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)
}
