//! When a label is in force, when it changed, and since when.

use super::onset::{Onset, OnsetFinder};
use crate::inference::Tape;
use crate::model::{BASE_RATE_MIN, Model, OperatingPoint, Readout, UNKNOWN_RATE};

/// When the label in force gives way to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecisionRule {
    /// Posterior probability that the new label must reach, for `dwell_bins` bins in a row.
    pub probability_min: f32,
    /// Bins in a row for which the new label must reach `probability_min`.
    pub dwell_bins: u32,
    /// Whether the label may be `unknown`.
    pub unknown: bool,
    /// Whether it is `unknown` where what training saw without a label is more probable than any
    /// regime.
    pub unlabelled: bool,
    /// Power of the regimes' base rates that their posteriors are divided by before they are
    /// compared, see [`crate::model::ChosenRule`].
    pub evenness: f32,
    /// Novelty beyond which the label is `unknown`.
    pub novelty_max: f32,
    /// Bins from the start before novelty may make the label `unknown`: it is a smoothed
    /// score.
    pub novelty_warm_up_bins: u64,
}

impl DecisionRule {
    /// Posterior probability for a model without operating points.
    pub const PROBABILITY_MIN: f32 = 0.9;
    /// False changes that the default rule allows, for each change that the model's hazard rates
    /// expect: 1 a minute where regimes last 3 s.
    pub const FALSE_SHARE: f64 = 0.05;
    /// Fraction of a regime's time by which the default rule may be later than the most lenient
    /// one: a label that comes too late is wrong as well.
    pub const LATE_SHARE: f64 = 0.1;
    /// Default dwell, seconds, but at most [`Self::DWELL_FRACTION`] of the shortest regime's time.
    pub const DWELL_S: f64 = 0.03;
    /// Largest dwell as a fraction of the time that the model's shortest regime lasts.
    pub const DWELL_FRACTION: f64 = 0.05;
    /// Time before novelty may make the label `unknown`, seconds.
    pub const NOVELTY_WARM_UP_S: f64 = 1.0;

    /// The rule for a model at an allowed rate of false changes per minute (`None`:
    /// [`Self::FALSE_SHARE`], within [`Self::LATE_SHARE`]), from the model's operating points,
    /// which were measured on held-out data.
    #[must_use]
    pub fn of(model: &Model, false_changes_per_min: Option<f64>) -> Self {
        let bins = |seconds: f64| (seconds / model.bin_width_s).round().max(1.0);
        let dwell_s = Self::DWELL_S.min(Self::DWELL_FRACTION * model.shortest_regime_s());
        // From lenient to strict; the last is the strictest there is.
        let points = model.online.operating_points.as_slice();
        let mean_dwell_s = model.mean_dwell_s();
        let (points, allowed) = match false_changes_per_min {
            Some(allowed) => (points, allowed),
            None => {
                let delay = |p: &OperatingPoint| p.median_delay_s.unwrap_or(f64::MAX);
                let latest = points.first().map_or(0.0, delay) + Self::LATE_SHARE * mean_dwell_s;
                let in_time = points.iter().take_while(|p| delay(p) <= latest).count();
                (&points[..in_time], Self::FALSE_SHARE * 60.0 / mean_dwell_s)
            }
        };
        let point = points.iter().find(|p| p.false_changes_per_min <= allowed);
        let point = point.or(points.last()).map_or(Self::PROBABILITY_MIN, |p| p.probability_min);
        // What was chosen for the model, but for its threshold where a rate was asked for.
        let chosen = model.online.rule;
        let own = chosen.filter(|_| false_changes_per_min.is_none());
        Self {
            probability_min: own.map_or(point, |r| r.probability_min),
            dwell_bins: chosen.map_or(bins(dwell_s) as u32, |r| r.dwell_bins),
            unknown: true,
            unlabelled: chosen.is_none_or(|r| r.unlabelled),
            evenness: chosen.map_or(0.0, |r| r.evenness),
            novelty_max: 1.0,
            novelty_warm_up_bins: bins(Self::NOVELTY_WARM_UP_S) as u64,
        }
    }

    /// The same, calling a share `rate` of the known bins `unknown` instead of [`UNKNOWN_RATE`].
    ///
    /// # Errors
    /// Where the model did not learn what known dynamics look like, at bins of this width.
    pub fn with_unknown_rate(
        self,
        model: &Model,
        readout: Option<&Readout>,
        rate: f64,
    ) -> Result<Self, NoSigns> {
        // Signs were learned with sessions that have experts.
        let own = readout.filter(|r| r.experts.is_some());
        let known = own.and(model.online.known.as_ref()).ok_or(NoSigns)?;
        Ok(Self { novelty_max: known.limit(rate) / known.limit(UNKNOWN_RATE), ..self })
    }
}

