//! Fitting the metric head: what the finished model shows of tasks whose exponents are known.

use nalgebra::{DMatrix, DVector};

use super::data::Dataset;
use super::error::FinishError;
use super::threads::on_each;
use crate::dynamics::{Monitor, Position, feature_count};
use crate::inference::Adaptation;
use crate::model::{MetricHead, Model, RegimeHead};
use crate::recording::Counts;
use crate::regime::{DecisionRule, Engine, Label};

/// Time of a stream after which its features are taken, at most, seconds.
const SEEN_S: f64 = 4.0;
/// Shorter streams teach nothing.
const SEEN_MIN_S: f64 = 2.0;
/// Time between refreshes, seconds.
const REFRESH_S: f64 = 0.1;
/// Tasks of a regime that a regression needs, learned and held out.
const TASKS_MIN: usize = 24;
const HELD_OUT_MIN: usize = 6;
/// Ridge penalties that are tried, by leaving one task out each.
const PENALTIES: [f64; 9] = [0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0];
/// Share that a conformal interval holds.
const COVERAGE: f64 = 0.9;

/// A stream of one task with known exponents, as the model sees it.
struct Shown {
    regime: usize,
    features: Vec<f64>,
    /// Without noise and along a noisy path, 1/s.
    truth: [f64; 2],
}

/// A stream to show to the model.
struct Stream<'a> {
    session: usize,
    counts: &'a Counts,
    regime: usize,
    truth: [f64; 2],
}

/// Fits the head of a model to training streams with known exponents, its intervals to those held
/// out; `None` where no regime has enough of both.
///
/// # Errors
/// When the bank does not take the model.
pub(crate) fn fit_metric_head(
    model: &Model,
    data: &Dataset,
    threads: usize,
) -> Result<Option<MetricHead>, FinishError> {
    let known = |truth: [Option<f64>; 2]| Some([truth[0]?, truth[1]?]);
    let learned: Vec<Stream<'_>> = data
        .streams
        .iter()
        .filter_map(|s| {
            let label = s.label_of.only()?;
            let truth = known(data.exponents[label])?;
            let regime = data.labels[label].regime?;
            Some(Stream { session: s.session, counts: &s.counts, regime, truth })
        })
        .collect();
    let held_out: Vec<Stream<'_>> = data
        .held_out
        .iter()
        .filter_map(|s| {
            let truth = known(s.exponents)?;
            let regime = s.regime.first().copied().flatten()?;
            Some(Stream { session: s.session, counts: &s.counts, regime, truth })
        })
        .collect();
    if learned.is_empty() || held_out.is_empty() {
        return Ok(None);
    }
    let (learned, held_out) =
        (show_all(model, &learned, threads)?, show_all(model, &held_out, threads)?);
    let regimes: Vec<Option<RegimeHead>> = (0..model.regime_names.len())
        .map(|r| {
            let of = |all: &'_ [Shown]| -> Vec<usize> {
                (0..all.len()).filter(|&i| all[i].regime == r).collect()
            };
            let pick = |all: &[Shown]| -> Vec<Example> {
                of(all).into_iter().map(|i| (all[i].features.clone(), all[i].truth)).collect()
            };
            fit(&pick(&learned), &pick(&held_out))
        })
        .collect();
    Ok(regimes.iter().any(Option::is_some).then_some(MetricHead { regimes }))
}

