//! The network's own Lyapunov exponent as a part of the loss: along a free run, with or without
//! process noise, compared with the task's true one.

use super::adjoint::StepScratch;
use super::algebra::dot;
use super::pass::{Pass, Shared, WindowGradient};
use super::run::Run;
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
    /// Bin of the window after whose filtered state the run begins, under that bin's factors...
    pub(crate) from: usize,
    /// ...unless a state is given, `[rank]`: where an earlier run of this or of another task ended,
    /// or its mirror image.
    pub(crate) start: Option<Vec<T>>,
    /// Standard normal variates of the process noise, `[bins, rank]`; empty for a noise-free run.
    pub(crate) noise: Vec<T>,
    /// Length of the run, bins.
    pub(crate) bins: usize,
    /// True largest exponent, per bin.
    pub(crate) target: T,
    /// Weight in the gradient.
    pub(crate) weight: T,
    /// Where the run must end, `[rank]`, and the weight of the squared distance: a task with one
    /// stable point leads there from anywhere.
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

/// A tangent vector carried along a run: Benettin's method for the largest exponent.
struct Tangent<T> {
    /// Unit vectors, `[bins + 1, rank]`.
    vectors: Vec<T>,
    /// Jacobians of the steps, `[bins, rank, rank]`.
    transitions: Vec<T>,
    /// Lengths before they were made 1, `[bins]`.
    norms: Vec<T>,
    /// Bins that count, from here on.
    from: usize,
    /// Exponent over those, per bin.
    exponent: T,
}

