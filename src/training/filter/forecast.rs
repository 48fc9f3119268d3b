//! Open-loop forecasts, scored without variance: they let the network, not its process noise, explain the data.

use super::adjoint::{StepRecord, StepScratch};
use super::algebra::axpy;
use super::forward::Stretch;
use super::pass::{Pass, WindowGradient};
use super::tapes::Tapes;
use crate::inference::kernels::Real;

impl<T: Real> Pass<'_, T> {
    /// Open-loop forecasts from filtered means; adds their gradient, and to `pull [bins, rank]` the
    /// gradient with respect to each filtered mean.
    #[inline(always)]
    pub(super) fn forecast(
        &self,
        stretch: &Stretch<'_, T>,
        tapes: &Tapes<T>,
        mut gradient: Option<&mut WindowGradient<'_, T>>,
        pull: &mut [T],
        scratch: &mut StepScratch<T>,
    ) -> T {
        let s = self.shape;
        let (rank, units, channels) = (s.rank, s.units, self.readout.channels);
        let bins = tapes.bins();
        let starts: Vec<usize> =
            (s.burn_in..bins.saturating_sub(s.horizon)).step_by(s.forecast_every.max(1)).collect();
        if starts.is_empty() || s.horizon == 0 {
            return T::zero();
        }
        let weight = T::of(1.0 / (starts.len() * s.horizon * channels) as f32);
        let pull_weight = weight * T::of(s.forecast_weight as f32);
        let mut states = vec![T::zero(); (s.horizon + 1) * rank];
        let mut phis = vec![T::zero(); s.horizon * units];
        let mut drives = vec![T::zero(); s.horizon * rank];
        let mut slopes = vec![T::zero(); s.horizon * channels];
        let (mut eta, mut inside) = (vec![T::zero(); channels], vec![T::zero(); channels]);
        let mut total = T::zero();
        let mut adjoint = vec![T::zero(); rank];
        for start in starts {
            states[..rank].copy_from_slice(tapes.state(start + 1).0);
            for h in 0..s.horizon {
                let (earlier, after) = states.split_at_mut((h + 1) * rank);
                self.step(
                    &earlier[h * rank..],
                    stretch.factor_of[start + 1 + h],
                    &mut phis[h * units..(h + 1) * units],
                    &mut drives[h * rank..(h + 1) * rank],
                    &mut after[..rank],
                );
                self.log_rates(&after[..rank], &mut eta, &mut inside);
                let y = stretch.at(start + 1 + h, channels);
                let mut sum = T::zero();
                for i in 0..channels {
                    let rate = eta[i].fast_exp();
                    sum += y[i] * eta[i] - rate;
                    slopes[h * channels + i] = -pull_weight * (y[i] - rate) * inside[i];
                }
                total += weight * sum;
            }
            if let Some(g) = gradient.as_deref_mut() {
                adjoint.fill(T::zero());
                for h in (0..s.horizon).rev() {
                    self.pull_readout(
                        &slopes[h * channels..(h + 1) * channels],
                        &states[(h + 1) * rank..(h + 2) * rank],
                        &mut adjoint,
                        g,
                    );
                    self.pull_step(
                        &StepRecord {
                            mean: &states[h * rank..(h + 1) * rank],
                            factor: stretch.factor_of[start + 1 + h],
                            phi: &phis[h * units..(h + 1) * units],
                            drive: &drives[h * rank..(h + 1) * rank],
                        },
                        &adjoint,
                        None,
                        g,
                        scratch,
                    );
                    adjoint.copy_from_slice(&scratch.before_bar);
                }
                axpy(&mut pull[start * rank..(start + 1) * rank], T::one(), &adjoint);
            }
        }
        total
    }
}
