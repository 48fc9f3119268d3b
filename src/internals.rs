//! What the tests, benches and fuzz targets of this repository need of the rooms, and nothing else.
//!
//! No stable interface: the library is the binary's. What is neither listed here nor used is dead
//! code, which the compiler finds.

pub mod api {
    pub use crate::api::zeromq::{Frames, Side, take};
}
pub mod bus {
    pub use crate::bus::{
        Condition, Conditions, Intake, ModelChoice, ModelSource, Outcome, Parts, Plan, Registry,
        SelfCalibration, SessionHandle, tap,
    };
}
pub mod checkpoint {
    pub use crate::checkpoint::{
        Checkpoint, DynamicsScore, builtin, builtin_edge, builtin_recogniser, from_bytes, load,
        save, sha256_hex,
    };
}
pub mod clock {
    pub use crate::clock::Received;
}
pub mod config {
    pub use crate::config::{parse, parse_session};
}
pub mod dynamics {
    pub use crate::dynamics::{StatePosterior, spectrum, spectrum_interval};
}
pub mod edge {
    pub use crate::edge::{DrivenExponent, EdgeMeter, EdgeReading, Estimator};
}
pub mod inference {
    pub use crate::inference::{Adaptation, Estimate, FilterBank, Stage, Tape};
}
pub mod intake {
    pub use crate::intake::{
        Assembly, AssemblySettings, LossAccounting, Outlet, Port, PortSettings, Status,
    };
}
pub mod journal {
    pub use crate::journal::{
        Journal, Reading, Recovery, Settings, Snapshot, Sync, WhenDiskFails, format, read,
    };
}
pub mod model {
    pub use crate::model::{
        AveragesHead, Component, Dimensions, Experts, Hypernetwork, Model, Network, OnlineSettings,
        Pool, RateStates, Readout, RecurrentHead, RegimePrior,
    };
}
pub mod recogniser {
    pub use crate::recogniser::{
        BIN_S, Judged, Recognised, Recogniser, calibration_error, share_right,
    };
}
pub mod recording {
    pub use crate::recording::{
        Array, Counts, DynamicsTruth, Recording, SpikeSettings, Spool, Trial, Values, in_bins,
        read, read_from, read_nwb, read_nwb_from, write,
    };
}
pub mod regime {
    pub use crate::regime::{ChangeScore, DecisionRule, Engine, Label, Score};
}
pub mod rigs {
    pub mod blackrock {
        pub use crate::rigs::blackrock::{Protocol, Reader, Settings};
    }
    pub mod brand {
        pub use crate::rigs::brand::{Dtype, Reader, Settings, Syncs};
    }
    pub mod intan {
        pub use crate::rigs::intan::{Reader, Settings};
    }
    pub mod open_ephys {
        pub use crate::rigs::open_ephys::{Reader, Settings};
    }
}
pub mod teacher {
    pub use crate::teacher::{Animal, AnimalSettings, Dwell, REGIME_NAMES, Regime, Simulation};
}
pub mod telemetry {
    pub use crate::telemetry::{Kind, declared};
}
pub mod training {
    pub use crate::training::{
        Dataset, Gathering, Member, OwnLessons, Regimes, Trainer, TrainingSettings, calibrate,
        calibrate_animal, dispersion, finish, recalibrate, recognise,
    };
}
pub mod wire {
    pub use crate::wire::*;
}
