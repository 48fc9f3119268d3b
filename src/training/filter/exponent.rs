//! The network's own Lyapunov exponent as a part of the loss: along a free run, with or without process
//! noise, against what is known of the task.

use super::adjoint::{StepRecord, StepScratch};
use super::algebra::dot;
use super::pass::{Pass, WindowGradient};
use crate::inference::kernels::Real;

/// Bins before the tangent vector counts: it turns towards the fastest direction.
const TRANSIENT_BINS: usize = 40;
/// Errors beyond this weigh by their size, not their square, per bin.
const HUBER_PER_BIN: f32 = 0.003;
/// The adjoint of a chaotic run grows as the run does; each bin keeps this share of it.
const ADJOINT_KEPT: f32 = 0.98;

/// A run whose exponent is known.
#[derive(Debug, Clone)]
pub(crate) struct Exponent<T> {
    /// Bin of the window behind whose filtered state the run begins, under that bin's factors...
    pub(crate) from: usize,
    /// ...unless a state is given, `[rank]`: where an earlier run of the same task ended.
    pub(crate) start: Option<Vec<T>>,
    /// Standard normal variates of the process noise, `[bins, rank]`; empty for a noise-free run.
    pub(crate) noise: Vec<T>,
    /// Length of the run, bins.
    pub(crate) bins: usize,
    /// True largest exponent, per bin.
    pub(crate) target: T,
    /// Weight in the gradient.
    pub(crate) weight: T,
    /// Where the run must end, `[rank]`, and the weight of the squared distance: a task with one stable
    /// point leads there from anywhere.
    pub(crate) attractor: Option<(Vec<T>, T)>,
    /// Whether the adjoint is damped; checks against finite differences want it whole.
    pub(crate) damped: bool,
}

/// What a run showed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExponentFound<T> {
    /// Largest exponent, per bin.
    pub(crate) exponent: T,
    /// Huber loss of its error.
    pub(crate) loss: T,
    /// The run's last state, `[rank]`.
    pub(crate) end: Vec<T>,
}

