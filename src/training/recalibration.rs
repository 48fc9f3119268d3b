//! The same animal on another day: its readout from the day before. No labels are needed: channels
//! that still record the same unit hold the latents where they were. Which ones do shows in the
//! covariances of their rates; those that do not are left out; rates follow by expectation and
//! maximisation, with the filter bank as its E-step.

use nalgebra::{DMatrix, DVector};

use super::data::Dataset;
use super::error::FinishError;
use crate::inference::{Adaptation, FilterBank};
use crate::model::{Model, Readout};

/// Rounds of expectation and maximisation.
const ROUNDS: usize = 3;
/// Rounds of sorting channels by their covariances.
const SORTING_ROUNDS: usize = 12;
/// A channel has kept its unit where the covariances with the others are at least this share of
/// what its loadings predict.
const KEPT_ABOVE: f64 = 0.6;
/// Newton's steps for a baseline.
const NEWTON_STEPS: usize = 20;
/// Standard deviation of a rate's drift, natural log.
const BASELINE_SD: f64 = 0.7;
/// Bins before these many seconds of a stream do not count: the filter has yet to find its place.
const SETTLED_S: f64 = 0.3;

/// A readout found for another day.
#[derive(Debug, Clone)]
pub struct Recalibration {
    /// The readout, with the regime prior of the day before.
    pub readout: Readout,
    /// Channels taken for other units than the day before.
    pub replaced: usize,
    /// Mean one-step predictive log-likelihood, nats per bin and channel, at the day before's
    /// readout and at the one found.
    pub log_likelihood: [f64; 2],
}

/// The bank's moments of the latents, over all bins.
struct Expected {
    /// `[bins][rank]`.
    mean: Vec<Vec<f64>>,
    variance: Vec<Vec<f64>>,
    /// Index of each bin's counts in all streams' bins.
    bins: Vec<usize>,
    log_likelihood: f64,
}

/// Learns the readout of `data`'s one session, a later day of the session of `before`. Calls `each`
/// with the rounds done; `false` stops the work.
///
/// # Errors
/// When the bank does not take the readout, or counts cannot be read.
pub fn recalibrate(
    model: &Model,
    before: &Readout,
    data: &Dataset,
    session: &str,
    mut each: impl FnMut(usize, f64) -> bool,
) -> Result<Recalibration, FinishError> {
    let n = before.n_channels();
    let rank = model.dims.rank;
    let whole = |s: &super::data::Stream| s.counts.read(0, s.counts.bins());
    let whole: Vec<Vec<f32>> = data.streams.iter().map(whole).collect::<std::io::Result<_>>()?;
    let counts: Vec<&[f32]> = whole.iter().flat_map(|s| s.chunks_exact(n)).collect();
    // What other experts learned of units that are gone would mislead.
    let mut readout = Readout { session: session.to_owned(), experts: None, ..before.clone() };
    // Lost units are silent at first, and rates have changed since: either would be taken for
    // latents.
    let streams: Vec<&super::data::Stream> = data.streams.iter().collect();
    let (log_cov, mean) = super::readout::log_moments(&streams, n, model.bin_width_s)?;
    let (kept, latent) = sort_channels(&log_cov, before, rank);
    for channel in 0..n {
        let mut loading = readout.loading.row_mut(channel);
        if !kept[channel] {
            loading.fill(0.0);
        }
        let c = DVector::from_iterator(rank, loading.iter().map(|&x| f64::from(x)));
        let spread = c.dot(&(&latent * &c)).clamp(0.0, 3.0);
        readout.baseline[channel] = (mean[channel].max(1e-4).ln() - 0.5 * spread) as f32;
    }
    let first = expect(model, &readout, data)?;
    let mut newest = first.log_likelihood;
    let replaced = kept.iter().filter(|k| !**k).count();
    let mut expected = first;
    for round in 0..ROUNDS {
        for channel in 0..n {
            let loading = readout.loading.row(channel);
            let c: Vec<f64> = loading.iter().map(|&x| f64::from(x)).collect();
            let own = |t: usize| f64::from(counts[t][channel]);
            let from = f64::from(readout.baseline[channel]);
            readout.baseline[channel] = baseline(&expected, own, &c, from) as f32;
        }
        expected = expect(model, &readout, data)?;
        newest = expected.log_likelihood;
        if !each(round + 1, newest) {
            break;
        }
    }
    let was = expect(model, before, data)?.log_likelihood;
    Ok(Recalibration { readout, replaced, log_likelihood: [was, newest] })
}