fn show_all(
    model: &Model,
    streams: &[Stream<'_>],
    threads: usize,
) -> Result<Vec<Shown>, FinishError> {
    let mut streams: Vec<&Stream<'_>> = streams.iter().collect();
    let found = on_each(&mut streams, threads, |stream| show(model, stream))?;
    Ok(found.into_iter().flatten().collect())
}

/// The features of a stream, some seconds on.
fn show(model: &Model, stream: &Stream<'_>) -> Result<Option<Shown>, FinishError> {
    let rule = DecisionRule::of(model, None);
    let readout = &model.readouts[stream.session];
    let mut engine = Engine::new(model, readout, rule, Adaptation::default())?;
    let n = engine.n_channels();
    let mut monitor = Monitor::new(model, n);
    let bins = |seconds: f64| (seconds / model.bin_width_s).round() as usize;
    if stream.counts.bins() < bins(SEEN_MIN_S) {
        return Ok(None);
    }
    let every = bins(REFRESH_S).max(1);
    let mut features = None;
    let mut bin = 0usize;
    stream.counts.each(bins(SEEN_S), |counts| {
        bin += 1;
        engine.push(Some(counts));
        let e = engine.estimate();
        monitor.push_latent(&e.latent);
        if bin.is_multiple_of(every) {
            let at = Position::of(e, engine.label().and_then(Label::regime));
            let reading = monitor.refresh(model, &at);
            features = reading.and_then(|r| monitor.features(&at, &r.portrait)).or(features.take());
        }
    })?;
    let found = features.filter(|f| f.len() == feature_count(&model.dims));
    Ok(found.map(|features| Shown { regime: stream.regime, features, truth: stream.truth }))
}

type Example = (Vec<f64>, [f64; 2]);

fn fit(learned: &[Example], held_out: &[Example]) -> Option<RegimeHead> {
    if learned.len() < TASKS_MIN || held_out.len() < HELD_OUT_MIN {
        return None;
    }
    let (n, f) = (learned.len(), learned[0].0.len());
    let column = |i: usize| learned.iter().map(move |l| l.0[i]);
    let centre: Vec<f64> = (0..f).map(|i| column(i).sum::<f64>() / n as f64).collect();
    let scale: Vec<f64> = (0..f)
        .map(|i| {
            let square: f64 = column(i).map(|x| (x - centre[i]).powi(2)).sum();
            (square / n as f64).sqrt().max(1e-6)
        })
        .collect();
    let x = DMatrix::from_fn(n, f, |t, i| (learned[t].0[i] - centre[i]) / scale[i]);
    let mut head = RegimeHead {
        centre,
        scale,
        weights: [Vec::new(), Vec::new()],
        half_width: [0.0; 2],
        rms_error: [0.0; 2],
        tasks: [n, held_out.len()],
    };
    for which in [0, 1] {
        let mean = learned.iter().map(|l| l.1[which]).sum::<f64>() / n as f64;
        let y = DVector::from_iterator(n, learned.iter().map(|l| l.1[which] - mean));
        let mut weights = vec![mean];
        weights.extend(ridge(&x, &y)?.iter());
        head.weights[which] = weights;
    }
    let heads = MetricHead { regimes: vec![Some(head.clone())] };
    for which in [0, 1] {
        let mut errors: Vec<f64> = held_out
            .iter()
            .filter_map(|(features, truth)| {
                Some((heads.predict(&[1.0], features)?[which][0] - truth[which]).abs())
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        let m = errors.len();
        // Of m errors and a new one, each rank is as likely.
        let rank = ((m as f64 + 1.0) * COVERAGE).ceil() as usize;
        head.half_width[which] = errors[rank.clamp(1, m) - 1];
        let square: f64 = errors.iter().map(|e| e * e).sum();
        head.rms_error[which] = (square / m as f64).sqrt();
    }
    Some(head)
}

/// Weights of a ridge regression, the penalty chosen by leaving one out:
/// `e_i = (y_i - yhat_i) / (1 - h_ii)` with `h` the hat matrix (and 1/n for the intercept).
fn ridge(x: &DMatrix<f64>, y: &DVector<f64>) -> Option<DVector<f64>> {
    let (n, f) = x.shape();
    let mut best: Option<(f64, DVector<f64>)> = None;
    for penalty in PENALTIES {
        let mut normal = x.tr_mul(x);
        for i in 0..f {
            normal[(i, i)] += penalty;
        }
        let inverse = normal.cholesky()?.inverse();
        let weights = &inverse * x.tr_mul(y);
        let residual = y - x * &weights;
        let left_out: f64 = (0..n)
            .map(|t| {
                let row = x.row(t);
                let leverage = (row * &inverse * row.transpose())[(0, 0)] + 1.0 / n as f64;
                (residual[t] / (1.0 - leverage).max(1e-6)).powi(2)
            })
            .sum();
        if best.as_ref().is_none_or(|b| left_out < b.0) {
            best = Some((left_out, weights));
        }
    }
    best.map(|b| b.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;

    #[test]
    fn a_linear_truth_is_learned_and_its_intervals_hold_what_they_say() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut example = || -> Example {
            let mut normal = || -> f64 { rng.sample(StandardNormal) };
            let features: Vec<f64> = (0..6).map(|_| normal()).collect();
            let signal = 2.0 + features[0] - 0.5 * features[3];
            let truth = [signal + 0.2 * normal(), -signal + 0.4 * normal()];
            (features, truth)
        };
        let learned: Vec<Example> = (0..120).map(|_| example()).collect();
        let held_out: Vec<Example> = (0..80).map(|_| example()).collect();
        let head = fit(&learned, &held_out).expect("enough");
        let heads = MetricHead { regimes: vec![Some(head.clone())] };
        let (mut held, mut square) = ([0, 0], [0.0, 0.0]);
        for _ in 0..2_000 {
            let (features, truth) = example();
            let found = heads.predict(&[1.0], &features).expect("known");
            for which in [0, 1] {
                let [mean, low, high] = found[which];
                held[which] += usize::from((low..high).contains(&truth[which]));
                square[which] += (mean - truth[which]).powi(2) / 2_000.0;
            }
        }
        for (which, sd) in [(0, 0.2f64), (1, 0.4)] {
            let rms = square[which].sqrt();
            assert!(rms < 1.15 * sd, "rms {rms} for noise of {sd}");
            assert!((head.rms_error[which] / rms - 1.0).abs() < 0.3, "{head:?} {rms}");
            let share = f64::from(held[which] as u32) / 2_000.0;
            assert!((0.84..0.97).contains(&share), "held {share}");
        }
        assert!(fit(&learned[..20], &held_out).is_none());
    }
}
