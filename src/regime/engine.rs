//! The experts with their decision rule: what runs for every bin, live and offline alike.

use super::decision::{Change, DecisionRule, Label, Tracker};
use crate::experts::Pooled;
use crate::inference::{Adaptation, BankError, Estimate, Tape};
use crate::model::{Model, Readout};

/// The fit and the decisions of one session: counts in, estimates and changes out.
#[derive(Debug)]
pub struct Engine {
    experts: Pooled,
    tracker: Tracker,
    rule: DecisionRule,
    trusted: bool,
    count_max: f32,
}

impl Engine {
    /// An engine at the prior: nothing seen yet.
    ///
    /// # Errors
    /// When the bank does not take the model.
    pub fn new(
        model: &Model,
        readout: &Readout,
        rule: DecisionRule,
        adaptation: Adaptation,
    ) -> Result<Self, BankError> {
        let experts = Pooled::new(model, readout, adaptation)?;
        let trusted = readout.trusted;
        // Of a session that is not to be trusted it is certain that no label is known.
        let rule = DecisionRule { unlabelled: rule.unlabelled || !trusted && rule.unknown, ..rule };
        let tracker = Tracker::new(model, rule);
        Ok(Self { experts, tracker, rule, trusted, count_max: model.count_max() })
    }

    /// One bin: counts `[n_channels]`, or `None` where it is missing.
    pub fn push(&mut self, counts: Option<&[f32]>) -> Option<Change> {
        let estimate = match counts {
            Some(counts) => self.experts.update(counts),
            None => self.experts.predict(),
        };
        let unlabelled = if self.trusted { estimate.unlabelled } else { 1.0 };
        self.tracker.push(&estimate.posterior, unlabelled, estimate.novelty)
    }

    /// A bin that is not published: prediction without a decision.
    pub fn pass(&mut self) {
        self.experts.predict();
    }

    /// Back to the prior: another recording begins. The label in force stays until another is
    /// found.
    pub fn restart(&mut self) {
        self.experts.reset();
        self.tracker.restart();
    }

    /// Continues another engine of the session: its label stays in force, its bins are counted on.
    /// `regimes` maps the other's regimes to this model's; `None` where they are the same.
    pub fn succeed(&mut self, before: &Self, regimes: Option<&[Option<usize>]>) {
        self.tracker.succeed(&before.tracker, regimes);
    }

    /// Writes its state to the tape, or reads it from there; see [`Self::resume`].
    pub fn state(&mut self, tape: &mut Tape) {
        self.experts.state(tape);
        self.tracker.state(tape);
    }

    /// Restores a state of an engine with the same model, readout and rule, with `label` in force;
    /// the next change's onset does not reach back before it. `false` where the words are no such
    /// state; then only the bank has changed, and is at its prior.
    pub fn resume(&mut self, words: &[u32], label: Option<Label>) -> bool {
        let mut own = Tape::default();
        own.begin();
        self.state(&mut own);
        if own.words().len() != words.len() {
            return false;
        }
        let mut tape = Tape::of(words.to_vec());
        let sound = self.experts.resume(&mut tape);
        if sound {
            self.tracker.resume(&mut tape, label, self.experts.estimate().posterior.len());
        }
        sound
    }

    /// Whether labels are to be believed.
    #[must_use]
    pub fn trusted(&self) -> bool {
        self.trusted
    }

    /// Sets which channels inform.
    pub fn set_active(&mut self, active: impl Iterator<Item = bool>) {
        self.experts.set_active(active);
    }

    /// The newest estimate.
    #[must_use]
    pub fn estimate(&self) -> &Estimate {
        self.experts.estimate()
    }

    /// The experts' own posteriors, `[experts, n_regimes]`, in the order of
    /// [`crate::model::EXPERT_NAMES`]; `None` where the dynamics are the only one.
    #[must_use]
    pub fn experts(&self) -> Option<&[f32]> {
        self.experts.experts()
    }

    /// Rates of the newest bin as they were predicted, counts per bin, `[n_channels]`.
    #[must_use]
    pub fn expected_counts(&self) -> &[f32] {
        self.experts.bank().expected_counts()
    }

    /// The label in force.
    #[must_use]
    pub fn label(&self) -> Option<Label> {
        self.tracker.current()
    }

