//! Backward: the adjoint of each line of the filter, in reverse.

use super::{Gradient, Pass, Tape, Window, axpy, dot, matmul, matmul_tn, pairs};
use crate::inference::kernels::Real;

/// What a step's adjoint needs.
pub(super) struct StepRecord<'a, T> {
    pub(super) mean: &'a [T],
    pub(super) factor: usize,
    pub(super) phi: &'a [T],
    pub(super) drive: &'a [T],
}

impl<T: Real> Pass<'_, T> {
    /// `eta = C m + d`: adds to the readout's gradient and to the adjoint of `m`.
    #[inline(always)]
    pub(super) fn pull_readout(
        &self,
        eta_bar: &[T],
        m: &[T],
        m_bar: &mut [T],
        g: &mut Gradient<T>,
    ) {
        let channels = self.readout.channels;
        let (loading_bar, baseline_bar) = g.readout.split_at_mut(m.len() * channels);
        for r in 0..m.len() {
            let row = r * channels..(r + 1) * channels;
            m_bar[r] += dot(eta_bar, &self.readout.loading[row.clone()]);
            axpy(&mut loading_bar[row], m[r], eta_bar);
        }
        axpy(baseline_bar, T::one(), eta_bar);
    }

    /// Adjoint of the step and, where its adjoint is given, of the transition matrix.
    /// Returns the adjoint of the mean before.
    #[inline(always)]
    pub(super) fn pull_step(
        &self,
        at: &StepRecord<'_, T>,
        next_bar: &[T],
        transition_bar: Option<(&[T], &[T])>,
        g: &mut Gradient<T>,
    ) -> Vec<T> {
        let s = self.shape;
        let (rank, units, a) = (s.rank, s.units, self.leak());
        let (n, _) = self.factor(at.factor);
        let base = at.factor * (rank * units + rank);
        let (n_bar, c_bar) = g.factors[base..base + rank * units + rank].split_at_mut(rank * units);
        let (m_bar, rest) = g.shared.split_at_mut(rank * units);
        let (offset_bar, rest) = rest.split_at_mut(units);
        let mut leak_bar = T::zero();
        let mut phi_bar = vec![T::zero(); units];
        let mut before_bar = vec![T::zero(); rank];
        for r in 0..rank {
            let drive_bar = a * next_bar[r];
            leak_bar += next_bar[r] * (at.drive[r] - at.mean[r]);
            before_bar[r] += (T::one() - a) * next_bar[r];
            c_bar[r] += drive_bar;
            axpy(&mut n_bar[r * units..(r + 1) * units], drive_bar, at.phi);
            axpy(&mut phi_bar, drive_bar, &n[r * units..(r + 1) * units]);
        }
        if let Some((transition, f_bar)) = transition_bar {
            // transition = (1-a) I + a E, E_rj = sum_n N_r D M_j
            let mut slope_bar = vec![T::zero(); units];
            let mut row = vec![T::zero(); units];
            let slope: Vec<T> = at.phi.iter().map(|p| T::one() - *p * *p).collect();
            for r in 0..rank {
                row.fill(T::zero());
                for j in 0..rank {
                    let at_rj = r * rank + j;
                    let diagonal = if r == j { T::one() } else { T::zero() };
                    let e = (transition[at_rj] - (T::one() - a) * diagonal) / a;
                    leak_bar += f_bar[at_rj] * (e - diagonal);
                    axpy(&mut row, a * f_bar[at_rj], &self.shared.m[j * units..(j + 1) * units]);
                }
                let n_row = &n[r * units..(r + 1) * units];
                for i in 0..units {
                    n_bar[r * units + i] += slope[i] * row[i];
                    slope_bar[i] += n_row[i] * row[i];
                }
            }
            for j in 0..rank {
                row.fill(T::zero());
                for r in 0..rank {
                    axpy(&mut row, a * f_bar[r * rank + j], &n[r * units..(r + 1) * units]);
                }
                for i in 0..units {
                    m_bar[j * units + i] += slope[i] * row[i];
                }
            }
            for i in 0..units {
                phi_bar[i] -= T::of(2.0) * at.phi[i] * slope_bar[i];
            }
        }
        for (x, phi) in phi_bar.iter_mut().zip(at.phi) {
            *x *= T::one() - *phi * *phi;
        }
        for j in 0..rank {
            axpy(&mut m_bar[j * units..(j + 1) * units], at.mean[j], &phi_bar);
            before_bar[j] += dot(&phi_bar, &self.shared.m[j * units..(j + 1) * units]);
        }
        axpy(offset_bar, T::one(), &phi_bar);
        rest[0] += leak_bar * a * (T::one() - a);
        before_bar
    }

    #[inline(always)]
    pub(super) fn backward(
        &self,
        window: &Window<'_, T>,
        tapes: &[Tape<T>],
        pull: &[T],
        g: &mut Gradient<T>,
    ) {
        let (rank, units, channels) = (self.shape.rank, self.shape.units, self.readout.channels);
        let square = || vec![T::zero(); rank * rank];
        let mut mean_bar = vec![T::zero(); rank];
        let mut cov_bar = square();
        let (mut work, mut more, mut info_bar, mut pred_bar) =
            (square(), square(), square(), square());
        let mut products_bar = vec![T::zero(); self.readout.products.len()];
        let mut eta_bar = vec![T::zero(); channels];
        let mut residual = vec![T::zero(); channels];
        let two = T::of(2.0);
        for t in (0..tapes.len()).rev() {
            let tape = &tapes[t];
            let y = &window.counts[t * channels..(t + 1) * channels];
            axpy(&mut mean_bar, T::one(), &pull[t * rank..(t + 1) * rank]);
            // m = m- + P u
            let mut score_bar = vec![T::zero(); rank];
            for r in 0..rank {
                for q in 0..rank {
                    score_bar[r] += tape.cov[r * rank + q] * mean_bar[q];
                    cov_bar[r * rank + q] +=
                        T::of(0.5) * (mean_bar[r] * tape.score[q] + mean_bar[q] * tape.score[r]);
                }
            }
            let mut pred_mean_bar = mean_bar.clone();
            // P = (P-^-1 + L)^-1
            matmul(&mut work, &tape.cov, &cov_bar, rank);
            matmul(&mut info_bar, &work, &tape.cov, rank);
            info_bar.iter_mut().for_each(|x| *x = -*x);
            matmul(&mut more, &cov_bar, &tape.projection, rank);
            matmul_tn(&mut pred_bar, &tape.projection, &more, rank);
            // u = C^T (y - lambda), L = C^T diag(lambda) C
            for ((res, y), l) in residual.iter_mut().zip(y).zip(&tape.rates) {
                *res = *y - *l;
            }
            eta_bar.fill(T::zero());
            for r in 0..rank {
                let row = r * channels..(r + 1) * channels;
                axpy(&mut eta_bar, -score_bar[r], &self.readout.loading[row.clone()]);
                axpy(&mut g.readout[row], score_bar[r], &residual);
            }
            for (p, (r, q)) in pairs(rank).enumerate() {
                let scale = if r == q { T::one() } else { two };
                let row = p * channels..(p + 1) * channels;
                let cc = &self.readout.products[row.clone()];
                axpy(&mut eta_bar, scale * info_bar[r * rank + q], cc);
                // The score is maximised, hence the minus before its slopes.
                let cov_slope = -dot(&tape.score_var_slope, cc);
                pred_bar[r * rank + q] += cov_slope;
                if r != q {
                    pred_bar[q * rank + r] += cov_slope;
                }
                let products_bar = &mut products_bar[row];
                axpy(products_bar, scale * info_bar[r * rank + q], &tape.rates);
                axpy(products_bar, -scale * tape.cov_pred[r * rank + q], &tape.score_var_slope);
            }
            for i in 0..channels {
                eta_bar[i] = (eta_bar[i] * tape.rates[i] - tape.score_slope[i]) * tape.in_bounds[i];
            }
            self.pull_readout(&eta_bar, &tape.mean_pred, &mut pred_mean_bar, g);
            // P- = F P F^T + Q
            let tail = rank * units + units + 1;
            for r in 0..rank {
                g.shared[tail + r] += pred_bar[r * rank + r] * self.shared.log_process[r].exp();
            }
            matmul(&mut work, &pred_bar, &tape.transition, rank);
            matmul(&mut more, &work, &tape.cov_before, rank);
            more.iter_mut().for_each(|x| *x *= two);
            matmul_tn(&mut cov_bar, &tape.transition, &work, rank);
            mean_bar = self.pull_step(
                &StepRecord {
                    mean: &tape.mean_before,
                    factor: window.factor_of[t],
                    phi: &tape.phi,
                    drive: &tape.drive,
                },
                &pred_mean_bar,
                Some((&tape.transition, &more)),
                g,
            );
        }
        let tail = rank * units + units + 1 + rank;
        for r in 0..rank {
            g.shared[tail + r] += cov_bar[r * rank + r] * self.shared.log_initial[r].exp();
        }
        for (p, (r, q)) in pairs(rank).enumerate() {
            for i in 0..channels {
                let bar = products_bar[p * channels + i];
                g.readout[r * channels + i] += bar * self.readout.loading[q * channels + i];
                g.readout[q * channels + i] += bar * self.readout.loading[r * channels + i];
            }
        }
    }
}
