//! Levels at which intervals of onsets are read off, from changes on held-out streams.

use crate::model::{Model, ONSET_LEVELS};
use crate::regime::{DecisionRule, Label, Tracker};

/// Changes found from which levels are learned.
const CHANGES_MIN: usize = 20;
/// No interval ends where the onset's posterior has less than this, or all but this, before it.
const LEVEL_MIN: f64 = 1e-9;

/// What one session showed on its held-out streams.
pub(super) struct Shown<'a> {
    pub(super) truth: &'a [Option<usize>],
    /// The published posterior, `[bins, regimes]`.
    pub(super) posterior: &'a [f32],
    pub(super) unlabelled: &'a [f32],
    pub(super) novelty: &'a [f32],
}

/// Levels for which a share 0.05 of the true onsets lie before the interval and as many behind, at
/// changes that the rule finds (split conformal prediction, Vovk et al. 2005, of the posterior's
/// value at the true onset; Chernozhukov et al. 2021). The usual ones where few are found.
pub(super) fn fit_onset_levels(model: &Model, rule: DecisionRule, shown: &[Shown<'_>]) -> [f64; 3] {
    let mut at_onset: Vec<[f64; 2]> = Vec::new();
    for of in shown {
        let mut tracker = Tracker::new(model, rule);
        let posteriors = of.posterior.chunks_exact(model.regime_names.len());
        // The label since a change of the truth that is not found yet, and the bins since then.
        let mut pending: Option<(usize, usize)> = None;
        let mut before = None;
        for (t, (posterior, &truth)) in posteriors.zip(of.truth).enumerate() {
            pending = match (before, truth) {
                (Some(before), Some(now)) if before != now => Some((now, 0)),
                (_, Some(_)) => pending.map(|(to, bins)| (to, bins + 1)),
                (_, None) => None,
            };
            before = truth;
            let change = tracker.push(posterior, of.unlabelled[t], of.novelty[t]);
            let Some((to, bins)) = pending else { continue };
            if tracker.current() != Some(Label::Regime(to)) {
                continue;
            }
            pending = None;
            if change.is_some() {
                // Beyond the history, nothing is left.
                let mut held = tracker.held(to).skip(bins);
                at_onset.push(std::array::from_fn(|_| held.next().unwrap_or(0.0)));
            }
        }
    }
    if at_onset.len() < CHANGES_MIN {
        return ONSET_LEVELS;
    }
    // An interval holds the onset where the probability of having held since the onset reaches the
    // low level, and that of a bin longer does not exceed the high one.
    let sorted = |end: usize| {
        let mut values: Vec<f64> = at_onset.iter().map(|held| held[end]).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (since, longer) = (sorted(0), sorted(1));
    let middle = (since[since.len() / 2] + longer[longer.len() / 2]) / 2.0;
    // Of n changes and the next, each is as likely the farthest.
    let rank = ((ONSET_LEVELS[0] * (since.len() + 1) as f64) as usize).max(1);
    let low = since[rank - 1].max(LEVEL_MIN);
    let high = longer[longer.len() - rank].max(low);
    [low, middle.clamp(low, high), high]
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::regime::ChangeScore;

    /// Bins of two regimes that last 40 to 80, and a posterior that follows them late by up to
    /// `late` bins, in `steps` steps.
    fn played(late: usize, steps: usize, seed: u64) -> (Vec<Option<usize>>, Vec<f32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut truth, mut posterior) = (Vec::new(), Vec::new());
        for i in 0..400usize {
            let delay = rng.random_range(0..=late);
            for t in 0..rng.random_range(40..80usize) {
                truth.push(Some(i % 2));
                let known = (t + 1).saturating_sub(delay).min(steps) as f32 / steps as f32;
                let p = 0.02 + 0.96 * known;
                let of_second = if i % 2 == 1 { p } else { 1.0 - p };
                posterior.extend([1.0 - of_second, of_second]);
            }
        }
        (truth, posterior)
    }

    fn coverage(model: &Model, (truth, posterior): &(Vec<Option<usize>>, Vec<f32>)) -> f64 {
        let mut tracker = Tracker::new(model, rule(model));
        let mut score = ChangeScore::default();
        for (truth, p) in truth.iter().zip(posterior.chunks_exact(2)) {
            let change = tracker.push(p, 0.0, 0.0);
            score.push(*truth, tracker.current().and_then(Label::regime), change.as_ref());
        }
        score.verdict(model.bin_width_s).onset_coverage.expect("changes")
    }

    fn rule(model: &Model) -> DecisionRule {
        DecisionRule { dwell_bins: 1, ..DecisionRule::of(model, None) }
    }

    #[test]
    fn intervals_hold_nine_onsets_of_ten_however_wrong_posteriors_are() {
        for (late, steps) in [(25, 1), (12, 4), (20, 30)] {
            let mut model = crate::inference::example_model();
            let usual = coverage(&model, &played(late, steps, 2));
            let learned = played(late, steps, 1);
            let zeros = vec![0.0; learned.0.len()];
            let shown = Shown {
                truth: &learned.0,
                posterior: &learned.1,
                unlabelled: &zeros,
                novelty: &zeros,
            };
            model.online.onset_levels = fit_onset_levels(&model, rule(&model), &[shown]);
            let held = coverage(&model, &played(late, steps, 2));
            assert!((0.85..=0.96).contains(&held), "{late} {steps}: {held} for {usual}");
            assert!(!(0.85..=0.96).contains(&usual), "{late} {steps}: no need, {usual}");
        }
    }

    #[test]
    fn few_changes_teach_no_levels() {
        let model = crate::inference::example_model();
        let (truth, posterior) = played(5, 5, 3);
        let zeros = vec![0.0; truth.len()];
        let shown = Shown {
            truth: &truth[..600],
            posterior: &posterior[..1200],
            unlabelled: &zeros,
            novelty: &zeros,
        };
        let levels = fit_onset_levels(&model, rule(&model), &[shown]);
        assert_eq!(levels.map(f64::to_bits), ONSET_LEVELS.map(f64::to_bits));
    }
}
