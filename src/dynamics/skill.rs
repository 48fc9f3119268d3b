//! How well the fitted network foretells counts, beside what needs no dynamics: the mean rates, and
//! a Poisson autoregression.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::flow::Flow;
use super::forecast::forecasts;
use super::spectrum::StatePosterior;
use crate::inference::Estimate;
use crate::model::{Model, Readout};

/// Bins ahead.
pub(crate) const AHEAD: [usize; 3] = [10, 30, 100];
/// Bins between forecasts.
const EVERY: usize = 25;
/// A stream's first bins only find the state.
const SETTLED: usize = 50;
/// Most values kept, forecasts times channels.
const VALUES_MAX: usize = 1 << 19;
/// Time constants of the autoregression's averages, bins, and its coefficients, which are tried.
const AVERAGED_OVER: [f32; 3] = [5.0, 20.0, 80.0];
const COEFFICIENTS: usize = 20;
/// Rates are at least this share of a channel's mean.
const RATE_MIN: f32 = 0.02;

/// Scores of forecasts so many bins ahead.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ahead {
    /// Bins ahead.
    pub bins: usize,
    /// Log-likelihood of the counts over that of the recording's mean rates, bits per spike.
    pub network: f64,
    /// The same of an autoregression, `mean + b (average - mean)` of each channel's own counts,
    /// with the time constant and the `b` that are best on this very recording.
    pub autoregression: f64,
}

/// What the network does of the work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DynamicsSkill {
    /// Forecasts, by their length; of those that recordings are long enough for.
    pub ahead: Vec<Ahead>,
    /// Share of the filtered latents' motion from bin to bin that the network's own step explains:
    /// 1 - `E|x' - f(x)|^2 / E|x' - x|^2`. What is left was taken for noise.
    pub motion_explained: f64,
    /// Mean process variance a bin as served, over the latents.
    pub process_variance: f64,
}

/// One forecast with what came.
struct Case {
    /// Averages of the counts at its start, `[averages, channels]`.
    averages: Vec<f32>,
    /// Foretold rates and counts, `[ahead, channels]`; a stream's end leaves fewer.
    foretold: Vec<f32>,
    counts: Vec<f32>,
}

/// Collects forecasts over the streams of one session.
pub(crate) struct SkillMeter {
    channels: usize,
    cases_max: usize,
    /// Sums of the counts, and bins.
    sums: Vec<f64>,
    bins: u64,
    averages: Vec<f32>,
    cases: Vec<Case>,
    /// Cases of this stream that wait for counts, with the bin of their start.
    open: Vec<(usize, usize)>,
    /// Bins of this stream.
    bin: usize,
    /// Latents at the last start, and what the network makes of them.
    stepped: Option<(Vec<f32>, Vec<f32>)>,
    /// Squared steps that the network leaves, and all.
    motion: [f64; 2],
    rng: ChaCha8Rng,
}

impl SkillMeter {
    /// For a session of as many channels, and at most as many forecasts.
    pub(crate) fn new(channels: usize, cases_max: usize) -> Self {
        Self {
            channels,
            cases_max: cases_max.min(VALUES_MAX / channels.max(1)),
            sums: vec![0.0; channels],
            bins: 0,
            averages: vec![0.0; AVERAGED_OVER.len() * channels],
            cases: Vec::new(),
            open: Vec::new(),
            bin: 0,
            stepped: None,
            motion: [0.0; 2],
            rng: ChaCha8Rng::seed_from_u64(1),
        }
    }

    /// Another stream begins.
    pub(crate) fn start_stream(&mut self) {
        self.open.clear();
        self.bin = 0;
        self.stepped = None;
    }

