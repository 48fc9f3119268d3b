//! A block of windows side by side: the filter over them, forecasts and free runs from their
//! states, a rival label for a stretch of each, and the gradient of all of them; the windows' bins
//! are passed back once.

use super::backward::{Adjoint, Pulls};
use super::exponent::{Exponent, ExponentFound};
use super::forward::{ForwardScratch, Start};
use super::pass::{Pass, WindowGradient};
use super::stretch::{Stretch, Weighted};
use super::tapes::{Sizes, Tapes};
use crate::inference::lanes::{Arithmetic, Lanes, Number};

/// What blocks are worked in; kept from block to block of as many channels.
pub(crate) struct Workspace<T> {
    sizes: Sizes,
    truth: Tapes<T>,
    rival: Tapes<T>,
    forward: ForwardScratch<T>,
    adjoint: Adjoint<T>,
    /// Adjoint of each lane's state at which its rival's stretch begins: mean and covariance.
    rival_bar: (Lanes<T>, Lanes<T>),
    /// Gradient with respect to the mean behind each bin, `[bins, rank, lanes]`.
    pull: Vec<T>,
}

impl<T: Number> Workspace<T> {
    /// For blocks of a session, and of others with as many channels.
    pub(crate) fn new<W: Arithmetic<Number = T>>(pass: &Pass<'_, W>) -> Self {
        let sizes = pass.sizes();
        let adjoint = Adjoint::new(sizes);
        let like = |of: &Lanes<T>| Lanes::zeros(of.len());
        Self {
            sizes,
            truth: Tapes::new(sizes),
            rival: Tapes::new(sizes),
            forward: ForwardScratch::new(sizes),
            rival_bar: (like(&adjoint.mean_bar), like(&adjoint.cov_bar)),
            adjoint,
            pull: Vec::new(),
        }
    }

    /// Whether it serves these blocks. No block leaves anything behind in it.
    pub(crate) fn is_for<W: Arithmetic<Number = T>>(&self, pass: &Pass<'_, W>) -> bool {
        self.sizes == pass.sizes()
    }
}

/// Another label for a stretch of each window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RivalStretch<'a, T> {
    /// First bin of each window in it.
    pub(crate) from: &'a [usize],
    /// Its bins under the rivals' factors.
    pub(crate) of: Weighted<'a, T>,
}

/// Of each lane: forecasts, mean over them in nats per bin and channel, and what the run showed.
#[derive(Debug, Clone)]
pub(crate) struct Ahead<T> {
    pub(crate) forecast: Vec<f64>,
    pub(crate) exponents: Vec<Option<ExponentFound<T>>>,
}

