//! Adjoints of the steps that all passes share: the network's and the readout's.

use super::algebra::{axpy, dot};
use super::pass::{Pass, WindowGradient};
use crate::inference::kernels::Real;

/// What a step's adjoint needs.
pub(super) struct StepRecord<'a, T> {
    pub(super) mean: &'a [T],
    pub(super) factor: usize,
    pub(super) phi: &'a [T],
    pub(super) drive: &'a [T],
}

/// What a step's adjoint works in, `[units]` each, and its result.
#[derive(Debug)]
pub(super) struct StepScratch<T> {
    /// Adjoint of the mean before the step, `[rank]`.
    pub(super) before_bar: Vec<T>,
    phi_bar: Vec<T>,
    slope: Vec<T>,
    slope_bar: Vec<T>,
    row: Vec<T>,
}

impl<T: Real> StepScratch<T> {
    pub(super) fn new(rank: usize, units: usize) -> Self {
        let zeros = || vec![T::zero(); units];
        Self {
            before_bar: vec![T::zero(); rank],
            phi_bar: zeros(),
            slope: zeros(),
            slope_bar: zeros(),
            row: zeros(),
        }
    }
}

impl<T: Real> Pass<'_, T> {
    /// `eta = C m + d`: adds to the readout's gradient and to the adjoint of `m`.
    #[inline(always)]
    pub(super) fn pull_readout(
        &self,
        eta_bar: &[T],
        m: &[T],
        m_bar: &mut [T],
        g: &mut WindowGradient<'_, T>,
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

    /// Adjoint of the step and, where its adjoint is given, of the transition matrix; leaves the
    /// adjoint of the mean before in `scratch.before_bar`.
    #[inline(always)]
    pub(super) fn pull_step(
        &self,
        at: &StepRecord<'_, T>,
        next_bar: &[T],
        transition_bar: Option<(&[T], &[T])>,
        g: &mut WindowGradient<'_, T>,
        scratch: &mut StepScratch<T>,
    ) {
        let s = self.shape;
        let (rank, units, a) = (s.rank, s.units, self.leak());
        let (n, _) = self.factor(at.factor);
        let base = at.factor * (rank * units + rank);
        let (n_bar, c_bar) = g.factors[base..base + rank * units + rank].split_at_mut(rank * units);
        let (m_bar, rest) = g.shared.split_at_mut(rank * units);
        let (offset_bar, rest) = rest.split_at_mut(units);
        let mut leak_bar = T::zero();
        let StepScratch { before_bar, phi_bar, .. } = scratch;
        phi_bar.fill(T::zero());
        before_bar.fill(T::zero());
        for r in 0..rank {
            let drive_bar = a * next_bar[r];
            leak_bar += next_bar[r] * (at.drive[r] - at.mean[r]);
            before_bar[r] += (T::one() - a) * next_bar[r];
            c_bar[r] += drive_bar;
            axpy(&mut n_bar[r * units..(r + 1) * units], drive_bar, at.phi);
            axpy(phi_bar, drive_bar, &n[r * units..(r + 1) * units]);
        }
        if let Some(of) = transition_bar {
            leak_bar += self.pull_transition(at, of, (n_bar, m_bar), scratch);
        }
        let StepScratch { before_bar, phi_bar, .. } = scratch;
        for (x, phi) in phi_bar.iter_mut().zip(at.phi) {
            *x *= T::one() - *phi * *phi;
        }
        for j in 0..rank {
            axpy(&mut m_bar[j * units..(j + 1) * units], at.mean[j], phi_bar);
            before_bar[j] += dot(phi_bar, &self.shared.m[j * units..(j + 1) * units]);
        }
        axpy(offset_bar, T::one(), phi_bar);
        rest[0] += leak_bar * a * (T::one() - a);
    }

    /// Pulls the adjoint of a transition matrix `[rank, rank]`,
    /// `(1-a) I + a E` with `E_rj = sum_n N_rn D_n M_jn`, back to the factors and to `phi`;
    /// returns the leak's part.
    fn pull_transition(
        &self,
        at: &StepRecord<'_, T>,
        (transition, f_bar): (&[T], &[T]),
        (n_bar, m_bar): (&mut [T], &mut [T]),
        scratch: &mut StepScratch<T>,
    ) -> T {
        let (rank, units, a) = (self.shape.rank, self.shape.units, self.leak());
        let (n, _) = self.factor(at.factor);
        let StepScratch { phi_bar, slope, slope_bar, row, .. } = scratch;
        let mut leak_bar = T::zero();
        slope_bar.fill(T::zero());
        for (slope, phi) in slope.iter_mut().zip(at.phi) {
            *slope = T::one() - *phi * *phi;
        }
        for r in 0..rank {
            row.fill(T::zero());
            for j in 0..rank {
                let at_rj = r * rank + j;
                let diagonal = if r == j { T::one() } else { T::zero() };
                let e = (transition[at_rj] - (T::one() - a) * diagonal) / a;
                leak_bar += f_bar[at_rj] * (e - diagonal);
                axpy(row, a * f_bar[at_rj], &self.shared.m[j * units..(j + 1) * units]);
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
                axpy(row, a * f_bar[r * rank + j], &n[r * units..(r + 1) * units]);
            }
            for i in 0..units {
                m_bar[j * units + i] += slope[i] * row[i];
            }
        }
        for i in 0..units {
            phi_bar[i] -= T::of(2.0) * at.phi[i] * slope_bar[i];
        }
        leak_bar
    }
}