    /// The next bin's counts, and the estimate after it.
    pub(crate) fn push(&mut self, model: &Model, readout: &Readout, counts: &[f32], e: &Estimate) {
        let n = self.channels;
        self.bins += 1;
        for (sum, y) in self.sums.iter_mut().zip(counts) {
            *sum += f64::from(*y);
        }
        for (average, over) in self.averages.chunks_exact_mut(n).zip(AVERAGED_OVER) {
            // The first bins are weighed alike.
            let rate = (1.0 / over).max(1.0 / (self.bin + 1) as f32);
            average.iter_mut().zip(counts).for_each(|(a, y)| *a += rate * (y - *a));
        }
        for &(case, start) in &self.open {
            if AHEAD.contains(&(self.bin - start)) {
                self.cases[case].counts.extend(counts);
            }
        }
        let last = AHEAD[AHEAD.len() - 1];
        self.open.retain(|&(_, start)| self.bin - start < last);
        if let Some((before, foreseen)) = self.stepped.take() {
            let squared = |of: &[f32]| -> f64 {
                e.latent.iter().zip(of).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            self.motion[0] += squared(&foreseen);
            self.motion[1] += squared(&before);
        }
        let due = self.bin >= SETTLED && self.bin.is_multiple_of(EVERY);
        if due && self.cases.len() < self.cases_max {
            self.begin(model, readout, e);
        }
        self.bin += 1;
    }

    fn begin(&mut self, model: &Model, readout: &Readout, e: &Estimate) {
        let from = StatePosterior {
            embedding: &e.embedding_mean,
            embedding_covariance: &e.embedding_covariance,
            latent: [&e.latent, &e.latent_sd],
        };
        let foretold = forecasts(model, readout, from, &AHEAD, &mut self.rng);
        let averages = self.averages.clone();
        self.open.push((self.cases.len(), self.bin));
        self.cases.push(Case { averages, foretold, counts: Vec::new() });
        let mut next = e.latent.clone();
        Flow::new(model, &e.embedding_mean).step(&mut next);
        self.stepped = Some((e.latent.clone(), next));
    }

    /// Whether no more forecasts are begun; at a stream's end, nothing more is then to come.
    pub(crate) fn is_full(&self) -> bool {
        self.cases.len() >= self.cases_max
    }

    /// What the meters of all sessions show; `None` where nothing moved.
    pub(crate) fn skill<'a>(
        of: impl Iterator<Item = &'a Self>,
        model: &Model,
    ) -> Option<DynamicsSkill> {
        let of: Vec<&Self> = of.collect();
        let [left, all] = [0, 1].map(|i| of.iter().map(|m| m.motion[i]).sum::<f64>());
        if all <= 0.0 {
            return None;
        }
        let ahead = (0..AHEAD.len()).filter_map(|h| ahead(&of, h)).collect();
        let process = model.network.process_variance.mean().unwrap_or(0.0);
        Some(DynamicsSkill {
            ahead,
            motion_explained: 1.0 - left / all,
            process_variance: f64::from(process * model.online.process_noise),
        })
    }

    fn means(&self) -> Vec<f32> {
        self.sums.iter().map(|s| (s / self.bins.max(1) as f64) as f32).collect()
    }
}

/// Scores of one length of forecasts.
fn ahead(of: &[&SkillMeter], h: usize) -> Option<Ahead> {
    let mut gains = [0.0f64; 2 + AVERAGED_OVER.len() * COEFFICIENTS];
    let mut spikes = 0.0;
    for meter in of {
        let (n, means) = (meter.channels, meter.means());
        let counted = meter.cases.iter().filter(|c| c.counts.len() >= (h + 1) * n);
        for case in counted {
            let part = h * n..(h + 1) * n;
            let (foretold, counts) = (&case.foretold[part.clone()], &case.counts[part]);
            for i in 0..n {
                let (mean, y) = (means[i].max(1e-6), counts[i]);
                spikes += f64::from(y);
                let gain = |rate: f32| {
                    let rate = rate.max(RATE_MIN * mean);
                    f64::from(y * (rate / mean).ln() - (rate - mean))
                };
                gains[0] += gain(foretold[i]);
                for (a, averages) in case.averages.chunks_exact(n).enumerate() {
                    for b in 0..COEFFICIENTS {
                        let share = (b + 1) as f32 / COEFFICIENTS as f32;
                        gains[2 + a * COEFFICIENTS + b] +=
                            gain(mean + share * (averages[i] - mean));
                    }
                }
            }
        }
    }
    let bits = |gain: f64| gain / (spikes * std::f64::consts::LN_2);
    // A coefficient of 0 is the mean itself: `gains[1]`.
    let autoregression = gains[1..].iter().copied().fold(f64::MIN, f64::max);
    (spikes > 0.0).then(|| Ahead {
        bins: AHEAD[h],
        network: bits(gains[0]),
        autoregression: bits(autoregression),
    })
}

