//! How right a stream of posteriors was, against labels.

use serde::{Deserialize, Serialize};

use super::decision::Change;

/// Accumulates one or many streams' posteriors against their labels.
#[derive(Debug, Clone)]
pub struct Score {
    bin_width_s: f64,
    /// `[truth, label]` over labelled bins.
    confusion: Vec<u64>,
    n_regimes: usize,
    /// Bins since the truth last changed, as `(right, all)`, up to [`LAG_MAX_S`].
    by_lag: Vec<(u64, u64)>,
    /// Truth of the bin before and bins since it began.
    running: Option<(usize, usize)>,
    negative_log_likelihood: f64,
    /// By the largest posterior probability: bins, sum of that probability, bins right.
    reliability: [(u64, f64, u64); RELIABILITY_BINS],
}

/// Classes of the largest posterior probability, of equal width between 0 and 1.
const RELIABILITY_BINS: usize = 20;

/// How a labelled bin was scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scored {
    /// Whether the most probable regime was the true one.
    pub right: bool,
    /// Bins since the truth began or changed.
    pub lag: usize,
    /// Negative log posterior of the true label, nats.
    pub loss: f64,
}

/// How a bin's label in force followed the truth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    /// The truth changed from one label to another.
    pub changed: bool,
    /// The newest change's label came into force.
    pub found: bool,
    /// A label came into force and was wrong.
    pub is_false: bool,
}

/// Longest lag after a change that is kept, seconds.
const LAG_MAX_S: f64 = 10.0;

/// A score in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Labelled bins scored.
    pub n_bins: u64,
    /// Fraction of labelled bins with the right label on top.
    pub accuracy: f64,
    /// Mean over regimes of the fraction right.
    pub balanced_accuracy: f64,
    /// Fraction right in the bin 0.5 s after a stream's start or a change; absent where none is.
    pub accuracy_after_500ms: Option<f64>,
    /// The same after 1 s.
    pub accuracy_after_1s: Option<f64>,
    /// The same after 2 s.
    pub accuracy_after_2s: Option<f64>,
    /// Mean negative log posterior of the true label, nats.
    pub log_loss: f64,
    /// Expected calibration error: mean over bins of |accuracy - confidence|, in 20 classes of the
    /// largest probability (Guo et al. 2017).
    pub calibration_error: f64,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let after = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
        write!(
            f,
            "accuracy {:.3} (balanced {:.3}) over {} bins; after 0.5 s {}, 1 s {}, 2 s {}; log \
             loss {:.3}",
            self.accuracy,
            self.balanced_accuracy,
            self.n_bins,
            after(self.accuracy_after_500ms),
            after(self.accuracy_after_1s),
            after(self.accuracy_after_2s),
            self.log_loss
        )
    }
}

impl Score {
    /// Nothing scored yet.
    #[must_use]
    pub fn new(n_regimes: usize, bin_width_s: f64) -> Self {
        let lags = (LAG_MAX_S / bin_width_s).ceil() as usize + 1;
        Self {
            bin_width_s,
            confusion: vec![0; n_regimes * n_regimes],
            n_regimes,
            by_lag: vec![(0, 0); lags],
            running: None,
            negative_log_likelihood: 0.0,
            reliability: [(0, 0.0, 0); RELIABILITY_BINS],
        }
    }

    /// A new stream begins.
    pub(crate) fn start_stream(&mut self) {
        self.running = None;
    }

    /// The next bin.
    pub fn push(&mut self, truth: Option<usize>, posterior: &[f32]) {
        self.scored(truth, posterior);
    }

    /// The same, and how it was scored where it has a label.
    pub(crate) fn scored(&mut self, truth: Option<usize>, posterior: &[f32]) -> Option<Scored> {
        let Some(truth) = truth else {
            // When the next label began is not known: its lag is counted from where it is seen.
            self.running = None;
            return None;
        };
        let most_probable = (0..posterior.len())
            .max_by(|&a, &b| posterior[a].total_cmp(&posterior[b]))
            .unwrap_or(0);
        let lag = match self.running {
            Some((before, lag)) if before == truth => lag + 1,
            _ => 0,
        };
        self.running = Some((truth, lag));
        let is_right = most_probable == truth;
        if let Some((right, all)) = self.by_lag.get_mut(lag) {
            *right += u64::from(is_right);
            *all += 1;
        }
        self.confusion[truth * self.n_regimes + most_probable] += 1;
        // One sure error must not make the mean infinite.
        let loss = -f64::from(posterior[truth].max(1e-12)).ln();
        self.negative_log_likelihood += loss;
        let largest = f64::from(posterior[most_probable]);
        let class = (largest * RELIABILITY_BINS as f64) as usize;
        let (bins, sum, right) = &mut self.reliability[class.min(RELIABILITY_BINS - 1)];
        *bins += 1;
        *sum += largest;
        *right += u64::from(is_right);
        Some(Scored { right: is_right, lag, loss })
    }

