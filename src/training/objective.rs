//! The filter's loss as one candle operation: the filter and its adjoint run over a batch of
//! windows on all cores, and candle's backward pass continues from their gradients.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::data::Dataset;
use super::filter::{
    Entry, Exponent, Gradient, LossShape, Pass, RivalStretch, SessionReadout, Shared, Stretch,
    Weighted, WindowGradient, Workspace, burn_in_of,
};
use super::windows::{Drawn, Rival, Run, RunStart};
use crate::recording::CountsBuffer;

/// Windows are dealt to this many groups; sums run within a group, then over groups in order, so a
/// step does not depend on the number of cores.
const GROUPS: usize = 8;

/// Where each session's readout lies in the flat vector of all of them.
#[derive(Debug, Clone)]
pub(crate) struct ReadoutPlaces {
    pub(crate) rank: usize,
    pub(crate) channels: Vec<usize>,
}

impl ReadoutPlaces {
    pub(crate) fn range(&self, session: usize) -> std::ops::Range<usize> {
        let size = |n: &usize| n * (self.rank + 1);
        let start: usize = self.channels[..session].iter().map(size).sum();
        start..start + size(&self.channels[session])
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.iter().map(|n| n * (self.rank + 1)).sum()
    }
}

/// Contrast between labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Contrast {
    /// Weight of a stretch's cross-entropy, relative to the scores, which are per bin and channel.
    pub(crate) weight: f64,
    /// Log-likelihood ratios are divided by this: the model's bins are not as independent as it
    /// thinks.
    pub(crate) temperature: f64,
}

/// Weight of a run's squared distance from the only stable point, relative to the exponents'.
const ATTRACTOR_WEIGHT: f32 = 0.05;
/// Rivals less probable than this get no gradient: it would be a thousandth of what a confusion
/// gives, for a backward pass that costs as much.
const RIVAL_MIN: f64 = 1e-3;

/// Mean loss over a batch of windows as a function of
/// `factors [labels, rank * units + rank]`, `shared` and `readouts` (flat).
pub(crate) struct BatchLoss<'a> {
    pub(crate) shape: LossShape,
    pub(crate) places: ReadoutPlaces,
    pub(crate) data: &'a Dataset,
    pub(crate) windows: Vec<Drawn>,
    pub(crate) contrast: Contrast,
    /// Weight of the exponents' error.
    pub(crate) exponent_weight: f64,
    pub(crate) run_ends: &'a RunEnds,
    pub(crate) threads: usize,
}

/// Means over a batch's windows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BatchScores {
    /// One-step predictive log-likelihood, nats per bin and channel.
    pub(crate) one_step: f64,
    /// The same for forecasts.
    pub(crate) forecast: f64,
    /// Cross-entropy of the true label against its rival, nats; 0 without rivals.
    pub(crate) contrast: f64,
    /// Huber loss of the network's exponents, per bin; 0 where none is known.
    pub(crate) exponent: f64,
    /// Where the runs ended.
    pub(crate) run_ends: Vec<(Run, Vec<f32>)>,
}

impl BatchScores {
    fn add(&mut self, other: Self) {
        self.one_step += other.one_step;
        self.forecast += other.forecast;
        self.contrast += other.contrast;
        self.exponent += other.exponent;
        self.run_ends.extend(other.run_ends);
    }
}

/// Sums over a group's windows.
type GroupResult = (BatchScores, Gradient<f32>);

/// The end of the newest run of each label, without noise and with. The next one may continue from
/// it, so that it measures the network's attractor and not only the way there.
#[derive(Debug, Clone)]
pub(crate) struct RunEnds {
    rank: usize,
    /// `[labels, 2, rank]`; NaN where there was none.
    pub(crate) states: Vec<f32>,
}

impl RunEnds {
    pub(crate) fn new(labels: usize, rank: usize) -> Self {
        Self { rank, states: vec![f32::NAN; labels * 2 * rank] }
    }

