//! How well regimes were told.

/// Bins after a change until a regime is to be told.
pub(super) const SETTLED: usize = 75;
/// Ranges of probability that calibration is judged in.
const JUDGED_IN: usize = 10;

/// How well an animal's regimes were told.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Score {
    /// Most probable regime's probability, and whether it was right, bin by bin.
    pub(crate) bins: Vec<(f32, bool)>,
    /// Whether it was right in bins that lie [`SETTLED`] or more after a change.
    pub(crate) settled: Vec<bool>,
    /// Different regimes that occurred.
    pub(crate) regimes: usize,
}

/// Of a recogniser, on animals that it did not learn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Sessions that were left out in turn.
    pub sessions: usize,
    /// Share of their labelled time in which the most probable regime was the label, mean over
    /// sessions.
    pub right: f64,
    /// How far its probabilities are off: [`calibration_error`].
    pub off: f64,
}

impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "right in {:.0} % of the labelled time of sessions that were left out ({} in turn), \
             probabilities off by {:.2}",
            100.0 * self.right,
            self.sessions,
            self.off
        )
    }
}

/// Share of the bins that are right.
#[must_use]
pub fn share_right(bins: &[(f32, bool)]) -> f64 {
    bins.iter().filter(|b| b.1).count() as f64 / bins.len().max(1) as f64
}

/// Mean distance between what is said, the most probable regime's probability, and what is, over
/// tenths of probability (expected calibration error; Naeini et al. 2015).
#[must_use]
pub fn calibration_error(bins: &[(f32, bool)]) -> f64 {
    let (mut said, mut is) = ([0.0f64; JUDGED_IN], [0.0f64; JUDGED_IN]);
    for (p, right) in bins {
        let at = ((p * JUDGED_IN as f32) as usize).min(JUDGED_IN - 1);
        said[at] += f64::from(*p);
        is[at] += f64::from(u8::from(*right));
    }
    let off: f64 = said.iter().zip(is).map(|(s, i)| (s - i).abs()).sum();
    off / bins.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_is_off_by_what_is_said_too_much() {
        // In the tenth at .9: 3 of 4 right; in that at .5: 1 of 2.
        let bins =
            [(0.95, true), (0.95, true), (0.95, true), (0.95, false), (0.5, true), (0.5, false)];
        assert!((calibration_error(&bins) - 4.0 * 0.2 / 6.0).abs() < 1e-6);
        assert!((share_right(&bins) - 4.0 / 6.0).abs() < 1e-9);
        assert!(calibration_error(&[]).abs() < 1e-9 && share_right(&[]).abs() < 1e-9);
    }
}