    /// `(mean largest probability, fraction right, bins)` of each class of probabilities that
    /// occurred.
    #[must_use]
    pub(crate) fn reliability(&self) -> Vec<(f64, f64, u64)> {
        let row = |&(bins, sum, right): &(u64, f64, u64)| {
            (bins > 0).then(|| (sum / bins as f64, right as f64 / bins as f64, bins))
        };
        self.reliability.iter().filter_map(row).collect()
    }

    /// `[truth, label]` counts of bins.
    #[must_use]
    pub fn confusion(&self) -> &[u64] {
        &self.confusion
    }

    /// Fraction right in the last bin of the first `seconds` after a start or change.
    #[must_use]
    pub(crate) fn accuracy_after(&self, seconds: f64) -> Option<f64> {
        let bin = ((seconds / self.bin_width_s).round() as usize).max(1) - 1;
        let (right, all) = *self.by_lag.get(bin)?;
        (all > 0).then(|| right as f64 / all as f64)
    }

    /// The score in numbers.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let rows: Vec<&[u64]> = self.confusion.chunks_exact(self.n_regimes).collect();
        let n_bins: u64 = self.confusion.iter().sum();
        let right: u64 = rows.iter().enumerate().map(|(r, row)| row[r]).sum();
        let recalls: Vec<f64> = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.iter().sum::<u64>() > 0)
            .map(|(r, row)| row[r] as f64 / row.iter().sum::<u64>() as f64)
            .collect();
        let n = n_bins.max(1) as f64;
        Verdict {
            n_bins,
            accuracy: right as f64 / n,
            balanced_accuracy: recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
            accuracy_after_500ms: self.accuracy_after(0.5),
            accuracy_after_1s: self.accuracy_after(1.0),
            accuracy_after_2s: self.accuracy_after(2.0),
            log_loss: self.negative_log_likelihood / n,
            calibration_error: self
                .reliability()
                .iter()
                .map(|(stated, right, bins)| (stated - right).abs() * *bins as f64 / n)
                .sum(),
        }
    }
}

/// How labels in force followed the true changes.
#[derive(Debug, Clone, Default)]
pub struct ChangeScore {
    truth: Option<usize>,
    label: Option<usize>,
    /// A true change not yet found: new label, bins since.
    pending: Option<(usize, u64)>,
    delays_bins: Vec<u64>,
    missed: u64,
    false_changes: u64,
    labelled_bins: u64,
    /// Of the changes found: errors of their onsets in bins, and how many intervals hold the truth.
    onset_errors_bins: Vec<u64>,
    onsets_covered: u64,
}

/// A [`ChangeScore`] in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeVerdict {
    /// True changes from one label to another.
    pub changes: u64,
    /// Changes whose new label was in force before the next change.
    pub found: u64,
    /// Median time from a change to its label in force, seconds; absent where none was found.
    pub median_delay_s: Option<f64>,
    /// 90th percentile of the same.
    pub p90_delay_s: Option<f64>,
    /// Median distance of the reported onset from the true one, seconds, over changes found.
    pub median_onset_error_s: Option<f64>,
    /// Fraction of the onsets' 90 % intervals that hold the true onset.
    pub onset_coverage: Option<f64>,
    /// Labelled recording, minutes.
    pub minutes: f64,
    /// Labels that came into force and were wrong, per minute of it.
    pub false_changes_per_minute: f64,
}

impl ChangeScore {
    /// A new stream begins.
    pub(crate) fn start_stream(&mut self) {
        self.settle();
        self.truth = None;
        self.label = None;
    }

    fn settle(&mut self) {
        self.missed += u64::from(self.pending.take().is_some());
    }

    /// The next bin: truth, the label in force (`None`: none, or `unknown`), and the change to it,
    /// if it was decided here.
    pub fn push(&mut self, truth: Option<usize>, label: Option<usize>, change: Option<&Change>) {
        self.followed(truth, label, change);
    }

    /// The same, and how the label followed.
    pub(crate) fn followed(
        &mut self,
        truth: Option<usize>,
        label: Option<usize>,
        change: Option<&Change>,
    ) -> Followed {
        let mut followed = Followed::default();
        if let (Some(before), Some(now)) = (self.truth, truth)
            && before != now
        {
            self.settle();
            self.pending = Some((now, 0));
            followed.changed = true;
        }
        // A change whose label ends unfound is missed.
        if truth.is_none() {
            self.settle();
        }
        self.truth = truth;
        if let Some((to, bins)) = &mut self.pending {
            *bins += 1;
            if label == Some(*to) {
                self.delays_bins.push(*bins);
                followed.found = true;
                if let Some(change) = change {
                    let true_onset = (change.bin + 1).saturating_sub(*bins);
                    let onset = change.onset;
                    let covered = (onset.low_bin..=onset.high_bin).contains(&true_onset);
                    self.onsets_covered += u64::from(covered);
                    self.onset_errors_bins.push(onset.bin.abs_diff(true_onset));
                }
                self.pending = None;
            }
        }
        self.labelled_bins += u64::from(truth.is_some());
        let changed = label.is_some() && label != self.label;
        followed.is_false = changed && truth.is_some() && label != truth;
        self.false_changes += u64::from(followed.is_false);
        self.label = label;
        followed
    }

