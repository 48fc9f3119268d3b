//! The filter's loss as one candle operation: the filter and its adjoint run over a batch of windows
//! on all cores, and candle's backward pass goes on from the gradients found.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::data::Dataset;
use super::filter::{Gradient, LossShape, Pass, Scores, SessionReadout, Shared, Window};

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

/// Mean loss over a batch of windows as a function of
/// `factors [labels, rank * units + rank]`, `shared` and `readouts` (flat).
pub(crate) struct BatchLoss<'a> {
    pub(crate) shape: LossShape,
    pub(crate) places: ReadoutPlaces,
    pub(crate) data: &'a Dataset,
    /// `(stream, first bin, bins)`.
    pub(crate) windows: Vec<(usize, usize, usize)>,
    pub(crate) threads: usize,
}

/// Mean scores of a batch and the gradient of its loss.
pub(crate) struct BatchResult {
    pub(crate) scores: Scores,
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
    ) -> BatchResult {
        let shared_values = Shared::unpack(&self.shape, shared);
        let sessions: Vec<SessionReadout<f32>> = (0..self.places.channels.len())
            .map(|s| {
                let range = self.places.range(s);
                SessionReadout::unpack(self.shape.rank, self.places.channels[s], &readouts[range])
            })
            .collect();
        let group = |g: usize| {
            self.group(g, factors, &shared_values, &sessions, [factors.len(), shared.len()])
        };
        let mut results: Vec<Option<(Scores, Gradient<f32>)>> = (0..GROUPS).map(|_| None).collect();
        let per_thread = GROUPS.div_ceil(self.threads.clamp(1, GROUPS));
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
        let mut results = results.into_iter().flatten();
        let zero = || (Scores::default(), self.zeros([factors.len(), shared.len()]));
        let (mut scores, mut total) = results.next().unwrap_or_else(zero);
        for (s, g) in results {
            scores.one_step += s.one_step;
            scores.forecast += s.forecast;
            add(&mut total.factors, &g.factors);
            add(&mut total.shared, &g.shared);
            add(&mut total.readout, &g.readout);
        }
        let n = self.windows.len() as f64;
        scores.one_step /= n;
        scores.forecast /= n;
        for part in [&mut total.factors, &mut total.shared, &mut total.readout] {
            part.iter_mut().for_each(|x| *x /= n as f32);
        }
        let loss = -(scores.one_step + self.shape.forecast_weight * scores.forecast);
        BatchResult { scores, loss, gradient: total }
    }

    fn zeros(&self, sizes: [usize; 2]) -> Gradient<f32> {
        Gradient {
            factors: vec![0.0; sizes[0]],
            shared: vec![0.0; sizes[1]],
            readout: vec![0.0; self.places.len()],
        }
    }

    fn group(
        &self,
        group: usize,
        factors: &[f32],
        shared: &Shared<f32>,
        sessions: &[SessionReadout<f32>],
        sizes: [usize; 2],
    ) -> (Scores, Gradient<f32>) {
        let arch = pulp::Arch::new();
        let mut total = self.zeros(sizes);
        let mut scores = Scores::default();
        for &(stream, from, bins) in self.windows.iter().skip(group).step_by(GROUPS) {
            let stream = &self.data.streams[stream];
            let channels = sessions[stream.session].channels;
            let range = self.places.range(stream.session);
            let window = Window {
                counts: &stream.counts[from * channels..(from + bins) * channels],
                factor_of: &stream.label_of[from..from + bins],
            };
            let readout = &sessions[stream.session];
            let pass = Pass { shape: &self.shape, shared, readout, factors };
            let mut gradient = Gradient {
                factors: std::mem::take(&mut total.factors),
                shared: std::mem::take(&mut total.shared),
                readout: vec![0.0; range.len()],
            };
            let found = arch.dispatch(|| pass.run(&window, Some(&mut gradient)));
            add(&mut total.readout[range], &gradient.readout);
            total.factors = gradient.factors;
            total.shared = gradient.shared;
            scores.one_step += found.one_step;
            scores.forecast += found.forecast;
        }
        (scores, total)
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
}

/// A [`BatchLoss`] already evaluated at its three arguments' values, placed into candle's graph:
/// forward tells the loss, backward hands out the gradient.
pub(crate) struct BatchLossOp {
    loss: f32,
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
            Some(scaled(gradient.readout, readouts)?),
        ))
    }
}
