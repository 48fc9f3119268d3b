//! What held-out streams decide of a model: temperature, novelty's limits, scores, operating
//! points.

use ndarray::Array1;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::data::{Dataset, HeldOut};
use super::error::FinishError;
use crate::inference::{Adaptation, FilterBank, NOVELTY_WINDOW_S};
use crate::model::{Model, NoveltyLimits, OperatingPoint, Readout};
use crate::recording::Counts;
use crate::regime::{ChangeScore, DecisionRule, Label, Score, Tracker, Verdict};

/// Temperatures tried on held-out streams.
const TEMPERATURES: [f32; 12] = [0.7, 1.0, 1.3, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 7.0, 10.0, 15.0];
/// Quantile of novelty's signs over bins of known dynamics, which is their limit before its margin.
const NOVELTY_QUANTILE: f64 = 0.998;
/// Limits are multiplied by 1 + this over the root of the streamed seconds: scores are smoothed
/// over 1 s, so a short recording has hardly shown their range.
const NOVELTY_MARGIN: f64 = 5.0;
/// Limits are also multiplied by this where no task was held out: the end of a recording is too
/// much like its beginning to show how far another day, or another task, goes.
const NOVELTY_MARGIN_KNOWN_TASKS: f64 = 3.0;
/// The first bins after a change do not count for the temperature, because their counts are still
/// those of the label before: this many, but no more than half a second.
const LABEL_SETTLED_BINS: usize = 3;
const LABEL_SETTLED_S: f64 = 0.5;
/// Bins of a stream before this many seconds do not count for novelty, whose signs are smoothed
/// over as long.
const NOVELTY_SETTLED_S: f64 = NOVELTY_WINDOW_S;
/// Probabilities a new label must reach that are tried as decision rules.
const PROBABILITIES: [f32; 13] =
    [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998];
/// Expected counts by which a channel's dispersion is drawn towards that of all.
const DISPERSION_PRIOR_COUNTS: f64 = 500.0;
/// A rule that finds fewer of the changes is no rule.
const FOUND_MIN: f64 = 0.5;

/// The bank's output on one held-out stream, at temperature 1.
struct Streamed {
    /// `[bins, regimes]`.
    posterior: Vec<f32>,
    innovation_runs: Vec<f32>,
    embedding_distance: Vec<f32>,
    /// Predictive log-likelihood, nats per channel, summed over bins.
    log_likelihood: f64,
}

fn stream_one(model: &Model, stream: &HeldOut) -> Result<Streamed, FinishError> {
    let mut bank = FilterBank::new(model, &model.readouts[stream.session], Adaptation::NONE)?;
    let mut streamed = Streamed {
        posterior: Vec::new(),
        innovation_runs: Vec::new(),
        embedding_distance: Vec::new(),
        log_likelihood: 0.0,
    };
    stream.counts.each(usize::MAX, |counts| {
        let estimate = bank.update(counts);
        streamed.posterior.extend(&estimate.posterior);
        streamed.innovation_runs.push(estimate.innovation_runs);
        streamed.embedding_distance.push(estimate.embedding_distance);
        streamed.log_likelihood += f64::from(estimate.log_likelihood);
    })?;
    Ok(streamed)
}

