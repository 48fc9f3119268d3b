//! Logistic regression on exponential averages of the root counts: ridge and times by the held-out
//! log loss over all members.

use std::convert::Infallible;

use ndarray::{Array1, Array2, Array3, Axis};

use super::labelled::{Labelled, Member, Session, root_moments};
use crate::experts::AveragesFilter;
use crate::model::AveragesHead;
use crate::training::threads::on_each;

/// Time constants of the averages, seconds, and the least in bins.
const TIMES_S: [f64; 3] = [0.05, 0.2, 0.8];
const TIMES_MIN_BINS: [f64; 3] = [0.3, 2.0, 8.0];
/// Factors of the times that are tried: sparse counts need longer ones.
const STRETCHES: [f64; 2] = [1.0, 4.0];
/// Weights of half the squared weights that are tried, beside the summed log loss: from the
/// strongest on, each from where the one before ended.
const RIDGES: [f32; 5] = [1000.0, 300.0, 100.0, 30.0, 10.0];
/// Bins that are learned from at most, and values of their features.
const BINS_MAX: usize = 10_000;
const VALUES_MAX: usize = 1 << 23;
const STEPS: usize = 60;
const POWER_STEPS: usize = 20;
/// Largest curvature of a log loss by its scores.
const SOFTMAX_CURVATURE: f32 = 0.5;
/// Lowest standard deviation of a feature.
const DEVIATION_MIN: f32 = 1e-3;

/// Heads for every member.
pub(super) fn fit(session: &Session, bin_width_s: f64, threads: usize) -> Vec<AveragesHead> {
    let mut members: Vec<&Member> = session.members.iter().collect();
    let mut best: Option<(f64, Vec<AveragesHead>)> = None;
    for stretch in STRETCHES {
        let shares: Vec<f32> = TIMES_S
            .iter()
            .zip(TIMES_MIN_BINS)
            .map(|(s, bins)| stretch * (s / bin_width_s).max(bins))
            .map(|bins| (1.0 - (-1.0 / bins).exp()) as f32)
            .collect();
        let ladders =
            on_each(&mut members, threads, |m| Ok::<_, Infallible>(ladder(session, m, &shares)));
        let Ok(ladders) = ladders;
        for step in 0..RIDGES.len() {
            let loss: f64 = ladders.iter().map(|l| l[step].1).sum();
            if best.as_ref().is_none_or(|b| loss < b.0) {
                best = Some((loss, ladders.iter().map(|l| l[step].0.clone()).collect()));
            }
        }
    }
    best.map(|b| b.1).unwrap_or_default()
}

type Ladder = Vec<(AveragesHead, f64)>;

/// Features of labelled bins, standardised.
struct Features {
    /// `[bins, averages * channels + 1]`; the last is 1.
    values: Array2<f32>,
    regime: Vec<usize>,
    /// Mean root counts, `[channels]`; mean and deviation of each feature.
    root_mean: Vec<f32>,
    mean: Array1<f32>,
    deviation: Array1<f32>,
}

/// Heads and their held-out losses from the strongest ridge to the weakest, each from where the one
/// before ended.
fn ladder(session: &Session, member: &Member, shares: &[f32]) -> Ladder {
    let features = Features::of(session, member, shares);
    let mut fit = Descent::new(&features, session.regimes);
    RIDGES
        .iter()
        .map(|ridge| {
            fit.descend(&features, *ridge);
            let head = features.head(session, shares, &fit);
            let loss = session.log_loss(&mut AveragesFilter::new(&head), member);
            (head, loss)
        })
        .collect()
}

/// Accelerated gradient descent (Nesterov 1983) on the mean log loss with a ridge, over all bins.
struct Descent {
    /// `[features + 1, regimes]`; the last row is the bias, which has no ridge.
    weights: Array2<f32>,
    /// One-hot labels, `[bins, regimes]`.
    target: Array2<f32>,
    /// Largest curvature of the mean log loss.
    curvature: f32,
}

impl Descent {
    fn new(features: &Features, regimes: usize) -> Self {
        let mut target = Array2::zeros((features.regime.len(), regimes));
        for (mut row, &r) in target.rows_mut().into_iter().zip(&features.regime) {
            row[r] = 1.0;
        }
        let curvature = SOFTMAX_CURVATURE * largest_eigenvalue(&features.values);
        Self { weights: Array2::zeros((features.values.ncols(), regimes)), target, curvature }
    }

