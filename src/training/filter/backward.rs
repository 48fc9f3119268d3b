//! Backward: the adjoint of each line of the filter, in reverse over a tape.

use super::adjoint::{StepRecord, StepScratch};
use super::algebra::{axpy, dot, matmul, matmul_tn, pairs};
use super::forward::Weighted;
use super::pass::{Pass, Shared, WindowGradient};
use super::tapes::{Bin, Sizes, Tapes};
use crate::inference::kernels::Real;

/// The adjoint of a filtered state, and what a backward pass works in.
#[derive(Debug)]
pub(crate) struct Adjoint<T> {
    /// Adjoint of the mean, `[rank]`, and of the covariance, `[rank, rank]`, of the current state
    /// of the pass.
    pub(super) mean_bar: Vec<T>,
    pub(super) cov_bar: Vec<T>,
    /// Adjoint of the products of loadings, `[pairs, channels]`: turned into the loadings' own
    /// once, at the end.
    products_bar: Vec<T>,
    pub(super) step: StepScratch<T>,
    pred_mean_bar: Vec<T>,
    score_bar: Vec<T>,
    work: Vec<T>,
    more: Vec<T>,
    info_bar: Vec<T>,
    pred_bar: Vec<T>,
    eta_bar: Vec<T>,
    residual: Vec<T>,
}

