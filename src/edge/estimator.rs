//! The largest driven Lyapunov exponent from features of the counts, with an interval and the
//! probability of chaos.

use std::collections::HashMap;

use ndarray::Array2;

use super::features::{CLARITY, FEATURES, SECONDS, features};
use super::window::Window;
use crate::learner::{ArraysFault, Link, Network, Plan, Scaling, networks_from, networks_to, take};

/// Exponents are read between the two signs of this, 1/s: beyond it, counts tell no more.
pub(crate) const EXPONENT_MAX_PER_S: f64 = 2.0;
/// What is learned is the probability that the exponent is at or below each of these, 1/s.
const LEVELS_PER_S: [f64; LEVELS] =
    [-2.0, -1.5, -1.0, -0.7, -0.4, -0.2, 0.0, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0];
const LEVELS: usize = 13;
/// Where chaos begins.
const ZERO: usize = 6;
/// Times that each example is seen while a network learns.
const EPOCHS: f64 = 70.0;
/// Networks whose log odds are averaged, and of those that judge others.
const NETWORKS: u64 = 6;
const NETWORKS_OF_JUDGES: u64 = 2;
/// Share of the true exponents that an interval holds.
const HELD: f64 = 0.9;
/// Ends of the kinds of data with intervals of their own: seconds read, and the log of the clarity
/// of what channels share.
const SECONDS_ENDS: [f64; 3] = [30.0, 50.0, 90.0];
const CLARITY_ENDS: [f32; 2] = [0.7, 1.6];
const KINDS: usize = (SECONDS_ENDS.len() + 1) * (CLARITY_ENDS.len() + 1);
/// A kind of data needs so many examples for intervals of its own.
const EXAMPLES_MIN: usize = 60;
/// Log odds are bounded to this.
const LOG_ODDS_MAX: f64 = 9.0;

/// What is known of one window of one simulated network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Example {
    pub(crate) features: Vec<f32>,
    /// True largest exponent along the recorded path, 1/s.
    pub(crate) driven_per_s: f64,
}

/// The largest exponent along the path that noise and input drive, 1/s, between plus and minus
/// [`EXPONENT_MAX_PER_S`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrivenExponent {
    /// Median of what it may be.
    pub per_s: f64,
    /// Lower end of a 90 % interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Probability that it is above 0.
    pub p_chaos: f64,
}

/// What a window tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EdgeReading {
    /// Time that was read, seconds.
    pub seconds: f64,
    /// `None` where nothing that channels share exceeds chance: not resolved.
    pub exponent: Option<DrivenExponent>,
}

/// From features to a reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimator {
    learned: Learned,
    /// What log odds are multiplied by.
    scale: f32,
    /// Log odds at which intervals end, by kind of data.
    ends: [f32; KINDS],
}

/// Log odds that the exponent is at or below each level.
#[derive(Debug, Clone, PartialEq)]
struct Learned {
    inputs: Scaling,
    networks: Vec<Network>,
}

impl Learned {
    fn of(examples: &[&Example], networks: u64) -> Self {
        let raw: Vec<&[f32]> = examples.iter().map(|e| e.features.as_slice()).collect();
        let inputs = Scaling::of(&raw, FEATURES);
        let rows: Vec<f32> = raw.iter().flat_map(|row| inputs.apply(row)).collect();
        let below = |e: &&Example| LEVELS_PER_S.map(|l| f32::from(u8::from(is_below(e, l))));
        let targets: Vec<f32> = examples.iter().flat_map(below).collect();
        let table = |values: Vec<f32>, columns: usize| {
            Array2::from_shape_vec((examples.len(), columns), values).unwrap_or_default()
        };
        let (rows, targets) = (table(rows, FEATURES), table(targets, LEVELS));
        let plan = |seed| Plan { link: Link::Each, epochs: EPOCHS, seed };
        let fit = |seed| Network::fit(&rows, &targets, plan(seed));
        let networks = (0..networks).map(fit).collect();
        Self { inputs, networks }
    }

    fn log_odds(&self, features: &[f32]) -> [f32; LEVELS] {
        let row: Vec<f32> = self.inputs.apply(features).collect();
        let mut sums = [0.0; LEVELS];
        for network in &self.networks {
            sums.iter_mut().zip(network.predict(&row)).for_each(|(s, o)| *s += o);
        }
        sums.map(|s| s / self.networks.len().max(1) as f32)
    }
}

/// Whether the exponent is at or below a level; at the last one, below.
fn is_below(example: &Example, level: f64) -> bool {
    example.driven_per_s < level || (example.driven_per_s == level && level < EXPONENT_MAX_PER_S)
}

