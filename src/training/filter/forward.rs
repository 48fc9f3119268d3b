//! Forward: the filter over windows, its states on a tape.

use num_traits::Zero;

use super::algebra::{
    abs, constant, doubled, marked, pairs, pairs_of, symmetric_nt, symmetric_times,
    symmetric_vector, times_symmetric, whole,
};
use super::factors::Factors;
use super::pass::{Pass, Step};
use super::stretch::Stretch;
use super::tapes::{Sizes, Tapes};
use crate::inference::lanes::{Arithmetic, Lanes, Number, Rows};
use crate::inference::outlined::Outlined;
use crate::inference::small::{add_and_factor, cholesky, times_root, whiten};
use crate::inference::{HALVINGS, STEP_LOSS_MAX};

/// Largest variance correction to a log rate: beyond it the log-normal mean is no help.
const VARIANCE_MAX: f32 = 2.0;

/// Where a forward pass begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a, T> {
    /// At the prior of the latent state.
    Prior,
    /// At the state before a bin of each lane's own on another tape.
    Before(&'a Tapes<T>, &'a [usize]),
}

/// What a forward pass works in.
#[derive(Debug)]
pub(crate) struct ForwardScratch<T> {
    pub(super) factors: Factors<T>,
    /// `[rank, rank]` each.
    work: Lanes<T>,
    root: Lanes<T>,
    square: Lanes<T>,
    white: Lanes<T>,
    /// `[rank]`.
    inverse: Lanes<T>,
    process: Lanes<T>,
    moved: Lanes<T>,
    turned: Lanes<T>,
    /// Lower triangles.
    information: Lanes<T>,
    scaled: Lanes<T>,
    /// `[units]`.
    slopes: Lanes<T>,
    /// `[channels]` each.
    eta: Lanes<T>,
    memory: Lanes<T>,
    residual: Lanes<T>,
    /// `[1]`.
    one: Lanes<T>,
}

impl<T: Number> ForwardScratch<T> {
    pub(super) fn new(Sizes { rank, units, channels, width }: Sizes) -> Self {
        let rows = |n: usize| Lanes::zeros(n * width);
        let square = || rows(rank * rank);
        Self {
            factors: Factors::new(rank, units, width),
            work: square(),
            root: square(),
            square: square(),
            white: square(),
            inverse: rows(rank),
            process: rows(rank),
            moved: rows(rank),
            turned: rows(rank),
            information: rows(pairs_of(rank)),
            scaled: rows(pairs_of(rank)),
            slopes: rows(units),
            eta: rows(channels),
            memory: rows(channels),
            residual: rows(channels),
            one: rows(1),
        }
    }
}

/// [`Pass::forward`].
struct Forward<'a, 'p, W: Arithmetic> {
    pass: &'a Pass<'p, W>,
    stretch: &'a Stretch<'a, W::Number>,
    start: Start<'a, W::Number>,
    scored_from: usize,
    tapes: &'a mut Tapes<W::Number>,
    scratch: &'a mut ForwardScratch<W::Number>,
}

impl<W: Arithmetic> Outlined for Forward<'_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.pass.filter_bins(self);
    }
}

