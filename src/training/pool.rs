//! Weights of the log-linear pool: the least log loss on held-out bins, no weight below 0.

use std::convert::Infallible;

use nalgebra::{SMatrix, SVector};

use super::threads::on_each;
use crate::experts::PROBABILITY_MIN;
use crate::model::{BASE_RATE_MIN, EXPERTS, Pool};

type Powers = SVector<f64, EXPERTS>;
type Curvature = SMatrix<f64, EXPERTS, EXPERTS>;

/// Weights of the squared distance of the powers from an even share that are tried, from the
/// weakest on.
const RIDGES: [f64; 6] = [1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0];
/// Powers of the base rates that are tried, from none on.
const EVENNESS: [f32; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
const NEWTON_STEPS: usize = 50;
/// Bins that are looked at, at most: evenly chosen.
const BINS_MAX: usize = 40_000;
/// Least sum of the powers: a temperature of 20.
const POWER_MIN: f64 = 0.05;

/// A labelled bin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Example<'a> {
    pub(super) truth: usize,
    /// `[experts, regimes]`.
    pub(super) posteriors: &'a [f32],
    /// The first bin of an epoch: bins within one are no independent witnesses.
    pub(super) epoch_begins: bool,
}

/// `log p` by each expert of each regime, of a labelled bin.
struct Logs {
    truth: usize,
    epoch: usize,
    of: Vec<Powers>,
}

