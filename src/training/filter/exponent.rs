//! The network's own Lyapunov exponent as a part of the loss: along a free run, with or without
//! process noise, compared with the task's true one.

use super::adjoint::Gathered;
use super::algebra::scale;
use super::backward::Adjoint;
use super::pass::{Pass, WindowGradient};
use super::run::Run;
use super::tapes::Tapes;
use crate::inference::lanes::{Arithmetic, Lanes, Number};

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
    /// Row of the factors that it is under.
    pub(crate) factor: usize,
    /// Standard normal variates of the process noise, `[bins, rank]`; empty for a noise-free run.
    pub(crate) noise: Vec<T>,
    /// Length of the run, bins: the same for all lanes.
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

/// Tangent vectors carried along: Benettin's method for the largest exponent.
struct Tangent<T> {
    /// Unit vectors, `[bins + 1, rank]`.
    vectors: Lanes<T>,
    /// Jacobians of the steps, `[bins, rank, rank]`.
    transitions: Lanes<T>,
    /// Lengths before they were made 1, `[bins]`.
    norms: Lanes<T>,
    /// Bins that count, from here on.
    from: usize,
    /// Exponent over those, per bin, `[1]`.
    exponent: Lanes<T>,
}

/// What lanes are given, a number of each in a row; 0 of lanes without a run.
struct Given<T> {
    bins: usize,
    /// `[bins, rank]`, times the noise's standard deviation; empty where no run has any.
    noise: Lanes<T>,
    /// Share of the adjoint that each bin keeps.
    kept: T,
}

