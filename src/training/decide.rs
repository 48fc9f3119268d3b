//! What held-out streams decide of what is published: the pool's weights, and the decision rule.

use std::collections::{BTreeMap, VecDeque};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::data::HeldOut;
use super::error::FinishError;
use super::held_out::{Scored, score_published};
use super::known::fit_known;
use super::member::Member;
use super::onsets::{Shown, fit_onset_levels};
use super::pool::{Example, fit_pool};
use super::splice::{draw_fade, overlap};
use super::threads::on_each;
use crate::dynamics::{DynamicsSkill, SkillMeter};
use crate::experts::{Pooled, combine};
use crate::inference::{Adaptation, FilterBank};
use crate::model::{ChosenRule, Model, OperatingPoint, SIGNS, UNKNOWN_RATE};
use crate::regime::{ChangeScore, ChangeVerdict, DecisionRule, Label, Tracker};

/// Probabilities a new label must reach that are tried.
const PROBABILITIES: [f32; 15] =
    [0.34, 0.42, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998];
/// Bins in a row for which it must that are tried.
const DWELLS: [u32; 4] = [1, 2, 3, 5];
/// Powers of the base rates that are tried.
const EVENNESS: [f32; 3] = [0.0, 0.5, 1.0];
/// A rule that finds fewer of the changes is no operating point.
const FOUND_MIN: f64 = 0.5;
/// Forecasts of a session in each member, at most.
const FORECASTS_MAX: usize = 150;
/// Rules whose balanced accuracy is within this of the best are as good; of them, the one with the
/// fewest false changes serves.
const AS_GOOD_WITHIN: f64 = 0.01;

/// What one session of one member showed on its held-out streams, played one after another.
struct Heard {
    truth: Vec<Option<usize>>,
    /// `[bins, experts, regimes]`; with the dynamics alone `[bins, regimes]`.
    experts: Vec<f32>,
    /// The published posterior, `[bins, regimes]`.
    posterior: Vec<f32>,
    unlabelled: Vec<f32>,
    /// Signs of unknown dynamics, and the novelty that they make.
    signs: Vec<[f32; SIGNS]>,
    novelty: Vec<f32>,
    pooled: bool,
    /// First bins of streams that the one before gave way to, and in how many bins it did.
    fades: Vec<(usize, usize)>,
}

/// What is published on held-out streams, and what its dynamics foretell.
pub(super) struct Decided {
    pub(super) scored: Scored,
    pub(super) skill: Option<DynamicsSkill>,
}

