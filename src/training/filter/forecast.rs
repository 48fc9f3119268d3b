//! Open-loop forecasts, scored without variance: they let the network, not its process noise,
//! explain the data.

use super::adjoint::Gathered;
use super::algebra::{abs, axpy, where_free};
use super::backward::Adjoint;
use super::pass::{Pass, WindowGradient, burn_in_of};
use super::run::Run;
use super::stretch::Stretch;
use super::tapes::Tapes;
use crate::inference::lanes::{Arithmetic, Lanes, Number};

/// Forecasts of one lane.
struct Plan {
    /// Bins after whose filtered states they begin.
    starts: Vec<usize>,
    /// Their bins.
    horizon: usize,
    /// Of the score of a bin, in the mean over all of them and over channels.
    weight: f32,
}

impl Plan {
    /// Where its forecast number `k` begins: the last where it has fewer.
    fn start(&self, k: usize) -> usize {
        self.starts.get(k).or(self.starts.last()).copied().unwrap_or(0)
    }

    /// Weight of bin `h` of its forecast number `k`.
    fn weight(&self, k: usize, h: usize) -> f32 {
        if k < self.starts.len() && h < self.horizon { self.weight } else { 0.0 }
    }
}

/// What forecasts work in.
#[derive(Debug)]
struct Scratch<T> {
    run: Run<T>,
    /// Adjoint of each state by its own bin's score, `[horizon, rank]`.
    state_bars: Lanes<T>,
    /// `[rank]`.
    bar: Lanes<T>,
    /// `[channels]` each.
    eta: Lanes<T>,
    rates: Lanes<T>,
    counts: Lanes<T>,
    /// `[1]`.
    weight: Lanes<T>,
}

