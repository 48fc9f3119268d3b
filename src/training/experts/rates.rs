//! States of constant rates, a few for each label: a Poisson hidden Markov model whose states are
//! bound to the labels, fitted by expectation-maximisation (Baum et al. 1970) under a gamma prior.

use ndarray::{Array1, Array2, Axis};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::labelled::{Labelled, Member, Session};
use crate::experts::RateFilter;
use crate::model::RateStates;

/// States per label that are tried.
const PER_LABEL: [usize; 3] = [1, 2, 4];
/// Powers of the evidence that are tried.
const POWERS: [f32; 7] = [1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015];
/// The prior of a rate, in bins: a state's is drawn to its label's, a label's to that of all.
const PRIOR_BINS: f64 = 5.0;
/// Lowest rate, counts per bin.
const RATE_MIN: f64 = 1e-4;
const ITERATIONS: usize = 15;
/// Scatter of a label's states at the start, natural log of rates.
const START_SCATTER: f64 = 0.3;
/// Pseudo-counts of a step between two states.
const STEP_PSEUDO_COUNT: f64 = 0.2;
/// Share of a state's steps at the start that lead to itself.
const STAY: f64 = 0.8;

/// Rates for every member, with states per label and power by the held-out log loss over all.
pub(super) fn fit(session: &Session, hazard: &Array2<f32>, seed: u64) -> Vec<RateStates> {
    let mut best: Option<(f64, Vec<RateStates>)> = None;
    for per_label in PER_LABEL {
        let mut found: Vec<RateStates> = session
            .members
            .iter()
            .map(|m| fit_one(session, m, per_label, hazard, &mut ChaCha8Rng::seed_from_u64(seed)))
            .collect();
        for power in POWERS {
            found.iter_mut().for_each(|f| f.power = power);
            let judged = session.members.iter().zip(&found);
            let loss: f64 = judged.map(|(m, f)| session.log_loss(&mut RateFilter::new(f), m)).sum();
            if best.as_ref().is_none_or(|b| loss < b.0) {
                best = Some((loss, found.clone()));
            }
        }
    }
    best.map(|b| b.1).unwrap_or_default()
}

/// Mean rates of each group of bins, `[groups, channels]`, drawn to the mean of all.
fn label_rates(session: &Session, member: &Member) -> Array2<f64> {
    let (groups, n) = (session.groups(), session.channels);
    let (mut sum, mut bins) = (Array2::<f64>::zeros((groups, n)), Array1::<f64>::zeros(groups));
    for stream in &member.train {
        for (counts, &regime) in stream.counts.rows().into_iter().zip(&stream.regime) {
            if regime < groups {
                let mut row = sum.row_mut(regime);
                row.zip_mut_with(&counts, |s, &c| *s += f64::from(c));
                bins[regime] += 1.0;
            }
        }
    }
    let all = (sum.sum_axis(Axis(0)) + 0.5) / (bins.sum() + 1.0);
    for (mut row, &bins) in sum.rows_mut().into_iter().zip(&bins) {
        row.zip_mut_with(&all, |s, &a| *s = (*s + PRIOR_BINS * a) / (bins + PRIOR_BINS));
    }
    sum.mapv(|r| r.max(RATE_MIN))
}

/// Moments of the states over all bins.
struct Moments {
    /// Bins of each state, `[states]`.
    bins: Array1<f64>,
    /// Counts in them, `[states, channels]`.
    counts: Array2<f64>,
    /// Steps from state to state, `[states, states]`.
    steps: Array2<f64>,
}

fn fit_one(
    session: &Session,
    member: &Member,
    per_label: usize,
    hazard: &Array2<f32>,
    rng: &mut ChaCha8Rng,
) -> RateStates {
    let groups = session.groups();
    let states = groups * per_label;
    let group = |state: usize| state / per_label;
    let of_label = label_rates(session, member);
    let mut rates = Array2::from_shape_fn((states, session.channels), |(s, i)| {
        let scatter: f64 = if per_label > 1 { rng.sample(StandardNormal) } else { 0.0 };
        (of_label[[group(s), i]] * (START_SCATTER * scatter).exp()).max(RATE_MIN)
    });
    let mut within = Array2::from_shape_fn((states, states), |(a, b)| {
        let stays = if a == b { STAY } else { 0.0 };
        stays + (1.0 - STAY) / per_label as f64
    });
    let mut share = Array1::from_elem(states, 1.0 / per_label as f64);
    if per_label > 1 {
        for _ in 0..ITERATIONS {
            let moments = expect(member, &rates, &within, per_label, groups);
            for s in 0..states {
                for i in 0..session.channels {
                    let prior = PRIOR_BINS * of_label[[group(s), i]];
                    let rate = (moments.counts[[s, i]] + prior) / (moments.bins[s] + PRIOR_BINS);
                    rates[[s, i]] = rate.max(RATE_MIN);
                }
                let of = group(s) * per_label..(group(s) + 1) * per_label;
                let row = of.clone().map(|b| moments.steps[[s, b]] + STEP_PSEUDO_COUNT);
                let total: f64 = row.clone().sum();
                of.clone().zip(row).for_each(|(b, steps)| within[[s, b]] = steps / total);
                let bins: f64 = of.map(|b| moments.bins[b] + 1.0).sum();
                share[s] = (moments.bins[s] + 1.0) / bins;
            }
        }
    }
    // Between labels a state is left as the regimes are, whatever the labels' own order was.
    let code = |state: usize| {
        let g = group(state);
        if g < session.regimes { g } else { hazard.nrows() - 1 }
    };
    let transition = Array2::from_shape_fn((states, states), |(a, b)| {
        let (from, to) = (code(a), code(b));
        if from == to {
            let leave: f32 =
                (0..hazard.ncols()).filter(|&h| h != from).map(|h| hazard[[from, h]]).sum();
            (1.0 - leave) * within[[a, b]] as f32
        } else {
            hazard[[from, to]] * share[b] as f32
        }
    });
    RateStates {
        rates: rates.mapv(|r| r as f32),
        transition: normalised(transition),
        regime: (0..states).map(group).collect(),
        power: 1.0,
    }
}