impl<T: Real> Adjoint<T> {
    pub(super) fn new(Sizes { rank, units, channels }: Sizes) -> Self {
        let zeros = |n: usize| vec![T::zero(); n];
        let square = || zeros(rank * rank);
        Self {
            mean_bar: zeros(rank),
            cov_bar: square(),
            products_bar: zeros(rank * (rank + 1) / 2 * channels),
            step: StepScratch::new(rank, units),
            pred_mean_bar: zeros(rank),
            score_bar: zeros(rank),
            work: square(),
            more: square(),
            info_bar: square(),
            pred_bar: square(),
            eta_bar: zeros(channels),
            residual: zeros(channels),
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
    /// Gradient with respect to the filtered mean after each bin, `[bins, rank]`; empty for none.
    pub(super) means: &'a [T],
    /// Adjoint of the state before a bin: `(bin, [rank], [rank, rank])`.
    pub(super) state: Option<(usize, &'a [T], &'a [T])>,
}

impl<T: Real> Pass<'_, T> {
    /// Adds the gradient of `-(sum_t weight_t one_step_t)` and of `pulls`. `adjoint` holds the
    /// adjoint of the state after the last bin on entry, and of the state before the first bin on
    /// return.
    #[inline(always)]
    pub(crate) fn backward(
        &self,
        of: Weighted<'_, T>,
        tapes: &Tapes<T>,
        pulls: Pulls<'_, T>,
        adjoint: &mut Adjoint<T>,
        g: &mut WindowGradient<'_, T>,
    ) {
        let rank = self.shape.rank;
        for t in (0..tapes.bins()).rev() {
            pull_state(pulls, t + 1, adjoint);
            if !pulls.means.is_empty() {
                axpy(&mut adjoint.mean_bar, T::one(), &pulls.means[t * rank..(t + 1) * rank]);
            }
            self.pull_update(of, t, tapes, adjoint, g);
            self.pull_predict(of, t, tapes, adjoint, g);
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
        g: &mut WindowGradient<'_, T>,
    ) {
        let (rank, channels) = (self.shape.rank, self.readout.channels);
        let (y, weight) = (of.stretch.at(t, channels), of.weight[t]);
        let (bin, (_, cov)) = (tapes.bin(t), tapes.state(t + 1));
        let Adjoint { mean_bar, cov_bar, work, more, info_bar, pred_bar, .. } = adjoint;
        // m = m- + s P u, the share s taken as it was.
        let share = bin.share[0];
        for r in 0..rank {
            adjoint.score_bar[r] = T::zero();
            for q in 0..rank {
                adjoint.score_bar[r] += share * cov[r * rank + q] * mean_bar[q];
                cov_bar[r * rank + q] +=
                    T::of(0.5) * share * (mean_bar[r] * bin.score[q] + mean_bar[q] * bin.score[r]);
            }
        }
        adjoint.pred_mean_bar.copy_from_slice(mean_bar);
        // P = (P-^-1 + L)^-1
        matmul(work, cov, cov_bar, rank);
        matmul(info_bar, work, cov, rank);
        info_bar.iter_mut().for_each(|x| *x = -*x);
        matmul(more, cov_bar, bin.projection, rank);
        matmul_tn(pred_bar, bin.projection, more, rank);
        // u = C^T (y - lambda), L = C^T diag(lambda) C
        let Adjoint { residual, eta_bar, score_bar, .. } = adjoint;
        for ((res, y), l) in residual.iter_mut().zip(y).zip(bin.rates) {
            *res = *y - *l;
        }
        eta_bar.fill(T::zero());
        for r in 0..rank {
            let row = r * channels..(r + 1) * channels;
            axpy(eta_bar, -score_bar[r], &self.readout.loading[row.clone()]);
            axpy(&mut g.readout[row], score_bar[r], residual);
        }
        self.pull_products(&bin, weight, adjoint);
        let Adjoint { eta_bar, .. } = adjoint;
        let is_scored = weight != T::zero();
        for i in 0..channels {
            let slope = if is_scored { weight * bin.surprise[i] } else { T::zero() };
            eta_bar[i] = (eta_bar[i] * bin.rates[i] - slope) * bin.in_bounds[i];
        }
        self.pull_readout(eta_bar, bin.mean_pred, &mut adjoint.pred_mean_bar, g);
    }

    /// Pulls the information `L = C^T diag(lambda) C` and the score's slope in the predicted
    /// covariance back to the products `C_r C_q` and to the log rates.
    fn pull_products(&self, bin: &Bin<&[T]>, weight: T, adjoint: &mut Adjoint<T>) {
        let (rank, channels) = (self.shape.rank, self.readout.channels);
        let Adjoint { eta_bar, info_bar, pred_bar, products_bar, .. } = adjoint;
        let is_scored = weight != T::zero();
        for (p, (r, q)) in pairs(rank).enumerate() {
            let scale = if r == q { T::one() } else { T::of(2.0) };
            let row = p * channels..(p + 1) * channels;
            let cc = &self.readout.products[row.clone()];
            axpy(eta_bar, scale * info_bar[r * rank + q], cc);
            let products_bar = &mut products_bar[row];
            axpy(products_bar, scale * info_bar[r * rank + q], bin.rates);
            if is_scored {
                // The score is maximised, hence the minus before its slopes.
                let cov_slope = -weight * dot(bin.free_surprise, cc);
                pred_bar[r * rank + q] += cov_slope;
                if r != q {
                    pred_bar[q * rank + r] += cov_slope;
                }
                let slope = -weight * scale * bin.cov_pred[r * rank + q];
                axpy(products_bar, slope, bin.free_surprise);
            }
        }
    }

    /// Adjoint of the time update: that of the state before the bin.
    #[inline(always)]
    fn pull_predict(
        &self,
        of: Weighted<'_, T>,
        t: usize,
        tapes: &Tapes<T>,
        adjoint: &mut Adjoint<T>,
        g: &mut WindowGradient<'_, T>,
    ) {
        let rank = self.shape.rank;
        let bin = tapes.bin(t);
        let factor = of.stretch.factor_of[t];
        let Adjoint { pred_bar, work, more, cov_bar, .. } = adjoint;
        // P- = F P F^T + Q
        let process = Shared::<T>::process_range(self.shape);
        for r in 0..rank {
            let own = pred_bar[r * rank + r];
            g.shared[process.start + r] += own * self.shared.log_process[r].exp();
            if of.stretch.enters(t) {
                g.shared[process.end + r] += own * self.entry_variance(r);
            }
        }
        matmul(work, pred_bar, bin.transition, rank);
        matmul(more, work, bin.cov, rank);
        more.iter_mut().for_each(|x| *x *= T::of(2.0));
        matmul_tn(cov_bar, bin.transition, work, rank);
        let at = StepRecord { mean: bin.mean, factor, phi: bin.phi, drive: bin.drive };
        self.pull_step(
            &at,
            &adjoint.pred_mean_bar,
            Some((bin.transition, more)),
            g,
            &mut adjoint.step,
        );
        adjoint.mean_bar.copy_from_slice(&adjoint.step.before_bar);
    }

    /// Ends a window's backward passes, at the prior of the latent state.
    pub(crate) fn finish(&self, adjoint: &mut Adjoint<T>, g: &mut WindowGradient<'_, T>) {
        let (rank, channels) = (self.shape.rank, self.readout.channels);
        let initial = Shared::<T>::process_range(self.shape).end;
        for r in 0..rank {
            g.shared[initial + r] +=
                adjoint.cov_bar[r * rank + r] * self.shared.log_initial[r].exp();
        }
        for (p, (r, q)) in pairs(rank).enumerate() {
            for i in 0..channels {
                let bar = std::mem::replace(&mut adjoint.products_bar[p * channels + i], T::zero());
                g.readout[r * channels + i] += bar * self.readout.loading[q * channels + i];
                g.readout[q * channels + i] += bar * self.readout.loading[r * channels + i];
            }
        }
    }
}

fn pull_state<T: Real>(pulls: Pulls<'_, T>, t: usize, adjoint: &mut Adjoint<T>) {
    if let Some((at, mean, cov)) = pulls.state
        && at == t
    {
        axpy(&mut adjoint.mean_bar, T::one(), mean);
        axpy(&mut adjoint.cov_bar, T::one(), cov);
    }
}
