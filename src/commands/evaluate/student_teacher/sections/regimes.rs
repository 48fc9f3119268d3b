//! The animals of `simulate`: labels, exponents, frequencies, rates, an animal that was not
//! learned.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Charts, cell, examine, known_readout, of_group};
use crate::checkpoint::Checkpoint;
use crate::commands::evaluate::report::Report;
use crate::commands::evaluate::scoring::score;
use crate::commands::evaluate::student_teacher::families::{self, BIN_WIDTH_S, Scale, UNSEEN};
use crate::commands::evaluate::student_teacher::school::{School, Section};
use crate::commands::evaluate::{plots, report};
use crate::commands::progress::Progress;
use crate::commands::simulate::{SimulateArgs, simulated};
use crate::model::{Dimensions, Model};
use crate::regime::DecisionRule;
use crate::teacher::{AnimalSettings, REGIME_NAMES};
use crate::training::{Dataset, TrainingSettings, calibrate};

/// Labelled recording of an animal that was not learned, seconds.
const NEW_ANIMAL_S: f64 = 60.0;
/// Trials of it, seconds.
const TRIAL_S: f64 = 2.0;

/// `n` animals from the `first` on, with `tasks` tasks of `seconds` seconds.
fn animals(
    school: &School,
    (first, n): (u64, u64),
    (first_task, tasks): (u64, u64),
    seconds: f64,
) -> SimulateArgs {
    SimulateArgs {
        out: PathBuf::from("regime teachers"),
        animals: n,
        first_animal: first,
        tasks,
        first_task,
        trials: 1,
        seconds,
        switch_every: None,
        bin_ms: BIN_WIDTH_S * 1e3,
        channels: AnimalSettings::default().channels,
        rate_hz: AnimalSettings::default().rate_hz,
        seed: school.seed,
        day: None,
        no_truth: false,
    }
}

/// The student as the built-in model is made (models/README.md), but in fewer steps.
fn pretrained(school: &School, n_animals: u64, scale: &Scale) -> Result<Checkpoint> {
    let lesson = simulated(&animals(school, (0, n_animals), (0, 2 * scale.tasks), 4.0));
    let how = TrainingSettings {
        exponent_weight: 0.1,
        process_penalty: 0.03,
        contrast_weight: 0.0,
        mean_dwell_s: Some(3.0),
        dims: Dimensions { rank: 8, ..Dimensions::default() },
        ..TrainingSettings::default().forecasting(10)
    };
    Ok(school.student("regimes", &lesson, 1.0, how)?.checkpoint)
}

/// r2 of the rates of unseen tasks, by regime.
fn rates(model: &Model, school: &School, scale: &Scale, table: &mut String) -> Result<Vec<Value>> {
    let tasks = families::regimes_unseen(school.seed, scale);
    let (fits, _) = examine(model, &tasks, (0, 1), |t| t.label, |t| known_readout(model, t))?;
    let _ = writeln!(
        table,
        "\nr2 of the rates of a trial of 2 s, unseen tasks\n{:20} {:>9} {:>9} {:>9} {:>9}",
        "", "filtered", "smoothed", "30 ahead", "teacher"
    );
    let mut rates = Vec::new();
    for (label, name) in REGIME_NAMES.iter().enumerate() {
        let r2 = [
            of_group(&fits, label, |f| &f.filtered),
            of_group(&fits, label, |f| &f.smoothed),
            of_group(&fits, label, |f| &f.forecast),
            of_group(&fits, label, |f| &f.teacher),
        ];
        let [a, b, c, d] = r2.map(cell);
        let _ = writeln!(table, "{name:20} {a:>9} {b:>9} {c:>9} {d:>9}");
        rates.push(json!({
            "regime": name, "rate_r2_filtered": r2[0], "rate_r2_smoothed": r2[1],
            "forecast_r2": r2[2], "forecast_r2_teacher": r2[3],
        }));
    }
    Ok(rates)
}