/// A model without the signs of known dynamics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a session that was pretrained with labels, at the model's own bin width, in a model \
     that learned how strange known dynamics may look, found another: leave the rate out, or \
     pretrain on at least a minute of labelled data"
)]
pub struct NoSigns;

/// A label of the population's dynamics.
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

    /// The regime, if it is one.
    #[must_use]
    pub fn regime(self) -> Option<usize> {
        match self {
            Self::Regime(r) => Some(r),
            Self::Unknown => None,
        }
    }

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
    /// Since when the new label holds.
    pub onset: Onset,
    /// Bin in which the change was decided.
    pub bin: u64,
    /// Posterior probability of the new label at the decision; for an `unknown` by novelty, of what
    /// leads otherwise.
    pub probability: f32,
    /// Posterior probability of the old label at the decision; 0 for the first.
    pub from_probability: f32,
}

/// Follows one session's posteriors.
#[derive(Debug, Clone)]
pub(crate) struct Tracker {
    rule: DecisionRule,
    bin: u64,
    current: Option<Label>,
    leading: Option<Label>,
    /// Bin in which novelty alone began to call for `unknown`.
    strange_since: Option<u64>,
    confident_bins: u32,
    onset: OnsetFinder,
    /// What each regime's posterior is multiplied by before they are compared; 1 where it is not
    /// known.
    multiplier: Vec<f32>,
}

impl Tracker {
    /// Probability that ends `unknown`.
    const KNOWN_AGAIN: f32 = 0.5;

    /// A tracker that has seen nothing.
    #[must_use]
    pub(crate) fn new(model: &Model, rule: DecisionRule) -> Self {
        Self {
            rule,
            bin: 0,
            current: None,
            leading: None,
            strange_since: None,
            confident_bins: 0,
            onset: OnsetFinder::new(model),
            multiplier: multipliers(model, rule.evenness),
        }
    }

    /// The label in force; until the first decision, `None`.
    #[must_use]
    pub(crate) fn current(&self) -> Option<Label> {
        self.current
    }

    /// Probability that `regime`, holding in the newest bin, has held for 0, 1, 2, ... bins before
    /// it.
    pub(crate) fn held(&self, regime: usize) -> impl Iterator<Item = f64> {
        self.onset.held(regime)
    }

    /// Another recording begins: no change reaches back before it.
    pub(crate) fn restart(&mut self) {
        self.onset.restart();
        self.strange_since = None;
        self.confident_bins = 0;
    }

    /// Continues another tracker of the session: its bins, and its label where this model knows it.
    /// `regimes` maps the other's regimes to this model's; `None` where they are the same.
    pub(crate) fn succeed(&mut self, before: &Self, regimes: Option<&[Option<usize>]>) {
        let known = |label: Label| match (label, regimes) {
            (Label::Regime(r), Some(regimes)) => {
                regimes.get(r).copied().flatten().map(Label::Regime)
            }
            _ => Some(label),
        };
        (self.bin, self.current) = (before.bin, before.current.and_then(known));
        self.restart();
    }

    /// Writes its state to the tape, or reads it from there. The history that dates onsets is not
    /// part of it.
    pub(crate) fn state(&mut self, tape: &mut Tape) {
        // None, unknown, then the regimes.
        let mut label = |label: &mut Option<Label>| {
            let mut code = match label {
                None => 0,
                Some(Label::Unknown) => 1,
                Some(Label::Regime(r)) => *r as u32 + 2,
            };
            tape.word(&mut code);
            *label = match code {
                0 => None,
                1 => Some(Label::Unknown),
                r => Some(Label::Regime(r as usize - 2)),
            };
        };
        label(&mut self.current);
        label(&mut self.leading);
        tape.word(&mut self.confident_bins);
    }

    /// Continues from a saved state, with `label` in force.
    pub(crate) fn resume(&mut self, tape: &mut Tape, label: Option<Label>, regimes: usize) {
        self.state(tape);
        let known = |label: &Label| label.regime().is_none_or(|r| r < regimes);
        self.leading = self.leading.filter(known);
        self.current = label.filter(known);
        self.onset.restart();
        self.strange_since = None;
    }