/// Probabilities that the exponent is at or below each level, none below the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Chances([f64; LEVELS]);

impl Chances {
    fn of(log_odds: &[f32; LEVELS], scale: f32) -> Self {
        let mut least = 0.0f64;
        Self(log_odds.map(|o| {
            let p = 1.0 / (1.0 + (-f64::from(scale * o)).exp());
            least = least.max(p);
            least
        }))
    }

    /// The least exponent that is not exceeded with a probability, 1/s.
    fn quantile(&self, p: f64) -> f64 {
        let above = self.0.partition_point(|f| *f < p);
        let ends = [LEVELS_PER_S[0], LEVELS_PER_S[LEVELS - 1]];
        match above {
            0 => ends[0],
            LEVELS => ends[1],
            k => {
                let ([a, b], [x, y]) =
                    ([self.0[k - 1], self.0[k]], [LEVELS_PER_S[k - 1], LEVELS_PER_S[k]]);
                x + (y - x) * ((p - a) / (b - a).max(1e-12)).clamp(0.0, 1.0)
            }
        }
    }

    /// Probabilities to be below an exponent, and to be at or below it.
    fn around(&self, per_s: f64) -> [f64; 2] {
        let k = LEVELS_PER_S.partition_point(|l| *l < per_s);
        match k {
            0 => [0.0, self.0[0]],
            LEVELS => [self.0[LEVELS - 1], 1.0],
            k if per_s >= EXPONENT_MAX_PER_S => [self.0[k], 1.0],
            k => {
                let ([a, b], [x, y]) =
                    ([self.0[k - 1], self.0[k]], [LEVELS_PER_S[k - 1], LEVELS_PER_S[k]]);
                [a + (b - a) * (per_s - x) / (y - x); 2]
            }
        }
    }

    /// Log odds at which an interval around the median just holds the exponent.
    fn holds_at(&self, per_s: f64) -> f64 {
        let [below, up_to] = self.around(per_s).map(log_odds);
        below.max(-up_to).max(0.0)
    }

    /// Median, and the interval that ends at log odds on either side, 1/s.
    fn interval(&self, ends: f32) -> [f64; 3] {
        let out = 1.0 / (1.0 + f64::from(ends).exp());
        [0.5, out, 1.0 - out].map(|p| self.quantile(p))
    }

    fn exponent(&self, ends: f32) -> DrivenExponent {
        let [per_s, low, high] = self.interval(ends);
        DrivenExponent { per_s, low, high, p_chaos: 1.0 - self.0[ZERO] }
    }
}

fn log_odds(p: f64) -> f64 {
    (p / (1.0 - p)).ln().clamp(-LOG_ODDS_MAX, LOG_ODDS_MAX)
}

/// Between the ends of what is read, 1/s.
pub(crate) fn clipped(per_s: f64) -> f64 {
    per_s.clamp(-EXPONENT_MAX_PER_S, EXPONENT_MAX_PER_S)
}

/// Number of the kind of data that features are of.
fn kind_of(features: &[f32]) -> usize {
    let seconds = SECONDS_ENDS.iter().filter(|s| f64::from(features[SECONDS]).exp() >= **s);
    let clarity = CLARITY_ENDS.iter().filter(|c| features[CLARITY] >= **c);
    seconds.count() * (CLARITY_ENDS.len() + 1) + clarity.count()
}

impl Estimator {
    /// What the window tells; `None` where it is too short.
    #[must_use]
    pub(crate) fn read(&self, window: &Window) -> Option<EdgeReading> {
        let exponent = || features(window).map(|f| self.of(&f));
        window
            .is_long_enough()
            .then(|| EdgeReading { seconds: window.seconds(), exponent: exponent() })
    }

    fn of(&self, features: &[f32]) -> DrivenExponent {
        let odds = self.learned.log_odds(features);
        Chances::of(&odds, self.scale).exponent(self.ends[kind_of(features)])
    }