    fn place(&self, run: &Run) -> std::ops::Range<usize> {
        let at = 2 * run.label + usize::from(run.noise_seed.is_some());
        at * self.rank..(at + 1) * self.rank
    }

    fn of(&self, run: &Run) -> Option<Vec<f32>> {
        let state = &self.states[self.place(run)];
        state.iter().all(|x| x.is_finite()).then(|| state.to_vec())
    }

    pub(crate) fn take(&mut self, ends: &[(Run, Vec<f32>)]) {
        for (run, end) in ends {
            let place = self.place(run);
            self.states[place].copy_from_slice(end);
        }
    }
}

/// Mean scores of a batch and the gradient of its loss.
pub(crate) struct BatchResult {
    pub(crate) scores: BatchScores,
    pub(crate) loss: f64,
    pub(crate) gradient: Gradient<f32>,
}

impl BatchLoss<'_> {
    /// Scores and gradient at given parameters.
    pub(crate) fn evaluate(
        &self,
        factors: &[f32],
        shared: &[f32],
        readouts: &[f32],
    ) -> std::io::Result<BatchResult> {
        let shared_values = Shared::unpack(&self.shape, shared);
        let sessions: Vec<SessionReadout<f32>> = (0..self.places.channels.len())
            .map(|s| {
                let range = self.places.range(s);
                SessionReadout::unpack(self.shape.rank, self.places.channels[s], &readouts[range])
            })
            .collect();
        let sizes = [factors.len(), shared.len(), readouts.len()];
        let group = |g: usize| self.group(g, factors, &shared_values, &sessions, sizes);
        let mut results: Vec<Option<std::io::Result<GroupResult>>> =
            (0..GROUPS).map(|_| None).collect();
        let per_thread = GROUPS.div_ceil(self.threads.clamp(1, GROUPS));
        // Starting threads takes microseconds, a step takes tens of milliseconds: no pool is kept.
        std::thread::scope(|scope| {
            for (t, chunk) in results.chunks_mut(per_thread).enumerate() {
                let group = &group;
                scope.spawn(move || {
                    for (i, slot) in chunk.iter_mut().enumerate() {
                        *slot = Some(group(t * per_thread + i));
                    }
                });
            }
        });
        let (mut scores, mut total) = (BatchScores::default(), Gradient::zeros(sizes));
        for (i, result) in results.into_iter().flatten().enumerate() {
            let (s, g) = result?;
            scores.add(s);
            if i == 0 {
                total = g;
                continue;
            }
            add(&mut total.factors, &g.factors);
            add(&mut total.shared, &g.shared);
            add(&mut total.readouts, &g.readouts);
        }
        let n = self.windows.len() as f64;
        scores.one_step /= n;
        scores.forecast /= n;
        scores.contrast /= n;
        scores.exponent /= n;
        for part in [&mut total.factors, &mut total.shared, &mut total.readouts] {
            part.iter_mut().for_each(|x| *x /= n as f32);
        }
        let loss = self.contrast.weight * scores.contrast + self.exponent_weight * scores.exponent
            - (scores.one_step + self.shape.forecast_weight * scores.forecast);
        Ok(BatchResult { scores, loss, gradient: total })
    }

    fn group(
        &self,
        group: usize,
        factors: &[f32],
        shared: &Shared<f32>,
        sessions: &[SessionReadout<f32>],
        sizes: [usize; 3],
    ) -> std::io::Result<GroupResult> {
        let arch = pulp::Arch::new();
        let mut total = Gradient::zeros(sizes);
        let mut scores = BatchScores::default();
        let mut buffer = CountsBuffer::default();
        let mut workspaces: Vec<Option<Workspace<f32>>> = sessions.iter().map(|_| None).collect();
        for drawn in self.windows.iter().skip(group).step_by(GROUPS) {
            let readout = &sessions[drawn.session];
            let pass = Pass { shape: &self.shape, shared, readout, factors };
            scores.add(arch.dispatch(OneWindow {
                batch: self,
                drawn,
                counts: self.data.read(drawn, &mut buffer)?,
                workspace: workspaces[drawn.session].get_or_insert_with(|| Workspace::new(&pass)),
                pass: &pass,
                gradient: &mut total.of_session(self.places.range(drawn.session)),
            }));
        }
        Ok((scores, total))
    }

    /// One window: its scores; and with a rival the cross-entropy `log(1 + exp(-D))`, `D` the
    /// tempered difference of the stretch's scores under the true labels and under the rival.
    #[inline(always)]
    fn window(
        &self,
        drawn: &Drawn,
        counts: &[f32],
        pass: &Pass<'_, f32>,
        workspace: &mut Workspace<f32>,
        gradient: &mut WindowGradient<'_, f32>,
    ) -> BatchScores {
        let (channels, bins) = (pass.readout.channels, drawn.labels.len());
        let burn_in = burn_in_of(self.shape.burn_in, bins);
        let entry = drawn.splice.map(|s| Entry { from: s.at, to: s.at + s.fade.max(1) });
        let window = Stretch { counts, factor_of: &drawn.labels, entry };
        let mut weight = self.weights(drawn, channels);
        let one_step = pass.filter(&window, burn_in, workspace);
        let mean_score: f64 = one_step.iter().zip(&weight).map(|(s, w)| s * f64::from(*w)).sum();
        let mut contrast = 0.0;
        let (mut rival_of, mut rival_weight) = (Vec::new(), Vec::new());
        if let Some(Rival { from, to, label, enters }) = drawn.rival {
            let truth: f64 = one_step[from..to].iter().sum();
            rival_of.resize(to - from, label);
            let stretch = rival_stretch(counts, channels, from, &rival_of, enters);
            let rival: f64 = pass.filter_rival(from, &stretch, workspace).iter().sum();
            let ratio = (truth - rival) / self.contrast.temperature;
            let rival_probability = 1.0 / (1.0 + ratio.exp());
            // log(1 + exp(-ratio)) in a form that neither overflows nor loses small values.
            contrast = (-ratio).max(0.0) + (-ratio.abs()).exp().ln_1p();
            if rival_probability > RIVAL_MIN {
                let pull = self.contrast.weight * rival_probability / self.contrast.temperature;
                weight[from..to].iter_mut().for_each(|w| *w += pull as f32);
                rival_weight.resize(to - from, -pull as f32);
            }
        }
        let rival = drawn.rival.filter(|_| !rival_weight.is_empty()).map(|r| RivalStretch {
            from: r.from,
            of: Weighted {
                stretch: rival_stretch(counts, channels, r.from, &rival_of, r.enters),
                weight: &rival_weight,
            },
        });
        let exponent = drawn.exponent.map(|run| self.exponent(&run));
        let window = Weighted { stretch: window, weight: &weight };
        let found = pass.descend(window, rival, exponent.as_ref(), workspace, gradient);
        BatchScores {
            one_step: mean_score,
            forecast: f64::from(found.forecast),
            contrast,
            exponent: found.exponent.as_ref().map_or(0.0, |e| f64::from(e.loss)),
            run_ends: found
                .exponent
                .zip(drawn.exponent)
                .map(|(e, run)| (run, e.end))
                .into_iter()
                .collect(),
        }
    }

    /// Weight of each bin's one-step score.
    fn weights(&self, drawn: &Drawn, channels: usize) -> Vec<f32> {
        let bins = drawn.labels.len();
        let burn_in = burn_in_of(self.shape.burn_in, bins);
        let mut weight = vec![1.0 / ((bins - burn_in).max(1) * channels) as f32; bins];
        // The first bins only find the state: scored, they would teach the prior of the start.
        weight[..burn_in].fill(0.0);
        // Nor is what lies between two trials either one's dynamics: there only the labels count.
        if let Some(splice) = drawn.splice {
            weight[splice.at..splice.at + splice.fade].fill(0.0);
        }
        weight
    }

    /// A drawn run as the filter makes it.
    fn exponent(&self, run: &Run) -> Exponent<f32> {
        let rank = self.shape.rank;
        Exponent {
            from: run.from,
            start: match run.start {
                RunStart::Filtered => None,
                RunStart::GoesOn => self.run_ends.of(run),
                RunStart::Elsewhere(label) => self.run_ends.of(&Run { label, ..*run }),
                // Without starts on the other side, a network with one stable point grew a second
                // one that faced the first, where no data had been (docs/decisions/0006).
                RunStart::Opposite => {
                    let end = self.run_ends.of(run);
                    end.map(|end| end.into_iter().map(|x| -x).collect())
                }
            },
            attractor: match run.start {
                RunStart::Elsewhere(_) | RunStart::Opposite if self.data.one_point[run.label] => {
                    let point = self.run_ends.of(&Run { noise_seed: None, ..*run });
                    point.map(|p| (p, ATTRACTOR_WEIGHT * self.exponent_weight as f32))
                }
                _ => None,
            },
            noise: run.noise_seed.map_or_else(Vec::new, |seed| {
                let rng = ChaCha8Rng::seed_from_u64(seed);
                rng.sample_iter(StandardNormal).take(run.bins * rank).collect()
            }),
            bins: run.bins,
            target: run.per_bin,
            weight: self.exponent_weight as f32,
            damped: true,
        }
    }
}

