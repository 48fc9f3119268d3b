//! What held-out streams decide of the filter: temperature, novelty's limits, and its scores.

use ndarray::Array1;

use super::data::HeldOut;
use super::error::FinishError;
use super::member::Member;
use super::threads::on_each;
use crate::experts::Pooled;
use crate::inference::{Adaptation, FilterBank, NOVELTY_WINDOW_S};
use crate::model::{Model, NoveltyLimits, Readout};
use crate::recording::Counts;
use crate::regime::{Score, Verdict};

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
/// Bins of a stream before this many seconds do not count for novelty, whose signs are smoothed
/// over as long.
const NOVELTY_SETTLED_S: f64 = NOVELTY_WINDOW_S;
/// Expected counts by which a channel's dispersion is drawn towards that of all.
const DISPERSION_PRIOR_COUNTS: f64 = 500.0;
/// What is known of one held-out stream's bins.
pub(super) struct Streamed {
    /// The published posterior, `[bins, regimes]`; of a bank alone at temperature 1.
    pub(super) posterior: Vec<f32>,
    innovation_runs: Vec<f32>,
    embedding_distance: Vec<f32>,
    /// Predictive log-likelihood, nats per channel, summed over bins.
    log_likelihood: f64,
}

fn stream_one(model: &Model, stream: &HeldOut) -> Result<Streamed, FinishError> {
    let mut experts = Pooled::new(model, &model.readouts[stream.session], Adaptation::NONE)?;
    let mut streamed = Streamed {
        posterior: Vec::new(),
        innovation_runs: Vec::new(),
        embedding_distance: Vec::new(),
        log_likelihood: 0.0,
    };
    stream.counts.each(stream.regime.len(), |counts| {
        let estimate = experts.update(counts);
        streamed.posterior.extend(&estimate.posterior);
        streamed.innovation_runs.push(estimate.innovation_runs);
        streamed.embedding_distance.push(estimate.embedding_distance);
        streamed.log_likelihood += f64::from(estimate.log_likelihood);
    })?;
    Ok(streamed)
}

/// The held-out streams of all members with their models.
fn judged<'a>(
    models: &'a [Model],
    members: &'a [Member<'_>],
) -> impl Iterator<Item = (&'a Model, &'a HeldOut)> {
    let pairs = models.iter().zip(members);
    pairs.flat_map(|(model, m)| m.trainer.data().held_out.iter().map(move |s| (model, s)))
}

/// All held-out streams, on several threads.
fn stream_all(models: &[Model], members: &[Member<'_>]) -> Result<Vec<Streamed>, FinishError> {
    let threads = members.iter().map(|m| m.trainer.settings().threads).sum::<usize>();
    let mut streams: Vec<(&Model, &HeldOut)> = judged(models, members).collect();
    on_each(&mut streams, threads, |(model, stream)| stream_one(model, stream))
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
#[derive(Debug, Clone)]
pub(super) struct Scored {
    /// Of all labelled bins; `None` where there is none.
    pub(super) labels: Option<Verdict>,
    /// The same by session name.
    pub(super) by_session: Vec<(String, Verdict)>,
    /// Mean predictive log-likelihood, nats per bin and channel; `None` where nothing is held out.
    pub(super) log_likelihood: Option<f64>,
}

/// Temperature by the held-out log loss, novelty's limits by their quantiles, and the scores then.
/// Other experts do not take part.
pub(super) fn tune(models: &mut [Model], members: &[Member<'_>]) -> Result<Scored, FinishError> {
    for model in models.iter_mut() {
        model.online.temperature = 1.0;
        model.online.novelty_limits = NoveltyLimits::NONE;
        model.online.known = None;
        model.readouts.iter_mut().for_each(|r| r.experts = None);
    }
    let streamed = stream_all(models, members)?;
    let temperature = temperature(&streamed, models, members);
    let limits = limits(&streamed, models, members);
    for model in models.iter_mut() {
        model.online.temperature = temperature;
        model.online.novelty_limits = limits;
    }
    Ok(score(models, members, &streamed, temperature))
}

/// The temperature with the least log loss over all labelled bins.
fn temperature(streamed: &[Streamed], models: &[Model], members: &[Member<'_>]) -> f32 {
    let n = models[0].regime_names.len();
    let mut loss = [0.0f64; TEMPERATURES.len()];
    let mut out = vec![0.0f32; n];
    for ((_, stream), streamed) in judged(models, members).zip(streamed) {
        for (posterior, truth) in streamed.posterior.chunks_exact(n).zip(&stream.regime) {
            let Some(truth) = truth else { continue };
            for (loss, temperature) in loss.iter_mut().zip(TEMPERATURES) {
                tempered(posterior, temperature, &mut out);
                *loss -= f64::from(out[*truth].max(1e-12)).ln();
            }
        }
    }
    let best = (0..loss.len()).min_by(|&a, &b| loss[a].total_cmp(&loss[b])).unwrap_or(1);
    if loss[best] > 0.0 { TEMPERATURES[best] } else { 1.0 }
}

fn limits(streamed: &[Streamed], models: &[Model], members: &[Member<'_>]) -> NoveltyLimits {
    let bin_width_s = models[0].bin_width_s;
    let settled = (NOVELTY_SETTLED_S / bin_width_s).ceil() as usize;
    let held_out_tasks = members.iter().any(|m| m.trainer.data().held_out_tasks);
    let likeness = if held_out_tasks { 1.0 } else { NOVELTY_MARGIN_KNOWN_TASKS };
    let limit = |of: fn(&Streamed) -> &Vec<f32>| {
        let mut seen: Vec<f32> =
            streamed.iter().flat_map(|h| of(h).iter().skip(settled).copied()).collect();
        seen.sort_by(f32::total_cmp);
        let last = seen.len().checked_sub(1)?;
        let seconds = (last + 1) as f64 * bin_width_s;
        let margin = likeness * (1.0 + NOVELTY_MARGIN / seconds.sqrt());
        let limit = margin as f32 * seen[(NOVELTY_QUANTILE * last as f64).round() as usize];
        Some(limit.max(f32::MIN_POSITIVE))
    };
    match (limit(|h| &h.innovation_runs), limit(|h| &h.embedding_distance)) {
        (Some(innovation_runs), Some(embedding_distance)) => {
            NoveltyLimits { innovation_runs, embedding_distance }
        }
        _ => NoveltyLimits::NONE,
    }
}

/// Scores of what is published on the held-out streams, with all experts.
pub(super) fn score_published(
    models: &[Model],
    members: &[Member<'_>],
) -> Result<Scored, FinishError> {
    let streamed = stream_all(models, members)?;
    Ok(score(models, members, &streamed, 1.0))
}

/// Scores of the held-out streams at a temperature.
fn score(
    models: &[Model],
    members: &[Member<'_>],
    streamed: &[Streamed],
    temperature: f32,
) -> Scored {
    let n = models[0].regime_names.len();
    let data = members[0].trainer.data();
    let fresh = || Score::new(n, data.bin_width_s);
    let mut all = fresh();
    let mut sessions = vec![fresh(); data.sessions.len()];
    let mut out = vec![0.0f32; n];
    for ((_, stream), streamed) in judged(models, members).zip(streamed) {
        let own = &mut sessions[stream.session];
        all.start_stream();
        own.start_stream();
        for (posterior, &truth) in streamed.posterior.chunks_exact(n).zip(&stream.regime) {
            tempered(posterior, temperature, &mut out);
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
