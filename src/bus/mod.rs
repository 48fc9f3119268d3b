//! What is held of a session, for whoever asks: its handle with its subscribers and events, and the registry of all.

mod calibration;
mod conditions;
mod counts;
pub mod dynamics;
mod events;
mod handle;
mod handoff;
mod intake;
mod outcome;
mod plan;
pub mod recorder;
mod registry;
mod resumed;
mod subscription;
mod wording;

pub use calibration::{Calibration, CalibrationState};
pub use conditions::{Condition, Conditions, Holding};
pub use counts::{CountsReader, CountsTap, tap};
pub use events::{EventLog, EventsError, Numbered};
pub use handle::{Parts, Seek, SessionHandle, Swap, SwapError, Tasks, Vitals};
pub use intake::Intake;
pub use outcome::Outcome;
pub use plan::{ModelChoice, ModelSource, Plan, PlanError, SelfCalibration, SessionFacts};
pub use registry::{Ending, NameError, Registry, Reservation};
pub use resumed::{NewestEvent, Resumed};
pub use subscription::{Subscription, Update};
pub use wording::Wording;