/// The part of a window from bin `from` on, under other factors.
fn rival_stretch<'a>(
    counts: &'a [f32],
    channels: usize,
    from: usize,
    factor_of: &'a [usize],
    enters: bool,
) -> Stretch<'a, f32> {
    let bins = from..from + factor_of.len();
    let counts = &counts[bins.start * channels..bins.end * channels];
    Stretch { counts, factor_of, entry: enters.then_some(Entry { from: 0, to: 1 }) }
}

/// [`BatchLoss::window`], compiled for each set of vector instructions.
struct OneWindow<'a> {
    batch: &'a BatchLoss<'a>,
    drawn: &'a Drawn,
    counts: &'a [f32],
    pass: &'a Pass<'a, f32>,
    workspace: &'a mut Workspace<f32>,
    gradient: &'a mut WindowGradient<'a, f32>,
}

impl pulp::WithSimd for OneWindow<'_> {
    type Output = BatchScores;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> BatchScores {
        self.batch.window(self.drawn, self.counts, self.pass, self.workspace, self.gradient)
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
}

/// A [`BatchLoss`] already evaluated at its three arguments' values, placed into candle's graph:
/// forward returns the loss, backward the gradient.
pub(crate) struct BatchLossOp {
    loss: f32,
    /// Taken by the one backward pass; candle passes the operation by shared reference.
    gradient: Mutex<Option<Gradient<f32>>>,
}

