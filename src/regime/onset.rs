//! Since when: the time of a change, found backwards from its decision.

use crate::inference::NOVELTY_WINDOW_S;
use crate::model::{Model, values};

/// Longest time that a change is traced back, seconds and bins.
const HISTORY_S: f64 = 10.0;
const HISTORY_BINS_MAX: usize = 4096;
/// First bin of a label, with its 90 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Onset {
    /// Median.
    pub bin: u64,
    /// The true onset is earlier in one of twenty cases.
    pub low_bin: u64,
    /// The true onset is later in one of twenty cases.
    pub high_bin: u64,
}

/// The last bins' posteriors, and the hazard rates that lead from one to the next.
///
/// With `p_t(r)` the filtered posterior and `A` the transition probabilities, the regime being `r`
/// at the decision in bin `T`,
/// `P(r in all of t..T | y_1..T) = prod_(u = t..T-1) p_u(r) A(r, r) / p_(u+1|u)(r)` (backward pass
/// of a hidden Markov model; Kim 1994). That is the distribution function of the onset; an interval
/// is read off at the model's levels (`onset_levels`).
///
/// A label comes into force late, because the rule waits until it is certain; an experiment needs
/// to know since when it has held. Filtered posteriors alone would date it late as well: they do
/// not know what came after. The backward pass does, needs no smoother over the states of the
/// filters, and costs one product per bin traced back, which is only done at a change.
#[derive(Debug, Clone)]
pub(super) struct OnsetFinder {
    states: usize,
    /// `[states, states]` probabilities per bin, the diagonal completed.
    transition: Vec<f32>,
    /// Ring of filtered posteriors, `[bins_max, states]`; the last state is none of the regimes.
    history: Vec<f32>,
    bins_max: usize,
    /// What the low end, the median and the high end of an interval are read off at.
    levels: [f64; 3],
    /// Bins seen since the start of the recording.
    seen: u64,
    novelty_bins: u64,
}

impl OnsetFinder {
    pub(super) fn new(model: &Model) -> Self {
        let states = model.regime_names.len() + 1;
        let mut transition = model.online.hazard_per_bin.clone();
        for (r, mut row) in transition.rows_mut().into_iter().enumerate() {
            row[r] += 1.0 - row.iter().sum::<f32>();
        }
        let bins = |seconds: f64| (seconds / model.bin_width_s).ceil().max(1.0);
        let bins_max = (bins(HISTORY_S) as usize).min(HISTORY_BINS_MAX);
        Self {
            states,
            transition: values(&transition).to_vec(),
            history: vec![0.0; bins_max * states],
            bins_max,
            levels: model.online.onset_levels,
            seen: 0,
            novelty_bins: bins(NOVELTY_WINDOW_S) as u64,
        }
    }

    pub(super) fn restart(&mut self) {
        self.seen = 0;
    }

    fn at(&self, bins_ago: u64) -> &[f32] {
        let slot = ((self.seen - 1 - bins_ago) % self.bins_max as u64) as usize;
        &self.history[slot * self.states..(slot + 1) * self.states]
    }

    /// The newest bin's posterior over the regimes, and the probability of none of them.
    pub(super) fn push(&mut self, posterior: &[f32], unlabelled: f32) {
        let slot = (self.seen % self.bins_max as u64) as usize;
        let row = &mut self.history[slot * self.states..(slot + 1) * self.states];
        for (to, p) in row.iter_mut().zip(posterior) {
            *to = p * (1.0 - unlabelled);
        }
        row[self.states - 1] = unlabelled;
        self.seen += 1;
    }

    /// Probability that what holds in the newest bin has held for 0, 1, 2, ... bins before it, as
    /// far back as the history goes: a regime, or for the index after the last one, no regime.
    pub(super) fn held(&self, regime: usize) -> impl Iterator<Item = f64> {
        let n = self.states;
        let reach = self.seen.min(self.bins_max as u64) - 1;
        let mut since = 1.0f64;
        (0..=reach).map(move |ago| {
            if ago > 0 {
                let before = self.at(ago);
                let predicted: f32 =
                    (0..n).map(|q| before[q] * self.transition[q * n + regime]).sum();
                let stayed = before[regime] * self.transition[regime * n + regime];
                since *= f64::from(stayed / predicted.max(f32::MIN_POSITIVE)).min(1.0);
            }
            since
        })
    }

