//! A recording cut into blocks, of which folds hold some out of training.

use std::collections::BTreeMap;

use super::runs::Runs;
use crate::recording::{Recording, Trial};

/// Blocks of a recording.
pub(super) const BLOCKS: usize = 6;
/// What is never held out: trials without a label among those that are held out by their tasks.
const NO_BLOCK: usize = BLOCKS;

/// Tasks of each session and regime, in their order.
fn tasks(recording: &Recording) -> BTreeMap<(&str, usize), Vec<i64>> {
    let mut tasks: BTreeMap<(&str, usize), Vec<i64>> = BTreeMap::new();
    for trial in &recording.trials {
        for (task, regime) in trial.task.iter().zip(&trial.regime) {
            let Some(regime) = regime else { continue };
            let list = tasks.entry((&trial.session, *regime)).or_default();
            if !list.contains(task) {
                list.push(*task);
            }
        }
    }
    tasks
}

/// How many tasks a block has at least, where blocks can be of whole tasks: every labelled regime
/// of every session has enough of them.
pub(super) fn tasks_per_block(recording: &Recording) -> Option<usize> {
    let tasks = tasks(recording);
    let by_task = !recording.continuous && tasks.values().all(|list| list.len() >= BLOCKS);
    by_task.then(|| tasks.values().map(|list| list.len() / BLOCKS).sum())
}

/// Block of every bin of each of the recording's streams: whole tasks where that can be, else
/// stretches of consecutive trials of a session, or of bins where it has a single one.
pub(super) fn blocks(recording: &Recording) -> Vec<Runs> {
    let of_trial: Vec<Vec<usize>> = if tasks_per_block(recording).is_some() {
        let tasks = tasks(recording);
        recording.trials.iter().map(|t| vec![block_of_tasks(t, &tasks); t.n_bins()]).collect()
    } else {
        in_order(recording)
    };
    let streams = recording.stream_trials().into_iter();
    streams.map(|trials| Runs::of(of_trial[trials].iter().flatten().copied())).collect()
}

fn block_of_tasks(trial: &Trial, tasks: &BTreeMap<(&str, usize), Vec<i64>>) -> usize {
    let place = |(task, regime): (&i64, &Option<usize>)| {
        let list = tasks.get(&(trial.session.as_str(), (*regime)?))?;
        Some(list.iter().position(|t| t == task)? % BLOCKS)
    };
    trial.task.iter().zip(&trial.regime).filter_map(place).max().unwrap_or(NO_BLOCK)
}

fn in_order(recording: &Recording) -> Vec<Vec<usize>> {
    let mut all = BTreeMap::<&str, usize>::new();
    recording.trials.iter().for_each(|t| *all.entry(&t.session).or_default() += 1);
    let mut seen = BTreeMap::<&str, usize>::new();
    let of_trial = |trial: &'_ Trial, at: usize, total: usize| {
        let bins = trial.n_bins();
        match total {
            1 => (0..bins).map(|bin| bin * BLOCKS / bins).collect(),
            _ => vec![at * BLOCKS / total; bins],
        }
    };
    let mut blocks = Vec::new();
    for trial in &recording.trials {
        let at = seen.entry(&trial.session).or_default();
        blocks.push(of_trial(trial, *at, all[trial.session.as_str()]));
        *at += 1;
    }
    blocks
}