    /// The decision rule that it runs by.
    #[must_use]
    pub fn rule(&self) -> &DecisionRule {
        &self.rule
    }

    /// Largest count that its model distinguishes from larger ones.
    #[must_use]
    pub(crate) fn count_max(&self) -> f32 {
        self.count_max
    }

    /// Channels per bin.
    #[must_use]
    pub fn n_channels(&self) -> usize {
        self.experts.bank().n_channels()
    }

    /// Hypotheses that became non-finite and were restarted so far.
    #[must_use]
    pub(crate) fn filter_resets(&self) -> u64 {
        self.experts.bank().resets()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::example_experts;
    use crate::inference::example_model;

    /// With and without experts beside the bank.
    fn models() -> [Model; 2] {
        let alone = example_model();
        let mut pooled = alone.clone();
        let n = alone.readouts[0].n_channels();
        pooled.readouts[0].experts = Some(example_experts(n, alone.regime_names.len()));
        pooled.online.pool.weights = [0.25; crate::model::EXPERTS];
        [alone, pooled]
    }

    fn counts(t: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| f32::from(u8::from((t * (i + 2)).is_multiple_of(5)))).collect()
    }

    #[test]
    fn an_engine_goes_on_from_what_another_took_down_bit_for_bit() {
        models().iter().for_each(goes_on);
    }

    fn goes_on(model: &Model) {
        let rule = DecisionRule { probability_min: 0.4, ..DecisionRule::of(model, None) };
        let new = || Engine::new(model, &model.readouts[0], rule, Adaptation::default());
        let mut first = new().expect("an engine");
        let n = first.n_channels();
        for t in 0..500 {
            first.push(Some(&counts(t, n)));
        }
        let mut tape = Tape::default();
        first.state(&mut tape);
        let mut second = new().expect("an engine");
        assert!(second.resume(tape.words(), first.label()));
        assert_eq!(second.label(), first.label());
        for t in 500..900 {
            first.push(Some(&counts(t, n)));
            second.push(Some(&counts(t, n)));
            assert_eq!(first.estimate(), second.estimate(), "bin {t}");
            assert_eq!(first.label(), second.label(), "bin {t}");
        }
        assert!(first.label().is_some());
    }

    #[test]
    fn words_that_are_no_state_are_refused_and_harm_nothing() {
        models().iter().for_each(refuses);
    }

    fn refuses(model: &Model) {
        let rule = DecisionRule::of(model, None);
        let mut engine =
            Engine::new(model, &model.readouts[0], rule, Adaptation::default()).expect("an engine");
        let mut tape = Tape::default();
        engine.state(&mut tape);
        let good = tape.words().to_vec();
        assert!(!engine.resume(&good[1..], None));
        for at in 0..good.len() {
            let mut words = good.clone();
            words[at] = f32::NAN.to_bits();
            let _ = engine.resume(&words, None);
            let n = engine.n_channels();
            engine.push(Some(&counts(at, n)));
            let sum: f32 = engine.estimate().posterior.iter().sum();
            assert!((sum - 1.0).abs() < 1e-4, "word {at}: {sum}");
            let e = engine.estimate();
            let signs = [e.novelty, e.innovation_runs, e.embedding_distance, e.participation_ratio];
            assert!(signs.iter().all(|v| v.is_finite()), "word {at}: {signs:?}");
        }
    }

    #[test]
    fn a_session_that_is_not_trusted_is_unknown_all_along() {
        let model = example_model();
        let rule = DecisionRule { probability_min: 0.4, ..DecisionRule::of(&model, None) };
        for trusted in [true, false] {
            let readout = Readout { trusted, ..model.readouts[0].clone() };
            let mut engine =
                Engine::new(&model, &readout, rule, Adaptation::default()).expect("an engine");
            let mut labels = Vec::new();
            for t in 0..800 {
                let counts: Vec<f32> = (0..engine.n_channels())
                    .map(|i| f32::from(u8::from((t * (i + 2)) % 5 == 0)))
                    .collect();
                engine.push(Some(&counts));
                labels.extend(engine.label());
            }
            let known = labels.iter().filter(|l| l.regime().is_some()).count();
            assert_eq!(known > 0, trusted, "{known} of {} labels name a regime", labels.len());
            assert!(trusted || labels.last() == Some(&Label::Unknown), "{:?}", labels.last());
        }
    }
}
