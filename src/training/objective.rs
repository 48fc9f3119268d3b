//! The filter's loss as one candle operation: the filter and its adjoint run over a batch of
//! windows, side by side and on all cores, and candle's backward pass continues from their
//! gradients.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::batch::{BatchLoss, BatchScores};
use super::block::{Block, Parameters, blocks};
use super::filter::{Gradient, SessionReadout, Shared, Workspace};
use super::windows::Drawn;
use crate::recording::CountsBuffer;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Blocks of windows are dealt to this many groups; sums run within a group, then over groups in
/// order, so a step does not depend on the number of cores.
const GROUPS: usize = 8;

/// What a thread works in.
struct Memory {
    buffer: CountsBuffer,
    workspace: Option<Workspace<f32>>,
}

/// Sums over a group's windows.
type GroupResult = (BatchScores, Gradient<f32>);

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
        let blocks = blocks(&self.windows);
        let group = |g: usize, memory: &mut Memory| {
            let own: Vec<&[&Drawn]> =
                blocks.iter().map(Vec::as_slice).skip(g).step_by(GROUPS).collect();
            self.group(&own, (factors, &shared_values, &sessions), sizes, memory)
        };
        let results = self.on_threads(&group);
        let (mut scores, mut total) = (BatchScores::default(), Gradient::zeros(sizes));
        for (i, result) in results.into_iter().enumerate() {
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

    /// Groups' results in their order; a thread that is done with one takes the next.
    fn on_threads(
        &self,
        group: &(dyn Fn(usize, &mut Memory) -> std::io::Result<GroupResult> + Sync),
    ) -> Vec<std::io::Result<GroupResult>> {
        let results: Vec<Mutex<Option<std::io::Result<GroupResult>>>> =
            (0..GROUPS).map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut memory = Memory { buffer: CountsBuffer::default(), workspace: None };
            loop {
                let g = next.fetch_add(1, Ordering::Relaxed);
                let Some(slot) = results.get(g) else { return };
                let result = group(g, &mut memory);
                if let Ok(mut slot) = slot.lock() {
                    *slot = Some(result);
                }
            }
        };
        // Starting threads takes microseconds, a step takes tens of milliseconds: no pool is kept.
        std::thread::scope(|scope| {
            for _ in 1..self.threads.clamp(1, GROUPS) {
                scope.spawn(work);
            }
            work();
        });
        results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten()).collect()
    }

    fn group(
        &self,
        blocks: &[&[&Drawn]],
        (factors, shared, sessions): (&[f32], &Shared<f32>, &[SessionReadout<f32>]),
        sizes: [usize; 3],
        memory: &mut Memory,
    ) -> std::io::Result<GroupResult> {
        let arch = pulp::Arch::new();
        let mut total = Gradient::zeros(sizes);
        let mut scores = BatchScores::default();
        for windows in blocks {
            let session = windows[0].session;
            let (readout, range) = (&sessions[session], self.places.range(session));
            let block = Block {
                batch: self,
                windows,
                parameters: Parameters { shape: &self.shape, shared, readout, factors },
                buffer: &mut memory.buffer,
                workspace: &mut memory.workspace,
                gradient: (&mut total, range),
            };
            scores.add(arch.dispatch(block)?);
        }
        Ok((scores, total))
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
    use crate::training::batch::{Contrast, ReadoutPlaces, RunEnds};
    use crate::training::data::Dataset;
    use crate::training::filter::LossShape;
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

    const SHAPE: LossShape = LossShape {
        rank: 2,
        units: 8,
        burn_in: 4,
        horizon: 3,
        forecast_every: 5,
        forecast_weight: 0.5,
        entry_variance: 0.4,
        log_rate_bounds: [-8.0, 4.0],
    };

    fn windows(data: &Dataset, splices: bool, bins: usize, rng: &mut ChaCha8Rng) -> Vec<Drawn> {
        let draw = Draw {
            batch: 9,
            window_bins: bins,
            burn_in_bins: 4,
            contrast_bins: 5,
            run_bins: 0,
            splices,
        };
        data.draw(&draw, rng)
    }

    fn evaluate(
        data: &Dataset,
        windows: Vec<Drawn>,
        contrast: Contrast,
        [factors, shared, readouts]: &[Vec<f32>; 3],
    ) -> BatchResult {
        let batch = BatchLoss {
            shape: SHAPE,
            places: ReadoutPlaces { rank: 2, channels: vec![CHANNELS] },
            data,
            windows,
            contrast,
            exponent_weight: 0.0,
            run_ends: &RunEnds::new(data.labels.len(), 2),
            threads: 2,
        };
        batch.evaluate(factors, shared, readouts).expect("counts")
    }

    fn numbers(data: &Dataset, rng: &mut ChaCha8Rng) -> [Vec<f32>; 3] {
        [data.labels.len() * 18, Shared::<f32>::len(&SHAPE), CHANNELS * 3]
            .map(|n| (0..n).map(|_| rng.random_range(-0.5..0.5)).collect())
    }

    fn gradient_matches(splices: bool, window_bins: usize) {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let data = data(&mut rng);
        let windows = windows(&data, splices, window_bins, &mut rng);
        assert_eq!(windows.iter().any(|w| w.splice.is_some()), splices);
        let is_whole = |w: &Drawn| w.rival.is_some_and(|r| r.to - r.from == 5);
        assert!(windows.iter().all(|w| w.splice.is_some() || is_whole(w)));
        let (at, along) = (numbers(&data, &mut rng), numbers(&data, &mut rng));
        let moved = |by: f32| -> BatchResult {
            let at: [Vec<f32>; 3] = std::array::from_fn(|part| {
                at[part].iter().zip(&along[part]).map(|(x, d)| x + by * d).collect()
            });
            let contrast = Contrast { weight: 0.7, temperature: 2.0 };
            evaluate(&data, windows.clone(), contrast, &at)
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

    #[test]
    fn rivals_that_are_improbable_pull_on_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let data = data(&mut rng);
        let at = numbers(&data, &mut rng);
        // By how much the truth's score is above the rival's, of each window.
        let of = |w: &Drawn, temperature: f64| {
            let contrast = Contrast { weight: 0.7, temperature };
            let found = evaluate(&data, vec![w.clone()], contrast, &at);
            -found.scores.contrast.exp_m1().ln()
        };
        let all = windows(&data, false, 20, &mut rng);
        let sure: Vec<Drawn> = all.into_iter().filter(|w| of(w, 1.0) > 0.1).collect();
        assert!(sure.len() > 1, "{} windows", sure.len());
        let least = sure.iter().map(|w| of(w, 1.0)).fold(f64::MAX, f64::min);
        let gradient = |weight| {
            let contrast = Contrast { weight, temperature: least / 8.0 };
            let found = evaluate(&data, sure.clone(), contrast, &at);
            assert!(found.scores.contrast > 0.0 && found.scores.contrast < 1e-3);
            found.gradient.readouts
        };
        assert_eq!(gradient(0.7), gradient(0.0));
    }
}
