//! Decisions and events out.

pub mod brand;
mod bus;
mod conditions;
pub mod counts;
pub mod dynamics;
pub mod grpc;
#[cfg(feature = "lsl")]
pub mod lsl;
pub mod network_events;
mod outcome;
pub mod page;
pub mod recorder;
pub mod redis;
mod resumed;
mod subscription;
pub mod web;
pub mod zeromq;

pub use bus::{
    Bus, Calibration, CalibrationState, EventsError, NewestEvent, SessionBus, SessionFacts, Vitals,
    unknown,
};
pub use conditions::{Condition, Conditions, Holding};
pub use outcome::{Outcome, Wording};
pub use subscription::{Subscription, Update};
