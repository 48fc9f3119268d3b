//! What a pretraining learns from: the whole, and folds of it, each without what it is judged on.

use std::sync::Arc;

use super::data::{Dataset, DatasetError};
use super::runs::Runs;
use super::split::{BLOCKS, blocks, tasks_per_block};
use crate::recording::{Recording, Spool};

/// Folds where the whole is learned as well; each holds out as many consecutive blocks.
const FOLDS: usize = 3;
/// With as many tasks in a block, one block judges well enough: it is held out of the one training
/// that is done.
const TASKS_ENOUGH: usize = 30;

/// Data of the trainings that are done side by side.
#[derive(Debug)]
pub struct Folds {
    /// Each holds something out; together, every bin that judges.
    pub(crate) judges: Vec<Arc<Dataset>>,
    /// Everything: what serves is learned from it. `None` where one judge serves itself.
    pub(crate) whole: Option<Arc<Dataset>>,
}

impl Folds {
    /// One training that holds out a part itself.
    #[must_use]
    pub(crate) fn one(data: Arc<Dataset>) -> Self {
        Self { judges: vec![data], whole: None }
    }

    /// Data of all trainings; the last one's model serves.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Dataset>> {
        self.judges.iter().chain(&self.whole)
    }

    /// What the serving model is learned from.
    #[must_use]
    pub fn serving(&self) -> &Arc<Dataset> {
        self.whole.as_ref().unwrap_or(&self.judges[0])
    }
}

/// Takes recordings for pretraining one by one. With a [`Spool`], only their labels and truth stay
/// in memory.
#[derive(Debug)]
pub struct Gathering {
    data: Dataset,
    /// Block of each bin, by stream.
    blocks: Vec<Runs>,
    /// Tasks of a block over all recordings; `None` where those of one are not of whole tasks.
    tasks_per_block: Option<usize>,
    spool: Option<Spool>,
}

impl Gathering {
    /// Nothing yet; without a spool all counts stay in memory.
    #[must_use]
    pub fn new(spool: Option<Spool>) -> Self {
        let data = Dataset::empty();
        Self { data, blocks: Vec::new(), tasks_per_block: Some(0), spool }
    }

    /// One more recording.
    ///
    /// # Errors
    /// The reason why it does not fit the others.
    pub fn add(&mut self, recording: &Recording) -> Result<(), DatasetError> {
        self.data.add(recording, self.spool.as_mut())?;
        self.blocks.extend(blocks(recording));
        let tasks = tasks_per_block(recording);
        self.tasks_per_block = self.tasks_per_block.zip(tasks).map(|(a, b)| a + b);
        Ok(())
    }

    /// All of them. Every session must show every regime.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn finish(self) -> Result<Folds, DatasetError> {
        self.check()?;
        if self.tasks_per_block.is_some_and(|tasks| tasks >= TASKS_ENOUGH) {
            return Ok(Folds::one(Arc::new(self.without_last_block())));
        }
        let span = BLOCKS / FOLDS;
        let fold = |i: usize| self.part(|block| (i * span..(i + 1) * span).contains(&block));
        // A fold that never sees some regime can't be trained.
        let judges: Vec<Dataset> = (0..FOLDS)
            .map(fold)
            .filter(|f| f.every_regime_shown().is_ok() && !f.held_out.is_empty())
            .collect();
        if judges.is_empty() {
            return Ok(Folds::one(Arc::new(self.without_last_block())));
        }
        let judges = judges.into_iter().map(Arc::new).collect();
        Ok(Folds { judges, whole: Some(Arc::new(self.data)) })
    }

    fn check(&self) -> Result<(), DatasetError> {
        if self.data.regime_names.is_empty() {
            return Err(DatasetError::Empty);
        }
        self.data.every_regime_shown()
    }

    /// Where the rest shows every regime, else everything.
    fn without_last_block(&self) -> Dataset {
        let part = self.part(|block| block == BLOCKS - 1);
        if part.every_regime_shown().is_ok() { part } else { self.part(|_| false) }
    }

    fn part(&self, is_held: impl Fn(usize) -> bool) -> Dataset {
        let mut part = self.data.part(&self.blocks, is_held);
        part.held_out_tasks = self.tasks_per_block.is_some();
        part.limit_held_out();
        part
    }
}

