//! What is held of a session: its handle with subscribers and events, and the registry of all
//! sessions.

mod annotations;
mod calibration;
mod conditions;
mod counts;
pub(crate) mod dynamics;
mod events;
mod handle;
mod handoff;
mod intake;
mod outcome;
mod plan;
pub(crate) mod recorder;
mod registry;
mod resumed;
mod subscription;
mod triggers;
mod wording;

pub(crate) use calibration::{Calibration, CalibrationState};
pub use conditions::{Condition, Conditions};
pub use counts::tap;
pub(crate) use counts::{CountsReader, CountsTap};
pub(crate) use events::{EventsError, Numbered};
pub use handle::{Parts, SessionHandle};
pub(crate) use handle::{Seek, Tasks};
pub use intake::Intake;
pub use outcome::Outcome;
#[cfg(feature = "lsl")]
pub(crate) use plan::SessionFacts;
pub use plan::{ModelChoice, ModelSource, Plan, SelfCalibration};
pub use registry::Registry;
pub(crate) use registry::{Ending, Reservation, Stranger};
pub(crate) use resumed::{NewestEvent, Resumed};
pub(crate) use subscription::{Subscription, Update};
pub(crate) use triggers::{TriggerState, can_wait_for};
pub(crate) use wording::Wording;
