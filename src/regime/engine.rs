//! The filter bank with its decision rule: what runs for every bin, live and offline alike.

use super::decision::{Change, DecisionRule, Label, Tracker};
use crate::inference::{Adaptation, BankError, Estimate, FilterBank};
use crate::model::{Model, Readout};

/// One session's numbers.
#[derive(Debug)]
pub struct Engine {
    bank: FilterBank,
    tracker: Tracker,
    rule: DecisionRule,
    trusted: bool,
}

impl Engine {
    /// At the prior.
    ///
    /// # Errors
    /// When the bank does not take the model.
    pub fn new(
        model: &Model,
        readout: &Readout,
        rule: DecisionRule,
        adaptation: Adaptation,
    ) -> Result<Self, BankError> {
        let bank = FilterBank::new(model, readout, adaptation)?;
        Ok(Self { bank, tracker: Tracker::new(model, rule), rule, trusted: readout.trusted })
    }

    /// One bin: counts `[n_channels]`, or `None` where it is missing.
    pub fn push(&mut self, counts: Option<&[f32]>) -> Option<Change> {
        let estimate = match counts {
            Some(counts) => self.bank.update(counts),
            None => self.bank.predict(),
        };
        // Of a session that is not to be trusted it is certain that no label is known.
        let unlabelled = if self.trusted { estimate.unlabelled } else { 1.0 };
        self.tracker.push(&estimate.posterior, unlabelled, estimate.novelty)
    }

    /// Back to the prior: another recording begins. The label in force stays until another is found.
    pub fn restart(&mut self) {
        self.bank.reset();
        self.tracker.restart();
    }

    /// Goes on where another engine of the session stands: its label stays in force, its bins are counted on.
    /// `regimes` gives this model's regime for each of the other's; `None` where they are the same.
    pub fn succeed(&mut self, before: &Self, regimes: Option<&[Option<usize>]>) {
        self.tracker.succeed(&before.tracker, regimes);
    }

    /// Whether labels are to be believed.
    #[must_use]
    pub fn trusted(&self) -> bool {
        self.trusted
    }

    /// Which channels inform.
    pub fn set_active(&mut self, active: impl Iterator<Item = bool>) {
        self.bank.set_active(active);
    }

    /// The newest estimate.
    #[must_use]
    pub fn estimate(&self) -> &Estimate {
        self.bank.estimate()
    }

    /// Rates of the newest bin as they were predicted, counts per bin, `[n_channels]`.
    #[must_use]
    pub fn expected_counts(&self) -> &[f32] {
        self.bank.expected_counts()
    }

    /// The label in force.
    #[must_use]
    pub fn label(&self) -> Option<Label> {
        self.tracker.current()
    }

    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &DecisionRule {
        &self.rule
    }

    /// Channels per bin.
    #[must_use]
    pub fn n_channels(&self) -> usize {
        self.bank.n_channels()
    }

    /// Hypotheses that lost their numbers so far.
    #[must_use]
    pub fn filter_resets(&self) -> u64 {
        self.bank.resets()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::example_model;

    #[test]
    fn a_session_that_is_not_trusted_is_unknown_all_along() {
        let model = example_model();
        let rule = DecisionRule { probability_min: 0.4, ..DecisionRule::of(&model, None) };
        for trusted in [true, false] {
            let readout = Readout { trusted, ..model.readouts[0].clone() };
            let mut engine =
                Engine::new(&model, &readout, rule, Adaptation::default()).expect("an engine");
            let mut said = Vec::new();
            for t in 0..800 {
                let counts: Vec<f32> = (0..engine.n_channels())
                    .map(|i| f32::from(u8::from((t * (i + 2)) % 5 == 0)))
                    .collect();
                engine.push(Some(&counts));
                said.extend(engine.label());
            }
            let known = said.iter().filter(|l| l.regime().is_some()).count();
            assert_eq!(known > 0, trusted, "{known} of {} labels name a regime", said.len());
            assert!(trusted || said.last() == Some(&Label::Unknown), "{:?}", said.last());
        }
    }
}
