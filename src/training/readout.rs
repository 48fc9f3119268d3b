//! Readouts from data: what a random start loses at low counts (see docs/training.md).
//!
//! For counts that are Poisson given log-normal rates, `log rate ~ Normal(m, S)`, the first two
//! moments give `S_ij = log(1 + cov(y_i, y_j) / (mu_i mu_j))` with the Poisson variance taken off
//! the diagonal (Aitchison & Ho 1989; Buesing, Macke & Sahani 2012 use it to start latent
//! dynamics). Its leading eigenvectors are the loadings of unit-variance latents.

use candle_core::{Device, Tensor};
use nalgebra::DMatrix;

use super::batch::ReadoutPlaces;
use super::data::{Dataset, SessionShape, Stream};

/// Bins are summed up to this width first: latents are slower, and the moments less noisy.
const MOMENT_BIN_S: f64 = 0.05;
/// Rates below this (counts per summed bin) are not divided by.
const RATE_MIN: f64 = 1e-2;
/// Largest variance of a log rate that is believed.
const LOG_VARIANCE_MAX: f64 = 1.5;
/// Standard deviation of the normal prior on loadings.
const LOADING_SD: f64 = 0.3;

/// Readouts of all sessions, one after another.
pub(super) fn from_data(data: &Dataset, rank: usize) -> std::io::Result<Vec<f32>> {
    let session = |(s, shape): (usize, &SessionShape)| {
        let streams: Vec<_> = data.streams.iter().filter(|x| x.session == s).collect();
        from_moments(&streams, shape.n_channels, rank, data.bin_width_s)
    };
    let each: std::io::Result<Vec<Vec<f32>>> =
        data.sessions.iter().enumerate().map(session).collect();
    Ok(each?.concat())
}

/// Loading `[rank, channels]` then baseline `[channels]` for one session's streams.
pub(crate) fn from_moments(
    streams: &[&Stream],
    channels: usize,
    rank: usize,
    bin_width_s: f64,
) -> std::io::Result<Vec<f32>> {
    let (log_cov, mean) = log_moments(streams, channels, bin_width_s)?;
    let eigen = log_cov.clone().symmetric_eigen();
    let mut order: Vec<usize> = (0..channels).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let mut flat = vec![0.0f32; rank * channels];
    for (r, &column) in order.iter().take(rank).enumerate() {
        let scale = eigen.eigenvalues[column].max(1e-2).sqrt();
        for i in 0..channels {
            flat[r * channels + i] = (eigen.eigenvectors[(i, column)] * scale) as f32;
        }
    }
    for i in 0..channels {
        let explained: f32 = (0..rank).map(|r| flat[r * channels + i].powi(2)).sum();
        let rate = mean[i].max(1e-4);
        flat.push(rate.ln() as f32 - 0.5 * explained);
    }
    Ok(flat)
}

/// Covariance of the log rates, `[channels, channels]`, and mean counts per bin, of counts that are
/// Poisson with log-normal rates.
pub(super) fn log_moments(
    streams: &[&Stream],
    channels: usize,
    bin_width_s: f64,
) -> std::io::Result<(DMatrix<f64>, Vec<f64>)> {
    let factor = ((MOMENT_BIN_S / bin_width_s).round() as usize).max(1);
    let mut mean = vec![0.0f64; channels];
    let mut second = DMatrix::<f64>::zeros(channels, channels);
    let mut n = 0usize;
    let mut wide = vec![0.0f64; channels];
    for stream in streams {
        let mut summed = 0;
        wide.fill(0.0);
        stream.counts.each(usize::MAX, |bin| {
            wide.iter_mut().zip(bin).for_each(|(w, &y)| *w += f64::from(y));
            summed += 1;
            if summed < factor {
                return;
            }
            n += 1;
            for i in 0..channels {
                mean[i] += wide[i];
                if wide[i] > 0.0 {
                    for j in 0..=i {
                        second[(i, j)] += wide[i] * wide[j];
                    }
                }
            }
            summed = 0;
            wide.fill(0.0);
        })?;
    }
    let n = n.max(2) as f64;
    mean.iter_mut().for_each(|m| *m /= n);
    let bounded: Vec<f64> = mean.iter().map(|m| m.max(RATE_MIN)).collect();
    let mut log_cov = DMatrix::<f64>::zeros(channels, channels);
    for i in 0..channels {
        for j in 0..=i {
            let mut cov = second[(i, j)] / n - mean[i] * mean[j];
            if i == j {
                cov -= mean[i];
            }
            let ratio = (1.0 + cov / (bounded[i] * bounded[j])).max(0.2);
            let value = ratio.ln().clamp(-LOG_VARIANCE_MAX, LOG_VARIANCE_MAX);
            log_cov[(i, j)] = value;
            log_cov[(j, i)] = value;
        }
    }
    mean.iter_mut().for_each(|m| *m /= factor as f64);
    Ok((log_cov, mean))
}

