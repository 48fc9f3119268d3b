//! The kind of dynamics that the invariants alone show, independent of the learned label.

use super::estimate::Estimate;

/// An exponent within this of 0 is taken for 0, 1/s: the resolution of runs of about ten seconds.
pub(crate) const ZERO_WITHIN_PER_S: f64 = 0.25;

/// Dynamical signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Signature {
    /// One stable fixed point, all exponents below 0.
    Stable,
    /// Two or more stable fixed points.
    Multistable,
    /// Largest exponent 0 with slow points: a line or ring.
    Marginal,
    /// Exponents 0, -, -, ...: a limit cycle.
    Oscillatory,
    /// Exponents 0, 0, -, ...: a torus.
    QuasiPeriodic,
    /// Largest exponent above 0, noise-free and along a noisy path.
    Chaotic,
    /// None of these with certainty.
    #[default]
    Undetermined,
}

impl Signature {
    /// All of them, in the order of the API's numbers.
    pub(crate) const ALL: [Self; 7] = [
        Self::Undetermined,
        Self::Stable,
        Self::Multistable,
        Self::Marginal,
        Self::Oscillatory,
        Self::QuasiPeriodic,
        Self::Chaotic,
    ];

    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Multistable => "multistable",
            Self::Marginal => "marginal",
            Self::Oscillatory => "oscillatory",
            Self::QuasiPeriodic => "quasi-periodic",
            Self::Chaotic => "chaotic",
            Self::Undetermined => "undetermined",
        }
    }
}

/// What a signature is read from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signs {
    /// The three largest exponents without noise, 1/s; fewer where the rank is lower.
    pub(super) noise_free: [Option<Estimate>; 3],
    /// The largest along a noisy path, 1/s.
    pub(super) driven: Estimate,
    /// Stable fixed points.
    pub(super) stable_points: usize,
    /// Slow points: not fixed, or hardly attracting.
    pub(super) slow_points: usize,
    /// Whether the noise-free run oscillates.
    pub(super) oscillates: bool,
}

/// The signature that the signs show.
pub(super) fn signature(of: &Signs) -> Signature {
    let [Some(first), second, third] = of.noise_free else { return Signature::Undetermined };
    let zero = |e: Estimate| e.low <= ZERO_WITHIN_PER_S && e.high >= -ZERO_WITHIN_PER_S;
    let below = |e: Option<Estimate>| e.is_none_or(|e| e.mean < -ZERO_WITHIN_PER_S);
    if first.low > 0.0 && first.mean > ZERO_WITHIN_PER_S && of.driven.low > 0.0 {
        return Signature::Chaotic;
    }
    let settles = first.mean < -ZERO_WITHIN_PER_S;
    if settles && of.slow_points == 0 && of.stable_points > 1 {
        return Signature::Multistable;
    }
    if first.high < 0.0 && settles && of.slow_points == 0 && of.stable_points == 1 {
        return Signature::Stable;
    }
    if of.oscillates && of.stable_points == 0 && zero(first) {
        return match second {
            Some(e) if zero(e) && e.mean.abs() < ZERO_WITHIN_PER_S && below(third) => {
                Signature::QuasiPeriodic
            }
            e if below(e) => Signature::Oscillatory,
            _ => Signature::Undetermined,
        };
    }
    if of.slow_points > 0 && zero(first) {
        return Signature::Marginal;
    }
    Signature::Undetermined
}
