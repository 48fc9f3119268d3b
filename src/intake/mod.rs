//! The way in: checked bins on their way to a session's thread.
//!
//! Whole bins go to a session's [`Port`], as messages ([`offer`]) or as a rig's source has checked
//! them; spike events, and bins of which several publishers send parts, go to its [`Assembly`],
//! which makes bins of them.

mod accounts;
mod assembly;
mod assembly_settings;
mod binner;
mod bins;
mod contact;
mod doorbell;
mod message;
mod port;
mod refusal;
mod rig_clock;
mod ring;
mod sequence;
mod spikes;
mod status;
mod ticks;

pub use assembly::Assembly;
pub use assembly_settings::AssemblySettings;
pub(crate) use binner::FEEDS_MAX;
pub use bins::PortSettings;
pub(crate) use bins::{BinCounts, Bins, MASKED};
pub(crate) use doorbell::Answer;
pub(crate) use message::offer;
pub use port::Port;
pub(crate) use refusal::reason_name;
pub(crate) use refusal::{Accepted, Refusal};
pub use ring::Outlet;
pub(crate) use ring::{Header, Kind};
pub(crate) use spikes::{Event, SpikesTaken};
pub(crate) use status::Seen;
pub use status::{LossAccounting, Status};
pub(crate) use ticks::{Place, Ticks};
