//! Decisions and events out.

mod bus;
pub mod dynamics;
pub mod grpc;
mod outcome;
pub mod web;
pub mod zeromq;

pub use bus::{
    Bus, Calibration, CalibrationState, EventsError, SessionBus, SessionFacts, Subscription, Update,
};
pub use outcome::{Outcome, Wording};