/// Which channels have kept their unit, and the latents' covariance `S`: log rates of channels that
/// have covary as `C S C^T`, those of others do not. `S` by least squares over pairs of channels,
/// each weighed by how well it has done so far.
fn sort_channels(
    log_cov: &DMatrix<f64>,
    before: &Readout,
    rank: usize,
) -> (Vec<bool>, DMatrix<f64>) {
    let n = before.n_channels();
    let c = DMatrix::from_row_iterator(n, rank, before.loading.iter().map(|&x| f64::from(x)));
    let pairs: Vec<(usize, usize)> =
        (0..rank).flat_map(|r| (r..rank).map(move |q| (r, q))).collect();
    let mut weight = vec![1.0; n];
    let mut latent = DMatrix::identity(rank, rank);
    let mut share = vec![1.0; n];
    for _ in 0..SORTING_ROUNDS {
        let mut normal = DMatrix::from_diagonal_element(pairs.len(), pairs.len(), 1e-6);
        let mut right = DVector::zeros(pairs.len());
        let mut x = DVector::zeros(pairs.len());
        for i in 0..n {
            for j in 0..i {
                let w = weight[i] * weight[j];
                // Pairs with a channel that was given up cost time and change nothing.
                if w < 1e-3 {
                    continue;
                }
                for (p, &(r, q)) in pairs.iter().enumerate() {
                    let both = c[(i, r)] * c[(j, q)] + c[(i, q)] * c[(j, r)];
                    x[p] = if r == q { 0.5 * both } else { both };
                }
                normal.ger(w, &x, &x, 1.0);
                right.axpy(w * log_cov[(i, j)], &x, 1.0);
            }
        }
        let Some(found) = normal.cholesky().map(|n| n.solve(&right)) else { break };
        for (value, &(r, q)) in found.iter().zip(&pairs) {
            latent[(r, q)] = *value;
            latent[(q, r)] = *value;
        }
        let predicted = &c * &latent * c.transpose();
        for i in 0..n {
            let (mut along, mut square) = (0.0, 0.0);
            for j in (0..n).filter(|&j| j != i) {
                along += weight[j] * predicted[(i, j)] * log_cov[(i, j)];
                square += weight[j] * predicted[(i, j)].powi(2);
            }
            share[i] = along / square.max(1e-9);
            // A smooth step at the threshold.
            weight[i] = 1.0 / (1.0 + (-8.0 * (share[i] - KEPT_ABOVE)).exp());
        }
    }
    (share.iter().map(|s| *s >= KEPT_ABOVE).collect(), latent)
}

/// Rounds that [`recalibrate`] does at most.
pub(crate) const RECALIBRATION_ROUNDS: usize = ROUNDS;

/// The E-step: filtered latents under a readout.
fn expect(model: &Model, readout: &Readout, data: &Dataset) -> Result<Expected, FinishError> {
    let mut bank = FilterBank::new(model, readout, Adaptation::default())?;
    let settled = (SETTLED_S / model.bin_width_s).round() as usize;
    let mut found = Expected { mean: vec![], variance: vec![], bins: vec![], log_likelihood: 0.0 };
    let (mut at, mut counted) = (0, 0);
    for stream in &data.streams {
        bank.reset();
        let mut t = 0;
        stream.counts.each(usize::MAX, |counts| {
            let e = bank.update(counts);
            if t >= settled && !e.artefact {
                let double = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
                found.mean.push(double(&e.latent));
                found.variance.push(e.latent_sd.iter().map(|&s| f64::from(s * s)).collect());
                found.bins.push(at);
                found.log_likelihood += f64::from(e.log_likelihood);
                counted += 1;
            }
            at += 1;
            t += 1;
        })?;
    }
    found.log_likelihood /= f64::from(counted.max(1));
    Ok(found)
}