/// Attaches the sessions' experts, fits the pool and chooses the rule, the same for all `models`.
/// `None` where nothing is held out.
pub(super) fn decide(
    models: &mut [Model],
    members: &[Member<'_>],
) -> Result<Option<Decided>, FinishError> {
    for (model, member) in models.iter_mut().zip(members) {
        for (readout, experts) in model.readouts.iter_mut().zip(member.experts) {
            readout.experts.clone_from(experts);
        }
    }
    let base_rates = base_rates(members);
    models.iter_mut().for_each(|m| m.online.base_rates.clone_from(&base_rates));
    let mut heard = hear_all(models, members, true)?;
    let n = models[0].regime_names.len();
    let held_out_tasks = members.iter().any(|m| m.trainer.data().held_out_tasks);
    // Ranges of signs that were learned with more changes between them tell strangers better.
    let alternating = match heard.iter().any(|h| !h.fades.is_empty()) {
        true => hear_all(models, members, false)?,
        false => Vec::new(),
    };
    let ranges = signs(if alternating.is_empty() { &heard } else { &alternating });
    let known = fit_known(&ranges, &signs(&heard), models[0].bin_width_s, held_out_tasks);
    if let Some(known) = known.filter(|_| heard.iter().any(|h| h.pooled)) {
        let limit = known.limit(UNKNOWN_RATE);
        for of in &mut heard {
            of.novelty = of.signs.iter().map(|s| known.score(s) / limit).collect();
        }
        models.iter_mut().for_each(|m| m.online.known = Some(known.clone()));
    }
    let pooled = || heard.iter().filter(|h| h.pooled);
    let threads = members.iter().map(|m| m.trainer.settings().threads).sum::<usize>();
    let examples: Vec<_> = pooled().flat_map(|h| h.examples(n)).collect();
    let pool = fit_pool(&examples, &base_rates, threads);
    if let Some(pool) = pool {
        models.iter_mut().for_each(|m| m.online.pool = pool);
        for of in heard.iter_mut().filter(|h| h.pooled) {
            let all = of.experts.chunks_exact(of.experts.len() / of.truth.len());
            for (posteriors, out) in all.zip(of.posterior.chunks_exact_mut(n)) {
                combine(&pool, &base_rates, posteriors, out);
            }
        }
    }
    let (rule, points) = choose_rule(&models[0], &heard);
    for model in models.iter_mut() {
        (model.online.rule, model.online.operating_points) = (rule, points.clone());
    }
    let shown: Vec<Shown<'_>> = heard.iter().map(Heard::shown).collect();
    let levels = fit_onset_levels(&models[0], DecisionRule::of(&models[0], None), &shown);
    models.iter_mut().for_each(|m| m.online.onset_levels = levels);
    if heard.is_empty() {
        return Ok(None);
    }
    let scored = score_published(models, members)?;
    let skill = dynamics_skill(models, members)?;
    Ok(Some(Decided { scored, skill }))
}

/// Forecasts of the held-out streams by the dynamics alone.
fn dynamics_skill(
    models: &[Model],
    members: &[Member<'_>],
) -> Result<Option<DynamicsSkill>, FinishError> {
    let mut jobs: Vec<(&Model, usize, &[HeldOut])> = Vec::new();
    for (model, member) in models.iter().zip(members) {
        let held_out = member.trainer.data().held_out.as_slice();
        jobs.extend((0..model.readouts.len()).map(|session| (model, session, held_out)));
    }
    let threads = members.iter().map(|m| m.trainer.settings().threads).sum::<usize>();
    let meters = on_each(&mut jobs, threads, |(model, session, held_out)| {
        let readout = &model.readouts[*session];
        let mut bank = FilterBank::new(model, readout, Adaptation::NONE)?;
        let mut meter = SkillMeter::new(readout.n_channels(), FORECASTS_MAX);
        for stream in held_out.iter().filter(|s| s.session == *session) {
            if meter.is_full() {
                break;
            }
            bank.reset();
            meter.start_stream();
            stream.counts.each(stream.regime.len(), |counts| {
                let estimate = bank.update(counts);
                meter.push(model, readout, counts, estimate);
            })?;
        }
        Ok::<_, FinishError>(meter)
    })?;
    Ok(SkillMeter::skill(meters.iter(), &models[0]))
}

/// Share of each regime in the labelled bins of all recordings.
fn base_rates(members: &[Member<'_>]) -> Vec<f32> {
    let data = members[0].trainer.data();
    let bins = |r: usize| data.steps.bins.get(&Some(r)).copied().unwrap_or(0) as f32;
    let all: Vec<f32> = (0..data.regime_names.len()).map(bins).collect();
    let total: f32 = all.iter().sum::<f32>().max(1.0);
    all.into_iter().map(|bins| bins / total).collect()
}

impl Heard {
    fn shown(&self) -> Shown<'_> {
        let Self { truth, posterior, unlabelled, novelty, fades, .. } = self;
        Shown { truth, posterior, unlabelled, novelty, fades }
    }

    /// Labelled bins, an epoch being those of one label in a row.
    fn examples(&self, n_regimes: usize) -> Vec<Example<'_>> {
        let size = self.experts.len() / self.truth.len().max(1);
        let mut epoch_begins = true;
        let mut before = None;
        let mut examples = Vec::new();
        for (&truth, posteriors) in
            self.truth.iter().zip(self.experts.chunks_exact(size.max(n_regimes)))
        {
            epoch_begins |= truth != before;
            before = truth;
            if let Some(truth) = truth {
                examples.push(Example { truth, posteriors, epoch_begins });
                epoch_begins = false;
            }
        }
        examples
    }
}

fn signs(heard: &[Heard]) -> Vec<&[[f32; SIGNS]]> {
    heard.iter().map(|h| h.signs.as_slice()).collect()
}

/// Every session of every member, on several threads.
fn hear_all(
    models: &[Model],
    members: &[Member<'_>],
    in_runs: bool,
) -> Result<Vec<Heard>, FinishError> {
    let mut jobs: Vec<(&Model, usize, Row<'_>)> = Vec::new();
    for (model, member) in models.iter().zip(members) {
        for session in 0..model.readouts.len() {
            let held_out = &member.trainer.data().held_out;
            let dwell_bins = match in_runs {
                true => (model.mean_dwell_s() / model.bin_width_s) as usize,
                false => 0,
            };
            let row = in_a_row(held_out, session, (model.bin_width_s, dwell_bins));
            if !row.streams.is_empty() {
                jobs.push((model, session, row));
            }
        }
    }
    let threads = members.iter().map(|m| m.trainer.settings().threads).sum::<usize>();
    on_each(&mut jobs, threads, |(model, session, row)| hear(model, *session, row))
}

/// A session's held-out streams in the order in which they are played.
struct Row<'a> {
    streams: Vec<&'a HeldOut>,
    /// Bins of each in which the one before gives way to it.
    fades: Vec<usize>,
}

/// Where regimes change within streams, those alone; else all in a random order, so that no label
/// always follows the same other, in runs of one task that last about `dwell_bins` (single ones for
/// 0), and each giving way to the next.
fn in_a_row(
    held_out: &[HeldOut],
    session: usize,
    (bin_width_s, dwell_bins): (f64, usize),
) -> Row<'_> {
    let changes = |s: &&HeldOut| s.regime.windows(2).any(|w| w[0] != w[1]);
    let changing = held_out.iter().any(|s| changes(&s));
    let mut streams: Vec<&HeldOut> =
        held_out.iter().filter(|s| s.session == session && (!changing || changes(s))).collect();
    let mut fades = vec![0; streams.len()];
    if !changing {
        let mut rng = ChaCha8Rng::seed_from_u64(session as u64);
        for i in (1..streams.len()).rev() {
            streams.swap(i, rng.random_range(0..=i));
        }
        streams = in_runs(&streams, dwell_bins);
        for (fade, pair) in fades.iter_mut().skip(1).zip(streams.windows(2)) {
            let shorter = pair[0].regime.len().min(pair[1].regime.len());
            *fade = draw_fade(bin_width_s, shorter / 2, &mut rng);
        }
    }
    Row { streams, fades }
}

/// Streams of one task behind one another, until they last about as long as a regime does.
fn in_runs<'a>(streams: &[&'a HeldOut], dwell_bins: usize) -> Vec<&'a HeldOut> {
    let mut waiting: BTreeMap<(Option<usize>, i64), VecDeque<usize>> = BTreeMap::new();
    for (i, stream) in streams.iter().enumerate() {
        waiting.entry((stream.regime[0], stream.task)).or_default().push_back(i);
    }
    let mut ordered = Vec::with_capacity(streams.len());
    let mut last = None;
    while ordered.len() < streams.len() {
        // The first that waits, of another regime than the last run's where there is one.
        let next = waiting
            .iter()
            .filter_map(|(of, list)| Some((last == Some(of.0), *list.front()?, *of)))
            .min();
        let Some((_, _, of)) = next else { break };
        let Some(alike) = waiting.get_mut(&of) else { break };
        let mut bins = 0;
        while let Some(&next) = alike.front() {
            // One more where the run is nearer to that time with it.
            let len = streams[next].regime.len();
            if bins > 0 && bins + len / 2 > dwell_bins {
                break;
            }
            bins += len;
            ordered.push(streams[next]);
            alike.pop_front();
        }
        last = Some(of.0);
    }
    ordered
}

