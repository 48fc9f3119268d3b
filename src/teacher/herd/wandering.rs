//! A minute of an animal.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, Poisson, StandardNormal};

use super::super::animal::Regime;
use super::super::draws::{log_uniform, permuted};
use super::body::Body;
use super::family::{BIN_S, Family};
use super::network::NetworkBody;
use super::normal_form::NormalFormBody;
use super::readout::Readout;

/// Share of the animals that are of the family of `regimed simulate`, and the other families.
const TURNED_SHARE: f64 = 0.46;
const OTHERS: [Family; 3] = [Family::Orthonormal, Family::Populations, Family::NormalForms];
/// Time recorded, seconds.
const RECORDED_S: f64 = 60.0;
const TRANSIENT_S: f64 = 1.0;
/// Channels, and mean rate over them, spikes per second.
const CHANNELS: [f64; 2] = [24.0, 220.0];
const RATE_HZ: [f64; 2] = [0.8, 32.0];
/// Mean dwell in a regime, seconds, and share of the animals with one dwell throughout.
const DWELL_S: [f64; 2] = [1.5, 6.0];
const REGULAR_SHARE: f64 = 0.5;
/// Share of the recordings in which only some of the regimes occur.
const SOME_SHARE: f64 = 0.3;
/// Share of the animals that are kicked where a regime begins.
const KICKED_SHARE: f64 = 0.6;
const KICK: [f64; 2] = [0.2, 1.0];
/// Shares of the animals whose rates are multiplied by what all channels share, drift apart, and
/// scatter from bin to bin.
const SHARED_SHARE: f64 = 0.3;
const DRIFT_SHARE: f64 = 0.3;
const SCATTER_SHARE: f64 = 0.3;
/// Standard deviation of the logarithm of what is shared, and how long it lasts, seconds.
const SHARED: [f64; 2] = [0.05, 0.3];
const SHARED_S: [f64; 2] = [0.3, 8.0];
/// Standard deviation of the logarithm of a channel's drift from begin to end.
const DRIFT: [f64; 2] = [0.1, 0.6];
/// Squared coefficient of variation of a bin's rate.
const SCATTER: [f64; 2] = [0.1, 0.8];
/// Most spikes in a bin.
const COUNT_MAX: f64 = 255.0;

/// A recording of one animal.
#[derive(Debug, Clone)]
pub(crate) struct Wandering {
    pub(crate) family: Family,
    pub(crate) channels: usize,
    /// `[bins, channels]`, in bins of [`BIN_S`].
    pub(crate) counts: Vec<u8>,
    /// Index in [`Regime::ALL`] of each bin, `[bins]`.
    pub(crate) regimes: Vec<u8>,
}

