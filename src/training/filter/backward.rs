//! Backward: the adjoint of each line of the filter, in reverse over a tape.

use super::adjoint::{Gathered, StepRecord, StepScratch};
use super::algebra::{
    abs, add_two, doubled, pairs, pairs_of, scale, symmetric_times, symmetric_tn, symmetric_vector,
    times_symmetric, where_free, whole,
};
use super::factors::Factors;
use super::pass::{Pass, WindowGradient};
use super::stretch::Weighted;
use super::sums::Sums;
use super::tapes::{Sizes, Tapes};
use crate::inference::lanes::{Arithmetic, Lanes, Number, Rows};
use crate::inference::outlined::Outlined;

/// The adjoint of a filtered state, and what a backward pass works in.
#[derive(Debug)]
pub(crate) struct Adjoint<T> {
    pub(super) factors: Factors<T>,
    pub(super) sums: Sums<T>,
    pub(super) step: StepScratch<T>,
    /// Adjoint of the mean, `[rank]`, and of the covariance of the current state of the pass: a
    /// lower triangle, each number of it for one place of the symmetric whole.
    pub(super) mean_bar: Lanes<T>,
    pub(super) cov_bar: Lanes<T>,
    /// `[rank]`.
    pred_mean_bar: Lanes<T>,
    /// With respect to the score, `[rank]`, at last with a minus, and, doubled off the diagonal, to
    /// the information, `[pairs]`.
    moments_bar: Lanes<T>,
    /// Lower triangles.
    info_bar: Lanes<T>,
    pred_bar: Lanes<T>,
    scaled: Lanes<T>,
    /// `[rank, rank]`.
    work: Lanes<T>,
    more: Lanes<T>,
    /// `[channels]` each.
    rates: Lanes<T>,
    residual: Lanes<T>,
    free_surprise: Lanes<T>,
    eta_bar: Lanes<T>,
    /// `[1]`.
    entering: Lanes<T>,
}

impl<T: Number> Adjoint<T> {
    pub(super) fn new(sizes: Sizes) -> Self {
        let Sizes { rank, units, channels, width } = sizes;
        let rows = |n: usize| Lanes::zeros(n * width);
        let triangle = || rows(pairs_of(rank));
        let square = || rows(rank * rank);
        let long = || rows(channels);
        Self {
            factors: Factors::new(rank, units, width),
            sums: Sums::new(sizes),
            step: StepScratch::new(rank, units, width),
            mean_bar: rows(rank),
            cov_bar: triangle(),
            pred_mean_bar: rows(rank),
            moments_bar: rows(rank + pairs_of(rank)),
            info_bar: triangle(),
            pred_bar: triangle(),
            scaled: triangle(),
            work: square(),
            more: square(),
            rates: long(),
            residual: long(),
            free_surprise: long(),
            eta_bar: long(),
            entering: rows(1),
        }
    }

    /// Nothing depends on the state at the end.
    pub(super) fn begin(&mut self) {
        self.mean_bar.fill(T::zero());
        self.cov_bar.fill(T::zero());
    }
}

/// What else depends on the states of a tape than its own scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulls<'a, T> {
    /// Gradient with respect to the filtered mean after each bin, `[bins, rank, lanes]`; empty for
    /// none.
    pub(super) means: &'a [T],
    /// Adjoint of each lane's state before a bin of its own: mean `[rank, lanes]`, covariance
    /// `[pairs, lanes]`.
    pub(super) state: Option<(&'a [usize], &'a [T], &'a [T])>,
}

/// [`Pass::backward`].
struct Backward<'a, 'p, W: Arithmetic> {
    pass: &'a Pass<'p, W>,
    of: Weighted<'a, W::Number>,
    tapes: &'a Tapes<W::Number>,
    pulls: Pulls<'a, W::Number>,
    adjoint: &'a mut Adjoint<W::Number>,
    /// With respect to the factors.
    gradient: &'a mut [W::Number],
}

impl<W: Arithmetic> Outlined for Backward<'_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.pass.pull_bins(self);
    }
}

