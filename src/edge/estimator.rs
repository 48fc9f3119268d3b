//! The largest driven Lyapunov exponent from features of the counts, with an interval and the
//! probability of chaos.

use std::collections::HashMap;

use super::features::{FEATURES, features};
use super::trees::{Growth, Loss, Trees};
use super::window::Window;
use crate::dynamics::Estimate;

/// Exponents are read between the two signs of this, 1/s: beyond it, counts tell no more.
pub(crate) const EXPONENT_MAX_PER_S: f64 = 2.0;
/// Quantiles of each feature beyond which its values are moved in.
const RANGE: [f64; 2] = [0.002, 0.998];
/// Parts of the networks that are left out in turn.
const FOLDS: u64 = 5;
/// Share of the true exponents that an interval holds.
const HELD: f64 = 0.9;
/// Errors are foretold to be no smaller, 1/s.
const ERROR_MIN_PER_S: f32 = 0.1;

/// What is known of one window of one simulated network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Example {
    /// Number of the network in its ensemble.
    pub(crate) network: u64,
    pub(crate) features: Vec<f32>,
    /// True largest exponent along the recorded path, 1/s.
    pub(crate) driven_per_s: f64,
}

/// What a window tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EdgeReading {
    /// Largest driven exponent, 1/s, between plus and minus [`EXPONENT_MAX_PER_S`], with a 90 %
    /// interval.
    pub(crate) driven_per_s: Estimate,
    /// Probability that it is above 0.
    pub(crate) p_chaos: f64,
    /// Time that was read, seconds.
    pub(crate) seconds: f64,
}

/// From features to a reading.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Estimator {
    /// Ends of each feature's range.
    pub(super) ranges: Vec<[f32; 2]>,
    pub(super) exponent: Trees,
    /// Absolute error to expect, 1/s.
    pub(super) error: Trees,
    /// Log odds of chaos, and what they are multiplied by.
    pub(super) chaos: Trees,
    pub(super) chaos_scale: f32,
    /// Expected errors in a 90 % interval's half.
    pub(super) errors_in_half: f32,
}

fn clipped(per_s: f64) -> f32 {
    per_s.clamp(-EXPONENT_MAX_PER_S, EXPONENT_MAX_PER_S) as f32
}

impl Estimator {
    /// What the window tells; `None` where that is not resolved.
    #[must_use]
    pub(crate) fn read(&self, window: &Window) -> Option<EdgeReading> {
        let features = features(window)?;
        let [mean, low, high, p_chaos] = self.of(&features);
        let driven_per_s = Estimate { mean, low, high };
        Some(EdgeReading { driven_per_s, p_chaos, seconds: window.seconds() })
    }

    /// Exponent, ends of its interval, 1/s, and the probability of chaos.
    pub(crate) fn of(&self, features: &[f32]) -> [f64; 4] {
        let moved = self.moved_in(features);
        let mean = clipped(f64::from(self.exponent.predict(&moved)));
        let half = self.errors_in_half * self.error.predict(&moved).max(ERROR_MIN_PER_S);
        let odds = self.chaos_scale * self.chaos.predict(&moved);
        let [low, high] = [mean - half, mean + half].map(|x| f64::from(clipped(f64::from(x))));
        [f64::from(mean), low, high, 1.0 / (1.0 + f64::from(-odds).exp())]
    }

    fn moved_in(&self, features: &[f32]) -> Vec<f32> {
        features.iter().zip(&self.ranges).map(|(x, [low, high])| x.clamp(*low, *high)).collect()
    }