impl DynamicsSkill {
    /// In words, a line each.
    pub(crate) fn lines(&self, bin_width_s: f64) -> Vec<String> {
        let mut lines: Vec<String> = self
            .ahead
            .iter()
            .map(|a| {
                format!(
                    "{} bins ({:.0} ms) ahead {:+.4} bits per spike over the mean rates, \
                     autoregression {:+.4}",
                    a.bins,
                    a.bins as f64 * bin_width_s * 1e3,
                    a.network,
                    a.autoregression
                )
            })
            .collect();
        lines.push(format!(
            "the network explains {:.0} % of the latents' motion; process variance {:.4} a bin",
            100.0 * self.motion_explained,
            self.process_variance
        ));
        lines
    }

    /// Whether some forecast is better than the mean rates and the autoregression.
    pub(crate) fn foretells(&self) -> bool {
        self.ahead.iter().any(|a| a.network > a.autoregression.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2};
    use rand::RngExt;
    use rand_distr::{Distribution, Poisson, StandardNormal};

    use super::*;
    use crate::dynamics::planar;
    use crate::model::RegimePrior;

    /// Counts of latents that turn slowly, as a network of a rotation foretells them, or one that
    /// only decays.
    fn found(turns: bool) -> DynamicsSkill {
        let mut model = planar(if turns { [0.5, -0.5, 0.5, 0.5] } else { [-1.0, 0.0, 0.0, -1.0] });
        model.network.process_variance = Array1::from_elem(2, 1e-4);
        let truth = planar([0.5, -0.5, 0.5, 0.5]);
        let readout = Readout {
            session: "s".into(),
            loading: Array2::from_shape_fn((20, 2), |(i, r)| 3.0 * ((i + 7 * r) as f32).sin()),
            baseline: Array1::zeros(20),
            channels: None,
            dispersion: None,
            trusted: true,
            experts: None,
            prior: RegimePrior::default(),
        };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut meter = SkillMeter::new(20, 1000);
        let mut flow = Flow::new(&truth, &[0.0]);
        let mut estimate = Estimate::empty(1, 1, 2);
        for _ in 0..20 {
            meter.start_stream();
            let mut kappa: Vec<f32> =
                (0..2).map(|_| 0.3 * rng.sample::<f32, _>(StandardNormal)).collect();
            for _ in 0..180 {
                flow.step(&mut kappa);
                kappa.iter_mut().for_each(|k| *k += 0.01 * rng.sample::<f32, _>(StandardNormal));
                let counts: Vec<f32> = model
                    .rates(&readout, &kappa)
                    .map(|r| Poisson::new(r).map_or(0.0, |p| p.sample(&mut rng)))
                    .collect();
                estimate.latent.copy_from_slice(&kappa);
                meter.push(&model, &readout, &counts, &estimate);
            }
        }
        SkillMeter::skill([&meter].into_iter(), &model).expect("a skill")
    }

    #[test]
    fn the_true_network_foretells_and_explains_and_another_does_not() {
        let [truth, other] = [true, false].map(found);
        assert_eq!(truth.ahead.iter().map(|a| a.bins).collect::<Vec<_>>(), AHEAD);
        let first = truth.ahead[0];
        assert!(first.network > 0.0 && first.network > first.autoregression, "{truth:?}");
        assert!(truth.foretells());
        assert!(other.ahead[0].network < first.network, "{other:?} for {truth:?}");
        assert!(truth.motion_explained > other.motion_explained + 0.1, "{other:?} for {truth:?}");
        assert!((truth.process_variance - 1e-4).abs() < 1e-6);
        for a in truth.ahead.iter().chain(&other.ahead) {
            assert!(a.autoregression >= 0.0, "never worse than the mean: {a:?}");
        }
    }
}
