//! From what windows look like to regimes over time.

use super::scale::{Chances, STEP, WINDOW};

/// Chances are no smaller than this in a window's evidence.
const LEAST: f32 = 0.01;

/// How windows that overlap are taken together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    /// Share of a window's evidence that each step takes.
    pub(super) evidence: f32,
    /// Probability that a regime lasts from step to step.
    pub(super) stay: f32,
}

/// Probabilities of so many regimes at each step of a piece of so many bins, given all of its
/// windows' chances (Rabiner 1989, equations 19 to 27). Windows begin a step apart.
pub(super) fn smoothed(
    windows: &[Chances],
    bins: usize,
    regimes: usize,
    pace: Pace,
) -> Vec<Chances> {
    let steps = bins.div_ceil(STEP);
    let mut evidence = vec![vec![0.0f32; regimes]; steps];
    let mut seen = vec![0.0f32; steps];
    for (w, chances) in windows.iter().enumerate() {
        for s in w..(w + WINDOW / STEP).min(steps) {
            seen[s] += 1.0;
            evidence[s].iter_mut().zip(chances).for_each(|(e, c)| *e += (c + LEAST).ln());
        }
    }
    // Where the last window ends before the piece does, it goes on.
    for s in 1..steps {
        if seen[s] == 0.0 {
            (evidence[s], seen[s]) = (evidence[s - 1].clone(), seen[s - 1]);
        }
    }
    for (evidence, n) in evidence.iter_mut().zip(&seen) {
        let top = evidence.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        evidence.iter_mut().for_each(|e| *e = (pace.evidence * (*e - top) / n.max(1.0)).exp());
    }
    forward_backward(&evidence, pace.stay)
}

fn normalise(of: &mut [f32]) {
    let sum = of.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    of.iter_mut().for_each(|x| *x /= sum);
}

/// The same chance to change to each other regime.
fn moved(of: &[f32], stay: f32) -> Chances {
    let leave = (1.0 - stay) / of.len().saturating_sub(1).max(1) as f32;
    let sum = of.iter().sum::<f32>();
    of.iter().map(|x| stay * x + leave * (sum - x)).collect()
}

fn times(by: &mut [f32], with: &[f32]) {
    by.iter_mut().zip(with).for_each(|(a, b)| *a *= b);
}

fn forward_backward(likelihoods: &[Chances], stay: f32) -> Vec<Chances> {
    let mut forward: Vec<Chances> = Vec::with_capacity(likelihoods.len());
    for likelihood in likelihoods {
        let mut now = forward.last().map_or_else(
            || vec![1.0 / likelihood.len() as f32; likelihood.len()],
            |before| moved(before, stay),
        );
        times(&mut now, likelihood);
        normalise(&mut now);
        forward.push(now);
    }
    let mut backward = likelihoods.last().map_or_else(Vec::new, |l| vec![1.0f32; l.len()]);
    for (forward, likelihood) in forward.iter_mut().zip(likelihoods).rev() {
        times(forward, &backward);
        normalise(forward);
        times(&mut backward, likelihood);
        backward = moved(&backward, stay);
        normalise(&mut backward);
    }
    forward
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGIMES: usize = 4;

    #[test]
    fn probabilities_are_those_of_all_paths() {
        let likelihoods: Vec<Chances> = (0..5)
            .map(|t| (0..REGIMES).map(|k| 0.1 + ((t * 7 + k * 3) % 5) as f32 / 4.0).collect())
            .collect();
        let stay = 0.7;
        let mut expected = vec![[0.0f64; REGIMES]; 5];
        for path in 0..REGIMES.pow(5) {
            let at = |t: usize| path / REGIMES.pow(t as u32) % REGIMES;
            let mut p = 1.0f64;
            for t in 0..5 {
                p *= f64::from(likelihoods[t][at(t)]);
                if t > 0 {
                    let leave = (1.0 - stay) / (REGIMES - 1) as f64;
                    p *= if at(t) == at(t - 1) { stay } else { leave };
                }
            }
            (0..5).for_each(|t| expected[t][at(t)] += p);
        }
        for (found, of) in forward_backward(&likelihoods, stay as f32).iter().zip(expected) {
            let sum: f64 = of.iter().sum();
            for (f, e) in found.iter().zip(of) {
                assert!((f64::from(*f) - e / sum).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_change_is_found_where_windows_change_and_one_odd_window_is_not() {
        let chances =
            |k: usize| (0..REGIMES).map(|i| if i == k { 0.9 } else { 0.03 }).collect::<Chances>();
        let mut windows: Vec<Chances> =
            (0..20).map(|w| chances(if w < 10 { 1 } else { 3 })).collect();
        windows[4] = chances(2);
        let bins = WINDOW + 19 * STEP;
        let found = smoothed(&windows, bins, REGIMES, Pace { evidence: 0.4, stay: 0.9 });
        assert_eq!(found.len(), bins.div_ceil(STEP));
        let best = |c: &Chances| (0..REGIMES).max_by(|&a, &b| c[a].total_cmp(&c[b]));
        let labels: Vec<_> = found.iter().filter_map(best).collect();
        let change = labels.iter().position(|l| *l == 3).expect("the second");
        assert!((10..=13).contains(&change), "{labels:?}");
        assert!(labels.iter().enumerate().all(|(s, l)| *l == if s < change { 1 } else { 3 }));
    }
}