impl<T: Real> Pass<'_, T> {
    /// A run from `filtered [rank]` or the state given: its exponent per bin, its Huber loss (squared
    /// error over twice the threshold within it) and where it ended; adds `weight` times the loss'
    /// gradient with respect to the network.
    #[inline(always)]
    pub(super) fn exponent(
        &self,
        of: &Exponent<T>,
        factor: usize,
        filtered: &[T],
        gradient: Option<&mut WindowGradient<'_, T>>,
        scratch: &mut StepScratch<T>,
    ) -> ExponentFound<T> {
        let (rank, units, a) = (self.shape.rank, self.shape.units, self.leak());
        let bins = of.bins;
        let transient = TRANSIENT_BINS.min(bins / 2);
        let zeros = |n: usize| vec![T::zero(); n];
        let mut states = zeros((bins + 1) * rank);
        states[..rank].copy_from_slice(of.start.as_deref().unwrap_or(filtered));
        let sd: Vec<T> = self.shared.log_process.iter().map(|q| (T::of(0.5) * *q).exp()).collect();
        let (mut phis, mut drives) = (zeros(bins * units), zeros(bins * rank));
        let mut transitions = zeros(bins * rank * rank);
        let mut tangents = zeros((bins + 1) * rank);
        tangents[..rank].fill(T::of(1.0 / (rank as f32).sqrt()));
        let mut norms = zeros(bins);
        let mut slopes = zeros(units);
        let (n, _) = self.factor(factor);
        let mut grown = T::zero();
        for h in 0..bins {
            let (before, after) = states.split_at_mut((h + 1) * rank);
            let phi = &mut phis[h * units..(h + 1) * units];
            self.step(
                &before[h * rank..],
                factor,
                phi,
                &mut drives[h * rank..(h + 1) * rank],
                &mut after[..rank],
            );
            if !of.noise.is_empty() {
                let noise = &of.noise[h * rank..(h + 1) * rank];
                for ((x, n), sd) in after.iter_mut().zip(noise).zip(&sd) {
                    *x += *n * *sd;
                }
            }
            let (v, next) = tangents[h * rank..].split_at_mut(rank);
            for r in 0..rank {
                let row = &n[r * units..(r + 1) * units];
                for ((d, x), phi) in slopes.iter_mut().zip(row).zip(phi.iter()) {
                    *d = *x * (T::one() - *phi * *phi);
                }
                let transition = &mut transitions[(h * rank + r) * rank..(h * rank + r + 1) * rank];
                for (j, t) in transition.iter_mut().enumerate() {
                    *t = a * dot(&slopes, &self.shared.m[j * units..(j + 1) * units]);
                }
                transition[r] += T::one() - a;
                next[r] = transition.iter().zip(v.iter()).fold(T::zero(), |s, (t, v)| s + *t * *v);
            }
            let norm = next[..rank].iter().fold(T::zero(), |s, x| s + *x * *x).sqrt();
            norms[h] = norm.max(T::of(1e-20));
            next[..rank].iter_mut().for_each(|x| *x = *x / norms[h]);
            if h >= transient {
                grown += norms[h].ln();
            }
        }
        let measured = T::of((bins - transient) as f32);
        let exponent = grown / measured;
        let error = exponent - of.target;
        let threshold = T::of(HUBER_PER_BIN);
        let half = T::of(0.5);
        let loss = if error.abs() <= threshold {
            half * error * error / threshold
        } else {
            error.abs() - half * threshold
        };
        let end = states[bins * rank..].to_vec();
        let found = ExponentFound { exponent, loss, end };
        let Some(g) = gradient else { return found };
        let slope = (error / threshold).max(-T::one()).min(T::one());
        let grown_bar = of.weight * slope / measured;
        let kept = if of.damped { T::of(ADJOINT_KEPT) } else { T::one() };
        let (mut v_bar, mut state_bar) = (zeros(rank), zeros(rank));
        if let Some((point, weight)) = &of.attractor {
            let last = &states[bins * rank..];
            for ((bar, x), p) in state_bar.iter_mut().zip(last).zip(point) {
                *bar = T::of(2.0) * *weight * (*x - *p);
            }
        }
        let mut u_bar = zeros(rank);
        let mut transition_bar = zeros(rank * rank);
        for h in (0..bins).rev() {
            let (v, next) = (&tangents[h * rank..], &tangents[(h + 1) * rank..(h + 2) * rank]);
            let along = next.iter().zip(&v_bar).fold(T::zero(), |s, (x, y)| s + *x * *y);
            let own = if h >= transient { grown_bar } else { T::zero() };
            for r in 0..rank {
                u_bar[r] = (v_bar[r] - next[r] * along + own * next[r]) / norms[h];
            }
            let transition = &transitions[h * rank * rank..(h + 1) * rank * rank];
            for q in 0..rank {
                v_bar[q] = (0..rank)
                    .fold(T::zero(), |s, r| s + transition[r * rank + q] * u_bar[r])
                    * kept;
                for r in 0..rank {
                    transition_bar[r * rank + q] = u_bar[r] * v[q];
                }
            }
            if !of.noise.is_empty() {
                // The noise's size is learned too.
                let tail = rank * units + units + 1;
                for r in 0..rank {
                    g.shared[tail + r] +=
                        state_bar[r] * T::of(0.5) * sd[r] * of.noise[h * rank + r];
                }
            }
            self.pull_step(
                &StepRecord {
                    mean: &states[h * rank..(h + 1) * rank],
                    factor,
                    phi: &phis[h * units..(h + 1) * units],
                    drive: &drives[h * rank..(h + 1) * rank],
                },
                &state_bar,
                Some((transition, &transition_bar)),
                g,
                scratch,
            );
            for (bar, before) in state_bar.iter_mut().zip(&scratch.before_bar) {
                *bar = *before * kept;
            }
        }
        found
    }
}
