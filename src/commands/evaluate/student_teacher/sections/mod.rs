//! The report's sections, one per family of teachers.

mod eigenvalues;
mod low_rank;
mod planar;
mod regimes;

use anyhow::Result;

use super::families::{AHEAD_BINS, TestTask};
use super::fits;
use super::fits::{Fit, Known};
use crate::commands::evaluate::dynamics::cell;
use crate::model::{Dimensions, Model, Readout};
use crate::training::{KeptBy, TrainingSettings};

pub(super) use low_rank::low_rank;
pub(super) use planar::planar;
pub(super) use regimes::regimes;

/// Named plots, as SVG.
type Charts = Vec<(String, String)>;

fn settings(rank: usize, units: usize) -> TrainingSettings {
    TrainingSettings {
        dims: Dimensions { rank, units, ..Dimensions::default() },
        batch: 64,
        horizon_bins: AHEAD_BINS,
        forecast_every_bins: 15,
        // They are judged by their forecasts.
        kept_by: KeptBy::Counts,
        ..TrainingSettings::default()
    }
}

/// Fits and knowledge of many tasks, on all cores.
fn examine(
    model: &Model,
    tasks: &[TestTask],
    (shots, scored): (usize, usize),
    group: impl Fn(&TestTask) -> usize + Sync,
    readout: impl Fn(&TestTask) -> Result<Readout> + Sync,
) -> Result<(Vec<Fit>, Vec<Known>)> {
    let one = |task: &TestTask| -> Result<(Fit, Known)> {
        let known = fits::learn(model, &readout(task)?, &task.trials[..shots])?;
        let mut fit = Fit { session: task.session.clone(), group: group(task), ..Fit::default() };
        let from = task.trials.len() - scored;
        fits::score(&mut fit, model, &known, (task, &task.trials[from..]))?;
        Ok((fit, known))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let chunk = tasks.len().div_ceil(threads).max(1);
    let found: Vec<Result<(Fit, Known)>> = std::thread::scope(|scope| {
        let workers: Vec<_> = tasks
            .chunks(chunk)
            .map(|part| scope.spawn(|| part.iter().map(one).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    let (mut all, mut knowledge): (Vec<Fit>, Vec<Known>) = (Vec::new(), Vec::new());
    for found in found {
        let (fit, known) = found?;
        match all.iter_mut().find(|f| (&f.session, f.group) == (&fit.session, fit.group)) {
            Some(same) => same.take(&fit),
            None => all.push(fit),
        }
        knowledge.push(known);
    }
    Ok((all, knowledge))
}

fn known_readout(model: &Model, task: &TestTask) -> Result<Readout> {
    let found = model.readout(&task.session).cloned();
    found.ok_or_else(|| anyhow::anyhow!("the student does not know session '{}'", task.session))
}

/// Coefficient of determination over the fits of one group; `None` without any.
fn of_group(fits: &[Fit], group: usize, which: fn(&Fit) -> &fits::Determination) -> Option<f64> {
    fits::pooled(fits.iter().filter(|f| f.group == group).map(which))
}

/// Share of the tasks whose label is right.
fn share(fits: &[Fit]) -> f64 {
    let (right, all) = fits.iter().fold((0, 0), |(r, n), f| (r + f.labelled_right, n + f.tasks));
    right as f64 / f64::from(all.max(1) as u32)
}
