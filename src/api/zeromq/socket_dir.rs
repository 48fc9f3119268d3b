//! A private folder for the sockets behind the gates. What a daemon that was killed has left is
//! found and removed by the next.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::platform;
use crate::platform::PRIVATE_FOLDER;

/// Begin of the folders' names; the process's number follows.
const PREFIX: &str = "regimed-";

/// A folder that only this user can enter, removed at the end.
#[derive(Debug)]
pub(crate) struct PrivateSocketDir {
    folder: PathBuf,
    /// Locked while the folder is in use, which tells the next daemon not to remove it.
    _lock: File,
}

impl PrivateSocketDir {
    /// A new folder; removes folders of daemons that no longer run.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn new() -> io::Result<Self> {
        Self::within(&std::env::temp_dir())
    }

    fn within(parent: &Path) -> io::Result<Self> {
        for attempt in 0..100 {
            let nanos = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| d.subsec_nanos());
            let name = format!("{PREFIX}{}-{nanos}-{attempt}", std::process::id());
            let folder = parent.join(name);
            match platform::new_folder(&folder, PRIVATE_FOLDER) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            // A daemon that starts at the same time may have taken it for one that is left.
            let Ok(lock) = File::open(&folder) else { continue };
            if lock.try_lock().is_err() || fs::metadata(&folder).is_err() {
                continue;
            }
            remove_left(parent, &folder);
            return Ok(Self { folder, _lock: lock });
        }
        Err(io::Error::other("no name was free for a private folder"))
    }

    /// Path of a socket in it.
    #[must_use]
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for PrivateSocketDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Removes folders of this user's that no daemon holds.
fn remove_left(parent: &Path, own: &Path) {
    let Ok(us) = fs::metadata(own).map(|m| platform::owner(&m).0) else { return };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if path == own || !is_left(&path, us) {
            continue;
        }
        match fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(folder = %path.display(), "a folder that was left is removed"),
            Err(e) => tracing::debug!(folder = %path.display(), "a folder stays: {e}"),
        }
    }
}

/// Whether a folder is one of ours whose daemon no longer runs.
fn is_left(path: &Path, us: u32) -> bool {
    let numbers = path.file_name().and_then(OsStr::to_str).and_then(|n| n.strip_prefix(PREFIX));
    let Some(numbers) = numbers.filter(|n| n.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
    else {
        return false;
    };
    let ours = fs::symlink_metadata(path)
        .is_ok_and(|m| m.is_dir() && platform::owner(&m) == (us, PRIVATE_FOLDER));
    // Folders of earlier versions, which did not lock them, are known by their process number.
    let process = numbers.split('-').next().and_then(|p| p.parse::<i32>().ok());
    let lives = process.is_some_and(|p| {
        let own = u32::try_from(p).is_ok_and(|p| p == std::process::id());
        !own && platform::process_lives(p)
    });
    ours && !lives && File::open(path).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_daemons_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().expect("a folder");
        let make = |name: &str, mode: u32| {
            let path = parent.path().join(name);
            platform::new_folder(&path, mode).expect("made");
            fs::write(path.join("pull"), "").expect("written");
            path
        };
        // No process has this number.
        let left = make("regimed-2147483646-1-0", 0o700);
        let others = ["regimed-backup", "regimed-1-x", "another"].map(|name| make(name, 0o700));
        let open = make("regimed-2147483646-2-0", 0o755);
        let lives = make(&format!("regimed-{}-3-0", std::os::unix::process::parent_id()), 0o700);
        let first = PrivateSocketDir::within(parent.path()).expect("made");
        let second = PrivateSocketDir::within(parent.path()).expect("made");
        assert!(!left.exists());
        for path in others.iter().chain([&open, &lives, &first.folder, &second.folder]) {
            assert!(path.exists(), "{}", path.display());
        }
        let (folder, lock) = (first.folder.clone(), first._lock.try_clone().expect("a handle"));
        // As if the process were killed: nothing is removed, the lock is given back.
        std::mem::forget(first);
        lock.unlock().expect("unlocked");
        drop(PrivateSocketDir::within(parent.path()).expect("made"));
        assert!(!folder.exists());
        assert!(second.folder.exists());
    }
}