impl Dataset {
    /// For one training that holds out a part itself, from recordings in memory.
    ///
    /// # Errors
    /// Names the recording that does not fit the others, and why.
    pub fn for_pretraining(recordings: &[Recording]) -> Result<Self, DatasetError> {
        let mut gathering = Gathering::new(None);
        for recording in recordings {
            gathering.add(recording)?;
        }
        gathering.check()?;
        Ok(gathering.without_last_block())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::recording::{DynamicsTruth, Trial};

    /// Every count tells its bin.
    fn recording(trials: usize, bins: usize, tasks: usize, continuous: bool) -> Recording {
        let trial = |i: usize| Trial {
            session: "s".into(),
            counts: Array2::from_shape_fn((bins, 1), |(t, _)| (i * bins + t) as u16),
            task: vec![(i / 2 % tasks) as i64; bins],
            regime: vec![Some(i % 2); bins],
            truth: DynamicsTruth::default(),
        };
        Recording {
            path: "test".into(),
            n_channels: 1,
            channels: None,
            bin_width_s: 0.1,
            regime_names: vec!["a".into(), "b".into()],
            trials: (0..trials).map(trial).collect(),
            continuous,
        }
    }

    fn gathered(recording: &Recording) -> Folds {
        let mut gathering = Gathering::new(None);
        gathering.add(recording).expect("a recording");
        gathering.finish().expect("data")
    }

    fn learned(data: &Dataset) -> Vec<u16> {
        let all =
            data.streams.iter().flat_map(|s| s.counts.read(0, s.label_of.len()).expect("read"));
        all.map(|c| c as u16).collect()
    }

    fn held(data: &Dataset) -> Vec<u16> {
        let all =
            data.held_out.iter().flat_map(|s| s.counts.read(0, s.regime.len()).expect("read"));
        all.map(|c| c as u16).collect()
    }

    #[test]
    fn every_bin_judges_once_and_is_never_learned_by_its_judge() {
        for continuous in [true, false] {
            let folds = gathered(&recording(24, 10, 1, continuous));
            let every: Vec<u16> = (0..240).collect();
            assert_eq!(folds.judges.len(), FOLDS);
            assert_eq!(learned(folds.serving()), every);
            assert!(folds.serving().held_out.is_empty());
            let mut judged: Vec<u16> = folds.judges.iter().flat_map(|j| held(j)).collect();
            judged.sort_unstable();
            assert_eq!(judged, every);
            for judge in &folds.judges {
                let mut both = [learned(judge), held(judge)].concat();
                both.sort_unstable();
                assert_eq!(both, every);
                // Stretches in time, not single bins.
                assert!(judge.held_out.len() <= 8, "{}", judge.held_out.len());
            }
        }
    }

    #[test]
    fn labels_go_with_their_bins() {
        let folds = gathered(&recording(24, 10, 1, true));
        let label = |count: u16| usize::from(count / 10 % 2);
        for judge in &folds.judges {
            let regimes = judge.held_out.iter().flat_map(|s| s.regime.iter().copied());
            let of = |r: Option<usize>| r.expect("labelled");
            assert!(held(judge).into_iter().map(label).eq(regimes.map(of)));
            let of_stream = |s: &crate::training::data::Stream| {
                let labels = s.label_of.read(0, s.label_of.len());
                labels.into_iter().map(|l| judge.labels[l].regime).collect::<Vec<_>>()
            };
            let regimes = judge.streams.iter().flat_map(of_stream).map(of);
            assert!(learned(judge).into_iter().map(label).eq(regimes));
        }
    }

    #[test]
    fn with_many_tasks_whole_ones_are_held_out_of_one_training() {
        let folds = gathered(&recording(400, 2, 100, false));
        assert!(folds.whole.is_none() && folds.judges.len() == 1);
        let data = folds.serving();
        assert!(data.held_out_tasks);
        // Two regimes of a hundred tasks, one in six of each.
        let (kept, gone) = (learned(data).len(), held(data).len());
        assert_eq!((kept, gone), (800 - 2 * 2 * 2 * 16, 2 * 2 * 2 * 16));
        let few = gathered(&recording(60, 2, 15, false));
        assert!(few.whole.is_some(), "few tasks: folds of them");
        assert!(few.judges.iter().all(|j| j.held_out_tasks));
    }

    #[test]
    fn a_fold_without_some_regime_does_not_judge() {
        let mut of = recording(12, 10, 1, true);
        // The second regime comes in the first trials alone.
        for (i, trial) in of.trials.iter_mut().enumerate() {
            trial.regime.fill(Some(usize::from(i < 3)));
        }
        let folds = gathered(&of);
        assert_eq!(folds.judges.len(), FOLDS - 1);
        assert!(folds.judges.iter().all(|j| j.every_regime_shown().is_ok()));
    }
}