impl Row<'_> {
    /// First bins of streams that the one before gave way to, and in how many bins it did.
    fn fades(&self) -> Vec<(usize, usize)> {
        let mut begins = 0;
        let mut fades = Vec::new();
        for (before, &fade) in self.streams.iter().zip(self.fades.iter().skip(1)) {
            begins += before.regime.len() - fade;
            if fade > 0 {
                fades.push((begins, fade));
            }
        }
        fades
    }

    /// Plays all bins: the truth and the counts of each.
    fn each(&self, mut take: impl FnMut(Option<usize>, &[f32])) -> std::io::Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (i, stream) in self.streams.iter().enumerate() {
            let (begun, bins) = (self.fades[i], stream.regime.len());
            if begun > 0 {
                let last = self.streams[i - 1];
                let mut counts = last.counts.read(last.regime.len() - begun, begun)?;
                let (second, channels) = (counts.len(), counts.len() / begun);
                counts.extend(stream.counts.read(0, begun)?);
                overlap(&mut counts, second, (begun, channels), &mut rng);
                for (truth, counts) in stream.regime.iter().zip(counts.chunks_exact(channels)) {
                    take(*truth, counts);
                }
            }
            let own = begun..bins - self.fades.get(i + 1).copied().unwrap_or(0);
            let mut truths = stream.regime[own.clone()].iter();
            let counts = stream.counts.slice(own);
            counts.each(usize::MAX, |counts| take(truths.next().copied().flatten(), counts))?;
        }
        Ok(())
    }
}