/// `C <- C Q` for a readout `[rank, channels]` followed by its baseline.
pub(super) fn rotate(readout: &mut [f32], rotation: &[f32], rank: usize) {
    let channels = readout.len() / (rank + 1);
    let before = readout[..rank * channels].to_vec();
    for r in 0..rank {
        for i in 0..channels {
            readout[r * channels + i] =
                (0..rank).map(|q| before[q * channels + i] * rotation[q * rank + r]).sum();
        }
    }
}

/// Where each session's readout lies.
pub(super) fn places(data: &Dataset, rank: usize) -> ReadoutPlaces {
    ReadoutPlaces { rank, channels: data.sessions.iter().map(|s| s.n_channels).collect() }
}

/// Weight of each squared loading, 0 for baselines.
pub(super) fn loading_weight(
    data: &Dataset,
    places: &ReadoutPlaces,
) -> candle_core::Result<Tensor> {
    let mut weights = Vec::with_capacity(places.len());
    for (s, &channels) in places.channels.iter().enumerate() {
        let of_session = data.streams.iter().filter(|x| x.session == s);
        // The loss is a mean over bins and channels, so a prior weighs less the more there are.
        let bins: usize = of_session.map(|x| x.label_of.len()).sum();
        let weight = 0.5 / (LOADING_SD * LOADING_SD * (bins.max(1) * channels) as f64);
        weights.extend(std::iter::repeat_n(weight as f32, channels * places.rank));
        weights.extend(std::iter::repeat_n(0.0f32, channels));
    }
    let n = weights.len();
    Tensor::from_vec(weights, (1, n), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Counts;
    use crate::training::runs::Runs;
    use rand::SeedableRng;
    use rand_distr::{Distribution, Normal, Poisson};

    #[test]
    fn finds_the_subspace_of_a_log_normal_population() {
        let (channels, bins) = (24, 12_000);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let normal = Normal::new(0.0, 1.0).expect("unit normal");
        let truth: Vec<f64> = (0..channels).map(|i| 0.6 * (0.7 * i as f64).cos()).collect();
        let mut counts = Vec::new();
        for _ in 0..bins {
            let latent: f64 = normal.sample(&mut rng);
            for c in &truth {
                let rate = (c * latent - 0.7).exp();
                counts.push(Poisson::new(rate).expect("rate").sample(&mut rng) as u16);
            }
        }
        let counts = Counts::in_memory(crate::recording::in_bins(counts, channels));
        let stream = Stream { session: 0, counts, label_of: Runs::default() };
        let flat = from_moments(&[&stream], channels, 1, 0.05).expect("in memory");
        for (i, (&found, &expected)) in flat.iter().zip(&truth).enumerate() {
            let found = f64::from(found) * f64::from(flat[0]).signum() * truth[0].signum();
            assert!((found - expected).abs() < 0.08, "channel {i}: {found} for {expected}");
        }
        let baseline = f64::from(flat[channels + 3]);
        assert!((baseline + 0.7).abs() < 0.08, "baseline {baseline}");
    }
}