    /// The next bin's posterior over the regimes, probability of none of them, and novelty.
    pub(crate) fn push(
        &mut self,
        posterior: &[f32],
        unlabelled: f32,
        novelty: f32,
    ) -> Option<Change> {
        let bin = self.bin;
        self.bin += 1;
        let unlabelled = if self.rule.unlabelled { unlabelled } else { 0.0 };
        self.onset.push(posterior, unlabelled);
        let even = || posterior.iter().zip(&self.multiplier).map(|(p, m)| p * m);
        let (best, top) =
            even().enumerate().fold((0, f32::MIN), |top, at| if at.1 > top.1 { at } else { top });
        let mut probability = top / even().sum::<f32>().max(f32::MIN_POSITIVE);
        let warm = bin >= self.rule.novelty_warm_up_bins;
        let strange = self.rule.unknown && warm && novelty > self.rule.novelty_max;
        probability *= 1.0 - unlabelled;
        let none = strange || unlabelled > probability;
        let leading = if none { Label::Unknown } else { Label::Regime(best) };
        probability = probability.max(unlabelled);
        self.strange_since = strange.then(|| self.strange_since.unwrap_or(bin));
        if self.leading != Some(leading) {
            self.leading = Some(leading);
            self.confident_bins = 0;
        }
        // An unknown label ends as soon as one regime is more probable than everything else.
        let needed = match self.current {
            Some(Label::Unknown) => self.rule.probability_min.min(Self::KNOWN_AGAIN),
            _ => self.rule.probability_min,
        };
        // Novelty decides alone: none of the regimes has to be probable.
        let confident = strange || probability >= needed;
        self.confident_bins = if confident { self.confident_bins + 1 } else { 0 };
        if self.current == Some(leading) || self.confident_bins < self.rule.dwell_bins {
            return None;
        }
        let onset = match (leading, self.strange_since) {
            (Label::Unknown, Some(since)) => self.onset.of_novelty(since, bin),
            (Label::Regime(r), _) => self.onset.of_regime(r, bin),
            (Label::Unknown, None) => self.onset.of_regime(posterior.len(), bin),
        };
        let from = self.current.replace(leading);
        let from_probability = match from {
            None => 0.0,
            Some(Label::Regime(r)) => posterior[r] * (1.0 - unlabelled),
            Some(Label::Unknown) => unlabelled,
        };
        Some(Change { from, to: leading, onset, bin, probability, from_probability })
    }
}