    /// Learns from examples. `parts` are ways to part them, the number of each example's part: of
    /// each way, what the others taught is asked about each part, and intervals hold their share of
    /// such answers. Returned beside the estimator, by way and example; `None` where `each`, told
    /// the share that is done, does not go on.
    pub(crate) fn fit(
        examples: &[Example],
        parts: &[Vec<usize>],
        mut each: impl FnMut(f64) -> bool,
    ) -> Option<(Self, Vec<Vec<DrivenExponent>>)> {
        let tasks: Vec<(usize, usize)> = parts
            .iter()
            .enumerate()
            .flat_map(|(way, of)| (0..of.iter().max().map_or(0, |m| m + 1)).map(move |p| (way, p)))
            .collect();
        let mut left_out = vec![vec![[0.0f32; LEVELS]; examples.len()]; parts.len()];
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for (done, several) in tasks.chunks(threads).enumerate() {
            let found: Vec<_> = std::thread::scope(|scope| {
                let ask = |&(way, part): &(usize, usize)| {
                    let parts = &parts[way];
                    scope.spawn(move || (way, ask_part(examples, parts, part)))
                };
                let workers: Vec<_> = several.iter().map(ask).collect();
                // A panic there has ended the program already.
                workers.into_iter().filter_map(|w| w.join().ok()).collect()
            });
            for (way, answers) in found {
                answers.into_iter().for_each(|(i, odds)| left_out[way][i] = odds);
            }
            let share = (done + 1) as f64 * threads as f64 / (tasks.len() + 1) as f64;
            if !each(share.min(1.0)) {
                return None;
            }
        }
        let learned = Learned::of(&examples.iter().collect::<Vec<_>>(), NETWORKS);
        let scale = scale_of(examples, &left_out);
        let ends = ends_of(examples, &left_out, scale);
        let estimator = Self { learned, scale, ends };
        let reading = |(e, odds): (&Example, &[f32; LEVELS])| {
            Chances::of(odds, scale).exponent(ends[kind_of(&e.features)])
        };
        let readings =
            left_out.iter().map(|odds| examples.iter().zip(odds).map(reading).collect()).collect();
        each(1.0).then_some((estimator, readings))
    }
}

/// Log odds of a part's examples by what the others taught.
fn ask_part(examples: &[Example], parts: &[usize], part: usize) -> Vec<(usize, [f32; LEVELS])> {
    let (own, others): (Vec<usize>, Vec<usize>) =
        (0..examples.len()).partition(|&i| parts[i] == part);
    let train: Vec<&Example> = others.iter().map(|&i| &examples[i]).collect();
    let learned = Learned::of(&train, NETWORKS_OF_JUDGES);
    own.into_iter().map(|i| (i, learned.log_odds(&examples[i].features))).collect()
}

/// Factor of the log odds with the least log loss.
fn scale_of(examples: &[Example], left_out: &[Vec<[f32; LEVELS]>]) -> f32 {
    let loss = |scale: f64| -> f64 {
        let of = |(e, odds): (&Example, &[f32; LEVELS])| -> f64 {
            let each = odds.iter().zip(LEVELS_PER_S);
            each.map(|(o, level)| {
                let o = scale * f64::from(*o);
                (if is_below(e, level) { -o } else { o }).exp().ln_1p()
            })
            .sum()
        };
        left_out.iter().map(|odds| examples.iter().zip(odds).map(of).sum::<f64>()).sum()
    };
    let scales = (4..=40).map(|s| f64::from(s) / 20.0);
    scales.min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap_or(1.0) as f32
}

/// Where intervals end, by kind of data (split conformal prediction of the distribution,
/// Chernozhukov et al. 2021).
fn ends_of(examples: &[Example], left_out: &[Vec<[f32; LEVELS]>], scale: f32) -> [f32; KINDS] {
    let mut by_kind = vec![Vec::new(); KINDS];
    for odds in left_out {
        for (e, odds) in examples.iter().zip(odds) {
            let at = Chances::of(odds, scale).holds_at(clipped(e.driven_per_s));
            by_kind[kind_of(&e.features)].push(at);
        }
    }
    let all = conformal(by_kind.concat());
    std::array::from_fn(|k| {
        let enough = by_kind[k].len() >= EXAMPLES_MIN * left_out.len();
        if enough { conformal(by_kind[k].clone()) } else { all }
    })
}

/// The quantile that holds the next one with the probability asked for (Vovk et al. 2005).
fn conformal(mut values: Vec<f64>) -> f32 {
    values.sort_by(f64::total_cmp);
    let rank = (HELD * (values.len() + 1) as f64).ceil() as usize;
    let at = rank.clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(LOG_ODDS_MAX) as f32
}

impl Estimator {
    /// Its arrays by name.
    #[must_use]
    pub(crate) fn arrays(&self) -> HashMap<String, Vec<f32>> {
        let mut arrays = HashMap::from([
            ("inputs".to_owned(), self.learned.inputs.values()),
            ("scale".to_owned(), vec![self.scale]),
            ("ends".to_owned(), self.ends.to_vec()),
        ]);
        networks_to(&mut arrays, "network", &self.learned.networks);
        arrays
    }

