//! State of a session's self-calibration.

/// State of a session's self-calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CalibrationState {
    /// Its readout is part of its model.
    #[default]
    Given,
    /// It gathers counts.
    Gathering,
    /// Its readout is fitted.
    Fitting,
    /// Calibrated: the session reads with its own readout.
    Done,
    /// The same, but without regimes that are sure: labels are not to be trusted.
    NotTrusted,
    /// It could not be calibrated.
    Failed,
}

impl CalibrationState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Given, Self::Gathering, Self::Fitting, Self::Done, Self::NotTrusted, Self::Failed];

    /// State of a session that reads with its own readout.
    #[must_use]
    pub(crate) fn of_result(trusted: bool) -> Self {
        if trusted { Self::Done } else { Self::NotTrusted }
    }

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Gathering => "gathering",
            Self::Fitting => "fitting",
            Self::Done => "done",
            Self::NotTrusted => "not_trusted",
            Self::Failed => "failed",
        }
    }
}

/// A session's own calibration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    pub state: CalibrationState,
    /// Seconds of counts gathered so far.
    pub seconds_seen: f64,
    /// Seconds that it gathers.
    pub seconds_needed: f64,
    /// Why it failed, or is not to be trusted.
    pub problem: Option<String>,
}