    /// Learns from examples. Beside the estimator, for each example what one says that has not seen
    /// its network.
    pub(crate) fn fit(
        examples: &[Example],
        mut each: impl FnMut(f64) -> bool,
    ) -> Option<(Self, Vec<[f64; 4]>)> {
        let fold = |e: &Example| e.network % FOLDS;
        let mut left_out = vec![[0.0; 4]; examples.len()];
        let mut scaled_errors = Vec::new();
        let mut odds: Vec<(f64, bool)> = Vec::new();
        for f in 0..FOLDS {
            let (own, others): (Vec<usize>, Vec<usize>) =
                (0..examples.len()).partition(|&i| fold(&examples[i]) == f);
            let train: Vec<&Example> = others.iter().map(|&i| &examples[i]).collect();
            let estimator = Self::of_examples(&train);
            for i in own {
                let moved = estimator.moved_in(&examples[i].features);
                let truth = clipped(examples[i].driven_per_s);
                let found = clipped(f64::from(estimator.exponent.predict(&moved)));
                let expected = estimator.error.predict(&moved).max(ERROR_MIN_PER_S);
                scaled_errors.push((found - truth).abs() / expected);
                let of_chaos = estimator.chaos.predict(&moved);
                odds.push((f64::from(of_chaos), truth > 0.0));
                left_out[i] = [f64::from(found), f64::from(expected), f64::from(of_chaos), 0.0];
            }
            if !each((f + 1) as f64 / (FOLDS + 1) as f64) {
                return None;
            }
        }
        let errors_in_half = conformal(scaled_errors);
        let chaos_scale = scale_of(&odds);
        for found in &mut left_out {
            let [mean, expected, of_chaos, _] = *found;
            let half = f64::from(errors_in_half) * expected;
            let [low, high] = [mean - half, mean + half].map(|x| f64::from(clipped(x)));
            let p = 1.0 / (1.0 + (-f64::from(chaos_scale) * of_chaos).exp());
            *found = [mean, low, high, p];
        }
        let whole = Self::of_examples(&examples.iter().collect::<Vec<_>>());
        each(1.0).then_some((Self { errors_in_half, chaos_scale, ..whole }, left_out))
    }

    /// Trees for the exponent, for its error, cross-fitted over halves, and for chaos.
    fn of_examples(examples: &[&Example]) -> Self {
        let ranges = ranges(examples);
        let blank = Self {
            ranges,
            exponent: Trees::default(),
            error: Trees::default(),
            chaos: Trees::default(),
            chaos_scale: 1.0,
            errors_in_half: 1.0,
        };
        let rows: Vec<Vec<f32>> = examples.iter().map(|e| blank.moved_in(&e.features)).collect();
        let exponents: Vec<f32> = examples.iter().map(|e| clipped(e.driven_per_s)).collect();
        let chaos: Vec<f32> =
            exponents.iter().map(|x| f32::from(u8::from(*x > 0.0))).collect();
        let how = Growth::default();
        let mut errors = vec![0.0f32; rows.len()];
        for half in 0..2u64 {
            let (own, others): (Vec<usize>, Vec<usize>) = (0..rows.len())
                .partition(|&i| (examples[i].network / FOLDS).is_multiple_of(2) == (half == 0));
            let of = |of: &[usize]| -> (Vec<Vec<f32>>, Vec<f32>) {
                (of.iter().map(|&i| rows[i].clone()).collect(), of.iter().map(|&i| exponents[i]).collect())
            };
            let (train, targets) = of(&others);
            let trees = Trees::fit(&train, &targets, Loss::Squared, how);
            for i in own {
                let found = clipped(f64::from(trees.predict(&rows[i])));
                errors[i] = (found - exponents[i]).abs();
            }
        }
        let coarse = Growth { trees: 120, leaves: 8, rows_min: 20, ..how };
        Self {
            exponent: Trees::fit(&rows, &exponents, Loss::Squared, how),
            error: Trees::fit(&rows, &errors, Loss::Squared, coarse),
            chaos: Trees::fit(&rows, &chaos, Loss::Logistic, how),
            ..blank
        }
    }
}

