//! From what windows look like to regimes over time.

use super::scale::{Chances, REGIMES, STEP, WINDOW};

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

/// Probabilities of the regimes at each step of a piece of so many bins, given all of its windows'
/// chances (Rabiner 1989, equations 19 to 27). Windows begin a step apart.
pub(super) fn smoothed(windows: &[Chances], bins: usize, pace: Pace) -> Vec<Chances> {
    let steps = bins.div_ceil(STEP);
    let mut evidence = vec![[0.0f32; REGIMES]; steps];
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
            (evidence[s], seen[s]) = (evidence[s - 1], seen[s - 1]);
        }
    }
    let likelihoods: Vec<Chances> = evidence
        .iter()
        .zip(&seen)
        .map(|(e, n)| {
            let top = e.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            e.map(|e| (pace.evidence * (e - top) / n.max(1.0)).exp())
        })
        .collect();
    forward_backward(&likelihoods, pace.stay)
}

fn normalised(of: Chances) -> Chances {
    let sum = of.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    of.map(|x| x / sum)
}

/// The same chance to change to each other regime.
fn moved(of: &Chances, stay: f32) -> Chances {
    let leave = (1.0 - stay) / (REGIMES - 1) as f32;
    let sum = of.iter().sum::<f32>();
    of.map(|x| stay * x + leave * (sum - x))
}

fn forward_backward(likelihoods: &[Chances], stay: f32) -> Vec<Chances> {
    let times = |a: &Chances, b: &Chances| std::array::from_fn(|k| a[k] * b[k]);
    let mut forward: Vec<Chances> = Vec::with_capacity(likelihoods.len());
    for likelihood in likelihoods {
        let before = forward.last().map_or([1.0 / REGIMES as f32; REGIMES], |f| moved(f, stay));
        forward.push(normalised(times(&before, likelihood)));
    }
    let mut backward = [1.0f32; REGIMES];
    for t in (0..likelihoods.len()).rev() {
        let both = times(&forward[t], &backward);
        forward[t] = normalised(both);
        backward = normalised(moved(&times(&backward, &likelihoods[t]), stay));
    }
    forward
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_all_paths() {
        let likelihoods: Vec<Chances> = (0..5)
            .map(|t| std::array::from_fn(|k| 0.1 + ((t * 7 + k * 3) % 5) as f32 / 4.0))
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
            |k: usize| -> Chances { std::array::from_fn(|i| if i == k { 0.9 } else { 0.025 }) };
        let mut windows: Vec<Chances> =
            (0..20).map(|w| chances(if w < 10 { 1 } else { 3 })).collect();
        windows[4] = chances(2);
        let bins = WINDOW + 19 * STEP;
        let found = smoothed(&windows, bins, Pace { evidence: 0.4, stay: 0.9 });
        assert_eq!(found.len(), bins.div_ceil(STEP));
        let best = |c: &Chances| (0..REGIMES).max_by(|&a, &b| c[a].total_cmp(&c[b]));
        let labels: Vec<_> = found.iter().filter_map(best).collect();
        let change = labels.iter().position(|l| *l == 3).expect("the second");
        assert!((10..=13).contains(&change), "{labels:?}");
        assert!(labels.iter().enumerate().all(|(s, l)| *l == if s < change { 1 } else { 3 }));
    }
}