impl BatchLossOp {
    pub(crate) fn new(result: BatchResult) -> Self {
        Self { loss: result.loss as f32, gradient: Mutex::new(Some(result.gradient)) }
    }
}

impl CustomOp3 for BatchLossOp {
    fn name(&self) -> &'static str {
        "filter-loss"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        factors: &Tensor,
        shared: &Tensor,
        readouts: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = self
            .gradient
            .lock()
            .map_err(|_| candle_core::Error::msg("filter-loss: a thread panicked"))?
            .take()
            .ok_or_else(|| candle_core::Error::msg("filter-loss: backward ran twice"))?;
        let scaled = |values: Vec<f32>, like: &Tensor| {
            Tensor::from_vec(values, like.shape(), like.device())?.broadcast_mul(upstream)
        };
        Ok((
            Some(scaled(gradient.factors, factors)?),
            Some(scaled(gradient.shared, shared)?),
            Some(scaled(gradient.readouts, readouts)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ndarray::Array2;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::recording::{DynamicsTruth, Recording, Trial};
    use crate::training::windows::Draw;

    const CHANNELS: usize = 5;
    const BINS: usize = 30;

    /// Two regimes, one embedding each; the second fires more.
    fn data(rng: &mut ChaCha8Rng) -> Dataset {
        let mut trial = |regime: usize| Trial {
            session: "s".into(),
            counts: Array2::from_shape_simple_fn((BINS, CHANNELS), || {
                rng.random_range(0..2 + regime as u16)
            }),
            task: vec![0; BINS],
            regime: vec![Some(regime); BINS],
            truth: DynamicsTruth::default(),
        };
        let recording = Recording {
            path: PathBuf::from("test"),
            n_channels: CHANNELS,
            channels: None,
            bin_width_s: 0.01,
            regime_names: vec!["quiet".into(), "loud".into()],
            trials: (0..12).map(|i| trial(i % 2)).collect(),
            continuous: false,
        };
        Dataset::for_pretraining(&[recording]).expect("a dataset")
    }

    #[test]
    fn gradient_with_rivals_matches_finite_differences() {
        for (splices, window_bins) in [(false, 20), (true, 20), (false, 6)] {
            gradient_matches(splices, window_bins);
        }
    }

    fn gradient_matches(splices: bool, window_bins: usize) {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let data = data(&mut rng);
        let shape = LossShape {
            rank: 2,
            units: 8,
            burn_in: 4,
            horizon: 3,
            forecast_every: 5,
            forecast_weight: 0.5,
            entry_variance: 0.4,
            log_rate_bounds: [-8.0, 4.0],
        };
        let draw =
            Draw { batch: 9, window_bins, burn_in_bins: 4, contrast_bins: 5, run_bins: 0, splices };
        let windows = data.draw(&draw, &mut rng);
        assert_eq!(windows.iter().any(|w| w.splice.is_some()), splices);
        let is_whole = |w: &Drawn| w.rival.is_some_and(|r| r.to - r.from == 5);
        assert!(windows.iter().all(|w| w.splice.is_some() || is_whole(w)));
        let batch = BatchLoss {
            shape,
            places: ReadoutPlaces { rank: 2, channels: vec![CHANNELS] },
            data: &data,
            windows,
            contrast: Contrast { weight: 0.7, temperature: 2.0 },
            exponent_weight: 0.0,
            run_ends: &RunEnds::new(data.labels.len(), 2),
            threads: 2,
        };
        let sizes = [data.labels.len() * 18, Shared::<f32>::len(&shape), CHANNELS * 3];
        let mut numbers =
            |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-0.5..0.5)).collect() };
        let at = sizes.map(&mut numbers);
        let along = sizes.map(&mut numbers);
        let moved = |by: f32| -> BatchResult {
            let [factors, shared, readouts] = std::array::from_fn(|part| {
                at[part].iter().zip(&along[part]).map(|(x, d)| x + by * d).collect::<Vec<f32>>()
            });
            batch.evaluate(&factors, &shared, &readouts).expect("counts")
        };
        let found = moved(0.0);
        assert!(found.scores.contrast > 0.05, "the contrast matters: {:?}", found.scores);
        // Short windows are scored and foretold as well.
        assert!(found.scores.one_step != 0.0 && found.scores.forecast != 0.0);
        let parts = [&found.gradient.factors, &found.gradient.shared, &found.gradient.readouts];
        let slope: f64 = parts
            .into_iter()
            .zip(&along)
            .flat_map(|(g, d)| g.iter().zip(d))
            .map(|(g, d)| f64::from(*g) * f64::from(*d))
            .sum();
        let step = 1e-2;
        let expected = (moved(step).loss - moved(-step).loss) / (2.0 * f64::from(step));
        assert!((slope - expected).abs() < 2e-3 * expected.abs(), "{slope} for {expected}");
    }
}