fn hear(model: &Model, session: usize, row: &Row<'_>) -> Result<Heard, FinishError> {
    let mut experts = Pooled::new(model, &model.readouts[session], Adaptation::default())?;
    let mut heard = Heard {
        truth: Vec::new(),
        experts: Vec::new(),
        posterior: Vec::new(),
        unlabelled: Vec::new(),
        signs: Vec::new(),
        novelty: Vec::new(),
        pooled: experts.experts().is_some(),
        fades: row.fades(),
    };
    row.each(|truth, counts| {
        heard.truth.push(truth);
        let e = experts.update(counts);
        heard.posterior.extend(&e.posterior);
        heard.unlabelled.push(e.unlabelled);
        heard.signs.push(e.signs);
        heard.novelty.push(e.novelty);
        let own = experts.experts().unwrap_or(&experts.estimate().posterior);
        heard.experts.extend(own);
    })?;
    Ok(heard)
}

/// A decision rule under trial.
struct Trial {
    rule: DecisionRule,
    /// Labelled bins, and those whose label in force was right, by regime.
    seen: Vec<u64>,
    right: Vec<u64>,
    changes: ChangeVerdict,
}

impl Trial {
    fn of(rule: DecisionRule, model: &Model, heard: &[Heard]) -> Self {
        let n = model.regime_names.len();
        let (mut seen, mut right) = (vec![0u64; n], vec![0u64; n]);
        let mut score = ChangeScore::default();
        for of in heard {
            let mut tracker = Tracker::new(model, rule);
            score.start_stream();
            for (t, posterior) in of.posterior.chunks_exact(n).enumerate() {
                let change = tracker.push(posterior, of.unlabelled[t], of.novelty[t]);
                let label = tracker.current().and_then(Label::regime);
                if let Some(truth) = of.truth[t] {
                    seen[truth] += 1;
                    right[truth] += u64::from(label == Some(truth));
                }
                score.push(of.truth[t], label, change.as_ref());
            }
        }
        Self { rule, seen, right, changes: score.verdict(model.bin_width_s) }
    }

    /// Mean over regimes of the fraction right.
    fn balanced_accuracy(&self) -> f64 {
        let shown = self.seen.iter().zip(&self.right).filter(|(seen, _)| **seen > 0);
        let shares: Vec<f64> = shown.map(|(&seen, &right)| right as f64 / seen as f64).collect();
        shares.iter().sum::<f64>() / shares.len().max(1) as f64
    }

    fn false_changes_per_min(&self) -> f64 {
        self.changes.false_changes_per_minute
    }
}

/// The rule that serves, and the operating points at its dwell.
fn choose_rule(model: &Model, heard: &[Heard]) -> (Option<ChosenRule>, Vec<OperatingPoint>) {
    if heard.iter().all(|h| h.truth.iter().all(Option::is_none)) {
        return (None, Vec::new());
    }
    // Without hypotheses for unlabelled bins the two are the same.
    let none = heard.iter().flat_map(|h| &h.unlabelled).all(|u| *u == 0.0);
    let unlabelled: &[bool] = if none { &[true] } else { &[true, false] };
    let usual = DecisionRule::of(model, None);
    let mut trials = Vec::new();
    for &unlabelled in unlabelled {
        // On top of the pool's.
        let rest = 1.0 - model.online.pool.evenness;
        for evenness in EVENNESS.map(|e| e * rest) {
            for dwell_bins in DWELLS {
                for probability_min in PROBABILITIES {
                    let rule =
                        DecisionRule { probability_min, dwell_bins, unlabelled, evenness, ..usual };
                    trials.push(Trial::of(rule, model, heard));
                }
            }
        }
    }
    let best = trials.iter().map(Trial::balanced_accuracy).fold(0.0, f64::max);
    // What costs nothing may be said.
    let as_good = |t: &&Trial| t.balanced_accuracy() >= best - AS_GOOD_WITHIN;
    let says_unknown = trials.iter().filter(as_good).any(|t| t.rule.unlabelled);
    let chosen = trials
        .iter()
        .filter(as_good)
        .filter(|t| t.rule.unlabelled == says_unknown)
        .min_by(|a, b| a.false_changes_per_min().total_cmp(&b.false_changes_per_min()));
    let Some(chosen) = chosen.map(|t| t.rule) else { return (None, Vec::new()) };
    let same =
        |t: &&Trial| DecisionRule { probability_min: t.rule.probability_min, ..chosen } == t.rule;
    let points = points(model, trials.iter().filter(same));
    let DecisionRule { probability_min, dwell_bins, unlabelled, evenness, .. } = chosen;
    (Some(ChosenRule { probability_min, dwell_bins, unlabelled, evenness }), points)
}

