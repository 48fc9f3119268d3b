//! The clock, limits, the disk.

use std::io;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The clock that is never set, nanoseconds: on Linux the one that other programs stamp by too.
#[must_use]
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Open files that this process may have at most; `None`: no limit.
#[must_use]
pub(crate) fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Allows as many open files as the system does.
///
/// # Errors
/// The system's; the limit stays as it was.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(())
}

/// Highest real-time priority that this user may take: 0 is none; `None`: any.
#[must_use]
pub(crate) fn realtime_max() -> Option<u64> {
    getrlimit(Resource::Rtprio).maximum
}

/// Room on the disk of a folder, bytes.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn room(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether a process of this number runs.
#[must_use]
pub(crate) fn process_lives(number: i32) -> bool {
    Path::new("/proc").join(number.to_string()).exists()
}
