//! Streams one trial through the engine, and counts what it shows.

use std::time::Instant;

use anyhow::{Context, Result};

use super::blocks::Blocks;
use super::decisions::Decisions;
use super::dynamics::{ByLabel, COMPARED_AFTER_S, COMPARED_FROM_S, Compared};
use crate::commands::scoreboard::Durations;
use crate::dynamics::{Monitor, Position, Reading, SkillMeter};
use crate::inference::Adaptation;
use crate::model::Model;
use crate::recording::{DynamicsTruth, Trial};
use crate::regime::{Change, ChangeScore, DecisionRule, Engine, Label, Score};

/// Time between readings of the dynamics, seconds.
const METRICS_EVERY_S: f64 = 0.1;
/// They count from here on in a stream, seconds.
const METRICS_FROM_S: f64 = 0.1;
/// Forecasts of a session.
const FORECASTS_MAX: usize = 500;
/// Bins kept of a timeline.
pub(super) const TIMELINE_BINS: usize = 4000;

/// The first bins of streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Timeline {
    pub(super) truth: Vec<Option<usize>>,
    /// The label in force; `None`: none, or unknown.
    pub(super) label: Vec<Option<usize>>,
    pub(super) posterior: Vec<Vec<f32>>,
}

impl Timeline {
    fn push(&mut self, truth: Option<usize>, label: Option<usize>, posterior: &[f32]) {
        if self.truth.len() < TIMELINE_BINS {
            self.truth.push(truth);
            self.label.push(label);
            self.posterior.push(posterior.to_vec());
        }
    }

    pub(super) fn extend(&mut self, more: &Self) {
        let left = TIMELINE_BINS.saturating_sub(self.truth.len());
        self.truth.extend(more.truth.iter().take(left));
        self.label.extend(more.label.iter().take(left));
        self.posterior.extend(more.posterior.iter().take(left).cloned());
    }
}

/// What is known of one session's streams.
pub(super) struct OfSession {
    pub(super) name: String,
    pub(super) score: Score,
    pub(super) changes: ChangeScore,
    pub(super) timeline: Timeline,
}

/// Everything that streaming adds up.
pub(super) struct Tally {
    pub(super) rule: DecisionRule,
    pub(super) score: Score,
    pub(super) changes: ChangeScore,
    pub(super) blocks: Blocks,
    pub(super) sessions: Vec<OfSession>,
    pub(super) compute: Durations,
    pub(super) unknown_bins: u64,
    pub(super) bins: u64,
    pub(super) log_likelihood: f64,
    pub(super) by_label: ByLabel,
    pub(super) compared: Vec<Compared>,
    /// True regime and embedding at each stream's end.
    pub(super) ends: Vec<(Option<usize>, Vec<f32>)>,
    /// Time of a reading of the dynamics, microseconds.
    pub(super) reading: Durations,
    /// Forecasts, by session.
    pub(super) skill: Vec<(String, SkillMeter)>,
    /// Every bin's, where asked for.
    pub(super) decisions: Option<Decisions>,
}

impl Tally {
    /// Place of a session.
    fn session(&mut self, model: &Model, name: &str) -> usize {
        self.sessions.iter().position(|s| s.name == name).unwrap_or_else(|| {
            self.sessions.push(OfSession {
                name: name.to_owned(),
                score: Score::new(model.regime_names.len(), model.bin_width_s),
                changes: ChangeScore::default(),
                timeline: Timeline::default(),
            });
            self.sessions.len() - 1
        })
    }

    /// Place of a session's meter, at the start of a stream.
    fn meter(&mut self, session: &str, channels: usize) -> usize {
        let at = self.skill.iter().position(|s| s.0 == session).unwrap_or_else(|| {
            self.skill.push((session.to_owned(), SkillMeter::new(channels, FORECASTS_MAX)));
            self.skill.len() - 1
        });
        self.skill[at].1.start_stream();
        at
    }

    fn start_stream(&mut self, session: usize) {
        let own = &mut self.sessions[session];
        for score in [&mut self.score, &mut own.score] {
            score.start_stream();
        }
        for changes in [&mut self.changes, &mut own.changes] {
            changes.start_stream();
        }
        self.blocks.start_stream(session);
        self.by_label.start_stream();
    }