impl<T: Number, W: Arithmetic<Number = T>> Pass<'_, W> {
    /// A run of each lane that has one, from its filtered state or the state given: its exponent
    /// per bin, its Huber loss (squared error over twice the threshold within it) and where it
    /// ended; adds `weight` times the loss' gradient with respect to the network.
    #[inline(always)]
    pub(super) fn exponent(
        &self,
        of: &[Option<Exponent<T>>],
        tapes: &Tapes<T>,
        adjoint: &mut Adjoint<T>,
        g: &mut WindowGradient<'_, T>,
    ) -> Vec<Option<ExponentFound<T>>> {
        let Some(first) = of.iter().flatten().next() else { return vec![None; of.len()] };
        let (width, rank, bins) = (self.wide.width(), self.shape.rank, first.bins);
        let mut run = Run::new(self.sizes(), bins);
        let at = |e: &Option<Exponent<T>>| e.as_ref().map_or(0, |e| e.from + 1);
        tapes.gather(&of.iter().map(at).collect::<Vec<_>>(), run.first_mut());
        for (lane, e) in of.iter().enumerate() {
            let start = e.as_ref().and_then(|e| e.start.as_ref());
            let to = run.first_mut().iter_mut().skip(lane).step_by(width);
            to.zip(start.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        }
        let own = |lane: usize| of.get(lane).and_then(Option::as_ref);
        let factor = |lane: usize| own(lane).map_or(first.factor, |e| e.factor);
        adjoint.factors.turn(self.factors, factor, Some(&mut *g.factors));
        let given = self.given(of, first);
        let tangent = self.run_tangent(&given, &mut run, adjoint);
        let mut exponent_bar = vec![T::zero(); width];
        let mut found = vec![None; of.len()];
        for (lane, e) in of.iter().enumerate() {
            let Some(e) = e else { continue };
            let exponent = tangent.exponent[lane];
            let error = exponent - e.target;
            let (threshold, half) = (T::of(HUBER_PER_BIN), T::of(0.5));
            let loss = if error.abs() <= threshold {
                half * error * error / threshold
            } else {
                error.abs() - half * threshold
            };
            let slope = (error / threshold).max(-T::one()).min(T::one());
            exponent_bar[lane] = e.weight * slope;
            let end = run.end().iter().skip(lane).step_by(width).copied().take(rank).collect();
            found[lane] = Some(ExponentFound { exponent, loss, end });
        }
        let end_bar = self.end_bar(of, &run);
        self.pull_exponent(&given, (&exponent_bar, end_bar), (&run, &tangent), adjoint);
        found
    }

    /// Process noise's standard deviations, `[rank]`.
    fn noise_sd(&self) -> Vec<T> {
        self.shared.log_process.iter().map(|q| (T::of(0.5) * *q).exp()).collect()
    }

    fn given(&self, of: &[Option<Exponent<T>>], first: &Exponent<T>) -> Given<T> {
        let (width, rank, bins) = (self.wide.width(), self.shape.rank, first.bins);
        let noisy = of.iter().flatten().any(|e| !e.noise.is_empty());
        let mut noise = Lanes::zeros(if noisy { bins * rank * width } else { 0 });
        let sd = self.noise_sd();
        for (lane, e) in of.iter().enumerate() {
            let own = e.iter().flat_map(|e| &e.noise).zip(sd.iter().cycle());
            let to = noise.iter_mut().skip(lane).step_by(width);
            to.zip(own).for_each(|(to, (noise, sd))| *to = *noise * *sd);
        }
        let kept = if first.damped { T::of(ADJOINT_KEPT) } else { T::one() };
        Given { bins, noise, kept }
    }

    /// Adjoint of the last state by its distance from the attractor, `[rank, lanes]`.
    fn end_bar(&self, of: &[Option<Exponent<T>>], run: &Run<T>) -> Lanes<T> {
        let width = self.wide.width();
        let mut bar = Lanes::zeros(self.shape.rank * width);
        for (lane, e) in of.iter().enumerate() {
            let Some((point, weight)) = e.as_ref().and_then(|e| e.attractor.as_ref()) else {
                continue;
            };
            let end = run.end().iter().skip(lane).step_by(width);
            let to = bar.iter_mut().skip(lane).step_by(width);
            for ((bar, x), p) in to.zip(end).zip(point) {
                *bar = T::of(2.0) * *weight * (*x - *p);
            }
        }
        bar
    }

    /// Runs on and carries tangent vectors along.
    #[inline(always)]
    fn run_tangent(&self, of: &Given<T>, run: &mut Run<T>, adjoint: &mut Adjoint<T>) -> Tangent<T> {
        let (wide, rank, width) = (self.wide, self.shape.rank, self.wide.width());
        let rows = |n: usize| Lanes::zeros(n * width);
        let mut found = Tangent {
            vectors: rows((of.bins + 1) * rank),
            transitions: rows(of.bins * rank * rank),
            norms: rows(of.bins),
            from: TRANSIENT_BINS.min(of.bins / 2),
            exponent: rows(1),
        };
        found.vectors[..rank * width].fill(T::of(1.0 / (rank as f32).sqrt()));
        let mut slopes = rows(self.shape.units);
        let (zero, least) = (wide.splat(T::zero()), wide.splat(T::of(1e-20)));
        let mut exponent = zero;
        for h in 0..of.bins {
            let after = run.step(self, h, &adjoint.factors);
            if !of.noise.is_empty() {
                for (x, noise) in after.iter_mut().zip(&wide.rows(&of.noise)[h * rank..]) {
                    *x = wide.add(*x, *noise);
                }
            }
            let square = h * rank * rank..(h + 1) * rank * rank;
            let transition = &mut wide.rows_mut(&mut found.transitions)[square];
            let slopes = wide.rows_mut(&mut slopes);
            self.jacobian(&adjoint.factors, run.phi(wide, h), slopes, transition);
            let vectors = &mut wide.rows_mut(&mut found.vectors)[h * rank..(h + 2) * rank];
            let (v, next) = vectors.split_at_mut(rank);
            for (next, row) in next.iter_mut().zip(transition.chunks_exact(rank)) {
                *next = wide.inner(row, v);
            }
            let norm = wide.max(wide.sqrt(wide.inner(next, next)), least);
            scale(wide, next, wide.div(wide.splat(T::one()), norm));
            wide.rows_mut(&mut found.norms)[h] = norm;
            if h >= found.from {
                exponent = wide.add(exponent, wide.ln(norm));
            }
        }
        let counted = wide.splat(T::of((of.bins - found.from) as f32));
        wide.rows_mut(&mut found.exponent)[0] = wide.div(exponent, counted);
        found
    }

    /// Adds the gradient of the exponents, times `exponent_bar`, and of the runs' ends.
    #[inline(always)]
    fn pull_exponent(
        &self,
        of: &Given<T>,
        (exponent_bar, mut state_bar): (&[T], Lanes<T>),
        (run, tangent): (&Run<T>, &Tangent<T>),
        adjoint: &mut Adjoint<T>,
    ) {
        let (wide, rank, width) = (self.wide, self.shape.rank, self.wide.width());
        let rows = |n: usize| Lanes::zeros(n * width);
        let (zero, kept) = (wide.splat(T::zero()), wide.splat(of.kept));
        let counted = wide.splat(T::of((of.bins - tangent.from) as f32));
        let mut bar = rows(1);
        bar.copy_from_slice(exponent_bar);
        let grown_bar = wide.div(wide.rows(&bar)[0], counted);
        let (mut v_bar, mut u_bar) = (rows(rank), rows(rank));
        let mut transition_bar = rows(rank * rank);
        let (v_bar, u_bar) = (wide.rows_mut(&mut v_bar), wide.rows_mut(&mut u_bar));
        let transition_bar = wide.rows_mut(&mut transition_bar);
        for h in (0..of.bins).rev() {
            let vectors = &wide.rows(&tangent.vectors)[h * rank..(h + 2) * rank];
            let (v, next) = vectors.split_at(rank);
            let along = wide.inner(next, v_bar);
            let own = wide.sub(if h >= tangent.from { grown_bar } else { zero }, along);
            let norm = wide.rows(&tangent.norms)[h];
            for r in 0..rank {
                u_bar[r] = wide.div(wide.mul_add(next[r], own, v_bar[r]), norm);
            }
            let square = h * rank * rank..(h + 1) * rank * rank;
            let transition = &wide.rows(&tangent.transitions)[square];
            for q in 0..rank {
                let mut sum = zero;
                for r in 0..rank {
                    sum = wide.mul_add(transition[r * rank + q], u_bar[r], sum);
                    transition_bar[r * rank + q] = wide.mul(u_bar[r], v[q]);
                }
                v_bar[q] = wide.mul(sum, kept);
            }
            let bars = wide.rows_mut(&mut state_bar);
            if !of.noise.is_empty() {
                // The noise's size is learned too.
                let process = wide.rows_mut(&mut adjoint.sums.log_process);
                let noise = &wide.rows(&of.noise)[h * rank..(h + 1) * rank];
                for r in 0..rank {
                    let half = wide.mul(wide.splat(T::of(0.5)), noise[r]);
                    process[r] = wide.mul_add(bars[r], half, process[r]);
                }
            }
            let Adjoint { factors, sums, step, .. } = &mut *adjoint;
            let mut to = Gathered { factors, sums, step };
            let through = Some((transition, &*transition_bar));
            self.pull_step(&run.record(wide, h), bars, through, &mut to);
            for (bar, before) in bars.iter_mut().zip(wide.rows(&adjoint.step.before_bar)) {
                *bar = wide.mul(*before, kept);
            }
        }
    }
}
