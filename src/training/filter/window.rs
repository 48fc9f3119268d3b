//! One window: the filter over it, forecasts and a free run from its states, a rival label for a
//! stretch of it, and the gradient of all of them; the window's bins are passed back once.

use super::backward::{Adjoint, Pulls};
use super::exponent::{Exponent, ExponentFound};
use super::forward::{ForwardScratch, Start, Stretch, Weighted};
use super::pass::{Pass, WindowGradient};
use super::tapes::Tapes;
use crate::inference::kernels::Real;

/// What a window is worked in; kept from window to window of a session.
pub(crate) struct Workspace<T> {
    truth: Tapes<T>,
    rival: Tapes<T>,
    forward: ForwardScratch<T>,
    adjoint: Adjoint<T>,
    /// Adjoint of the state at which a rival's stretch begins.
    rival_bar: (Vec<T>, Vec<T>),
    /// Gradient with respect to the mean behind each bin, `[bins, rank]`.
    pull: Vec<T>,
}

impl<T: Real> Workspace<T> {
    /// For windows of one session.
    pub(crate) fn new(pass: &Pass<'_, T>) -> Self {
        let sizes = pass.sizes();
        Self {
            truth: Tapes::default(),
            rival: Tapes::default(),
            forward: ForwardScratch::new(sizes),
            adjoint: Adjoint::new(sizes),
            rival_bar: (vec![T::zero(); sizes.rank], vec![T::zero(); sizes.rank * sizes.rank]),
            pull: Vec::new(),
        }
    }
}

/// Another label for a stretch of a window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RivalStretch<'a, T> {
    /// First bin of the window in it.
    pub(crate) from: usize,
    /// Its bins under the rival's factors.
    pub(crate) of: Weighted<'a, T>,
}

/// Forecasts, mean over them in nats per bin and channel, and what the run showed.
#[derive(Debug, Clone)]
pub(crate) struct Ahead<T> {
    pub(crate) forecast: T,
    pub(crate) exponent: Option<ExponentFound<T>>,
}

impl<T: Real> Pass<'_, T> {
    /// Filters a window; one-step scores of its bins, nats over all channels, 0 before
    /// `scored_from`.
    #[inline(always)]
    pub(crate) fn filter<'w>(
        &self,
        window: &Stretch<'_, T>,
        scored_from: usize,
        workspace: &'w mut Workspace<T>,
    ) -> &'w [f64] {
        let Workspace { truth, forward, .. } = workspace;
        self.forward(window, Start::Prior, scored_from, truth, forward);
        &truth.one_step
    }

    /// Filters a stretch under a rival label, from the state of the window before bin `from`: up to
    /// there, the two do not differ. The scores of its bins.
    #[inline(always)]
    pub(crate) fn filter_rival<'w>(
        &self,
        from: usize,
        stretch: &Stretch<'_, T>,
        workspace: &'w mut Workspace<T>,
    ) -> &'w [f64] {
        let Workspace { truth, rival, forward, .. } = workspace;
        self.forward(stretch, Start::Before(truth, from), 0, rival, forward);
        &rival.one_step
    }

    /// For a window that was filtered, and the rival's stretch where one is given: adds to `g` the
    /// gradient of `-(sum_t weight_t one_step_t + forecast_weight * forecast)` and of the
    /// exponent's loss.
    ///
    /// The rival's adjoint is pulled back to the state at which its stretch starts and joins the
    /// window's there, so the bins before are passed once.
    #[inline(always)]
    pub(crate) fn descend(
        &self,
        window: Weighted<'_, T>,
        rival: Option<RivalStretch<'_, T>>,
        exponent: Option<&Exponent<T>>,
        workspace: &mut Workspace<T>,
        g: &mut WindowGradient<'_, T>,
    ) -> Ahead<T> {
        let Workspace { truth, rival: rival_tapes, adjoint, rival_bar, pull, .. } = workspace;
        let mut state = None;
        if let Some(of) = &rival {
            adjoint.begin();
            let none = Pulls { means: &[], state: None };
            self.backward(of.of, rival_tapes, none, adjoint, g);
            rival_bar.0.copy_from_slice(&adjoint.mean_bar);
            rival_bar.1.copy_from_slice(&adjoint.cov_bar);
            state = Some((of.from, rival_bar.0.as_slice(), rival_bar.1.as_slice()));
        }
        pull.clear();
        let stretch = &window.stretch;
        pull.resize(stretch.factor_of.len() * self.shape.rank, T::zero());
        let forecast = self.forecast(stretch, truth, g, pull, &mut adjoint.step);
        let exponent = exponent.map(|of| {
            let filtered = truth.state(of.from + 1).0;
            self.exponent(of, stretch.factor_of[of.from], filtered, Some(g), &mut adjoint.step)
        });
        adjoint.begin();
        let pulls = Pulls { means: pull, state };
        self.backward(window, truth, pulls, adjoint, g);
        self.finish(adjoint, g);
        Ahead { forecast, exponent }
    }
}

