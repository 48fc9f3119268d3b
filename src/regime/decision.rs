//! Hysteresis: when a label is in force, and when it changed.

use crate::model::Model;

/// When the label in force gives way to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecisionRule {
    /// Posterior probability that the new label must reach...
    pub probability_min: f32,
    /// ...for this many bins in a row.
    pub dwell_bins: u32,
    /// Whether `unknown` may be said.
    pub unknown: bool,
    /// Smoothed novelty above this is `unknown`, after as many bins in a row.
    pub novelty_threshold: f32,
    /// Bins from the start before `unknown` may be said: novelty is a smoothed score.
    pub novelty_warm_up_bins: u64,
}

impl DecisionRule {
    /// Default posterior probability.
    pub const PROBABILITY_MIN: f32 = 0.7;
    /// Default dwell, seconds...
    pub const DWELL_S: f64 = 0.05;
    /// ...but at most this fraction of the time that the model's shortest regime lasts.
    pub const DWELL_FRACTION: f64 = 0.05;
    /// Time before `unknown` may be said, seconds.
    pub const NOVELTY_WARM_UP_S: f64 = 1.0;

    /// The default rule for a model.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        let bins = |seconds: f64| (seconds / model.bin_width_s).round().max(1.0);
        let dwell_s = Self::DWELL_S.min(Self::DWELL_FRACTION * model.shortest_regime_s());
        Self {
            probability_min: Self::PROBABILITY_MIN,
            dwell_bins: bins(dwell_s) as u32,
            unknown: true,
            novelty_threshold: model.online.novelty_threshold,
            novelty_warm_up_bins: bins(Self::NOVELTY_WARM_UP_S) as u64,
        }
    }
}

/// What the population is said to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Index into the model's regime names.
    Regime(usize),
    /// Dynamics that no learned regime explains, or that training saw without a label.
    Unknown,
}

impl Label {
    /// Name shown for [`Label::Unknown`].
    pub const UNKNOWN: &'static str = "unknown";

    /// The label's name.
    #[must_use]
    pub fn name(self, regime_names: &[String]) -> &str {
        match self {
            Self::Regime(r) => &regime_names[r],
            Self::Unknown => Self::UNKNOWN,
        }
    }
}

/// The label in force changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Label before; `None` for the first.
    pub from: Option<Label>,
    /// Label now.
    pub to: Label,
    /// First bin in which the new label led.
    pub onset_bin: u64,
    /// Bin in which the change was decided.
    pub bin: u64,
    /// Posterior probability of the new label at the decision; for an `unknown` by novelty, of what
    /// leads otherwise.
    pub probability: f32,
}

/// Follows one session's posteriors.
#[derive(Debug, Clone)]
pub struct Tracker {
    rule: DecisionRule,
    bin: u64,
    current: Option<Label>,
    leading: Option<Label>,
    /// Bin in which `leading` took the lead.
    onset_bin: u64,
    confident_bins: u32,
}

impl Tracker {
    /// A tracker that has seen nothing.
    #[must_use]
    pub fn new(rule: DecisionRule) -> Self {
        Self { rule, bin: 0, current: None, leading: None, onset_bin: 0, confident_bins: 0 }
    }

    /// The label in force; until the first decision, `None`.
    #[must_use]
    pub fn current(&self) -> Option<Label> {
        self.current
    }

