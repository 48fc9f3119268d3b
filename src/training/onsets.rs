//! Levels at which intervals of onsets are read off, from changes on held-out streams.

use crate::model::{Model, ONSET_LEVELS};
use crate::regime::{DecisionRule, Label, Tracker};

/// Changes found from which levels are learned.
const CHANGES_MIN: usize = 20;
/// Where trials were put together, changes are sorted by how long one took to give way to the next,
/// into so many groups: how long it takes live is not known, and intervals must hold for each.
const GROUPS: usize = 2;
/// Where trials were put together, intervals end no earlier than at this level: onsets of changes
/// that come at once, which trials that give way do not show, lie later.
const HIGH_MIN: f64 = 0.9;
/// No interval begins where the onset's posterior has less than this before it: it would reach back
/// over the whole history.
const LEVEL_MIN: f64 = 1e-9;

/// What one session showed on its held-out streams.
pub(super) struct Shown<'a> {
    pub(super) truth: &'a [Option<usize>],
    /// The published posterior, `[bins, regimes]`.
    pub(super) posterior: &'a [f32],
    pub(super) unlabelled: &'a [f32],
    pub(super) novelty: &'a [f32],
    /// First bins of streams that the one before gave way to, and in how many bins it did.
    pub(super) fades: &'a [(usize, usize)],
}

/// A change that was found.
struct Found {
    /// Bins in which one stream gave way to the other.
    fade: usize,
    /// Probability of having held since the true onset, and for a bin longer.
    held: [f64; 2],
}

/// Levels for which a share 0.05 of the true onsets lie before the interval and as many behind, at
/// changes that the rule finds (split conformal prediction, Vovk et al. 2005, of the posterior's
/// value at the true onset; Chernozhukov et al. 2021). The usual ones where few are found.
pub(super) fn fit_onset_levels(model: &Model, rule: DecisionRule, shown: &[Shown<'_>]) -> [f64; 3] {
    let mut at_onset: Vec<Found> = Vec::new();
    for of in shown {
        let mut tracker = Tracker::new(model, rule);
        let posteriors = of.posterior.chunks_exact(model.regime_names.len());
        // The label since a change of the truth that is not found yet, and the bin of that.
        let mut pending: Option<(usize, usize)> = None;
        let mut before = None;
        for (t, (posterior, &truth)) in posteriors.zip(of.truth).enumerate() {
            pending = match (before, truth) {
                (Some(before), Some(now)) if before != now => Some((now, t)),
                (_, Some(_)) => pending,
                (_, None) => None,
            };
            before = truth;
            let change = tracker.push(posterior, of.unlabelled[t], of.novelty[t]);
            let Some((to, since)) = pending else { continue };
            if tracker.current() != Some(Label::Regime(to)) {
                continue;
            }
            pending = None;
            if change.is_some() {
                // Beyond the history, nothing is left.
                let mut held = tracker.held(to).skip(t - since);
                let held = std::array::from_fn(|_| held.next().unwrap_or(0.0));
                let fade = of.fades.binary_search_by_key(&since, |f| f.0);
                at_onset.push(Found { fade: fade.map_or(0, |i| of.fades[i].1), held });
            }
        }
    }
    if at_onset.len() < CHANGES_MIN {
        return ONSET_LEVELS;
    }
    at_onset.sort_by_key(|f| f.fade);
    let put_together = at_onset.iter().any(|f| f.fade > 0);
    let (groups, high_min) = if put_together { (GROUPS, HIGH_MIN) } else { (1, 0.0) };
    let of_each = at_onset.chunks(at_onset.len().div_ceil(groups)).map(levels);
    of_each.fold([1.0, 0.0, high_min], |[low, middle, high], of| {
        [of[0].min(low), middle + of[1] / groups as f64, of[2].max(high)]
    })
}

/// Levels for some changes: low, middle, high.
fn levels(of: &[Found]) -> [f64; 3] {
    // An interval holds the onset where the probability of having held since the onset reaches the
    // low level, and that of a bin longer does not exceed the high one.
    let sorted = |end: usize| {
        let mut values: Vec<f64> = of.iter().map(|f| f.held[end]).collect();
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
                fades: &[],
            };
            model.online.onset_levels = fit_onset_levels(&model, rule(&model), &[shown]);
            let held = coverage(&model, &played(late, steps, 2));
            assert!((0.85..=0.96).contains(&held), "{late} {steps}: {held} for {usual}");
            assert!(!(0.85..=0.96).contains(&usual), "{late} {steps}: no need, {usual}");
        }
    }

    #[test]
    fn intervals_hold_for_changes_at_once_and_slow_ones_alike() {
        let mut model = crate::inference::example_model();
        let parts = [played(2, 4, 5), played(25, 4, 6)];
        // Where each stream begins, with how long the one before took to give way.
        let fades = parts.each_ref().map(|(truth, _)| {
            let changes = (1..truth.len()).filter(|&t| truth[t] != truth[t - 1]);
            changes.collect::<Vec<usize>>()
        });
        let fades: [Vec<(usize, usize)>; 2] =
            [1, 25].map(|fade| fades[usize::from(fade > 1)].iter().map(|t| (*t, fade)).collect());
        let zeros = vec![0.0; parts.iter().map(|p| p.0.len()).max().unwrap_or(0)];
        let shown: Vec<Shown<'_>> = parts
            .iter()
            .zip(&fades)
            .map(|((truth, posterior), fades)| {
                let (unlabelled, novelty) = (&zeros[..truth.len()], &zeros[..truth.len()]);
                Shown { truth, posterior, unlabelled, novelty, fades }
            })
            .collect();
        model.online.onset_levels = fit_onset_levels(&model, rule(&model), &shown);
        assert!(model.online.onset_levels[2] >= HIGH_MIN);
        for (late, seed) in [(2, 7), (25, 8)] {
            let held = coverage(&model, &played(late, 4, seed));
            assert!(held >= 0.85, "late by up to {late}: {held}");
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
            fades: &[],
        };
        let levels = fit_onset_levels(&model, rule(&model), &[shown]);
        assert_eq!(levels.map(f64::to_bits), ONSET_LEVELS.map(f64::to_bits));
    }
}