/// The pool by the log loss on held-out bins; `None` without examples.
///
/// Of pools that are drawn to an even one more and more strongly, the most even whose loss is no
/// more than one standard error above the least (Breiman et al. 1984), the error being that of the
/// difference, over epochs: where a recording has few of them, the expert that did best by chance
/// does not take all.
///
/// The same decides how far the regimes' base rates are trusted.
pub(super) fn fit_pool(
    examples: &[Example<'_>],
    base_rates: &[f32],
    threads: usize,
) -> Option<Pool> {
    let n_regimes = base_rates.len();
    let every = examples.len().div_ceil(BINS_MAX).max(1);
    let mut epoch = 0;
    let mut logs = Vec::new();
    for (i, example) in examples.iter().enumerate() {
        epoch += usize::from(example.epoch_begins);
        if i % every == 0 {
            logs.push(Logs { truth: example.truth, epoch, of: logs_of(example, n_regimes) });
        }
    }
    let pools = on_each(&mut RIDGES.to_vec(), threads, |ridge| {
        Ok::<_, Infallible>(least_loss(&logs, *ridge))
    });
    let Ok(pools) = pools;
    let pools: Vec<Powers> = pools.into_iter().flatten().collect();
    let natural = vec![0.0; n_regimes];
    let best = *pools.first()?;
    let as_good = |p: &&Powers| is_as_good(&logs, (&best, &natural), (p, &natural));
    let powers = *pools.iter().rev().find(as_good).unwrap_or(&best);
    let offsets: Vec<(f32, Vec<f64>)> = EVENNESS
        .iter()
        .map(|&g| {
            let log = |r: &f32| -f64::from(g) * f64::from(r.max(BASE_RATE_MIN)).ln();
            (g, base_rates.iter().map(log).collect())
        })
        .collect();
    let loss = |o: &[f64]| logs.iter().map(|l| loss_of(l, &powers, o)).sum::<f64>();
    let least = offsets.iter().min_by(|a, b| loss(&a.1).total_cmp(&loss(&b.1)))?;
    let as_good = |o: &&(f32, Vec<f64>)| is_as_good(&logs, (&powers, &least.1), (&powers, &o.1));
    let evenness = offsets.iter().rev().find(as_good).unwrap_or(least).0;
    let total = powers.sum().max(POWER_MIN);
    let share = powers / powers.sum();
    Some(Pool {
        weights: std::array::from_fn(|e| share[e] as f32),
        temperature: (1.0 / total) as f32,
        evenness,
    })
}

/// The powers of least loss with a ridge: of every set of experts that count, the best whose powers
/// are all above 0.
fn least_loss(logs: &[Logs], ridge: f64) -> Option<Powers> {
    let mut best: Option<(f64, Powers)> = None;
    for set in 1..1usize << EXPERTS {
        let among = |e: usize| set >> e & 1 == 1;
        let Some((loss, powers)) = minimise(logs, ridge, among) else { continue };
        if best.as_ref().is_none_or(|b| loss < b.0) {
            best = Some((loss, powers));
        }
    }
    best.map(|b| b.1)
}

/// Powers, and what is added to each regime's score.
type Pooling<'a> = (&'a Powers, &'a [f64]);

/// Whether a pool loses no more than one standard error above the best; epochs are independent.
fn is_as_good(logs: &[Logs], best: Pooling<'_>, other: Pooling<'_>) -> bool {
    let mut by_epoch: Vec<f64> = Vec::new();
    let mut epoch = None;
    for l in logs {
        let more = loss_of(l, other.0, other.1) - loss_of(l, best.0, best.1);
        match by_epoch.last_mut().filter(|_| epoch == Some(l.epoch)) {
            Some(last) => *last += more,
            None => by_epoch.push(more),
        }
        epoch = Some(l.epoch);
    }
    let n = by_epoch.len() as f64;
    let mean = by_epoch.iter().sum::<f64>() / n;
    let squares: f64 = by_epoch.iter().map(|d| (d - mean).powi(2)).sum();
    n * mean <= (n * squares / (n - 1.0).max(1.0)).sqrt()
}

/// Log loss of a bin.
fn loss_of(logs: &Logs, powers: &Powers, offset: &[f64]) -> f64 {
    let scores: Vec<f64> =
        logs.of.iter().zip(offset).map(|(l, offset)| l.dot(powers) + offset).collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    top + scores.iter().map(|s| (s - top).exp()).sum::<f64>().ln() - scores[logs.truth]
}

/// `log p` of each regime by each expert.
fn logs_of(example: &Example<'_>, n_regimes: usize) -> Vec<Powers> {
    let log = |e: usize, r: usize| {
        f64::from(example.posteriors[e * n_regimes + r].max(PROBABILITY_MIN)).ln()
    };
    (0..n_regimes).map(|r| Powers::from_fn(|e, _| log(e, r))).collect()
}

/// Newton's method over the powers of the experts of a set, the others at 0. `None` where one of
/// the set ends below 0: another set is better then.
fn minimise(logs: &[Logs], ridge: f64, among: impl Fn(usize) -> bool) -> Option<(f64, Powers)> {
    let even = 1.0 / EXPERTS as f64;
    let mut powers = Powers::from_fn(|e, _| if among(e) { even } else { 0.0 });
    let mut now = evaluate(logs, ridge, &powers);
    for _ in 0..NEWTON_STEPS {
        let (loss, mut gradient, mut curvature) = now;
        for e in (0..EXPERTS).filter(|&e| !among(e)) {
            gradient[e] = 0.0;
            curvature.row_mut(e).fill(0.0);
            curvature.column_mut(e).fill(0.0);
            curvature[(e, e)] = 1.0;
        }
        let step = curvature.cholesky()?.solve(&gradient);
        // Halved until the loss falls.
        let mut share = 1.0;
        loop {
            let next = powers - step * share;
            let found = evaluate(logs, ridge, &next);
            if found.0 <= loss {
                (powers, now) = (next, found);
                break;
            }
            share *= 0.5;
            if share < 1e-6 {
                break;
            }
        }
        if step.norm() * share < 1e-6 {
            break;
        }
    }
    powers.iter().all(|p| *p >= 0.0).then_some((now.0, powers))
}

/// Mean log loss at given powers with the ridge, its gradient and curvature.
fn evaluate(logs: &[Logs], ridge: f64, powers: &Powers) -> (f64, Powers, Curvature) {
    let (mut loss, mut gradient) = (0.0, Powers::zeros());
    let mut curvature = Curvature::zeros();
    for Logs { truth, of, .. } in logs {
        let scores: Vec<f64> = of.iter().map(|l| l.dot(powers)).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let (mut mean, mut square) = (Powers::zeros(), Curvature::zeros());
        for (l, s) in of.iter().zip(&scores) {
            let p = (s - top).exp() / total;
            mean += l * p;
            square += l * l.transpose() * p;
        }
        loss += top + total.ln() - scores[*truth];
        gradient += mean - of[*truth];
        curvature += square - mean * mean.transpose();
    }
    let n = logs.len() as f64;
    let away = powers.add_scalar(-1.0 / EXPERTS as f64);
    (
        loss / n + ridge * away.norm_squared(),
        gradient / n + away * (2.0 * ridge),
        curvature / n + Curvature::identity() * (2.0 * ridge),
    )
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Posteriors of a uniform prior that see the truth through noise of a known strength, and are
    /// as sure as their own power makes them.
    fn posteriors(rng: &mut ChaCha8Rng, truth: usize, powers: [f64; EXPERTS]) -> Vec<f32> {
        let strength = [1.5, 0.7, 0.0, 0.0];
        let mut all = Vec::new();
        for e in 0..EXPERTS {
            let noise: f64 = rng.sample(rand_distr::StandardNormal);
            let side = if truth == 1 { 1.0 } else { -1.0 };
            // Log odds of the truth's side given one normal observation.
            let odds = 2.0 * strength[e] * (strength[e] * side + noise) / powers[e];
            let p = 1.0 / (1.0 + (-odds).exp());
            all.extend([(1.0 - p) as f32, p as f32]);
        }
        all
    }

    /// Each bin an epoch of its own.
    fn examples(data: &[(usize, Vec<f32>)]) -> Vec<Example<'_>> {
        data.iter()
            .map(|(truth, p)| Example { truth: *truth, posteriors: p, epoch_begins: true })
            .collect()
    }

    #[test]
    fn independent_experts_get_the_power_that_makes_them_honest() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let data: Vec<(usize, Vec<f32>)> = (0..20_000)
            .map(|i| (i % 2, posteriors(&mut rng, i % 2, [2.0, 0.5, 1.0, 1.0])))
            .collect();
        let examples = examples(&data);
        let Pool { weights, temperature, .. } = fit_pool(&examples, &[0.5; 2], 2).expect("a pool");
        let powers = weights.map(|w| w / temperature);
        assert!((powers[0] - 2.0).abs() < 0.1 && (powers[1] - 0.5).abs() < 0.05, "{powers:?}");
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn an_expert_that_misleads_counts_for_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let data: Vec<(usize, Vec<f32>)> = (0..4000)
            .map(|i| {
                let mut p = posteriors(&mut rng, i % 2, [1.0; EXPERTS]);
                p.swap(2, 3);
                (i % 2, p)
            })
            .collect();
        let examples = examples(&data);
        let pool = fit_pool(&examples, &[0.5; 2], 2).expect("a pool");
        assert!(pool.weights[1] == 0.0 && pool.weights[0] > 0.5, "{pool:?}");
    }
}