/// Animal `number` of the herd of a seed, recorded.
#[must_use]
pub(crate) fn wandering(seed: u64, number: u64) -> Wandering {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((1 << 40) + number);
    let family = match rng.random_range(0.0..1.0) {
        x if x < TURNED_SHARE => Family::Turned,
        _ => OTHERS[rng.random_range(0..OTHERS.len())],
    };
    let channels = log_uniform(CHANNELS, &mut rng).round() as usize;
    let mut body: Box<dyn Body> = match family {
        Family::NormalForms => Box::new(NormalFormBody::new(channels, &mut rng)),
        _ => Box::new(NetworkBody::new(family, channels, &mut rng)),
    };
    let readout = Readout::new(family, channels, &mut rng);
    let allowed = allowed(&mut rng);
    let dwell = log_uniform(DWELL_S, &mut rng);
    let regular = rng.random_bool(REGULAR_SHARE);
    let kick = if rng.random_bool(KICKED_SHARE) { log_uniform(KICK, &mut rng) } else { 0.0 };
    let bins = |seconds: f64| (seconds / BIN_S).round() as usize;
    let (transient, recorded) = (bins(TRANSIENT_S), bins(RECORDED_S));
    let mut rates = vec![0.0f32; recorded * channels];
    let mut regimes = Vec::with_capacity(recorded);
    let (mut now, mut left) = (allowed[0], 0);
    for bin in 0..transient + recorded {
        if left == 0 {
            let others: Vec<usize> = allowed.iter().copied().filter(|r| *r != now).collect();
            if !others.is_empty() {
                now = others[rng.random_range(0..others.len())];
            }
            body.begin(Regime::ALL[now], kick as f32, &mut rng);
            let spread = if regular { 1.0 } else { rng.random_range(0.5..1.5) };
            left = bins(dwell * spread).max(1);
        }
        left -= 1;
        body.advance(&mut rng);
        if bin >= transient {
            regimes.push(now as u8);
            let at = (bin - transient) * channels;
            readout.rates(body.observed(), &mut rates[at..at + channels]);
        }
    }
    disturb(&mut rates, channels, &mut rng);
    let mean = rates.iter().map(|r| f64::from(*r)).sum::<f64>() / rates.len() as f64;
    let scale = log_uniform(RATE_HZ, &mut rng) * BIN_S / mean.max(1e-12);
    let scatter = rng.random_bool(SCATTER_SHARE).then(|| log_uniform(SCATTER, &mut rng));
    let scatter = scatter.and_then(|s| Gamma::new(1.0 / s, s).ok());
    let counts = rates.iter().map(|rate| {
        let more = scatter.map_or(1.0, |s| s.sample(&mut rng));
        spikes(f64::from(*rate) * scale * more, &mut rng)
    });
    let counts = counts.collect();
    Wandering { family, channels, counts, regimes }
}

/// What no regime has to do with: a gain that channels share, and their drift.
fn disturb(rates: &mut [f32], channels: usize, rng: &mut ChaCha8Rng) {
    let mut normal = {
        let mut rng = ChaCha8Rng::seed_from_u64(rng.random());
        move || -> f64 { StandardNormal.sample(&mut rng) }
    };
    let bins = rates.len() / channels;
    let shared = if rng.random_bool(SHARED_SHARE) { log_uniform(SHARED, rng) } else { 0.0 };
    let kept = (-BIN_S / log_uniform(SHARED_S, rng)).exp();
    let drift = if rng.random_bool(DRIFT_SHARE) { log_uniform(DRIFT, rng) } else { 0.0 };
    let drifts: Vec<f64> = (0..channels).map(|_| drift * normal()).collect();
    let mut gain = normal();
    for (t, row) in rates.chunks_exact_mut(channels).enumerate() {
        let at = (t as f64 + 0.5) / bins as f64 - 0.5;
        for (rate, drift) in row.iter_mut().zip(&drifts) {
            *rate *= (shared * gain + drift * at).exp() as f32;
        }
        gain = kept * gain + (1.0 - kept * kept).sqrt() * normal();
    }
}

/// Regimes that occur, in random order.
fn allowed(rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut all = permuted(Regime::ALL.len(), rng);
    if rng.random_bool(SOME_SHARE) {
        all.truncate(rng.random_range(1..all.len()));
    }
    all
}

fn spikes(expected: f64, rng: &mut ChaCha8Rng) -> u8 {
    Poisson::new(expected).map_or(0.0, |p| p.sample(rng)).min(COUNT_MAX) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn animals_are_the_same_for_the_same_seed_and_stay_within_what_is_drawn() {
        let mut families = Vec::new();
        for number in 0..24 {
            let of = wandering(3, number);
            assert_eq!(of.counts.len(), of.regimes.len() * of.channels);
            assert_eq!(of.regimes.len(), 3000);
            let spikes: f64 = of.counts.iter().map(|c| f64::from(*c)).sum();
            let hz = spikes / of.channels as f64 / RECORDED_S;
            assert!((RATE_HZ[0] * 0.8..RATE_HZ[1] * 1.2).contains(&hz), "{number}: {hz} Hz");
            families.push(of.family);
        }
        assert!(Family::ALL.iter().all(|f| families.contains(f)), "{families:?}");
        let [a, b, other] = [(3, 5), (3, 5), (4, 5)].map(|(seed, n)| wandering(seed, n));
        assert!(a.counts == b.counts && a.regimes == b.regimes && a.counts != other.counts);
    }
}