    /// A bin of a session: what is true and the label in force, the change to it, the posterior.
    fn score_bin(
        &mut self,
        session: usize,
        (truth, label): (Option<usize>, Option<usize>),
        change: Option<&Change>,
        posterior: &[f32],
    ) {
        let own = &mut self.sessions[session];
        own.score.push(truth, posterior);
        own.changes.push(truth, label, change);
        let scored = self.score.scored(truth, posterior);
        let followed = self.changes.followed(truth, label, change);
        self.blocks.push(truth, scored, &followed);
    }

    /// Streams a trial whose regimes are the model's; returns its timeline.
    pub(super) fn run(&mut self, model: &Model, trial: &Trial) -> Result<Timeline> {
        let readout = model.readout(&trial.session).context("a session the model does not know")?;
        let mut engine = Engine::new(model, readout, self.rule, Adaptation::default())?;
        let session = self.session(model, &trial.session);
        self.start_stream(session);
        if let Some(decisions) = &mut self.decisions {
            decisions.start_stream(trial);
        }
        let n = engine.n_channels();
        let at = self.meter(&trial.session, n);
        let every = (METRICS_EVERY_S / model.bin_width_s).round().max(1.0) as usize;
        let from = (METRICS_FROM_S / model.bin_width_s).round() as usize;
        let mut monitor = Monitor::new(model, n);
        let compared_at = (COMPARED_AFTER_S / model.bin_width_s).round() as usize;
        let mut newest: Option<(Reading, usize)> = None;
        let mut seen = Timeline::default();
        let mut counts = vec![0.0f32; n];
        for (bin, (row, &truth)) in trial.counts.rows().into_iter().zip(&trial.regime).enumerate() {
            counts.iter_mut().zip(row).for_each(|(c, &y)| *c = f32::from(y));
            let began = Instant::now();
            let change = engine.push(Some(&counts));
            self.compute.push(began.elapsed().as_secs_f64() * 1e6);
            let estimate = engine.estimate();
            if let Some(decisions) = &mut self.decisions {
                decisions.push(&engine, change);
            }
            let label = engine.label().and_then(Label::regime);
            self.unknown_bins += u64::from(engine.label() == Some(Label::Unknown));
            self.score_bin(session, (truth, label), change.as_ref(), &estimate.posterior);
            self.bins += 1;
            self.log_likelihood += f64::from(estimate.log_likelihood);
            seen.push(truth, label, &estimate.posterior);
            self.skill[at].1.push(model, readout, &counts, estimate);
            monitor.push_counts(Some(&counts));
            if (bin + 1).is_multiple_of(every) {
                let at = Position::of(estimate, label);
                let Some(reading) = self.read(&mut monitor, model, &at) else { continue };
                if bin >= from {
                    self.by_label.push(truth, &reading);
                }
                if bin < compared_at {
                    newest = most_probable(&estimate.posterior).map(|most| (reading, most));
                }
            }
        }
        let last = trial.regime.last().copied().flatten();
        self.ends.push((last, engine.estimate().embedding_mean.clone()));
        self.compare(model, trial, newest);
        self.sessions[session].timeline.extend(&seen);
        Ok(seen)
    }

    /// A reading of the dynamics, timed.
    fn read(&mut self, monitor: &mut Monitor, model: &Model, at: &Position<'_>) -> Option<Reading> {
        let began = Instant::now();
        let reading = monitor.refresh(model, at);
        self.reading.push(began.elapsed().as_secs_f64() * 1e6);
        reading
    }

    /// Compares the newest reading of a stream with the truth, where that is known and the stream
    /// long enough.
    fn compare(&mut self, model: &Model, trial: &Trial, newest: Option<(Reading, usize)>) {
        let long = trial.n_bins() as f64 * model.bin_width_s >= COMPARED_FROM_S;
        if let (true, true, Some(Some(regime)), Some((found, most))) =
            (long, trial.truth != DynamicsTruth::default(), trial.regime.first(), newest)
        {
            let known = most == *regime;
            self.compared.push(Compared { regime: *regime, truth: trial.truth, found, known });
        }
    }
}

/// The most probable regime.
fn most_probable(posterior: &[f32]) -> Option<usize> {
    (0..posterior.len()).max_by(|&a, &b| posterior[a].total_cmp(&posterior[b]))
}
