//! Pretraining and calibration: the one-step predictive likelihood of the filter that serves, and
//! open-loop forecasts, maximised with candle's autograd around a hand-derived adjoint of the
//! filter.

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
mod prior;
mod readout;
mod recalibration;
mod runs;
mod settings;
mod split;
mod trainer;
mod windows;

pub use calibration::calibrate;
pub use data::{Dataset, Gathering};
pub(crate) use finish::Finished;
pub use finish::finish;
pub use held_out::dispersion;
pub(crate) use metric_head::fit_metric_head;
pub(crate) use pretraining::Pretraining;
pub(crate) use recalibration::RECALIBRATION_ROUNDS;
pub use recalibration::recalibrate;
pub(crate) use settings::KeptBy;
pub use settings::TrainingSettings;
pub use trainer::Trainer;
