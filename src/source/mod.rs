//! Counts in: bytes to checked bins in a session's ring.

pub mod gate;
pub mod grpc;
mod intake;
pub mod zeromq;

pub use intake::{
    Accepted, Header, Intake, Kind, MASKED, Outlet, Port, PortSettings, Received, Refusal,
};
