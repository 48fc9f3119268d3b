//! Pretraining and calibration: the one-step predictive likelihood of the filter that serves, and
//! open-loop forecasts, maximised with candle's autograd around a hand-derived adjoint of the filter.

mod adam;
mod calibration;
mod data;
mod error;
mod filter;
mod finish;
mod held_out;
mod metric_head;
mod objective;
mod pretraining;
mod readout;
mod recalibration;
mod settings;
mod trainer;
mod windows;

pub use calibration::{Calibration, calibrate};
pub use data::{Dataset, DatasetError, Gathering, HeldOut, SessionShape};
pub use error::FinishError;
pub use finish::{Finished, finish};
pub use held_out::dispersion;
pub use metric_head::fit_metric_head;
pub use pretraining::{Pretraining, Validation};
pub use recalibration::{RECALIBRATION_ROUNDS, Recalibration, recalibrate};
pub use settings::TrainingSettings;
pub use trainer::{StepReport, Trainer};