/// Scores an animal that was not learned after a calibration with labels on frozen dynamics; and
/// the seconds that it was calibrated on.
fn new_animal(
    school: &School,
    checkpoint: &Checkpoint,
    (animal, unseen_tasks): (u64, u64),
    quick: bool,
) -> Result<(Report, f64)> {
    let per_regime = if quick { 2 } else { (NEW_ANIMAL_S / TRIAL_S / 5.0).round() as u64 };
    let no_truth = |args: SimulateArgs| simulated(&SimulateArgs { no_truth: true, ..args });
    let lesson = no_truth(animals(school, (animal, 1), (0, per_regime), TRIAL_S));
    let data = Arc::new(Dataset::for_calibration(&lesson)?);
    let settings = TrainingSettings {
        steps: if quick { 60 } else { 600 },
        batch: 16,
        learning_rate: 1e-2,
        log_rate_bounds: checkpoint.model.online.log_rate_bounds,
        ..TrainingSettings::default()
    };
    let mut progress = Progress::new("calibrate", settings.steps, 0);
    let found = calibrate(&checkpoint.model, &data, settings, |done, one_step| {
        progress.at(done, || format!("new animal: one step {one_step:.5}"));
        !school.interrupt.raised()
    })?;
    progress.finish();
    let mut with = checkpoint.clone();
    with.model.readouts.push(found.readout);
    let tests = no_truth(animals(school, (animal, 1), (UNSEEN, unseen_tasks), 2.0));
    let scored = score(&with, &[tests], DecisionRule::of(&with.model, None), None)?;
    Ok((scored.report, per_regime as f64 * 5.0 * TRIAL_S))
}

fn words(given: bool) -> String {
    format!(
        "The animals of `regimed simulate`: networks of 256 units whose low-rank and random parts \
         make the regime; {}. Unseen tasks of known animals are streamed through the engine that \
         serves; truth is measured on the full networks. Exponents: after 4 s of stream. The last \
         matrix: an animal that was not learned, calibrated with labels on frozen dynamics.",
        if given { "the student is the model given" } else { "the student is pretrained here" }
    )
}

/// The animals of `simulate`, by a student that is given or pretrained here.
pub(crate) fn regimes(
    school: &School,
    scale: &Scale,
    given: Option<Checkpoint>,
    quick: bool,
) -> Result<Vec<Section>> {
    let n_animals = scale.animals + 1;
    let words = words(given.is_some());
    let checkpoint = match given {
        Some(checkpoint) => checkpoint,
        None => pretrained(school, n_animals, scale)?,
    };
    let seconds = if quick { 2.0 } else { 5.0 };
    let unseen_tasks = 2 * scale.unseen;
    let tests = simulated(&animals(school, (0, n_animals), (UNSEEN, unseen_tasks), seconds));
    let scored = score(&checkpoint, &[tests], DecisionRule::of(&checkpoint.model, None), None)?;
    let mut table = report::table(&scored.report);
    let mut charts: Charts =
        report::drawn(&scored)?.into_iter().map(|(n, svg)| (format!("regimes-{n}"), svg)).collect();

    let scale = Scale { shots: 0, scored: 1, animals: n_animals, ..*scale };
    let rates = rates(&checkpoint.model, school, &scale, &mut table)?;
    let (new_animal, taught_s) = new_animal(school, &checkpoint, (n_animals, unseen_tasks), quick)?;
    let _ = writeln!(
        table,
        "\nan animal that was not learned, after {taught_s:.0} s with labels: {}",
        new_animal.overall
    );
    let confusion = plots::confusion(&new_animal.confusion, &new_animal.regime_names)?;
    charts.push(("regimes-new-animal.svg".to_owned(), confusion));
    Ok(vec![Section {
        title: "Regimes, exponents, frequencies",
        words,
        table,
        plots: charts,
        numbers: json!({
            "known_animals": scored.report, "rates": rates, "new_animal": new_animal,
        }),
    }])
}
