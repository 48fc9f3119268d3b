//! A batch of windows to be scored, and what comes of it.

use super::data::Dataset;
use super::filter::LossShape;
use super::windows::{Drawn, Run};

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
    pub(super) fn add(&mut self, other: Self) {
        self.one_step += other.one_step;
        self.forecast += other.forecast;
        self.contrast += other.contrast;
        self.exponent += other.exponent;
        self.run_ends.extend(other.run_ends);
    }
}

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

    pub(super) fn of(&self, run: &Run) -> Option<Vec<f32>> {
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