/// One channel's M-step, its loadings `c` as they are: the baseline `d` of
/// `log rate = c m + d + c V c / 2` on latents with moments `m`, `V` (diagonal), under a normal
/// prior around `from`; Newton's method.
fn baseline(expected: &Expected, counts: impl Fn(usize) -> f64, c: &[f64], from: f64) -> f64 {
    let drive: Vec<f64> = expected
        .mean
        .iter()
        .zip(&expected.variance)
        .map(|(m, v)| (0..c.len()).map(|r| c[r] * (m[r] + 0.5 * c[r] * v[r])).sum::<f64>())
        .collect();
    let total: f64 = expected.bins.iter().map(|&t| counts(t)).sum();
    let scale: f64 = drive.iter().map(|x| x.clamp(-12.0, 6.0).exp()).sum();
    let precision = BASELINE_SD.powi(-2);
    let mut d = from;
    for _ in 0..NEWTON_STEPS {
        let rate = scale * d.exp();
        let step = (total - rate - precision * (d - from)) / (rate + precision);
        // From far below the optimum, a full Newton step overshoots the exponential.
        d += step.clamp(-2.0, 2.0);
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RegimePrior;
    use ndarray::{Array1, Array2};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;

    #[test]
    fn channels_that_lost_their_unit_are_found_by_their_covariances() {
        let (n, rank) = (96, 6);
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let mut normal = || -> f64 { rng.sample(StandardNormal) };
        let before: Vec<f64> = (0..n * rank).map(|_| 0.5 * normal()).collect();
        let mut now = before.clone();
        // Every fourth channel records another unit, the others have drifted by a tenth.
        for (i, c) in now.iter_mut().enumerate() {
            *c = if i / rank % 4 == 0 { 0.5 * normal() } else { *c + 0.05 * normal() };
        }
        let mut latent =
            DMatrix::from_diagonal(&DVector::from_vec(vec![1.0, 0.9, 0.7, 0.6, 0.5, 0.4]));
        (latent[(0, 1)], latent[(1, 0)]) = (0.2, 0.2);
        let c = DMatrix::from_row_slice(n, rank, &now);
        let mut log_cov = &c * &latent * c.transpose();
        for i in 0..n {
            for j in 0..i {
                let noise = 0.1 * normal();
                log_cov[(i, j)] += noise;
                log_cov[(j, i)] += noise;
            }
        }
        let readout = Readout {
            session: "before".into(),
            loading: Array2::from_shape_fn((n, rank), |(i, r)| before[i * rank + r] as f32),
            baseline: Array1::zeros(n),
            channels: None,
            dispersion: None,
            trusted: true,
            prior: RegimePrior::default(),
            experts: None,
        };
        let (kept, found) = sort_channels(&log_cov, &readout, rank);
        let right = (0..n).filter(|&i| kept[i] == (i % 4 != 0)).count();
        assert!(right >= n - 8, "{right} of {n} channels sorted right");
        assert!((&found - &latent).norm() < 0.4, "{found} for {latent}");
    }

    #[test]
    fn a_baseline_balances_the_counts() {
        let expected = Expected {
            mean: vec![vec![0.4], vec![-0.4], vec![1.0]],
            variance: vec![vec![0.1]; 3],
            bins: vec![0, 1, 2],
            log_likelihood: 0.0,
        };
        let c = [0.5];
        let rate = |d: f64, m: f64| (0.5 * m + 0.5 * 0.25 * 0.1 + d).exp();
        let d = baseline(&expected, |t| [3000.0, 1500.0, 3500.0][t], &c, -1.0);
        let predicted: f64 = [0.4, -0.4, 1.0].iter().map(|&m| rate(d, m)).sum();
        // The prior pulls by a few counts of thousands.
        assert!((predicted / 8000.0 - 1.0).abs() < 0.005, "{predicted}");
        let silent = baseline(&expected, |_| 0.0, &c, -1.0);
        assert!(silent < -1.2 && silent.is_finite(), "{silent}");
    }
}