impl<T: Number, W: Arithmetic<Number = T>> Pass<'_, W> {
    /// Adds the gradient of `-(sum_t weight_t one_step_t)` and of `pulls`. `adjoint` holds the
    /// adjoint of the state after the last bin on entry, and of the state before the first bin on
    /// return.
    pub(crate) fn backward(
        &self,
        of: Weighted<'_, T>,
        tapes: &Tapes<T>,
        pulls: Pulls<'_, T>,
        adjoint: &mut Adjoint<T>,
        g: &mut WindowGradient<'_, T>,
    ) {
        let (pass, gradient) = (self, &mut *g.factors);
        self.wide.outlined(Backward { pass, of, tapes, pulls, adjoint, gradient });
    }

    #[inline(always)]
    fn pull_bins(&self, work: Backward<'_, '_, W>) {
        let Backward { of, tapes, pulls, adjoint, gradient, .. } = work;
        let (wide, rank) = (self.wide, self.shape.rank);
        let row = rank * wide.width();
        for t in (0..tapes.bins()).rev() {
            let factor = |lane: usize| of.stretch.factor(lane, t);
            adjoint.factors.turn(self.factors, factor, Some(&mut *gradient));
            pull_state(pulls, t + 1, adjoint);
            if !pulls.means.is_empty() {
                let pulled = &pulls.means[t * row..(t + 1) * row];
                adjoint.mean_bar.iter_mut().zip(pulled).for_each(|(bar, by)| *bar += *by);
            }
            self.pull_update(of, t, tapes, adjoint);
            self.pull_predict(of, t, tapes, adjoint);
        }
        pull_state(pulls, 0, adjoint);
    }

    /// Adjoint of the measurement update and of the bin's score: those of `m-` and `P-`.
    #[inline(always)]
    fn pull_update(
        &self,
        of: Weighted<'_, T>,
        t: usize,
        tapes: &Tapes<T>,
        adjoint: &mut Adjoint<T>,
    ) {
        let (wide, rank, channels) = (self.wide, self.shape.rank, self.readout.channels);
        let (bin, (_, cov)) = (tapes.bin(wide, t), tapes.state(wide, t + 1));
        let mean_bar = wide.rows(&adjoint.mean_bar);
        let cov_bar = wide.rows_mut(&mut adjoint.cov_bar);
        let moments_bar = wide.rows_mut(&mut adjoint.moments_bar);
        let (score_bar, scaled_info) = moments_bar.split_at_mut(rank);
        // m = m- + s P u, the share s taken as it was.
        let share = bin.share[0];
        symmetric_vector(wide, score_bar, cov, mean_bar);
        scale(wide, score_bar, share);
        let half = wide.mul(share, wide.splat(T::of(0.5)));
        for (bar, (i, j)) in cov_bar.iter_mut().zip(pairs(rank)) {
            let both = wide.mul_add(mean_bar[j], bin.score[i], wide.mul(mean_bar[i], bin.score[j]));
            *bar = wide.mul_add(half, both, *bar);
        }
        // P = (P-^-1 + L)^-1
        let work = wide.rows_mut(&mut adjoint.work);
        let more = wide.rows_mut(&mut adjoint.more);
        whole(work, cov, rank);
        symmetric_times(wide, more, cov_bar, work, rank);
        let info_bar = wide.rows_mut(&mut adjoint.info_bar);
        symmetric_tn(wide, info_bar, work, more, rank);
        let (zero, minus) = (wide.splat(T::zero()), wide.splat(-T::one()));
        scale(wide, info_bar, minus);
        symmetric_times(wide, more, cov_bar, bin.projection, rank);
        let pred_bar = wide.rows_mut(&mut adjoint.pred_bar);
        symmetric_tn(wide, pred_bar, bin.projection, more, rank);
        doubled(wide, scaled_info, info_bar, rank);
        // u = C^T (y - lambda), L = C^T diag(lambda) C
        scale(wide, score_bar, minus);
        let eta_bar = wide.rows_mut(&mut adjoint.eta_bar);
        eta_bar.fill(zero);
        wide.transposed(eta_bar, self.readout.moments(), moments_bar);
        let weight = wide.rows(&of.weight[t * wide.width()..(t + 1) * wide.width()])[0];
        let y = wide.rows(of.stretch.at(t, channels));
        self.slopes((y, bin.rates, bin.expected), weight, adjoint);
        self.pull_products(bin.cov_pred, weight, adjoint);
        self.pull_readout(bin.mean_pred, adjoint);
    }

    /// From the adjoint of the log rates without the factor of the rates and without the score's
    /// part to the whole; and residuals, rates and half the surprise where the variance is free.
    #[inline(always)]
    fn slopes(
        &self,
        (y, rates, expected): (Rows<'_, W>, Rows<'_, W>, Rows<'_, W>),
        weight: W::Row,
        adjoint: &mut Adjoint<T>,
    ) {
        let wide = self.wide;
        let (zero, half) = (wide.splat(T::zero()), wide.splat(T::of(0.5)));
        let is_scored = wide.largest(abs(wide, weight)) > T::zero();
        let eta_bar = wide.rows_mut(&mut adjoint.eta_bar);
        let own = wide.rows_mut(&mut adjoint.rates);
        let residual = wide.rows_mut(&mut adjoint.residual);
        let free_surprise = wide.rows_mut(&mut adjoint.free_surprise);
        for i in 0..y.len() {
            let rate = abs(wide, rates[i]);
            (own[i], residual[i]) = (rate, wide.sub(y[i], rate));
            let mut bar = wide.mul(eta_bar[i], rate);
            free_surprise[i] = zero;
            if is_scored {
                let surprise = wide.sub(y[i], abs(wide, expected[i]));
                bar = wide.mul_sub_from(weight, surprise, bar);
                free_surprise[i] = where_free(wide, expected[i], wide.mul(half, surprise));
            }
            eta_bar[i] = where_free(wide, rates[i], bar);
        }
    }

    /// Pulls the information `L = C^T diag(lambda) C` and the score's slope in the predicted
    /// covariance back to the products `C_r C_q` and to the predicted covariance.
    #[inline(always)]
    fn pull_products(&self, cov_pred: &[W::Row], weight: W::Row, adjoint: &mut Adjoint<T>) {
        let (wide, rank, channels) = (self.wide, self.shape.rank, self.readout.channels);
        let rates = wide.rows(&adjoint.rates);
        let free_surprise = wide.rows(&adjoint.free_surprise);
        let scaled_info = &wide.rows(&adjoint.moments_bar)[rank..];
        let (_, products_bar) =
            wide.rows_mut(&mut adjoint.sums.moments).split_at_mut(rank * channels);
        let products_bar = products_bar.chunks_exact_mut(channels.max(1));
        // The score is maximised, hence the minus before its slopes.
        let zero = wide.splat(T::zero());
        let minus = wide.sub(zero, weight);
        let slopes = wide.rows_mut(&mut adjoint.scaled);
        slopes.fill(zero);
        wide.product(slopes, self.readout.products(), free_surprise);
        let pred_bar = wide.rows_mut(&mut adjoint.pred_bar);
        for (bar, slope) in pred_bar.iter_mut().zip(slopes.iter()) {
            *bar = wide.mul_add(minus, *slope, *bar);
        }
        doubled(wide, slopes, cov_pred, rank);
        for ((bars, info), cov) in products_bar.zip(scaled_info).zip(slopes) {
            add_two(wide, bars, (*info, rates), (wide.mul(minus, *cov), free_surprise));
        }
    }

    /// Adjoint of `eta = C m- + d` and of the score's loadings; and of `m-`.
    #[inline(always)]
    fn pull_readout(&self, mean_pred: &[W::Row], adjoint: &mut Adjoint<T>) {
        let (wide, channels) = (self.wide, self.readout.channels);
        let (eta_bar, residual) = (wide.rows(&adjoint.eta_bar), wide.rows(&adjoint.residual));
        let minus_score = wide.rows(&adjoint.moments_bar);
        let zero = wide.splat(T::zero());
        let loading_bar =
            wide.rows_mut(&mut adjoint.sums.moments).chunks_exact_mut(channels.max(1));
        for ((bars, mean), minus) in loading_bar.zip(mean_pred).zip(minus_score) {
            add_two(wide, bars, (*mean, eta_bar), (wide.sub(zero, *minus), residual));
        }
        let baseline = wide.rows_mut(&mut adjoint.sums.baseline);
        for (sum, bar) in baseline.iter_mut().zip(eta_bar) {
            *sum = wide.add(*sum, *bar);
        }
        let pred_mean_bar = wide.rows_mut(&mut adjoint.pred_mean_bar);
        pred_mean_bar.copy_from_slice(wide.rows(&adjoint.mean_bar));
        wide.product(pred_mean_bar, self.readout.loading(), eta_bar);
    }

    /// Adjoint of the time update: that of the state before the bin.
    #[inline(always)]
    fn pull_predict(
        &self,
        of: Weighted<'_, T>,
        t: usize,
        tapes: &Tapes<T>,
        adjoint: &mut Adjoint<T>,
    ) {
        let (wide, rank) = (self.wide, self.shape.rank);
        let bin = tapes.bin(wide, t);
        // P- = F P F^T + Q
        let entering = self.entering(&of.stretch, t, &mut adjoint.entering);
        let pred_bar = wide.rows(&adjoint.pred_bar);
        let process = wide.rows_mut(&mut adjoint.sums.log_process);
        let initial = wide.rows_mut(&mut adjoint.sums.log_initial);
        for (bar, (r, q)) in pred_bar.iter().zip(pairs(rank)) {
            if r != q {
                continue;
            }
            process[r] = wide.scale_add(self.shared.log_process[r].exp(), *bar, process[r]);
            if let Some(entering) = entering {
                let own = wide.mul(entering, *bar);
                initial[r] = wide.scale_add(self.entry_variance(r), own, initial[r]);
            }
        }
        let work = wide.rows_mut(&mut adjoint.work);
        let more = wide.rows_mut(&mut adjoint.more);
        symmetric_times(wide, work, pred_bar, bin.transition, rank);
        symmetric_tn(wide, wide.rows_mut(&mut adjoint.cov_bar), bin.transition, work, rank);
        times_symmetric(wide, more, work, bin.cov, rank);
        scale(wide, more, wide.splat(T::of(2.0)));
        let at = StepRecord { mean: bin.mean, phi: bin.phi, drive: bin.drive };
        let Adjoint { factors, sums, step, .. } = adjoint;
        let mut to = Gathered { factors, sums, step };
        let next_bar = wide.rows(&adjoint.pred_mean_bar);
        self.pull_step(&at, next_bar, Some((bin.transition, more)), &mut to);
        adjoint.mean_bar.copy_from_slice(&adjoint.step.before_bar);
    }

    /// Ends a block's backward passes, at the prior of the latent state.
    #[inline(always)]
    pub(crate) fn finish(&self, adjoint: &mut Adjoint<T>, g: &mut WindowGradient<'_, T>) {
        let (wide, rank) = (self.wide, self.shape.rank);
        let cov_bar = wide.rows(&adjoint.cov_bar);
        let initial = wide.rows_mut(&mut adjoint.sums.log_initial);
        for (bar, (r, q)) in cov_bar.iter().zip(pairs(rank)) {
            if r == q {
                initial[r] = wide.scale_add(self.shared.log_initial[r].exp(), *bar, initial[r]);
            }
        }
        adjoint.factors.finish(g.factors);
        adjoint.sums.finish(self, g);
    }
}

fn pull_state<T: Number>(pulls: Pulls<'_, T>, t: usize, adjoint: &mut Adjoint<T>) {
    let Some((at, mean, cov)) = pulls.state else { return };
    let width = at.len();
    for lane in at.iter().enumerate().filter(|(_, from)| **from == t).map(|(lane, _)| lane) {
        let own = |of: &mut Lanes<T>, by: &[T]| {
            let lanes = of.iter_mut().zip(by).skip(lane).step_by(width);
            lanes.for_each(|(bar, by)| *bar += *by);
        };
        own(&mut adjoint.mean_bar, mean);
        own(&mut adjoint.cov_bar, cov);
    }
}