    /// Onset of what holds in `bin`, the newest: a regime, or for the index after the last one, no
    /// regime.
    pub(super) fn of_regime(&self, regime: usize, bin: u64) -> Onset {
        let [low_level, middle, high_level] = self.levels;
        let [mut low, mut median, mut high] = [0u64; 3];
        let held = self.held(regime).take_while(|since| *since >= low_level);
        for (ago, since) in (0u64..).zip(held) {
            low = ago;
            if since > middle {
                median = ago;
            }
            if since > high_level {
                high = ago;
            }
        }
        let [low_bin, bin, high_bin] = [low, median, high].map(|ago| bin - ago.min(bin));
        Onset { bin, low_bin, high_bin }
    }

    /// Onset of unknown dynamics that novelty showed since a bin.
    pub(super) fn of_novelty(&self, since: u64, bin: u64) -> Onset {
        let low_bin = since.saturating_sub(self.novelty_bins.min(self.seen));
        Onset { bin: low_bin.midpoint(since), low_bin, high_bin: since.min(bin) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enumerates every path of the regimes of a hidden Markov model with given likelihoods.
    fn enumerated(model: &Model, likelihood: &[[f64; 2]], regime: usize) -> Vec<f64> {
        let bins = likelihood.len();
        let stay = |r: usize| 1.0 - f64::from(model.online.hazard_per_bin[[r, 1 - r]]);
        let mut since = vec![0.0; bins];
        let mut total = 0.0;
        for path in 0..1usize << bins {
            let at = |t: usize| path >> t & 1;
            if at(bins - 1) != regime {
                continue;
            }
            let mut p = 0.5;
            for t in 0..bins {
                if t > 0 {
                    let s = stay(at(t - 1));
                    p *= if at(t) == at(t - 1) { s } else { 1.0 - s };
                }
                p *= likelihood[t][at(t)];
            }
            total += p;
            let onset = (0..bins).rev().find(|&t| at(t) != regime).map_or(0, |t| t + 1);
            since[onset] += p;
        }
        since.iter_mut().for_each(|p| *p /= total);
        since
    }

    #[test]
    fn onset_agrees_with_enumeration_of_all_paths() {
        let mut model = crate::inference::example_model();
        model.online.hazard_per_bin =
            ndarray::arr2(&[[0.0, 0.1, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]]);
        let likelihood: Vec<[f64; 2]> = (0..12i32)
            .map(|t| if t < 7 { [0.6, 0.4 - 0.02 * f64::from(t)] } else { [0.25, 0.75] })
            .collect();
        let mut finder = OnsetFinder::new(&model);
        let (mut p, mut predicted) = ([0.5, 0.5], [0.5, 0.5]);
        for l in &likelihood {
            for r in 0..2 {
                p[r] = predicted[r] * l[r];
            }
            let sum = p[0] + p[1];
            p.iter_mut().for_each(|x| *x /= sum);
            finder.push(&p.map(|x| x as f32), 0.0);
            predicted = [0.9 * p[0] + 0.2 * p[1], 0.1 * p[0] + 0.8 * p[1]];
        }
        let exact = enumerated(&model, &likelihood, 1);
        let quantile = |q: f64| {
            let mut sum = 0.0;
            exact
                .iter()
                .position(|x| {
                    sum += x;
                    sum >= q
                })
                .expect("a quantile") as u64
        };
        // Twelve bins were pushed; let the newest be number 111.
        let found = finder.of_regime(1, 111);
        let expected = model.online.onset_levels.map(|q| 100 + quantile(q));
        assert_eq!([found.low_bin, found.bin, found.high_bin], expected);
        assert!(expected[0] < expected[1] && expected[1] < expected[2], "{expected:?}");
        // Other levels, another interval.
        finder.levels = [0.3, 0.4, 0.7];
        let found = finder.of_regime(1, 111);
        let expected = finder.levels.map(|q| 100 + quantile(q));
        assert_eq!([found.low_bin, found.bin, found.high_bin], expected);
    }

    #[test]
    fn history_is_bounded_and_a_restart_cuts_it() {
        let model = crate::inference::example_model();
        let mut finder = OnsetFinder::new(&model);
        for _ in 0..5000 {
            finder.push(&[0.999, 0.001], 0.0);
        }
        let found = finder.of_regime(0, 4999);
        assert!(found.low_bin >= 4999 - finder.bins_max as u64, "{found:?}");
        finder.restart();
        finder.push(&[0.5, 0.5], 0.0);
        assert_eq!(finder.of_regime(1, 5000), Onset { bin: 5000, low_bin: 5000, high_bin: 5000 });
    }
}