impl<T: Real> Pass<'_, T> {
    /// A run from `filtered [rank]` or the state given: its exponent per bin, its Huber loss
    /// (squared error over twice the threshold within it) and where it ended; adds `weight` times
    /// the loss' gradient with respect to the network.
    #[inline(always)]
    pub(super) fn exponent(
        &self,
        of: &Exponent<T>,
        factor: usize,
        filtered: &[T],
        gradient: Option<&mut WindowGradient<'_, T>>,
        scratch: &mut StepScratch<T>,
    ) -> ExponentFound<T> {
        let mut run = Run::new(self, of.bins);
        run.begin(of.start.as_deref().unwrap_or(filtered));
        let tangent = self.run_tangent(of, factor, &mut run);
        let exponent = tangent.exponent;
        let error = exponent - of.target;
        let (threshold, half) = (T::of(HUBER_PER_BIN), T::of(0.5));
        let loss = if error.abs() <= threshold {
            half * error * error / threshold
        } else {
            error.abs() - half * threshold
        };
        if let Some(g) = gradient {
            let slope = (error / threshold).max(-T::one()).min(T::one());
            self.pull_exponent(of, (factor, of.weight * slope), (&run, &tangent), g, scratch);
        }
        ExponentFound { exponent, loss, end: run.state(of.bins).to_vec() }
    }

    /// Process noise's standard deviations, `[rank]`.
    fn noise_sd(&self) -> Vec<T> {
        self.shared.log_process.iter().map(|q| (T::of(0.5) * *q).exp()).collect()
    }

    /// Runs on and carries a tangent vector along.
    #[inline(always)]
    fn run_tangent(&self, of: &Exponent<T>, factor: usize, run: &mut Run<T>) -> Tangent<T> {
        let (rank, units, a) = (self.shape.rank, self.shape.units, self.leak());
        let zeros = |n: usize| vec![T::zero(); n];
        let mut found = Tangent {
            vectors: zeros((of.bins + 1) * rank),
            transitions: zeros(of.bins * rank * rank),
            norms: zeros(of.bins),
            from: TRANSIENT_BINS.min(of.bins / 2),
            exponent: T::zero(),
        };
        found.vectors[..rank].fill(T::of(1.0 / (rank as f32).sqrt()));
        let (sd, mut slopes) = (self.noise_sd(), zeros(units));
        let (n, _) = self.factor(factor);
        for h in 0..of.bins {
            let after = run.step(self, h, factor);
            if !of.noise.is_empty() {
                let noise = &of.noise[h * rank..(h + 1) * rank];
                for ((x, n), sd) in after.iter_mut().zip(noise).zip(&sd) {
                    *x += *n * *sd;
                }
            }
            let (v, next) = found.vectors[h * rank..].split_at_mut(rank);
            for r in 0..rank {
                let row = &n[r * units..(r + 1) * units];
                for ((d, x), phi) in slopes.iter_mut().zip(row).zip(run.phi(h)) {
                    *d = *x * (T::one() - *phi * *phi);
                }
                let at = (h * rank + r) * rank;
                let transition = &mut found.transitions[at..at + rank];
                for (j, t) in transition.iter_mut().enumerate() {
                    *t = a * dot(&slopes, &self.shared.m[j * units..(j + 1) * units]);
                }
                transition[r] += T::one() - a;
                next[r] = transition.iter().zip(v.iter()).fold(T::zero(), |s, (t, v)| s + *t * *v);
            }
            let norm = next[..rank].iter().fold(T::zero(), |s, x| s + *x * *x).sqrt();
            found.norms[h] = norm.max(T::of(1e-20));
            next[..rank].iter_mut().for_each(|x| *x = *x / found.norms[h]);
            if h >= found.from {
                found.exponent += found.norms[h].ln();
            }
        }
        found.exponent = found.exponent / T::of((of.bins - found.from) as f32);
        found
    }

    /// Adds the gradient of the exponent, times `exponent_bar`, and of the distance from the
    /// attractor.
    #[inline(always)]
    fn pull_exponent(
        &self,
        of: &Exponent<T>,
        (factor, exponent_bar): (usize, T),
        (run, tangent): (&Run<T>, &Tangent<T>),
        g: &mut WindowGradient<'_, T>,
        scratch: &mut StepScratch<T>,
    ) {
        let rank = self.shape.rank;
        let zeros = |n: usize| vec![T::zero(); n];
        let grown_bar = exponent_bar / T::of((of.bins - tangent.from) as f32);
        let kept = if of.damped { T::of(ADJOINT_KEPT) } else { T::one() };
        let (mut v_bar, mut state_bar, mut u_bar) = (zeros(rank), zeros(rank), zeros(rank));
        if let Some((point, weight)) = &of.attractor {
            for ((bar, x), p) in state_bar.iter_mut().zip(run.state(of.bins)).zip(point) {
                *bar = T::of(2.0) * *weight * (*x - *p);
            }
        }
        let (sd, mut transition_bar) = (self.noise_sd(), zeros(rank * rank));
        for h in (0..of.bins).rev() {
            let (v, next) = tangent.vectors[h * rank..(h + 2) * rank].split_at(rank);
            let along = next.iter().zip(&v_bar).fold(T::zero(), |s, (x, y)| s + *x * *y);
            let own = if h >= tangent.from { grown_bar } else { T::zero() };
            for r in 0..rank {
                u_bar[r] = (v_bar[r] - next[r] * along + own * next[r]) / tangent.norms[h];
            }
            let transition = &tangent.transitions[h * rank * rank..(h + 1) * rank * rank];
            for q in 0..rank {
                let sum = (0..rank).fold(T::zero(), |s, r| s + transition[r * rank + q] * u_bar[r]);
                v_bar[q] = sum * kept;
                for r in 0..rank {
                    transition_bar[r * rank + q] = u_bar[r] * v[q];
                }
            }
            if !of.noise.is_empty() {
                // The noise's size is learned too.
                let process = Shared::<T>::process_range(self.shape).start;
                for r in 0..rank {
                    g.shared[process + r] +=
                        state_bar[r] * T::of(0.5) * sd[r] * of.noise[h * rank + r];
                }
            }
            let through = Some((transition, transition_bar.as_slice()));
            self.pull_step(&run.record(h, factor), &state_bar, through, g, scratch);
            for (bar, before) in state_bar.iter_mut().zip(&scratch.before_bar) {
                *bar = *before * kept;
            }
        }
    }
}