fn ranges(examples: &[&Example]) -> Vec<[f32; 2]> {
    (0..FEATURES)
        .map(|f| {
            let mut sorted: Vec<f32> = examples.iter().map(|e| e.features[f]).collect();
            sorted.sort_by(f32::total_cmp);
            let last = sorted.len().saturating_sub(1);
            RANGE.map(|q| {
                sorted.get((q * last as f64).round() as usize).copied().unwrap_or(0.0)
            })
        })
        .collect()
}

/// The quantile of errors that holds the next one with the probability asked for (Vovk et al. 2005).
fn conformal(mut errors: Vec<f32>) -> f32 {
    errors.sort_by(f32::total_cmp);
    let rank = (HELD * (errors.len() + 1) as f64).ceil() as usize;
    errors.get(rank.clamp(1, errors.len().max(1)) - 1).copied().unwrap_or(f32::MAX)
}

/// Factor of the log odds with the least log loss.
fn scale_of(odds: &[(f64, bool)]) -> f32 {
    let loss = |scale: f64| -> f64 {
        odds.iter().map(|(o, chaos)| (if *chaos { -scale * o } else { scale * o }).exp().ln_1p()).sum()
    };
    let scales = (1..=40).map(|s| f64::from(s) / 20.0);
    scales.min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap_or(1.0) as f32
}

/// What makes arrays no estimator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub(crate) struct EstimatorFault {
    expected: String,
    found: String,
}

impl Estimator {
    /// Its arrays by name.
    #[must_use]
    pub(crate) fn arrays(&self) -> HashMap<String, Vec<f32>> {
        let mut arrays = HashMap::from([
            ("ranges".to_owned(), self.ranges.iter().flatten().copied().collect()),
            ("scales".to_owned(), vec![self.errors_in_half, self.chaos_scale]),
        ]);
        for (name, trees) in
            [("exponent", &self.exponent), ("error", &self.error), ("chaos", &self.chaos)]
        {
            arrays.extend(trees.arrays().map(|(part, v)| (format!("{name}.{part}"), v)));
        }
        arrays
    }

    /// From arrays by name.
    ///
    /// # Errors
    /// Names the first array that is missing, or holds what no estimator does.
    pub(crate) fn from_arrays(
        mut arrays: HashMap<String, Vec<f32>>,
    ) -> Result<Self, EstimatorFault> {
        let ranges = take(&mut arrays, "ranges", Some(2 * FEATURES))?;
        let scales = take(&mut arrays, "scales", Some(2))?;
        let mut trees = |name: &str| -> Result<Trees, EstimatorFault> {
            let mut part = |part: &str| take(&mut arrays, &format!("{name}.{part}"), None);
            let parts = [part("base")?, part("roots")?, part("nodes")?];
            Trees::from_arrays(parts, FEATURES).ok_or_else(|| EstimatorFault {
                expected: format!("trees of {FEATURES} features in '{name}'"),
                found: "nodes that lead nowhere".into(),
            })
        };
        Ok(Self {
            exponent: trees("exponent")?,
            error: trees("error")?,
            chaos: trees("chaos")?,
            ranges: ranges.chunks_exact(2).map(|r| [r[0].min(r[1]), r[1].max(r[0])]).collect(),
            errors_in_half: scales[0],
            chaos_scale: scales[1],
        })
    }
}

fn take(
    arrays: &mut HashMap<String, Vec<f32>>,
    name: &str,
    len: Option<usize>,
) -> Result<Vec<f32>, EstimatorFault> {
    let expected = || match len {
        Some(len) => format!("an array '{name}' of {len} finite values"),
        None => format!("an array '{name}' of finite values"),
    };
    let Some(values) = arrays.remove(name) else {
        return Err(EstimatorFault { expected: expected(), found: "no such array".into() });
    };
    let sound = values.iter().all(|x| x.is_finite()) && len.is_none_or(|l| l == values.len());
    if !sound {
        let found = format!("{} values", values.len());
        return Err(EstimatorFault { expected: expected(), found });
    }
    Ok(values)
}
