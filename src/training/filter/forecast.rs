//! Open-loop forecasts, scored without variance: they let the network, not its process noise,
//! explain the data.

use super::adjoint::StepScratch;
use super::algebra::axpy;
use super::forward::Stretch;
use super::pass::{Pass, WindowGradient, burn_in_of};
use super::run::Run;
use super::tapes::Tapes;
use crate::inference::kernels::Real;

impl<T: Real> Pass<'_, T> {
    /// Mean score of forecasts from filtered means, nats per bin and channel. Adds their gradient
    /// to `g`, and to `pull [bins, rank]` that with respect to each filtered mean.
    #[inline(always)]
    pub(super) fn forecast(
        &self,
        stretch: &Stretch<'_, T>,
        tapes: &Tapes<T>,
        g: &mut WindowGradient<'_, T>,
        pull: &mut [T],
        scratch: &mut StepScratch<T>,
    ) -> T {
        let s = self.shape;
        let (rank, channels) = (s.rank, self.readout.channels);
        let horizon = s.horizon_of(tapes.bins());
        let first = burn_in_of(s.burn_in, tapes.bins());
        let starts = (first..tapes.bins().saturating_sub(horizon)).step_by(s.forecast_every.max(1));
        let is_foretold = |start: &usize| {
            stretch.entry.is_none_or(|e| start + horizon < e.from || *start >= e.to)
        };
        let starts: Vec<usize> = starts.filter(is_foretold).collect();
        if starts.is_empty() || horizon == 0 {
            return T::zero();
        }
        let weight = T::of(1.0 / (starts.len() * horizon * channels) as f32);
        let pull_weight = weight * T::of(s.forecast_weight as f32);
        let mut run = Run::new(self, horizon);
        let mut slopes = vec![T::zero(); horizon * channels];
        let (mut eta, mut inside) = (vec![T::zero(); channels], vec![T::zero(); channels]);
        let mut total = T::zero();
        let mut adjoint = vec![T::zero(); rank];
        for start in starts {
            run.begin(tapes.state(start + 1).0);
            let factor = |h: usize| stretch.factor_of[start + 1 + h];
            for h in 0..horizon {
                let after = run.step(self, h, factor(h));
                self.log_rates(after, &mut eta, &mut inside);
                let y = stretch.at(start + 1 + h, channels);
                let slopes = &mut slopes[h * channels..(h + 1) * channels];
                let mut sum = T::zero();
                for i in 0..channels {
                    let rate = eta[i].fast_exp();
                    sum += y[i] * eta[i] - rate;
                    slopes[i] = -pull_weight * (y[i] - rate) * inside[i];
                }
                total += weight * sum;
            }
            adjoint.fill(T::zero());
            for h in (0..horizon).rev() {
                let slopes = &slopes[h * channels..(h + 1) * channels];
                self.pull_readout(slopes, run.state(h + 1), &mut adjoint, g);
                self.pull_step(&run.record(h, factor(h)), &adjoint, None, g, scratch);
                adjoint.copy_from_slice(&scratch.before_bar);
            }
            axpy(&mut pull[start * rank..(start + 1) * rank], T::one(), &adjoint);
        }
        total
    }
}
