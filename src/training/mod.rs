//! Pretraining and calibration: the one-step predictive likelihood of the filter that serves, and
//! open-loop forecasts, maximised with candle's autograd around a hand-derived adjoint of the
//! filter.

mod adam;
mod batch;
mod block;
mod calibration;
mod data;
mod decide;
mod error;
mod experts;
mod filter;
mod finish;
mod folds;
mod guard;
mod held_out;
mod known;
mod member;
mod objective;
mod onsets;
mod own_regimes;
mod pool;
mod pretraining;
mod prior;
mod readout;
mod recalibration;
mod recognised;
mod runs;
mod settings;
mod splice;
mod split;
mod threads;
mod trainer;
mod wide;
mod windows;

pub use calibration::calibrate;
pub use data::Dataset;
pub(crate) use experts::{SessionExperts, fit_experts};
pub(crate) use finish::Finished;
pub use finish::finish;
pub(crate) use folds::Folds;
pub use folds::Gathering;
pub use held_out::dispersion;
pub use member::Member;
pub use own_regimes::OwnLessons;
pub(crate) use pretraining::Pretraining;
pub(crate) use recalibration::RECALIBRATION_ROUNDS;
pub use recalibration::recalibrate;
pub(crate) use recognised::{AGREEMENT_MIN, Unrecognised, still_agrees};
pub use recognised::{Regimes, calibrate_animal, recognise};
pub(crate) use settings::KeptBy;
pub use settings::TrainingSettings;
pub use trainer::Trainer;
