//! A quantity with its credible interval.

/// 95 % quantile of the standard normal distribution: half width of a 90 % interval, in standard
/// deviations.
pub(crate) const NORMAL_HALF_WIDTH: f64 = 1.645;
/// Draws of the embedding's posterior over which quantities are estimated: each costs two runs of
/// the network in every refresh.
pub(super) const DRAWS: usize = 8;
/// Student's t, `DRAWS - 1` degrees of freedom: half width of a 90 % interval over [`DRAWS`].
const T_HALF_WIDTH: f64 = 1.895;

/// A quantity with its 90 % credible interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Estimate {
    /// Posterior mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// Mean, and interval by Student's t, over draws.
    pub(super) fn over(values: &[f64]) -> Self {
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let half = T_HALF_WIDTH * (square / (n - 1.0).max(1.0)).sqrt();
        Self { mean, low: mean - half, high: mean + half }
    }
}