/// All held-out streams, on several threads.
fn stream_all(model: &Model, data: &Dataset, threads: usize) -> Result<Vec<Streamed>, FinishError> {
    let chunk = data.held_out.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = data
            .held_out
            .chunks(chunk)
            .map(|part| {
                scope.spawn(|| {
                    part.iter().map(|s| stream_one(model, s)).collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            // A panic there has ended the program already.
            all.extend(worker.join().unwrap_or(Ok(Vec::new()))?);
        }
        Ok(all)
    })
}

/// `p^(1/T)`, normalised.
fn tempered(posterior: &[f32], temperature: f32, out: &mut [f32]) {
    let mut total = 0.0;
    for (o, p) in out.iter_mut().zip(posterior) {
        *o = (p.max(1e-30).ln() / temperature).exp();
        total += *o;
    }
    out.iter_mut().for_each(|o| *o /= total);
}

/// Scores of the held-out streams.
pub(super) struct Scored {
    /// Of all labelled bins; `None` where there is none.
    pub(super) labels: Option<Verdict>,
    /// The same by session name.
    pub(super) by_session: Vec<(String, Verdict)>,
    /// Mean predictive log-likelihood, nats per bin and channel; `None` where nothing is held out.
    pub(super) log_likelihood: Option<f64>,
}

/// Temperature by the held-out log loss, novelty's limits by their quantiles, and the scores then.
pub(super) fn tune(
    model: &mut Model,
    data: &Dataset,
    threads: usize,
) -> Result<Scored, FinishError> {
    model.online.temperature = 1.0;
    model.online.novelty_limits = NoveltyLimits::NONE;
    let streamed = stream_all(model, data, threads)?;
    let n = model.regime_names.len();
    let bins = |seconds: f64| (seconds / model.bin_width_s).ceil() as usize;
    let settled = bins(NOVELTY_SETTLED_S);
    let label_settled = LABEL_SETTLED_BINS.min(bins(LABEL_SETTLED_S));
    let mut loss = [0.0f64; TEMPERATURES.len()];
    let mut out = vec![0.0f32; n];
    for (stream, streamed) in data.held_out.iter().zip(&streamed) {
        let mut same = 0usize;
        for (t, (posterior, truth)) in
            streamed.posterior.chunks_exact(n).zip(&stream.regime).enumerate()
        {
            same = if t > 0 && stream.regime[t - 1] == *truth { same + 1 } else { 0 };
            let Some(truth) = truth else { continue };
            if same < label_settled {
                continue;
            }
            for (loss, temperature) in loss.iter_mut().zip(TEMPERATURES) {
                tempered(posterior, temperature, &mut out);
                *loss -= f64::from(out[*truth].max(1e-12)).ln();
            }
        }
    }
    let best = (0..loss.len()).min_by(|&a, &b| loss[a].total_cmp(&loss[b])).unwrap_or(1);
    model.online.temperature = if loss[best] > 0.0 { TEMPERATURES[best] } else { 1.0 };
    let bin_width_s = model.bin_width_s;
    let limit = |of: fn(&Streamed) -> &Vec<f32>| {
        let mut seen: Vec<f32> =
            streamed.iter().flat_map(|h| of(h).iter().skip(settled).copied()).collect();
        seen.sort_by(f32::total_cmp);
        let last = seen.len().checked_sub(1)?;
        let seconds = (last + 1) as f64 * bin_width_s;
        let likeness = if data.held_out_tasks { 1.0 } else { NOVELTY_MARGIN_KNOWN_TASKS };
        let margin = likeness * (1.0 + NOVELTY_MARGIN / seconds.sqrt());
        Some(margin as f32 * seen[(NOVELTY_QUANTILE * last as f64).round() as usize])
    };
    if let (Some(innovation_runs), Some(embedding_distance)) =
        (limit(|h| &h.innovation_runs), limit(|h| &h.embedding_distance))
    {
        model.online.novelty_limits = NoveltyLimits {
            innovation_runs: innovation_runs.max(f32::MIN_POSITIVE),
            embedding_distance: embedding_distance.max(f32::MIN_POSITIVE),
        };
    }
    Ok(score(model, data, &streamed))
}

/// Scores of the held-out streams at the model's temperature.
fn score(model: &Model, data: &Dataset, streamed: &[Streamed]) -> Scored {
    let n = model.regime_names.len();
    let fresh = || Score::new(n, model.bin_width_s);
    let mut all = fresh();
    let mut sessions = vec![fresh(); data.sessions.len()];
    let mut out = vec![0.0f32; n];
    for (stream, streamed) in data.held_out.iter().zip(streamed) {
        let own = &mut sessions[stream.session];
        all.start_stream();
        own.start_stream();
        for (posterior, &truth) in streamed.posterior.chunks_exact(n).zip(&stream.regime) {
            tempered(posterior, model.online.temperature, &mut out);
            all.push(truth, &out);
            own.push(truth, &out);
        }
    }
    let verdict = |s: &Score| Some(s.verdict()).filter(|v| v.n_bins > 0);
    let by_session = data
        .sessions
        .iter()
        .zip(&sessions)
        .filter_map(|(shape, s)| Some((shape.name.clone(), verdict(s)?)))
        .collect();
    let bins: usize = streamed.iter().map(|s| s.innovation_runs.len()).sum();
    let sum: f64 = streamed.iter().map(|s| s.log_likelihood).sum();
    let log_likelihood = (bins > 0).then(|| sum / bins as f64);
    Scored { labels: verdict(&all), by_session, log_likelihood }
}

/// A decision rule under trial: what follows the posteriors, and how it does.
struct Trial {
    rule: DecisionRule,
    tracker: Tracker,
    score: ChangeScore,
}

/// Scores decision rules on held-out streams in which the regime changes. Where there are none,
/// each session's streams are concatenated in a random order: the regime changes where one ends and
/// the next has another label. Rates of false changes are scaled to as many changes as the model's
/// hazard rates expect.
pub(super) fn operating_points(
    model: &Model,
    data: &Dataset,
) -> Result<Vec<OperatingPoint>, FinishError> {
    let mut trials: Vec<Trial> = PROBABILITIES
        .iter()
        .map(|&probability_min| {
            let rule = DecisionRule { probability_min, ..DecisionRule::of(model, None) };
            let (tracker, score) = (Tracker::new(model, rule), ChangeScore::default());
            Trial { rule, tracker, score }
        })
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let changes = |s: &&HeldOut| s.regime.windows(2).any(|w| w[0] != w[1]);
    // Where no stream changes by itself, streams are put one after another at random, so that no
    // label always follows the same other.
    let changing = data.held_out.iter().any(|s| changes(&s));
    for (session, readout) in model.readouts.iter().enumerate() {
        let mut streams: Vec<&HeldOut> = data
            .held_out
            .iter()
            .filter(|s| s.session == session && (!changing || changes(s)))
            .collect();
        for i in (1..streams.len()).rev() {
            streams.swap(i, rng.random_range(0..=i));
        }
        let mut bank = FilterBank::new(model, readout, Adaptation::default())?;
        for t in &mut trials {
            // As the bank is: a session's label and its warm-up are its own.
            t.tracker = Tracker::new(model, t.rule);
            t.score.start_stream();
        }
        for stream in streams {
            let mut truths = stream.regime.iter().copied();
            stream.counts.each(stream.regime.len(), |counts| {
                let truth = truths.next().flatten();
                let e = bank.update(counts);
                for t in &mut trials {
                    let change = t.tracker.push(&e.posterior, e.unlabelled, e.novelty);
                    let label = match t.tracker.current() {
                        Some(Label::Regime(r)) => Some(r),
                        Some(Label::Unknown) | None => None,
                    };
                    t.score.push(truth, label, change.as_ref());
                }
            })?;
        }
    }
    Ok(points(model, &trials))
}

/// The rules that find enough changes, each with fewer false ones than the one before.
fn points(model: &Model, trials: &[Trial]) -> Vec<OperatingPoint> {
    let mut points: Vec<OperatingPoint> = Vec::new();
    for t in trials {
        let v = t.score.verdict(model.bin_width_s);
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

/// Dispersion of each channel's counts beyond Poisson, `alpha` in variance = rate + alpha rate^2,
/// by moments of the residuals of a Poisson `readout` on a stream: `sum (y - lambda)^2 - lambda`
/// over `sum lambda^2`, shrunk towards the channels' pooled value by a number of expected counts.
///
/// # Errors
/// When the bank does not take the model, or counts cannot be read.
pub fn dispersion<'a>(
    model: &Model,
    readout: &Readout,
    streams: impl Iterator<Item = &'a Counts>,
) -> Result<Array1<f32>, FinishError> {
    let n = readout.n_channels();
    let (mut excess, mut squares, mut counts) = (vec![0.0f64; n], vec![0.0f64; n], vec![0.0; n]);
    let mut bank = FilterBank::new(model, readout, Adaptation::NONE)?;
    for stream in streams {
        bank.reset();
        stream.each(usize::MAX, |bin| {
            bank.update(bin);
            for (i, (&y, &rate)) in bin.iter().zip(bank.expected_counts()).enumerate() {
                let (y, rate) = (f64::from(y), f64::from(rate));
                excess[i] += (y - rate).powi(2) - rate;
                squares[i] += rate * rate;
                counts[i] += rate;
            }
        })?;
    }
    let pooled = excess.iter().sum::<f64>() / squares.iter().sum::<f64>().max(1e-12);
    Ok((0..n)
        .map(|i| {
            let own = excess[i] / squares[i].max(1e-12);
            let trust = counts[i] / (counts[i] + DISPERSION_PRIOR_COUNTS);
            (trust * own + (1.0 - trust) * pooled).max(0.0) as f32
        })
        .collect())
}