impl<T: Number, W: Arithmetic<Number = T>> Pass<'_, W> {
    /// Filters windows; one-step scores of their bins, `[bins, lanes]`, nats over all channels, 0
    /// before `scored_from`.
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

    /// Filters a stretch of each window under a rival label, from the state before bin `from` of
    /// it: up to there, the two do not differ. The scores of its bins, `[bins, lanes]`.
    #[inline(always)]
    pub(crate) fn filter_rival<'w>(
        &self,
        from: &[usize],
        stretch: &Stretch<'_, T>,
        workspace: &'w mut Workspace<T>,
    ) -> &'w [f64] {
        let Workspace { truth, rival, forward, .. } = workspace;
        self.forward(stretch, Start::Before(truth, from), 0, rival, forward);
        &rival.one_step
    }

    /// For windows that were filtered, and the rivals' stretch where one is given: adds to `g` the
    /// gradient of `-(sum_t weight_t one_step_t + forecast_weight * forecast)` and of the
    /// exponents' losses. Of the lanes, the first `counted` are foretold.
    ///
    /// The rivals' adjoint is pulled back to the states at which their stretch starts and joins the
    /// windows' there, so the bins before are passed once.
    #[inline(always)]
    pub(crate) fn descend(
        &self,
        (window, counted): (Weighted<'_, T>, usize),
        rival: Option<RivalStretch<'_, T>>,
        exponents: &[Option<Exponent<T>>],
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
            state = Some((of.from, &*rival_bar.0, &*rival_bar.1));
        }
        let stretch = &window.stretch;
        pull.clear();
        pull.resize(truth.bins() * self.shape.rank * self.wide.width(), T::zero());
        let forecast = self.forecast((stretch, counted), truth, pull, adjoint, g);
        let exponents = self.exponent(exponents, truth, adjoint, g);
        adjoint.begin();
        self.backward(window, truth, Pulls { means: pull, state }, adjoint, g);
        self.finish(adjoint, g);
        Ahead { forecast, exponents }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exact::{Exact, LANES};
    use super::super::pass::{Gradient, LossShape, SessionReadout, Shared};
    use super::super::stretch::{Entry, Lane};
    use super::*;
    use crate::inference::lanes::Wide;

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

    fn wave<T: Number>(n: usize, scale: f64, phase: f64) -> Vec<T> {
        let at = |i: usize| (scale * (1.7 * i as f64 + phase).sin()) as f32;
        (0..n).map(|i| T::of(at(i))).collect()
    }

    fn inputs<T: Number>() -> [Vec<T>; 3] {
        let per_factor = SHAPE.rank * SHAPE.units + SHAPE.rank;
        [
            wave(FACTORS * per_factor, 0.8, 0.3),
            wave(Shared::<T>::len(&SHAPE), 0.7, 1.1),
            wave(SHAPE.rank * CHANNELS + CHANNELS, 0.5, 2.0),
        ]
    }

    /// What lane number `i` of a check is given: lanes differ in length, in counts, in when they
    /// come under other factors, in weights and in their rivals.
    struct Given {
        bins: usize,
        factor_of: Vec<usize>,
        counts: Vec<f32>,
        weight: Vec<f32>,
        rival_from: usize,
        rival_of: Vec<usize>,
        rival_weight: Vec<f32>,
    }

    impl Given {
        fn new(i: usize) -> Self {
            let bins = BINS - i % 3;
            let count = |at: usize| u8::from((at * at + i) % 5 == 1) + (at % 3) as u8;
            let weights = [0.0, 0.013, -0.007, 0.021];
            let rival_bins = 5 - i % 2;
            Self {
                bins,
                factor_of: (0..bins).map(|t| (t + i) / 8 % FACTORS).collect(),
                counts: (0..bins * CHANNELS).map(|at| f32::from(count(at))).collect(),
                weight: (0..bins).map(|t| weights[if t < 2 { 0 } else { (t + i) % 4 }]).collect(),
                rival_from: 5 + i % 3,
                rival_of: vec![(i + 1) % FACTORS; rival_bins],
                rival_weight: (0..rival_bins).map(|t| -0.011 * ((t + i) % 3) as f32).collect(),
            }
        }
    }

    /// Side by side, lane by lane in the last place; bins that a lane does not have are `filled`.
    fn side_by_side<T: Number>(lanes: &[&[f32]], row: usize, bins: usize, filled: f32) -> Vec<T> {
        let at = |t: usize, i: usize, lane: usize| lanes[lane].get(t * row + i).copied();
        let places = (0..bins).flat_map(|t| (0..row).map(move |i| (t, i)));
        let of = |(t, i)| (0..lanes.len()).map(move |lane| T::of(at(t, i, lane).unwrap_or(filled)));
        places.flat_map(of).collect()
    }

    /// The loss of windows `first`, `first + 1`, .. side by side: with unscored, favoured and
    /// opposed bins, and rivals.
    fn loss<T: Number, W: Arithmetic<Number = T>>(
        (wide, shape): (W, &LossShape),
        first: usize,
        [factors, shared, readout]: [&[T]; 3],
        gradient: Option<&mut Gradient<T>>,
    ) -> f64 {
        let given: Vec<Given> = (0..wide.width()).map(|lane| Given::new(first + lane)).collect();
        let pass = Pass {
            wide,
            shape,
            shared: &Shared::unpack(shape, shared),
            readout: &SessionReadout::unpack(shape.rank, CHANNELS, readout),
            factors,
        };
        let of = |get: fn(&Given) -> &[f32]| given.iter().map(get).collect::<Vec<_>>();
        let bins = given.iter().map(|g| g.bins).max().expect("a lane");
        let counts = side_by_side(&of(|g| &g.counts), CHANNELS, bins, 1.0);
        let weight = side_by_side(&of(|g| &g.weight), 1, bins, 0.0);
        let rival_bins = given.iter().map(|g| g.rival_of.len()).max().expect("a lane");
        let rival_counts: Vec<&[f32]> = given
            .iter()
            .map(|g| &g.counts[g.rival_from * CHANNELS..][..g.rival_of.len() * CHANNELS])
            .collect();
        let rival_counts = side_by_side(&rival_counts, CHANNELS, rival_bins, 1.0);
        let rival_weight = side_by_side(&of(|g| &g.rival_weight), 1, rival_bins, 0.0);
        let entry = Some(Entry { from: 6, to: 8 });
        let lanes: Vec<Lane<'_>> =
            given.iter().map(|g| Lane { factor_of: &g.factor_of, entry }).collect();
        let entry = Some(Entry { from: 0, to: 1 });
        let rivals: Vec<Lane<'_>> =
            given.iter().map(|g| Lane { factor_of: &g.rival_of, entry }).collect();
        let window = Stretch { counts: &counts, lanes: &lanes };
        let stretch = Stretch { counts: &rival_counts, lanes: &rivals };
        let from: Vec<usize> = given.iter().map(|g| g.rival_from).collect();
        let mut workspace = Workspace::new(&pass);
        let sum = |scores: &[f64], weight: &[T]| -> f64 {
            let weight = weight.iter().map(|w| w.to_f64().expect("a number"));
            scores.iter().zip(weight).map(|(s, w)| s * w).sum()
        };
        let truth = sum(pass.filter(&window, SHAPE.burn_in, &mut workspace), &weight);
        let rival = sum(pass.filter_rival(&from, &stretch, &mut workspace), &rival_weight);
        let mut none = Gradient::zeros([factors.len(), shared.len(), readout.len()]);
        let rival_of = Weighted { stretch, weight: &rival_weight };
        let rival_stretch = RivalStretch { from: &from, of: rival_of };
        let window = Weighted { stretch: window, weight: &weight };
        let mut g = gradient.unwrap_or(&mut none).of_session(0..readout.len());
        let block = (window, wide.width());
        let ahead = pass.descend(block, Some(rival_stretch), &[], &mut workspace, &mut g);
        let forecast: f64 = ahead.forecast.iter().sum();
        -(truth + rival + SHAPE.forecast_weight * forecast)
    }

    #[test]
    fn the_exponents_adjoint_matches_finite_differences() {
        let per_factor = SHAPE.rank * SHAPE.units + SHAPE.rank;
        let mut inputs =
            [wave(FACTORS * per_factor, 1.4, 0.3), wave(Shared::<f64>::len(&SHAPE), 0.9, 1.1)];
        let readout = SessionReadout::unpack(SHAPE.rank, 0, &[]);
        let run = |target, noise, factor| Exponent {
            from: 0,
            start: Some(vec![0.4, -0.2, 0.9]),
            factor,
            noise,
            bins: 30,
            target,
            weight: 0.7,
            attractor: (factor == 0).then(|| (vec![0.3, 0.1, -0.6], 0.4)),
            damped: false,
        };
        // Within the threshold of Huber's loss, beyond it with noise, and none.
        let of = [Some(run(0.5, vec![], 0)), None, Some(run(-0.02, wave(90, 1.2, 0.1), 1))];
        let loss = |inputs: &[Vec<f64>; 2], gradient: Option<&mut Gradient<f64>>| {
            let pass = Pass {
                wide: Exact,
                shape: &SHAPE,
                shared: &Shared::unpack(&SHAPE, &inputs[1]),
                readout: &readout,
                factors: &inputs[0],
            };
            let mut workspace = Workspace::new(&pass);
            let lanes = [Lane { factor_of: &[0], entry: None }; LANES];
            pass.filter(&Stretch { counts: &[], lanes: &lanes }, 0, &mut workspace);
            let mut none = Gradient::zeros([inputs[0].len(), inputs[1].len(), 0]);
            let mut g = gradient.unwrap_or(&mut none).of_session(0..0);
            let Workspace { truth, adjoint, .. } = &mut workspace;
            let found = pass.exponent(&of, truth, adjoint, &mut g);
            adjoint.factors.finish(g.factors);
            adjoint.sums.finish(&pass, &mut g);
            assert!(found[1].is_none());
            let of = of.iter().flatten().zip(found.iter().flatten());
            of.map(|(of, found)| {
                assert!(found.exponent.is_finite() && found.exponent != 0.0);
                let away = of.attractor.iter().flat_map(|(point, weight)| {
                    found.end.iter().zip(point).map(move |(x, p)| weight * (x - p).powi(2))
                });
                of.weight * found.loss + away.sum::<f64>()
            })
            .sum::<f64>()
        };
        let mut gradient = Gradient::zeros([inputs[0].len(), inputs[1].len(), 0]);
        loss(&inputs, Some(&mut gradient));
        let analytic = [gradient.factors, gradient.shared];
        for part in 0..2 {
            for i in 0..inputs[part].len() {
                let (x, h) = (inputs[part][i], 1e-6);
                inputs[part][i] = x + h;
                let up = loss(&inputs, None);
                inputs[part][i] = x - h;
                let down = loss(&inputs, None);
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

    #[test]
    fn adjoint_matches_finite_differences() {
        adjoint_matches(&SHAPE, inputs());
    }

    /// Loadings by which variances are clipped and steps halved, and bounds that clip rates.
    #[test]
    fn where_rates_and_variances_are_clipped_it_does_as_well() {
        let shape = LossShape { log_rate_bounds: [-0.6, 1.1], ..SHAPE };
        let mut inputs = inputs::<f64>();
        inputs[2].iter_mut().for_each(|x| *x *= 3.0);
        adjoint_matches(&shape, inputs);
    }

    fn adjoint_matches(shape: &LossShape, mut inputs: [Vec<f64>; 3]) {
        let mut gradient = Gradient::zeros(std::array::from_fn(|i| inputs[i].len()));
        loss((Exact, shape), 0, inputs.each_ref().map(Vec::as_slice), Some(&mut gradient));
        let analytic = [gradient.factors, gradient.shared, gradient.readouts];
        let mut largest: f64 = 0.0;
        for part in 0..3 {
            for i in 0..inputs[part].len() {
                let (x, h) = (inputs[part][i], 1e-5);
                let mut at = |x: f64| {
                    inputs[part][i] = x;
                    loss((Exact, shape), 0, inputs.each_ref().map(Vec::as_slice), None)
                };
                let (up, down) = (at(x + h), at(x - h));
                at(x);
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

    /// Loss and gradient of the first windows, block by block.
    struct Blocks<const G: usize>;

    /// As many as all widths divide.
    const WINDOWS: usize = 96;

    impl<const G: usize> pulp::WithSimd for Blocks<G> {
        type Output = (f64, Gradient<f32>);

        fn with_simd<S: pulp::Simd>(self, simd: S) -> Self::Output {
            let wide = Wide::<S, G>(simd);
            let inputs = inputs::<f32>();
            let mut gradient = Gradient::zeros(std::array::from_fn(|i| inputs[i].len()));
            let of = inputs.each_ref().map(Vec::as_slice);
            let blocks = (0..WINDOWS).step_by(wide.width());
            let sum =
                blocks.map(|first| loss((wide, &SHAPE), first, of, Some(&mut gradient))).sum();
            (sum, gradient)
        }
    }

    #[test]
    fn windows_side_by_side_are_what_they_are_one_by_one() {
        let exact = {
            let inputs = inputs::<f64>();
            let mut gradient = Gradient::zeros(std::array::from_fn(|i| inputs[i].len()));
            let of = inputs.each_ref().map(Vec::as_slice);
            let blocks = (0..WINDOWS).step_by(LANES);
            let sum: f64 =
                blocks.map(|first| loss((Exact, &SHAPE), first, of, Some(&mut gradient))).sum();
            (sum, gradient)
        };
        let arch = pulp::Arch::new();
        for (sum, gradient) in [
            pulp::WithSimd::with_simd(Blocks::<1>, pulp::Scalar::new()),
            arch.dispatch(Blocks::<1>),
            arch.dispatch(Blocks::<2>),
        ] {
            assert!((sum - exact.0).abs() < 1e-4 * exact.0.abs(), "{sum} for {}", exact.0);
            for (part, exact) in [
                (gradient.factors, &exact.1.factors),
                (gradient.shared, &exact.1.shared),
                (gradient.readouts, &exact.1.readouts),
            ] {
                let largest = exact.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                for (found, exact) in part.iter().zip(exact) {
                    let error = (f64::from(*found) - exact).abs();
                    assert!(error < 1e-4 * largest, "{found} for {exact}");
                }
            }
        }
    }
}
