//! Counts in: bytes to checked bins in a session's ring.
//!
//! Whole bins go to a session's [`Port`]; spike events, and bins of which several publishers send parts, to its
//! [`Assembly`], which makes bins of them.

pub mod any_bytes;
mod assembly;
mod binner;
pub mod blackrock;
pub mod brand;
mod clock;
mod doorbell;
mod electrodes;
mod frames;
pub mod gate;
pub mod grpc;
mod intake;
pub mod intan;
#[cfg(feature = "lsl")]
pub mod lsl;
mod message;
pub mod open_ephys;
mod port;
pub mod redis;
pub mod replay;
pub mod socket_dir;
mod status;
mod subscriber;
mod ticks;
pub mod zeromq;

pub use assembly::{Assembly, AssemblySettings, Event, SpikesTaken};
pub use binner::FEEDS_MAX;
pub use clock::{Clock, Observed};
pub use doorbell::Answer;
pub use frames::Side;
pub use intake::{Entry, Intake};
pub use port::{
    Accepted, Bins, Header, Kind, MASKED, Outlet, Port, PortSettings, Received, Refusal, Totals,
};
pub use status::{Backoff, LossAccounting, Status};