    /// The score in numbers.
    #[must_use]
    pub fn verdict(&self, bin_width_s: f64) -> ChangeVerdict {
        let sorted = |bins: &[u64]| {
            let mut bins = bins.to_vec();
            bins.sort_unstable();
            bins
        };
        let seconds = |sorted: &[u64], q| quantile(sorted, q).map(|bins| bins as f64 * bin_width_s);
        let delays = sorted(&self.delays_bins);
        let errors = sorted(&self.onset_errors_bins);
        let found = delays.len() as u64;
        let open = u64::from(self.pending.is_some());
        let minutes = self.labelled_bins as f64 * bin_width_s / 60.0;
        ChangeVerdict {
            changes: found + self.missed + open,
            found,
            median_delay_s: seconds(&delays, 0.5),
            p90_delay_s: seconds(&delays, 0.9),
            median_onset_error_s: seconds(&errors, 0.5),
            onset_coverage: (!errors.is_empty())
                .then(|| self.onsets_covered as f64 / errors.len() as f64),
            minutes,
            false_changes_per_minute: self.false_changes as f64 / minutes.max(1e-12),
        }
    }
}

/// The value at a share `q` of sorted ones, the nearest of them; `None` where there is none.
#[must_use]
pub(crate) fn quantile<T: Copy>(sorted: &[T], q: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((q * last as f64).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::super::Label;
    use super::super::onset::Onset;
    use super::*;

    #[test]
    fn lags_restart_at_changes_and_unlabelled_bins_are_skipped() {
        let mut score = Score::new(2, 0.25);
        score.start_stream();
        let (a, b) = ([0.9, 0.1], [0.2, 0.8]);
        for (truth, posterior) in
            [(Some(0), a), (Some(0), a), (Some(1), a), (Some(1), b), (None, b), (Some(1), b)]
        {
            score.push(truth, &posterior);
        }
        let verdict = score.verdict();
        assert_eq!(verdict.n_bins, 5);
        assert!((verdict.accuracy - 0.8).abs() < 1e-12);
        // 0.9 is right once of twice; 0.8 is always right.
        let expected = (0.9f64 - 2.0 / 3.0) * 0.6 + (1.0 - 0.8) * 0.4;
        assert!((verdict.calibration_error - expected).abs() < 1e-6, "{verdict:?}");
        assert!((verdict.balanced_accuracy - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(score.accuracy_after(0.25), Some(2.0 / 3.0));
        assert_eq!(verdict.accuracy_after_500ms, Some(1.0));
        assert_eq!(verdict.accuracy_after_1s, None);
    }

    #[test]
    fn onsets_are_held_against_the_true_ones() {
        let mut score = ChangeScore::default();
        score.start_stream();
        for bin in 0..40u64 {
            // The truth changes in bins 10 and 30, the label in bins 14 and 33.
            let truth = usize::from((10..30).contains(&bin));
            let label = usize::from((14..33).contains(&bin));
            let onset = |bin| Onset { bin, low_bin: bin - 1, high_bin: bin + 1 };
            let change = [(14, 11), (33, 27)].iter().find(|c| c.0 == bin).map(|c| Change {
                from: None,
                to: Label::Regime(label),
                onset: onset(c.1),
                bin,
                probability: 0.9,
                from_probability: 0.1,
            });
            score.push(Some(truth), Some(label), change.as_ref());
        }
        let verdict = score.verdict(1.0);
        assert_eq!((verdict.changes, verdict.found), (2, 2));
        assert_eq!(verdict.onset_coverage, Some(0.5));
        assert_eq!(verdict.median_onset_error_s, Some(3.0));
    }

    #[test]
    fn changes_are_found_missed_or_false() {
        let mut score = ChangeScore::default();
        score.start_stream();
        let pairs = [
            (0, 0),
            (1, 0),
            (1, 1), // found in its second bin
            (1, 0), // a false change
            (1, 1),
            (0, 1), // never found before
            (1, 1), // this change, found at once
        ];
        for (truth, label) in pairs {
            score.push(Some(truth), Some(label), None);
        }
        let verdict = score.verdict(0.5);
        assert_eq!((verdict.changes, verdict.found), (3, 2));
        assert_eq!(verdict.median_delay_s, Some(1.0));
        let minutes = 7.0 * 0.5 / 60.0;
        assert!((verdict.false_changes_per_minute - 1.0 / minutes).abs() < 1e-9);
    }
}