impl<T: Number, W: Arithmetic<Number = T>> Pass<'_, W> {
    /// Mean score of forecasts from filtered means, nats per bin and channel, of each of the first
    /// `counted` lanes; 0 of others. Adds their gradient to `g` and `adjoint`'s sums, and to `pull
    /// [bins, rank, lanes]` that with respect to each filtered mean.
    #[inline(always)]
    pub(super) fn forecast(
        &self,
        (stretch, counted): (&Stretch<'_, T>, usize),
        tapes: &Tapes<T>,
        pull: &mut [T],
        adjoint: &mut Adjoint<T>,
        g: &mut WindowGradient<'_, T>,
    ) -> Vec<f64> {
        let (wide, sizes) = (self.wide, self.sizes());
        let (width, rank) = (sizes.width, sizes.rank);
        let mut total = vec![0.0; width];
        let plans: Vec<Plan> = (0..width).map(|lane| self.plan(stretch, lane, counted)).collect();
        let horizon = plans.iter().map(|p| p.horizon).max().unwrap_or(0);
        let rounds = plans.iter().map(|p| p.starts.len()).max().unwrap_or(0);
        if rounds == 0 || horizon == 0 {
            return total;
        }
        let rows = |n: usize| Lanes::zeros(n * width);
        let mut s = Scratch {
            run: Run::new(sizes, horizon),
            state_bars: rows(horizon * rank),
            bar: rows(rank),
            eta: rows(sizes.channels),
            rates: rows(sizes.channels),
            counts: rows(sizes.channels),
            weight: rows(1),
        };
        for k in 0..rounds {
            let after: Vec<usize> = plans.iter().map(|p| p.start(k) + 1).collect();
            tapes.gather(&after, s.run.first_mut());
            for h in 0..horizon {
                let factor = |lane: usize| stretch.factor(lane, after[lane] + h);
                adjoint.factors.turn(self.factors, factor, Some(&mut *g.factors));
                s.run.step(self, h, &adjoint.factors);
                for (to, plan) in s.weight.iter_mut().zip(&plans) {
                    *to = T::of(plan.weight(k, h));
                }
                self.score_forecast(stretch, (&after, h), &mut s, adjoint, &mut total);
            }
            s.bar.fill(T::zero());
            for h in (0..horizon).rev() {
                let factor = |lane: usize| stretch.factor(lane, after[lane] + h);
                adjoint.factors.turn(self.factors, factor, Some(&mut *g.factors));
                let own = &s.state_bars[h * rank * width..(h + 1) * rank * width];
                s.bar.iter_mut().zip(own).for_each(|(bar, by)| *bar += *by);
                let Adjoint { factors, sums, step, .. } = &mut *adjoint;
                let mut to = Gathered { factors, sums, step };
                self.pull_step(&s.run.record(wide, h), wide.rows(&s.bar), None, &mut to);
                s.bar.copy_from_slice(&adjoint.step.before_bar);
            }
            for (lane, plan) in plans.iter().enumerate().filter(|(_, p)| k < p.starts.len()) {
                let to = pull[plan.start(k) * rank * width..].iter_mut().skip(lane).step_by(width);
                let from = s.bar.iter().skip(lane).step_by(width);
                to.zip(from).for_each(|(to, by)| *to += *by);
            }
        }
        total
    }

    /// Forecasts of a lane.
    fn plan(&self, stretch: &Stretch<'_, T>, lane: usize, counted: usize) -> Plan {
        let of = stretch.lanes[lane];
        let bins = of.factor_of.len();
        let horizon = self.shape.horizon_of(bins);
        let first = burn_in_of(self.shape.burn_in, bins);
        let is_foretold =
            |start: &usize| of.entry.is_none_or(|e| start + horizon < e.from || *start >= e.to);
        let starts =
            (first..bins.saturating_sub(horizon)).step_by(self.shape.forecast_every.max(1));
        let starts: Vec<usize> = starts.filter(is_foretold).collect();
        let scored = starts.len() * horizon * self.readout.channels;
        if lane >= counted || scored == 0 {
            return Plan { starts: Vec::new(), horizon: 0, weight: 0.0 };
        }
        Plan { starts, horizon, weight: 1.0 / scored as f32 }
    }

    /// Score of bin `h` of forecasts that begin at bins `after`; gathers the readout's gradient,
    /// and puts the state's into `s.state_bars`.
    #[inline(always)]
    fn score_forecast(
        &self,
        stretch: &Stretch<'_, T>,
        (after, h): (&[usize], usize),
        s: &mut Scratch<T>,
        adjoint: &mut Adjoint<T>,
        total: &mut [f64],
    ) {
        let (wide, rank, channels) = (self.wide, self.shape.rank, self.readout.channels);
        let width = wide.width();
        let state = s.run.state(wide, h + 1);
        let (eta, rates) = (wide.rows_mut(&mut s.eta), wide.rows_mut(&mut s.rates));
        self.log_rates(state, eta, rates);
        for (lane, &from) in after.iter().enumerate() {
            let t = (from + h).min(stretch.bins() - 1);
            let from = stretch.at(t, channels).iter().skip(lane).step_by(width);
            let to = s.counts.iter_mut().skip(lane).step_by(width);
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
        let weight = wide.rows(&s.weight)[0];
        let pulled = wide.mul(weight, wide.splat(T::of(-self.shape.forecast_weight as f32)));
        let zero = wide.splat(T::zero());
        let (mut gained, mut lost) = (zero, zero);
        let baseline = wide.rows_mut(&mut adjoint.sums.baseline);
        for (i, y) in wide.rows(&s.counts).iter().enumerate() {
            let rate = abs(wide, rates[i]);
            gained = wide.mul_add(*y, eta[i], gained);
            lost = wide.add(lost, rate);
            // The log rate's adjoint in the place of the log rate.
            eta[i] = where_free(wide, rates[i], wide.mul(pulled, wide.sub(*y, rate)));
            baseline[i] = wide.add(baseline[i], eta[i]);
        }
        let loading_bar = wide.rows_mut(&mut adjoint.sums.moments);
        for (bars, mean) in loading_bar.chunks_exact_mut(channels.max(1)).zip(state) {
            axpy(wide, bars, *mean, eta);
        }
        let state_bar = &mut wide.rows_mut(&mut s.state_bars)[h * rank..(h + 1) * rank];
        state_bar.fill(zero);
        wide.product(state_bar, self.readout.loading(), eta);
        let scored = wide.mul(weight, wide.sub(gained, lost));
        wide.rows_mut(&mut s.weight)[0] = scored;
        for (total, score) in total.iter_mut().zip(s.weight.iter()) {
            *total += score.to_f64().unwrap_or(f64::NAN);
        }
    }
}
