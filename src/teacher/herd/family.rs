//! Families of animals.

/// Width of the bins, seconds.
pub(crate) const BIN_S: f64 = 0.02;

/// What an animal's regimes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Rate networks with orthonormal low-rank structure (Mastrogiuseppe & Ostojic 2018).
    Orthonormal,
    /// Rate networks with normal low-rank structure, turned from task to task, and inputs: as
    /// [`crate::teacher::Animal`], with everything drawn.
    Turned,
    /// Populations: bumps of local excitation and patterns that exclude each other (Ben-Yishai et
    /// al. 1995; Hopfield 1984).
    Populations,
    /// Stochastic normal forms of the regimes, and chaos of a network behind them.
    NormalForms,
}

impl Family {
    pub(crate) const ALL: [Self; 4] =
        [Self::Orthonormal, Self::Turned, Self::Populations, Self::NormalForms];

    /// Its name in tables.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Orthonormal => "orthonormal",
            Self::Turned => "turned",
            Self::Populations => "populations",
            Self::NormalForms => "normal_forms",
        }
    }
}