/// Rows with a sum of 1.
fn normalised(mut rows: Array2<f32>) -> Array2<f32> {
    for mut row in rows.rows_mut() {
        let total: f32 = row.sum();
        row.mapv_inplace(|p| p / total);
    }
    rows
}

/// Forward and backward passes over the training bins, each bin in its label's states alone.
fn expect(
    member: &Member,
    rates: &Array2<f64>,
    within: &Array2<f64>,
    per_label: usize,
    groups: usize,
) -> Moments {
    let (states, channels) = rates.dim();
    let log_rates = rates.mapv(|r| r.ln() as f32);
    let totals: Vec<f64> = rates.sum_axis(Axis(1)).to_vec();
    let mut found = Moments {
        bins: Array1::zeros(states),
        counts: Array2::zeros((states, channels)),
        steps: Array2::zeros((states, states)),
    };
    for stream in &member.train {
        let evidence = stream.counts.dot(&log_rates.t());
        let likelihood = |t: usize, s: usize| f64::from(evidence[[t, s]]) - totals[s];
        // A bin of no group, or of another than the bin before, begins a chain of its own.
        let mut from = 0;
        while from < stream.regime.len() {
            let group = stream.regime[from];
            let length = stream.regime[from..].iter().take_while(|r| **r == group).count();
            if group < groups {
                let base = group * per_label;
                let local = |t: usize, s: usize| likelihood(from + t, base + s);
                let chain = Chain { length, base, per_label };
                chain.pass(&local, within, stream, from, &mut found);
            }
            from += length;
        }
    }
    found
}

/// Consecutive bins of one label.
struct Chain {
    length: usize,
    /// The label's first state.
    base: usize,
    per_label: usize,
}

impl Chain {
    fn pass(
        &self,
        likelihood: &impl Fn(usize, usize) -> f64,
        within: &Array2<f64>,
        stream: &Labelled,
        from: usize,
        found: &mut Moments,
    ) {
        let Self { length, base, per_label: n } = *self;
        let step = |a: usize, b: usize| within[[base + a, base + b]];
        let scaled = |t: usize| {
            let l: Vec<f64> = (0..n).map(|s| likelihood(t, s)).collect();
            let top = l.iter().copied().fold(f64::MIN, f64::max);
            l.into_iter().map(|x| (x - top).exp().max(1e-300)).collect::<Vec<f64>>()
        };
        let evidence: Vec<Vec<f64>> = (0..length).map(scaled).collect();
        let mut forward: Vec<Vec<f64>> = Vec::with_capacity(length);
        for (t, e) in evidence.iter().enumerate() {
            let predicted = |b: usize| match t {
                0 => 1.0 / n as f64,
                _ => (0..n).map(|a| forward[t - 1][a] * step(a, b)).sum(),
            };
            let mut p: Vec<f64> = (0..n).map(|b| predicted(b) * e[b]).collect();
            normalise(&mut p);
            forward.push(p);
        }
        let mut behind = vec![1.0; n];
        for t in (0..length).rev() {
            let mut state: Vec<f64> = forward[t].iter().zip(&behind).map(|(f, b)| f * b).collect();
            normalise(&mut state);
            for (s, &p) in state.iter().enumerate() {
                found.bins[base + s] += p;
                let mut row = found.counts.row_mut(base + s);
                row.zip_mut_with(&stream.counts.row(from + t), |to, &c| *to += p * f64::from(c));
            }
            if t == 0 {
                break;
            }
            let ahead: Vec<f64> = evidence[t].iter().zip(&behind).map(|(e, b)| e * b).collect();
            let mut pairs: Vec<f64> = (0..n * n)
                .map(|at| forward[t - 1][at / n] * step(at / n, at % n) * ahead[at % n])
                .collect();
            normalise(&mut pairs);
            for (at, p) in pairs.into_iter().enumerate() {
                found.steps[[base + at / n, base + at % n]] += p;
            }
            behind = (0..n).map(|a| (0..n).map(|b| step(a, b) * ahead[b]).sum()).collect();
            normalise(&mut behind);
        }
    }
}

fn normalise(p: &mut [f64]) {
    let total: f64 = p.iter().sum::<f64>().max(1e-300);
    p.iter_mut().for_each(|x| *x /= total);
}