    /// The next bin's posterior over the regimes, probability of none of them, and novelty.
    pub fn push(&mut self, posterior: &[f32], unlabelled: f32, novelty: f32) -> Option<Change> {
        let bin = self.bin;
        self.bin += 1;
        let (best, mut probability) = posterior
            .iter()
            .copied()
            .enumerate()
            .fold((0, f32::MIN), |top, at| if at.1 > top.1 { at } else { top });
        let mut leading = Label::Regime(best);
        let mut strange = false;
        if self.rule.unknown {
            let labelled = (1.0 - unlabelled) * probability;
            strange =
                bin >= self.rule.novelty_warm_up_bins && novelty > self.rule.novelty_threshold;
            if strange || unlabelled > labelled {
                leading = Label::Unknown;
            }
            probability = labelled.max(unlabelled);
        }
        if self.leading != Some(leading) {
            self.leading = Some(leading);
            self.onset_bin = bin;
            self.confident_bins = 0;
        }
        let confident = strange || probability >= self.rule.probability_min;
        self.confident_bins = if confident { self.confident_bins + 1 } else { 0 };
        if self.current == Some(leading) || self.confident_bins < self.rule.dwell_bins {
            return None;
        }
        let from = self.current.replace(leading);
        Some(Change { from, to: leading, onset_bin: self.onset_bin, bin, probability })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> DecisionRule {
        DecisionRule {
            probability_min: 0.7,
            dwell_bins: 3,
            unknown: true,
            novelty_threshold: 2.0,
            novelty_warm_up_bins: 2,
        }
    }

    #[test]
    fn the_dwell_suits_the_shortest_regime() {
        let mut model = crate::inference::example_model();
        // The second regime is left at 0.005 + 0.03 per bin of 10 ms: it lasts 286 ms.
        assert!((model.shortest_regime_s() - 0.01 / 0.035).abs() < 1e-6);
        assert_eq!(DecisionRule::of(&model).dwell_bins, 1);
        model.online.hazard_per_bin = crate::model::OnlineSettings::uniform_hazard(2, 1.0 / 300.0);
        assert_eq!(DecisionRule::of(&model).dwell_bins, 5);
    }

    #[test]
    fn a_change_needs_its_dwell_and_tells_its_onset() {
        let mut tracker = Tracker::new(rule());
        for _ in 0..3 {
            tracker.push(&[0.9, 0.1], 0.0, 1.0);
        }
        assert_eq!(tracker.current(), Some(Label::Regime(0)));
        // One bin of the other label is not enough.
        assert_eq!(tracker.push(&[0.1, 0.9], 0.0, 1.0), None);
        assert_eq!(tracker.push(&[0.9, 0.1], 0.0, 1.0), None);
        // Leading from bin 5, confident from bin 6, decided in bin 8.
        assert_eq!(tracker.push(&[0.4, 0.6], 0.0, 1.0), None);
        assert_eq!(tracker.push(&[0.2, 0.8], 0.0, 1.0), None);
        assert_eq!(tracker.push(&[0.2, 0.8], 0.0, 1.0), None);
        let change = tracker.push(&[0.1, 0.9], 0.0, 1.0).expect("a change");
        assert_eq!(change.from, Some(Label::Regime(0)));
        assert_eq!((change.to, change.onset_bin, change.bin), (Label::Regime(1), 5, 8));
    }

    #[test]
    fn dynamics_without_a_label_are_unknown_where_that_may_be_said() {
        for (unknown, expected) in [(true, Label::Unknown), (false, Label::Regime(1))] {
            let mut tracker = Tracker::new(DecisionRule { unknown, ..rule() });
            for _ in 0..3 {
                tracker.push(&[0.1, 0.9], 0.0, 1.0);
            }
            let changes: Vec<_> =
                (0..3).filter_map(|_| tracker.push(&[0.1, 0.9], 0.8, 1.0)).collect();
            assert_eq!(tracker.current(), Some(expected));
            assert_eq!(changes.len(), usize::from(unknown));
            assert!(changes.iter().all(|c| (c.probability - 0.8).abs() < 1e-6));
        }
    }

    #[test]
    fn novelty_says_unknown_after_the_warm_up_only() {
        let mut tracker = Tracker::new(rule());
        let labels: Vec<_> = (0..8)
            .map(|_| {
                tracker.push(&[1.0, 0.0], 0.0, 5.0);
                tracker.current()
            })
            .collect();
        assert_eq!(labels[1], None);
        assert_eq!(labels[4], Some(Label::Unknown));
        for _ in 0..3 {
            tracker.push(&[0.0, 1.0], 0.0, 1.0);
        }
        assert_eq!(tracker.current(), Some(Label::Regime(1)));
    }
}