/// What divides posteriors by a power of the base rates.
fn multipliers(model: &Model, evenness: f32) -> Vec<f32> {
    let rates = &model.online.base_rates;
    match rates.len() == model.regime_names.len() {
        true => rates.iter().map(|r| r.max(BASE_RATE_MIN).powf(-evenness)).collect(),
        false => vec![1.0; model.regime_names.len()],
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
            unlabelled: true,
            evenness: 0.0,
            novelty_max: 1.0,
            novelty_warm_up_bins: 2,
        }
    }

    fn tracker(rule: DecisionRule) -> Tracker {
        Tracker::new(&crate::inference::example_model(), rule)
    }

    #[test]
    fn the_rule_is_the_first_operating_point_that_errs_rarely_enough() {
        let mut model = crate::inference::example_model();
        let of = |model: &Model, allowed| DecisionRule::of(model, Some(allowed)).probability_min;
        assert!((of(&model, 1.0) - DecisionRule::PROBABILITY_MIN).abs() < 1e-6);
        model.online.operating_points = [(0.6, 5.0), (0.8, 1.5), (0.95, 0.25)]
            .map(|(probability_min, false_changes_per_min)| crate::model::OperatingPoint {
                probability_min,
                false_changes_per_min,
                median_delay_s: Some(0.2),
            })
            .to_vec();
        for (allowed, expected) in [(9.0, 0.6), (1.5, 0.8), (1.0, 0.95), (0.1, 0.95)] {
            assert!((of(&model, allowed) - expected).abs() < 1e-6, "{allowed} per minute");
        }
        // Regimes of 0.5 s: 120 changes a minute are expected, and 6 false ones allowed.
        let mut fast = model.with_mean_dwell(0.5);
        assert!((DecisionRule::of(&fast, None).probability_min - 0.6).abs() < 1e-6);
        // Of 3 s: 1 is allowed; but not where that rule is later by more than 0.3 s.
        let mut slow = model.with_mean_dwell(3.0);
        assert!((DecisionRule::of(&slow, None).probability_min - 0.95).abs() < 1e-6);
        slow.online.operating_points[2].median_delay_s = Some(0.51);
        assert!((DecisionRule::of(&slow, None).probability_min - 0.8).abs() < 1e-6);
        assert!((of(&slow, 1.0) - 0.95).abs() < 1e-6, "what was asked for is kept");
        fast.online.operating_points.clear();
        let usual = DecisionRule::of(&fast, None).probability_min;
        assert!((usual - DecisionRule::PROBABILITY_MIN).abs() < 1e-6);
    }

    #[test]
    fn the_share_of_known_bins_that_may_be_unknown_sets_the_novelty_allowed() {
        let mut model = crate::inference::example_model();
        let of = |m: &Model, rate| rule().with_unknown_rate(m, Some(&m.readouts[0]), rate);
        assert_eq!(of(&model, 0.05), Err(NoSigns));
        let channels = model.readouts[0].n_channels();
        model.readouts[0].experts = Some(crate::experts::example_experts(channels, 2));
        assert_eq!(of(&model, 0.05), Err(NoSigns));
        let known = crate::model::example_known();
        let limits = [0.05, 0.01].map(|share| known.limit(share));
        model.online.known = Some(known);
        assert_eq!(rule().with_unknown_rate(&model, None, 0.05), Err(NoSigns));
        let allowed = of(&model, 0.05).expect("signs").novelty_max;
        assert!((allowed - limits[0] / limits[1]).abs() < 1e-6 && allowed < 0.9, "{allowed}");
        for (max, unknown) in [(1.0, false), (allowed, true)] {
            let mut tracker = tracker(DecisionRule { novelty_max: max, ..rule() });
            for _ in 0..10 {
                tracker.push(&[0.999, 0.001], 0.0, 0.95);
            }
            assert_eq!(tracker.current() == Some(Label::Unknown), unknown);
        }
        // At bins of another width the signs do not hold.
        let other = model.at_bin_width(2.0 * model.bin_width_s).expect("a model");
        assert_eq!(of(&other, 0.05), Err(NoSigns));
    }

    #[test]
    fn the_dwell_suits_the_shortest_regime() {
        let mut model = crate::inference::example_model();
        // The second regime is left at 0.005 + 0.03 per bin of 10 ms: it lasts 286 ms.
        assert!((model.shortest_regime_s() - 0.01 / 0.035).abs() < 1e-6);
        assert_eq!(DecisionRule::of(&model, None).dwell_bins, 1);
        model.online.hazard_per_bin = crate::model::OnlineSettings::uniform_hazard(2, 1.0 / 300.0);
        assert_eq!(DecisionRule::of(&model, None).dwell_bins, 3);
    }

    #[test]
    fn a_change_needs_its_dwell_and_tells_its_onset() {
        let mut tracker = tracker(rule());
        for _ in 0..3 {
            tracker.push(&[0.999, 0.001], 0.0, 0.5);
        }
        assert_eq!(tracker.current(), Some(Label::Regime(0)));
        // One bin of the other label is not enough.
        assert_eq!(tracker.push(&[0.2, 0.8], 0.0, 0.5), None);
        assert_eq!(tracker.push(&[0.999, 0.001], 0.0, 0.5), None);
        // Confident from bin 6, decided in bin 8.
        assert_eq!(tracker.push(&[0.4, 0.6], 0.0, 0.5), None);
        assert_eq!(tracker.push(&[0.2, 0.8], 0.0, 0.5), None);
        assert_eq!(tracker.push(&[0.2, 0.8], 0.0, 0.5), None);
        let change = tracker.push(&[0.1, 0.9], 0.0, 0.5).expect("a change");
        assert_eq!(change.from, Some(Label::Regime(0)));
        assert_eq!((change.to, change.bin), (Label::Regime(1), 8));
        let Onset { bin, low_bin, high_bin } = change.onset;
        assert!((4..=6).contains(&bin), "{bin}");
        assert!(low_bin <= bin && bin <= high_bin && high_bin <= 8, "{:?}", change.onset);
        assert!((change.probability - 0.9).abs() < 1e-6);
        assert!((change.from_probability - 0.1).abs() < 1e-6);
    }

    #[test]
    fn dynamics_without_a_label_are_unknown_where_that_may_be_said() {
        for (unknown, expected) in [(true, Label::Unknown), (false, Label::Regime(1))] {
            let mut tracker = tracker(DecisionRule { unlabelled: unknown, ..rule() });
            for _ in 0..3 {
                tracker.push(&[0.1, 0.9], 0.0, 0.5);
            }
            let changes: Vec<_> =
                (0..3).filter_map(|_| tracker.push(&[0.1, 0.9], 0.8, 0.5)).collect();
            assert_eq!(tracker.current(), Some(expected));
            assert_eq!(changes.len(), usize::from(unknown));
            assert!(changes.iter().all(|c| (c.probability - 0.8).abs() < 1e-6));
        }
    }

    #[test]
    fn novelty_says_unknown_after_the_warm_up_only() {
        let mut tracker = tracker(rule());
        let labels: Vec<_> = (0..8)
            .map(|_| {
                tracker.push(&[1.0, 0.0], 0.0, 5.0);
                tracker.current()
            })
            .collect();
        assert_eq!(labels[1], None);
        assert_eq!(labels[4], Some(Label::Unknown));
        // It ends once novelty does, though no regime is as probable as a change from one needs.
        for _ in 0..3 {
            tracker.push(&[0.4, 0.6], 0.0, 0.5);
        }
        assert_eq!(tracker.current(), Some(Label::Regime(1)));
        for _ in 0..3 {
            tracker.push(&[0.6, 0.4], 0.0, 0.5);
        }
        assert_eq!(tracker.current(), Some(Label::Regime(1)));
    }
}
