//! The adjoint of the network's step, which all passes share.

use super::algebra::{axpy, slope};
use super::factors::Factors;
use super::pass::Pass;
use super::sums::Sums;
use crate::inference::lanes::{Arithmetic, Lanes, Number, Rows};
use crate::inference::outlined::Outlined;

/// What a step's adjoint needs.
pub(super) struct StepRecord<'a, R> {
    pub(super) mean: &'a [R],
    pub(super) phi: &'a [R],
    pub(super) drive: &'a [R],
}

/// What a step's adjoint works in, and its result.
#[derive(Debug)]
pub(super) struct StepScratch<T> {
    /// Adjoint of the mean before the step, `[rank]`.
    pub(super) before_bar: Lanes<T>,
    /// `[units]` each.
    phi_bar: Lanes<T>,
    slope_bar: Lanes<T>,
    row: Lanes<T>,
    /// `[rank]`.
    column: Lanes<T>,
}

impl<T: Number> StepScratch<T> {
    pub(super) fn new(rank: usize, units: usize, width: usize) -> Self {
        let rows = |n: usize| Lanes::zeros(n * width);
        Self {
            before_bar: rows(rank),
            phi_bar: rows(units),
            slope_bar: rows(units),
            row: rows(units),
            column: rows(rank),
        }
    }
}

/// Where the adjoint of a step adds to: the lanes' networks, and what they share.
pub(super) struct Gathered<'a, T> {
    pub(super) factors: &'a mut Factors<T>,
    pub(super) sums: &'a mut Sums<T>,
    pub(super) step: &'a mut StepScratch<T>,
}

/// [`Pass::pull_step`].
struct Pull<'a, 'p, 'g, W: Arithmetic> {
    pass: &'a Pass<'p, W>,
    at: &'a StepRecord<'a, W::Row>,
    next_bar: Rows<'a, W>,
    transition_bar: Option<(Rows<'a, W>, Rows<'a, W>)>,
    to: &'a mut Gathered<'g, W::Number>,
}

impl<W: Arithmetic> Outlined for Pull<'_, '_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.pass.pull(self);
    }
}

