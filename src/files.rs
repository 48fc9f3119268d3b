//! Opening files that people name: a pipe or a device under such a name would be waited for, or
//! read, without end. And writing files as a whole or not at all.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::platform;

/// Opens a file to read it.
///
/// # Errors
/// Errors of the system, and a path that is no regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: a pipe is only open once somebody writes.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_file() {
        return File::open(path);
    }
    let found = platform::kind(kind);
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("expected a file, found {found}")))
}

/// Reads a whole file of at most `bytes_max`.
///
/// # Errors
/// Errors of the system, and a path that is no regular file, or a longer one.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let why = format!("expected a file of at most {bytes_max} bytes, found a longer one");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(bytes)
}

/// The same as text.
///
/// # Errors
/// The same; bytes that are no UTF-8.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read(path, bytes_max)?).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, "expected text (UTF-8), found other bytes")
    })
}

/// Makes a folder, and those above it, that only this user can enter.
///
/// # Errors
/// Errors of the system.
pub(crate) fn own_folder(path: &Path) -> io::Result<()> {
    platform::make_folder(path)
}

/// A new file that only this user can read, in place of one of that name.
///
/// # Errors
/// Errors of the system.
pub(crate) fn own_file(path: &Path) -> io::Result<File> {
    let file = platform::own_options().write(true).create(true).truncate(true).open(path)?;
    platform::owner_only(&file)?;
    Ok(file)
}

/// Writes a temporary file in the same folder, syncs it, and renames it: readers see the old file
/// or the new one, never a part.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = File::create(&partial)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        for (path, found) in [(pipe.as_path(), "a pipe"), (folder.path(), "a folder")] {
            let error = read(path, 10).expect_err("refused").to_string();
            assert!(error.contains(found), "{error}");
        }
        let file = folder.path().join("file");
        std::fs::write(&file, "0123456789").expect("written");
        assert_eq!(read_text(&file, 10).expect("text"), "0123456789");
        assert!(read(&file, 9).is_err());
        assert!(read(Path::new("/dev/zero"), 9).is_err());
    }
}
