//! What of a recording is held out of training.

use std::collections::BTreeMap;

use crate::recording::{Recording, Trial};

/// Tasks of one session and regime from which whole tasks are held out; with fewer, trials are.
const TASKS_FOR_HELD_OUT_TASKS: usize = 6;
/// One task in this many of a session and regime is held out.
const HELD_OUT_EVERY: usize = 6;
/// Last part of the trials (or bins of a single trial) held out where tasks are few.
const HELD_OUT_TRIALS: f64 = 0.15;

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

/// Whether whole tasks can be held out: every labelled regime of a session has enough of them.
pub(super) fn splits_by_task(recording: &Recording) -> bool {
    !recording.continuous
        && tasks(recording).values().all(|list| list.len() >= TASKS_FOR_HELD_OUT_TASKS)
}

/// Training and held-out part: whole tasks where that can be, else the last trials.
pub(super) fn split(recording: &Recording) -> (Recording, Recording) {
    let tasks = tasks(recording);
    let by_task = splits_by_task(recording);
    if !by_task {
        let (mut train, mut held) = (recording.clone(), recording.clone());
        train.keep(0.0, 1.0 - HELD_OUT_TRIALS);
        held.keep(1.0 - HELD_OUT_TRIALS, 1.0);
        return (train, held);
    }
    let held_out = |trial: &Trial| {
        trial.task.iter().zip(&trial.regime).any(|(task, regime)| {
            regime
                .and_then(|r| tasks.get(&(trial.session.as_str(), r)))
                .and_then(|list| list.iter().position(|t| t == task))
                .is_some_and(|at| at % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
        })
    };
    let part = |keep_held: bool| Recording {
        trials: recording.trials.iter().filter(|t| held_out(t) == keep_held).cloned().collect(),
        path: recording.path.clone(),
        regime_names: recording.regime_names.clone(),
        channels: recording.channels.clone(),
        ..*recording
    };
    (part(false), part(true))
}