impl<T: Number, W: Arithmetic<Number = T>> Pass<'_, W> {
    /// Variance that latent `r` gains where factors are entered by a jump.
    pub(super) fn entry_variance(&self, r: usize) -> T {
        T::of(self.shape.entry_variance) * self.shared.log_initial[r].exp()
    }

    /// 1 for the lanes that enter other factors at bin `t`, else 0; none where no lane does.
    #[inline(always)]
    pub(super) fn entering(
        &self,
        stretch: &Stretch<'_, T>,
        t: usize,
        memory: &mut [T],
    ) -> Option<W::Row> {
        let mut any = false;
        for (lane, to) in memory.iter_mut().enumerate() {
            let enters = stretch.enters(lane, t);
            any |= enters;
            *to = if enters { T::one() } else { T::zero() };
        }
        any.then(|| self.wide.rows(memory)[0])
    }

    /// Filters a stretch; bins from `scored_from` on are scored.
    pub(crate) fn forward(
        &self,
        stretch: &Stretch<'_, T>,
        start: Start<'_, T>,
        scored_from: usize,
        tapes: &mut Tapes<T>,
        scratch: &mut ForwardScratch<T>,
    ) {
        let pass = self;
        self.wide.outlined(Forward { pass, stretch, start, scored_from, tapes, scratch });
    }

    #[inline(always)]
    fn filter_bins(&self, of: Forward<'_, '_, W>) {
        let Forward { stretch, start, scored_from, tapes, scratch, .. } = of;
        let (wide, rank) = (self.wide, self.shape.rank);
        tapes.begin(stretch.bins());
        match start {
            Start::Prior => {
                let (mean, cov) = tapes.state_mut(wide, 0);
                mean.fill(wide.splat(T::zero()));
                for (cov, (r, q)) in cov.iter_mut().zip(pairs(rank)) {
                    let variance = self.shared.log_initial[r].exp();
                    *cov = wide.splat(if r == q { variance } else { T::zero() });
                }
            }
            Start::Before(other, at) => other.gather(at, tapes.first_state_mut()),
        }
        let process = wide.rows_mut(&mut scratch.process);
        for (process, log) in process.iter_mut().zip(&self.shared.log_process) {
            *process = wide.splat(log.exp());
        }
        for t in 0..tapes.bins() {
            scratch.factors.turn(self.factors, |lane| stretch.factor(lane, t), None);
            self.predict(stretch, t, tapes, scratch);
            let y = wide.rows(stretch.at(t, self.readout.channels));
            if t >= scored_from {
                self.score(y, t, tapes, scratch);
            }
            self.update(y, t, tapes, scratch);
        }
    }

    /// Time update: `m-`, `F`, `P-`, and the log rates at `m-`, which are left in `scratch.eta`.
    #[inline(always)]
    fn predict(
        &self,
        stretch: &Stretch<'_, T>,
        t: usize,
        tapes: &mut Tapes<T>,
        scratch: &mut ForwardScratch<T>,
    ) {
        let (wide, rank) = (self.wide, self.shape.rank);
        let (bin, _, _) = tapes.bin_mut(wide, t);
        let to = Step { phi: bin.phi, drive: bin.drive, next: bin.mean_pred };
        self.step(&scratch.factors, bin.mean, to);
        let slopes = wide.rows_mut(&mut scratch.slopes);
        self.jacobian(&scratch.factors, bin.phi, slopes, bin.transition);
        let work = wide.rows_mut(&mut scratch.work);
        times_symmetric(wide, work, bin.transition, bin.cov, rank);
        symmetric_nt(wide, bin.cov_pred, work, bin.transition, rank);
        let process = wide.rows(&scratch.process);
        let entering = self.entering(stretch, t, &mut scratch.one);
        for (cov, (r, q)) in bin.cov_pred.iter_mut().zip(pairs(rank)) {
            if r != q {
                continue;
            }
            *cov = wide.add(*cov, process[r]);
            if let Some(entering) = entering {
                *cov = wide.scale_add(self.entry_variance(r), entering, *cov);
            }
        }
        self.log_rates(bin.mean_pred, wide.rows_mut(&mut scratch.eta), bin.rates);
    }

    /// One-step score of the prediction; what its adjoint needs is put on the tape, without the
    /// bin's weight.
    #[inline(always)]
    fn score(&self, y: &[W::Row], t: usize, tapes: &mut Tapes<T>, scratch: &mut ForwardScratch<T>) {
        let wide = self.wide;
        let (bin, _, _) = tapes.bin_mut(wide, t);
        let (var, eta) = (wide.rows_mut(&mut scratch.memory), wide.rows(&scratch.eta));
        // Variance of each log rate, C P- C^T: the products of loadings are made once a step, and
        // pairs off the diagonal stand for two.
        let scaled = wide.rows_mut(&mut scratch.scaled);
        doubled(wide, scaled, bin.cov_pred, self.shape.rank);
        var.fill(wide.splat(T::zero()));
        wide.transposed(var, self.readout.products(), scaled);
        let bounds = [T::zero(), T::of(VARIANCE_MAX)];
        let half = constant::<W>(wide, 0.5);
        let (mut gained, mut lost) = (wide.splat(T::zero()), wide.splat(T::zero()));
        for i in 0..y.len() {
            let log_rho = wide.mul_add(half, wide.clamp(var[i], bounds), eta[i]);
            let rho = wide.exp(log_rho);
            gained = wide.mul_add(y[i], log_rho, gained);
            lost = wide.add(lost, rho);
            // Where the variance is clipped, the score does not depend on it.
            bin.expected[i] = marked(wide, rho, var[i], bounds);
        }
        wide.rows_mut(&mut scratch.one)[0] = wide.sub(gained, lost);
        tapes.take_scores(t, &scratch.one);
    }

    /// Measurement update: the state after the bin.
    #[inline(always)]
    fn update(
        &self,
        y: &[W::Row],
        t: usize,
        tapes: &mut Tapes<T>,
        scratch: &mut ForwardScratch<T>,
    ) {
        let (wide, rank) = (self.wide, self.shape.rank);
        let (bin, mean, cov) = tapes.bin_mut(wide, t);
        let rates = wide.rows_mut(&mut scratch.memory);
        let residual = wide.rows_mut(&mut scratch.residual);
        for i in 0..y.len() {
            rates[i] = abs(wide, bin.rates[i]);
            residual[i] = wide.sub(y[i], rates[i]);
        }
        let information = wide.rows_mut(&mut scratch.information);
        information.fill(wide.splat(T::zero()));
        wide.product(information, self.readout.products(), rates);
        bin.score.fill(wide.splat(T::zero()));
        wide.product(bin.score, self.readout.loading(), residual);
        // With P- = G G^T and I + G^T L G = R R^T, P is the square of R^-1 G^T: the covariance
        // itself, which may be nearly singular, is never inverted.
        let root = wide.rows_mut(&mut scratch.root);
        cholesky(wide, bin.cov_pred, rank, root);
        let work = wide.rows_mut(&mut scratch.work);
        times_root(wide, information, root, rank, work);
        let square = wide.rows_mut(&mut scratch.square);
        let inverse = wide.rows_mut(&mut scratch.inverse);
        add_and_factor(wide, root, work, square, inverse);
        let white = wide.rows_mut(&mut scratch.white);
        whiten(wide, root, (square, inverse), white);
        symmetric_nt(wide, cov, white, white, rank);
        // (I + P- L)^-1 = I - P L.
        whole(work, information, rank);
        symmetric_times(wide, bin.projection, cov, work, rank);
        let (zero, one) = (wide.splat(T::zero()), wide.splat(T::one()));
        for (at, x) in bin.projection.iter_mut().enumerate() {
            *x = wide.sub(if at % (rank + 1) == 0 { one } else { zero }, *x);
        }
        // The whole step, P u, in the place of the mean.
        symmetric_vector(wide, mean, cov, bin.score);
        bin.share[0] = self.share(y, (mean, bin.mean_pred, bin.score), scratch);
        for r in 0..rank {
            mean[r] = wide.mul_add(bin.share[0], mean[r], bin.mean_pred[r]);
        }
    }

    /// Share of a Newton step that is taken: halved until the log density of latents and counts
    /// does not fall, as the filter that serves does it. Without it, one bin of far more counts
    /// than expected throws the state, and the gradient with it.
    #[inline(always)]
    fn share(
        &self,
        y: &[W::Row],
        (step, mean_pred, score): (Rows<'_, W>, Rows<'_, W>, Rows<'_, W>),
        scratch: &mut ForwardScratch<T>,
    ) -> W::Row {
        let wide = self.wide;
        let (zero, one) = (wide.splat(T::zero()), wide.splat(T::one()));
        let half = constant::<W>(wide, 0.5);
        let change = wide.rows_mut(&mut scratch.memory);
        change.fill(zero);
        wide.transposed(change, self.readout.loading(), step);
        let mut largest = zero;
        for c in change.iter() {
            largest = wide.max(largest, *c);
        }
        // Where no rate more than doubles, the curvature does not either, and the step cannot go
        // too far.
        let twice = T::of(std::f32::consts::LN_2);
        if wide.largest(largest) <= twice {
            return one;
        }
        let far = wide.where_less(wide.splat(twice), largest, one, zero);
        let information = wide.rows(&scratch.information);
        let turned = wide.rows_mut(&mut scratch.turned);
        let quadratic = length(wide, (step, score), information, turned);
        // `eta` is the clipped log rate at the prediction; behind the step it is clipped anew.
        let mut before = zero;
        for (y, eta) in y.iter().zip(wide.rows(&scratch.eta)) {
            before = density(wide, *y, *eta, before);
        }
        let least = wide.sub(before, constant::<W>(wide, STEP_LOSS_MAX));
        let bounds = self.shape.log_rate_bounds.map(T::of);
        let moved = wide.rows_mut(&mut scratch.moved);
        let mut share = one;
        for _ in 0..HALVINGS {
            for r in 0..step.len() {
                moved[r] = wide.mul_add(share, step[r], mean_pred[r]);
            }
            wide.spread(change, &self.readout.baseline);
            wide.transposed(change, self.readout.loading(), moved);
            let penalty = wide.mul(wide.mul(half, wide.mul(share, share)), quadratic);
            let mut reached = zero;
            for (y, eta) in y.iter().zip(change.iter()) {
                reached = density(wide, *y, wide.clamp(*eta, bounds), reached);
            }
            let shorter = wide.mul(half, share);
            let next = wide.where_less(wide.sub(reached, penalty), least, shorter, share);
            let next = wide.where_less(half, far, next, share);
            let fell = wide.largest(wide.sub(share, next)) > T::zero();
            share = next;
            if !fell {
                break;
            }
        }
        share
    }
}

/// A step's squared length by the prediction's precision: `P-^-1 P u = u - L P u`.
#[inline(always)]
fn length<W: Arithmetic>(
    wide: W,
    (step, score): (Rows<'_, W>, Rows<'_, W>),
    information: &[W::Row],
    turned: &mut [W::Row],
) -> W::Row {
    symmetric_vector(wide, turned, information, step);
    let mut sum = wide.splat(W::Number::zero());
    for r in 0..step.len() {
        sum = wide.mul_add(step[r], wide.sub(score[r], turned[r]), sum);
    }
    sum
}

/// `sum + y eta - exp eta`.
#[inline(always)]
fn density<W: Arithmetic>(wide: W, y: W::Row, eta: W::Row, sum: W::Row) -> W::Row {
    wide.sub(wide.mul_add(y, eta, sum), wide.exp(eta))
}