    /// From arrays by name.
    ///
    /// # Errors
    /// Names the first array that is missing, or holds what no estimator does.
    pub(crate) fn from_arrays(mut arrays: HashMap<String, Vec<f32>>) -> Result<Self, ArraysFault> {
        let inputs = Scaling::from_values(&take(&mut arrays, "inputs", 4 * FEATURES)?);
        let scale = take(&mut arrays, "scale", 1)?[0];
        let ends = take(&mut arrays, "ends", KINDS)?;
        let networks = networks_from(&mut arrays, "network", FEATURES, LEVELS)?;
        let learned = Learned { inputs, networks };
        Ok(Self { learned, scale, ends: std::array::from_fn(|k| ends[k]) })
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    /// Examples whose exponent is three times their tenth feature, and noise that grows with the
    /// eleventh.
    fn examples(n: usize, seed: u64) -> Vec<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let one = |_| {
            let mut features = vec![0.0; FEATURES];
            features[8..16].iter_mut().for_each(|x| *x = rng.random_range(-1.0f32..1.0));
            features[SECONDS] = 60f32.ln();
            features[CLARITY] = 1.0;
            let noise: f64 = StandardNormal.sample(&mut rng);
            let spread = 0.5 * f64::from(features[11] + 1.1);
            let driven_per_s = 3.0 * f64::from(features[10]) + spread * noise;
            Example { features, driven_per_s }
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn medians_follow_and_intervals_hold_as_much_as_they_say() {
        let (train, test) = (examples(1500, 1), examples(1000, 2));
        let parts: Vec<usize> = (0..train.len()).map(|i| i % 4).collect();
        let (estimator, left_out) = Estimator::fit(&train, &[parts], |_| true).expect("all of it");
        let found: Vec<DrivenExponent> = test.iter().map(|e| estimator.of(&e.features)).collect();
        let of = |f: &dyn Fn(f64, &DrivenExponent) -> f64| {
            let each = test.iter().zip(&found).map(|(e, r)| f(clipped(e.driven_per_s), r));
            each.sum::<f64>() / test.len() as f64
        };
        let share = |is: bool| f64::from(u8::from(is));
        assert!(of(&|truth, r| (truth - r.per_s).abs()) < 0.5);
        let held = of(&|truth, r| share((r.low..=r.high).contains(&truth)));
        assert!((0.86..0.95).contains(&held), "{held}");
        let sharp = |high: bool| {
            let of: Vec<f64> = (test.iter().zip(&found))
                .filter(|(e, r)| (e.features[11] > 0.0) == high && r.per_s.abs() < 1.0)
                .map(|(_, r)| r.high - r.low)
                .collect();
            of.iter().sum::<f64>() / of.len() as f64
        };
        assert!(sharp(false) < 0.8 * sharp(true), "wider where noise is: {}", sharp(false));
        let squares = of(&|truth, r| (share(truth > 0.0) - r.p_chaos).powi(2));
        assert!(squares < 0.1, "{squares}");
        assert!(left_out[0].iter().all(|r| r.low <= r.per_s && r.per_s <= r.high));
        assert!(Estimator::fit(&train, &[vec![0; 1500]], |_| false).is_none(), "stopped");

        let arrays = estimator.arrays();
        assert_eq!(Estimator::from_arrays(arrays.clone()), Ok(estimator));
        for name in arrays.keys() {
            let mut without = arrays.clone();
            without.remove(name);
            let fault = Estimator::from_arrays(without).expect_err(name);
            assert!(fault.to_string().contains(name), "{fault}");
        }
    }

    #[test]
    fn quantiles_and_probabilities_are_each_others_inverse() {
        let odds: [f32; LEVELS] = std::array::from_fn(|k| k as f32 - 6.5);
        let chances = Chances::of(&odds, 1.0);
        for per_s in [-1.7, -0.3, 0.0, 0.1, 1.9] {
            let [p, same] = chances.around(per_s);
            assert!(p == same && (chances.quantile(p) - per_s).abs() < 1e-9, "{per_s}");
        }
        assert_eq!(chances.quantile(1e-4), -2.0);
        assert_eq!(chances.quantile(1.0 - 1e-4), 2.0);
        for per_s in [-2.0, -1.2, 0.3, 2.0] {
            let ends = chances.holds_at(per_s) as f32;
            for (ends, holds) in [(ends + 0.01, true), (ends - 0.01, false)] {
                let [_, low, high] = chances.interval(ends);
                assert_eq!((low..=high).contains(&per_s), holds || ends < 0.0, "{per_s} {ends}");
            }
        }
    }
}