impl<T: Number, W: Arithmetic<Number = T>> Pass<'_, W> {
    /// Adjoint of the step and, where its adjoint is given, of the transition matrix; leaves the
    /// adjoint of the mean before in `to.step.before_bar`.
    pub(super) fn pull_step(
        &self,
        at: &StepRecord<'_, W::Row>,
        next_bar: &[W::Row],
        transition_bar: Option<(Rows<'_, W>, Rows<'_, W>)>,
        to: &mut Gathered<'_, T>,
    ) {
        let pass = self;
        self.wide.outlined(Pull { pass, at, next_bar, transition_bar, to });
    }

    #[inline(always)]
    fn pull(&self, of: Pull<'_, '_, '_, W>) {
        let Pull { at, next_bar, transition_bar, to, .. } = of;
        let (wide, rank, units, a) = (self.wide, self.shape.rank, self.shape.units, self.leak());
        let (leak, kept) = (wide.splat(a), wide.splat(T::one() - a));
        let mut leak_bar = wide.rows(&to.sums.leak)[0];
        let (n, n_bar, c_bar) = to.factors.with_bars(wide);
        let before_bar = wide.rows_mut(&mut to.step.before_bar);
        let phi_bar = wide.rows_mut(&mut to.step.phi_bar);
        phi_bar.fill(wide.splat(T::zero()));
        for r in 0..rank {
            let drive_bar = wide.mul(leak, next_bar[r]);
            leak_bar = wide.mul_add(next_bar[r], wide.sub(at.drive[r], at.mean[r]), leak_bar);
            before_bar[r] = wide.mul(kept, next_bar[r]);
            c_bar[r] = wide.add(c_bar[r], drive_bar);
            let own = r * units..(r + 1) * units;
            axpy(wide, &mut n_bar[own.clone()], drive_bar, at.phi);
            axpy(wide, phi_bar, drive_bar, &n[own]);
        }
        wide.rows_mut(&mut to.sums.leak)[0] = leak_bar;
        if let Some(of) = transition_bar {
            self.pull_transition(at, of, to);
        }
        let before_bar = wide.rows_mut(&mut to.step.before_bar);
        let phi_bar = wide.rows_mut(&mut to.step.phi_bar);
        let offset_bar = wide.rows_mut(&mut to.sums.offset);
        for u in 0..units {
            phi_bar[u] = wide.mul(phi_bar[u], slope(wide, at.phi[u]));
            offset_bar[u] = wide.add(offset_bar[u], phi_bar[u]);
        }
        let m_bar = wide.rows_mut(&mut to.sums.m);
        for (m_bar, mean) in m_bar.chunks_exact_mut(units).zip(at.mean) {
            axpy(wide, m_bar, *mean, phi_bar);
        }
        wide.product(before_bar, &self.shared.m, phi_bar);
    }

    /// Pulls the adjoint of a transition matrix `[rank, rank]`, `(1-a) I + a E` with `E_rj = sum_n
    /// N_rn D_n M_jn`, back to the factors, to `phi` and to the leak.
    #[inline(always)]
    fn pull_transition(
        &self,
        at: &StepRecord<'_, W::Row>,
        (transition, f_bar): (&[W::Row], &[W::Row]),
        to: &mut Gathered<'_, T>,
    ) {
        let (wide, rank, units, a) = (self.wide, self.shape.rank, self.shape.units, self.leak());
        let (zero, leak) = (wide.splat(T::zero()), wide.splat(a));
        let leak_bar = &mut wide.rows_mut(&mut to.sums.leak)[0];
        for (place, (f, bar)) in transition.iter().zip(f_bar).enumerate() {
            // E - I, of which the leak's part is E_rj - [r = j].
            let diagonal = if place % (rank + 1) == 0 { T::one() } else { T::zero() };
            let grown = wide.sub(*f, wide.splat(diagonal));
            *leak_bar = wide.mul_add(*bar, wide.mul(grown, wide.splat(a.recip())), *leak_bar);
        }
        let (n, n_bar, _) = to.factors.with_bars(wide);
        let scratch = &mut *to.step;
        let phi_bar = wide.rows_mut(&mut scratch.phi_bar);
        let slope_bar = wide.rows_mut(&mut scratch.slope_bar);
        let row = wide.rows_mut(&mut scratch.row);
        let column = wide.rows_mut(&mut scratch.column);
        slope_bar.fill(zero);
        for r in 0..rank {
            for (to, bar) in column.iter_mut().zip(&f_bar[r * rank..]) {
                *to = wide.mul(leak, *bar);
            }
            row.fill(zero);
            wide.transposed(row, &self.shared.m, column);
            let own = r * units..(r + 1) * units;
            let (n, n_bar) = (&n[own.clone()], &mut n_bar[own]);
            for u in 0..units {
                n_bar[u] = wide.mul_add(slope(wide, at.phi[u]), row[u], n_bar[u]);
                slope_bar[u] = wide.mul_add(n[u], row[u], slope_bar[u]);
            }
        }
        let m_bar = wide.rows_mut(&mut to.sums.m);
        for (j, m_bar) in m_bar.chunks_exact_mut(units).enumerate() {
            for (r, to) in column.iter_mut().enumerate() {
                *to = wide.mul(leak, f_bar[r * rank + j]);
            }
            for u in 0..units {
                let mut sum = zero;
                for (r, bar) in column.iter().enumerate() {
                    sum = wide.mul_add(*bar, n[r * units + u], sum);
                }
                m_bar[u] = wide.mul_add(slope(wide, at.phi[u]), sum, m_bar[u]);
            }
        }
        let twice = wide.splat(T::of(-2.0));
        for u in 0..units {
            phi_bar[u] = wide.mul_add(wide.mul(twice, at.phi[u]), slope_bar[u], phi_bar[u]);
        }
    }
}