#[cfg(test)]
mod tests {
    use super::super::adjoint::StepScratch;
    use super::super::forward::Entry;
    use super::super::pass::{Gradient, LossShape, SessionReadout, Shared};
    use super::*;

    const SHAPE: LossShape = LossShape {
        rank: 3,
        units: 5,
        burn_in: 2,
        horizon: 4,
        forecast_every: 3,
        forecast_weight: 0.7,
        entry_variance: 0.4,
        log_rate_bounds: [-8.0, 4.0],
    };
    const CHANNELS: usize = 7;
    const BINS: usize = 14;
    const FACTORS: usize = 2;

    fn wave(n: usize, scale: f64, phase: f64) -> Vec<f64> {
        (0..n).map(|i| scale * (1.7 * i as f64 + phase).sin()).collect()
    }

    /// With unscored, favoured and opposed bins, and a rival label for bins 5 to 10.
    fn loss(
        factors: &[f64],
        shared: &[f64],
        readout: &[f64],
        gradient: Option<&mut Gradient<f64>>,
    ) -> f64 {
        let counts: Vec<f64> = (0..BINS * CHANNELS)
            .map(|i| f64::from(u8::from(i * i % 5 == 1)) + (i % 3) as f64)
            .collect();
        let factor_of: Vec<usize> = (0..BINS).map(|t| t / 8).collect();
        let pass = Pass {
            shape: &SHAPE,
            shared: &Shared::unpack(&SHAPE, shared),
            readout: &SessionReadout::unpack(SHAPE.rank, CHANNELS, readout),
            factors,
        };
        let weight: Vec<f64> =
            (0..BINS).map(|t| [0.0, 0.013, -0.007, 0.021][if t < 2 { 0 } else { t % 4 }]).collect();
        let (from, to) = (5, 10);
        let rival_of = vec![1; to - from];
        let rival_weight: Vec<f64> = (from..to).map(|t| -0.011 * (t % 3) as f64).collect();
        let window = Stretch {
            counts: &counts,
            factor_of: &factor_of,
            entry: Some(Entry { from: 6, to: 8 }),
        };
        let stretch = Stretch {
            counts: &counts[from * CHANNELS..to * CHANNELS],
            factor_of: &rival_of,
            entry: Some(Entry { from: 0, to: 1 }),
        };
        let mut workspace = Workspace::new(&pass);
        let sum = |scores: &[f64], weight: &[f64]| -> f64 {
            scores.iter().zip(weight).map(|(s, w)| s * w).sum()
        };
        let truth = sum(pass.filter(&window, SHAPE.burn_in, &mut workspace), &weight);
        let rival = sum(pass.filter_rival(from, &stretch, &mut workspace), &rival_weight);
        let mut none = Gradient::zeros([factors.len(), shared.len(), readout.len()]);
        let rival_of = Weighted { stretch, weight: &rival_weight };
        let rival_stretch = RivalStretch { from, of: rival_of };
        let window = Weighted { stretch: window, weight: &weight };
        let mut g = gradient.unwrap_or(&mut none).of_session(0..readout.len());
        let ahead = pass.descend(window, Some(rival_stretch), None, &mut workspace, &mut g);
        -(truth + rival + SHAPE.forecast_weight * ahead.forecast)
    }

