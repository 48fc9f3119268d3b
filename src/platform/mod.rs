//! What the operating system is asked for beyond Rust's own library: everything that is another
//! call elsewhere stands here, behind this one interface. A port changes these files alone.
//!
//! | what | on Linux |
//! |---|---|
//! | the clock that rigs stamp by | `CLOCK_MONOTONIC` |
//! | which threads run first, and where | `SCHED_IDLE`, `SCHED_RR`, `sched_setaffinity` |
//! | limits, room on a disk | `getrlimit`, `statvfs` |
//! | files of this user alone, reading and writing at a place | modes, `pread`, `pwrite` |
//! | sockets in the file system | Unix sockets |
//! | being told to end, or to read files again | signals |
//! | telling the system's supervisor | `sd_notify` |

mod files;
mod machine;
mod signals;
mod sockets;
mod threads;

pub(crate) use files::{
    PRIVATE_FOLDER, kind, make_folder, new_folder, own_options, owner, owner_only, read_at,
    write_at,
};
pub(crate) use machine::{
    monotonic_ns, open_files_max, process_lives, raise_open_files, realtime_max, room,
};
pub(crate) use signals::Signals;
pub(crate) use sockets::{LocalListener, LocalStream, Notifier, bind_local};
pub(crate) use threads::{Placement, aside, give_way, note_home};