/// The rules that find enough changes, each with fewer false ones than the one before. Rates of
/// false changes are scaled to as many changes as the model's hazard rates expect.
fn points<'a>(model: &Model, trials: impl Iterator<Item = &'a Trial>) -> Vec<OperatingPoint> {
    let mut points: Vec<OperatingPoint> = Vec::new();
    for t in trials {
        let v = &t.changes;
        let expected = v.minutes * 60.0 / model.mean_dwell_s();
        let false_changes_per_min = v.false_changes_per_minute
            * if v.changes > 0 { expected / v.changes as f64 } else { 1.0 };
        let rarer = points.last().is_none_or(|p| false_changes_per_min < p.false_changes_per_min);
        if v.changes > 0 && v.found as f64 >= FOUND_MIN * v.changes as f64 && rarer {
            points.push(OperatingPoint {
                probability_min: t.rule.probability_min,
                false_changes_per_min,
                median_delay_s: v.median_delay_s,
            });
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::recording::Counts;

    fn stream(regime: usize, bins: usize, count: u16) -> HeldOut {
        HeldOut {
            session: 0,
            counts: Counts::in_memory(Array2::from_elem((bins, 2), count)),
            regime: vec![Some(regime); bins],
            task: regime as i64,
            exponents: [None; 2],
        }
    }

    #[test]
    fn trials_are_played_in_runs_that_give_way_and_no_bin_is_played_twice() {
        let trials: Vec<HeldOut> =
            (0..24).map(|i| stream(i % 3, 20, 10 + (i % 3) as u16)).collect();
        let row = in_a_row(&trials, 0, (0.1, 60));
        let regimes: Vec<usize> = row.streams.iter().filter_map(|s| s.regime[0]).collect();
        let changes = regimes.windows(2).filter(|w| w[0] != w[1]).count();
        // Three trials are a run; of the last regime, several may have to follow one another.
        assert!((6..=9).contains(&changes), "{changes} of {regimes:?}");
        let begins: Vec<usize> = row.fades().iter().map(|f| f.0).collect();
        let (mut bins, mut last, mut changed) = (0, None, Vec::new());
        row.each(|truth, counts| {
            let own = 10.0 + truth.expect("a label") as f32;
            assert!(counts.iter().all(|c| (c - own).abs() <= 12.0), "{counts:?} at {bins}");
            if bins > 0 && last != truth {
                changed.push(bins);
            }
            (bins, last) = (bins + 1, truth);
        })
        .expect("counts");
        assert_eq!(bins, 24 * 20 - row.fades.iter().sum::<usize>());
        assert_eq!(last, row.streams[23].regime[0]);
        assert!(row.fades[0] == 0 && row.fades.iter().any(|f| *f > 0));
        let faded = changed.iter().filter(|at| begins.contains(at)).count();
        assert!(faded + 2 >= changed.len(), "{changed:?} of {begins:?}");
    }

    #[test]
    fn trials_of_a_task_are_played_behind_one_another() {
        let trials: Vec<HeldOut> = (0..24usize)
            .map(|i| HeldOut { task: (i % 12) as i64, ..stream(i % 3, 20, 1) })
            .collect();
        let row = in_a_row(&trials, 0, (0.1, 60));
        for pair in row.streams.chunks(2) {
            assert_eq!(pair[0].task, pair[1].task);
        }
        for ends in row.streams.windows(3).step_by(2) {
            assert_ne!(ends[1].task, ends[2].task);
        }
    }

    #[test]
    fn recordings_with_changes_are_played_as_they_are() {
        let mut changing = stream(0, 20, 3);
        changing.regime[10..].fill(Some(1));
        let all = [stream(0, 20, 1), changing, stream(1, 20, 2)];
        let row = in_a_row(&all, 0, (0.1, 60));
        assert!(row.streams.len() == 1 && row.fades == [0]);
        let mut played = Vec::new();
        row.each(|truth, counts| played.push((truth, counts[0]))).expect("counts");
        assert!(played.iter().all(|p| (p.1 - 3.0).abs() < 1e-6));
        assert_eq!(played.iter().map(|p| p.0).collect::<Vec<_>>(), all[1].regime);
    }
}