    #[test]
    fn the_exponents_adjoint_matches_finite_differences() {
        let per_factor = SHAPE.rank * SHAPE.units + SHAPE.rank;
        let mut inputs = [wave(per_factor, 1.4, 0.3), wave(Shared::<f64>::len(&SHAPE), 0.9, 1.1)];
        let readout = SessionReadout::unpack(SHAPE.rank, 0, &[]);
        // Within the threshold of Huber's loss, and beyond it.
        for (target, noise) in [(0.5, vec![]), (-0.02, wave(90, 1.2, 0.1))] {
            let of = Exponent {
                from: 0,
                start: None,
                noise,
                bins: 30,
                target,
                weight: 0.7,
                attractor: Some((vec![0.3, 0.1, -0.6], 0.4)),
                damped: false,
            };
            let loss = |inputs: &[Vec<f64>; 2], gradient: Option<&mut Gradient<f64>>| {
                let pass = Pass {
                    shape: &SHAPE,
                    shared: &Shared::unpack(&SHAPE, &inputs[1]),
                    readout: &readout,
                    factors: &inputs[0],
                };
                let mut scratch = StepScratch::new(SHAPE.rank, SHAPE.units);
                let mut g = gradient.map(|g| g.of_session(0..0));
                let found = pass.exponent(&of, 0, &[0.4, -0.2, 0.9], g.as_mut(), &mut scratch);
                let (point, weight) = of.attractor.as_ref().expect("set above");
                let away: f64 =
                    found.end.iter().zip(point).map(|(x, p)| weight * (x - p).powi(2)).sum();
                (found.exponent, of.weight * found.loss + away)
            };
            let mut gradient = Gradient::zeros([inputs[0].len(), inputs[1].len(), 0]);
            let (exponent, _) = loss(&inputs, Some(&mut gradient));
            assert!(exponent.is_finite() && exponent != 0.0);
            let analytic = [gradient.factors, gradient.shared];
            for part in 0..2 {
                for i in 0..inputs[part].len() {
                    let (x, h) = (inputs[part][i], 1e-6);
                    inputs[part][i] = x + h;
                    let up = loss(&inputs, None).1;
                    inputs[part][i] = x - h;
                    let down = loss(&inputs, None).1;
                    inputs[part][i] = x;
                    let numeric = (up - down) / (2.0 * h);
                    let error = (numeric - analytic[part][i]).abs() / (1e-3 + numeric.abs());
                    assert!(
                        error < 1e-4,
                        "part {part} index {i}: numeric {numeric} analytic {}",
                        analytic[part][i]
                    );
                }
            }
        }
    }

    #[test]
    fn adjoint_matches_finite_differences() {
        let per_factor = SHAPE.rank * SHAPE.units + SHAPE.rank;
        let mut inputs = [
            wave(FACTORS * per_factor, 0.8, 0.3),
            wave(Shared::<f64>::len(&SHAPE), 0.7, 1.1),
            wave(SHAPE.rank * CHANNELS + CHANNELS, 0.5, 2.0),
        ];
        let mut gradient = Gradient::zeros(std::array::from_fn(|i| inputs[i].len()));
        loss(&inputs[0], &inputs[1], &inputs[2], Some(&mut gradient));
        let analytic = [gradient.factors, gradient.shared, gradient.readouts];
        let mut largest: f64 = 0.0;
        for part in 0..3 {
            for i in 0..inputs[part].len() {
                let (x, h) = (inputs[part][i], 1e-5);
                inputs[part][i] = x + h;
                let up = loss(&inputs[0], &inputs[1], &inputs[2], None);
                inputs[part][i] = x - h;
                let down = loss(&inputs[0], &inputs[1], &inputs[2], None);
                inputs[part][i] = x;
                let numeric = (up - down) / (2.0 * h);
                let error = (numeric - analytic[part][i]).abs() / (1e-3 + numeric.abs());
                largest = largest.max(error);
                assert!(
                    error < 1e-5,
                    "part {part} index {i}: numeric {numeric} analytic {}",
                    analytic[part][i]
                );
            }
        }
        assert!(largest > 0.0, "the check compared nothing");
    }
}