    fn descend(&mut self, features: &Features, ridge: f32) {
        let x = &features.values;
        let (bins, n) = (x.nrows() as f32, x.ncols() - 1);
        let pull = ridge / bins;
        let rate = 1.0 / (self.curvature + pull);
        let (mut ahead, mut before) = (self.weights.clone(), self.weights.clone());
        for step in 0..STEPS {
            let mut p = x.dot(&ahead);
            for mut row in p.rows_mut() {
                let top = row.fold(f32::MIN, |a, &b| a.max(b));
                row.mapv_inplace(|s| (s - top).exp());
                let total = row.sum();
                row.mapv_inplace(|e| e / total);
            }
            let mut gradient = x.t().dot(&(p - &self.target)) / bins;
            let mut ridged = gradient.slice_axis_mut(Axis(0), (..n).into());
            ridged.scaled_add(pull, &ahead.slice_axis(Axis(0), (..n).into()));
            let next = &ahead - &(gradient * rate);
            let momentum = step as f32 / (step as f32 + 3.0);
            ahead = &next + &((&next - &before) * momentum);
            before = next;
        }
        self.weights = before;
    }
}

/// Of `X^T X` over the number of rows, by power iteration.
fn largest_eigenvalue(x: &Array2<f32>) -> f32 {
    let mut v = Array1::from_elem(x.ncols(), 1.0f32);
    let mut value = 1.0;
    for _ in 0..POWER_STEPS {
        let next = x.t().dot(&x.dot(&v)) / x.nrows() as f32;
        value = next.dot(&next).sqrt().max(f32::MIN_POSITIVE);
        v = next / value;
    }
    // Power iteration comes from below.
    1.1 * value
}

impl Features {
    fn of(session: &Session, member: &Member, shares: &[f32]) -> Self {
        let channels = session.channels;
        let n = shares.len() * channels;
        let labelled = |l: &Labelled| l.regime.iter().filter(|r| **r < session.regimes).count();
        let all: usize = member.train.iter().map(labelled).sum();
        let every = all.div_ceil(BINS_MAX.min(VALUES_MAX / n.max(1)).max(1)).max(1);
        let (root_mean, _) = root_moments(&member.train);
        let (mut values, mut regime) = (Vec::new(), Vec::new());
        let mut seen = 0;
        for stream in &member.train {
            let mut averages: Vec<f32> = shares.iter().flat_map(|_| root_mean.clone()).collect();
            for (counts, &r) in stream.counts.rows().into_iter().zip(&stream.regime) {
                for (average, share) in averages.chunks_exact_mut(channels).zip(shares) {
                    average.iter_mut().zip(counts).for_each(|(a, c)| *a += share * (c.sqrt() - *a));
                }
                if r < session.regimes {
                    if seen % every == 0 {
                        values.extend_from_slice(&averages);
                        values.push(1.0);
                        regime.push(r);
                    }
                    seen += 1;
                }
            }
        }
        let shape = (regime.len(), n + 1);
        let mut values = Array2::from_shape_vec(shape, values).expect("a row for each bin");
        let all = values.slice_axis(Axis(1), (..n).into());
        let mean = all.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(n));
        let deviation = all.std_axis(Axis(0), 0.0).mapv(|d| d.max(DEVIATION_MIN));
        let mut all = values.slice_axis_mut(Axis(1), (..n).into());
        all -= &mean;
        all /= &deviation;
        Self { values, regime, root_mean, mean, deviation }
    }

    /// The head on averages as they are.
    fn head(&self, session: &Session, shares: &[f32], fit: &Descent) -> AveragesHead {
        let n = self.mean.len();
        let mut bias = fit.weights.row(n).to_owned();
        let mut weights = fit.weights.slice_axis(Axis(0), (..n).into()).to_owned();
        for (f, mut row) in weights.rows_mut().into_iter().enumerate() {
            row.mapv_inplace(|w| w / self.deviation[f]);
            bias.scaled_add(-self.mean[f], &row);
        }
        let shape = (shares.len(), session.channels, session.regimes);
        let weights = Array3::from_shape_vec(shape, weights.into_raw_vec_and_offset().0);
        AveragesHead {
            mean: Array1::from(self.root_mean.clone()),
            shares: shares.to_vec(),
            weights: weights.expect("features are averages of channels"),
            bias,
        }
    }
}
