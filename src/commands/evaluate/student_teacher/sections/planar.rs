//! Hopf and Duffing systems: forecasts after few trials, rates, eigenvalues.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::eigenvalues::recovered;
use super::{cell, examine, known_readout, of_group, settings, share};
use crate::commands::evaluate::student_teacher::charts::{self, Axes};
use crate::commands::evaluate::student_teacher::families::{
    self, AHEAD_BINS, BIN_WIDTH_S, Family, Scale, TestTask,
};
use crate::commands::evaluate::student_teacher::fits::{Determination, Fit, Known};
use crate::commands::evaluate::student_teacher::school::{School, Section};
use crate::commands::progress::Progress;
use crate::model::{Model, Readout};
use crate::recording::{Recording, Trial};
use crate::teacher::PLANAR_NAMES;
use crate::training::{Dataset, TrainingSettings, calibrate};

/// Numbers of trials of an unseen task that are given before it is scored; larger ones than the
/// scale has are left out.
const SHOTS: [usize; 4] = [0, 1, 8, 16];
/// Steps of a new animal's calibration.
const CALIBRATION_STEPS: usize = 300;
/// Families of the table's columns.
const NAMES: [&str; 2] = ["Hopf", "Duffing"];

fn group(task: &TestTask) -> usize {
    task.label / 2
}

/// r2 of both families.
fn r2(fits: &[Fit], which: fn(&Fit) -> &Determination) -> [Option<f64>; 2] {
    [0, 1].map(|g| of_group(fits, g, which))
}

fn row(table: &mut String, name: &str, r2: [Option<f64>; 2]) {
    let _ = writeln!(table, "{name:34} {:>8} {:>8}", cell(r2[0]), cell(r2[1]));
}

/// Forecasts by the number of trials given: table, curves and figures.
#[derive(Default)]
struct FewShots {
    table: String,
    numbers: Vec<Value>,
    curves: Vec<(String, Vec<(f64, f64)>)>,
}

impl FewShots {
    fn push(&mut self, animals: &str, shots: usize, fits: &[Fit]) {
        let r2 = r2(fits, |f| &f.forecast);
        let trials = if shots == 1 { "trial" } else { "trials" };
        row(&mut self.table, &format!("{animals}, {shots} {trials}"), r2);
        for (family, r2) in NAMES.iter().zip(r2) {
            let name = format!("{family}, {animals}");
            let at = self.curves.iter().position(|c| c.0 == name).unwrap_or_else(|| {
                self.curves.push((name, Vec::new()));
                self.curves.len() - 1
            });
            self.curves[at].1.extend(r2.map(|r2| (shots as f64, r2)));
        }
        self.numbers
            .push(json!({"animal": animals, "trials": shots, "hopf": r2[0], "duffing": r2[1]}));
    }
}

/// Forecasts of unseen tasks of known and of new animals; the fits and the knowledge after the
/// most trials of known ones.
fn few_shots(
    model: &Model,
    family: &Family,
    scale: &Scale,
) -> Result<(FewShots, Vec<Fit>, Vec<Known>)> {
    let mut found = FewShots::default();
    let (mut fits, mut known) = (Vec::new(), Vec::new());
    let steps = SHOTS.iter().filter(|s| **s <= scale.shots).count();
    let mut progress = Progress::new("few shots", 2 * steps - 1, 0);
    let mut done = 0;
    for shots in SHOTS.into_iter().filter(|s| *s <= scale.shots) {
        let readout = |task: &TestTask| known_readout(model, task);
        (fits, known) = examine(model, &family.unseen, (shots, scale.scored), group, readout)?;
        found.push("known animals", shots, &fits);
        done += 1;
        progress.at(done, || format!("{shots} trials"));
    }
    for shots in SHOTS.into_iter().filter(|s| (1..=scale.shots).contains(s)) {
        let readout = |task: &TestTask| calibrated(model, family, task, shots);
        let (fits, _) = examine(model, &family.new_animal, (shots, scale.scored), group, readout)?;
        found.push("new animal, unlabelled", shots, &fits);
        done += 1;
        progress.at(done, || format!("new animal, {shots} trials"));
    }
    progress.finish();
    Ok((found, fits, known))
}

/// A new animal's readout from the first trials of a task, without labels.
fn calibrated(model: &Model, family: &Family, task: &TestTask, shots: usize) -> Result<Readout> {
    let trials = task.trials[..shots]
        .iter()
        .map(|t| Trial::unlabelled(&task.session, t.counts.mapv(|c| c as u16)));
    let recording = Recording {
        path: PathBuf::from("new animal"),
        regime_names: Vec::new(),
        trials: trials.collect(),
        ..family.recording.clone()
    };
    let data = Arc::new(Dataset::for_calibration(&recording)?);
    let settings = TrainingSettings {
        steps: CALIBRATION_STEPS,
        batch: 16,
        learning_rate: 1e-2,
        log_rate_bounds: model.online.log_rate_bounds,
        threads: 1,
        ..TrainingSettings::default()
    };
    Ok(calibrate(model, &data, settings, |_, _| true)?.readout)
}

fn words(scale: &Scale) -> String {
    format!(
        "{} animals of 96 Poisson channels at 14 Hz at {} ms bins; of each kind ({}) {} systems \
         are learned, {} are not. A task is given by so many trials of 2 s through the filter \
         bank, each trial's posterior over the embedding the next one's prior; forecasts start \
         every 10 bins of other trials from filtered states and are means over the posterior. r2 \
         is against each channel's mean over the animal's scored trials of the family. A new \
         animal's readout is calibrated on the same trials alone, without labels, on frozen \
         dynamics. The teacher without noise, from its true state, is what no forecast can beat \
         by much. Eigenvalues are those of the bin-to-bin map, ln z / bin; trials hardly visit a \
         cycle's centre, so its growth is a guess. For scale: meta-dynamical state-space models \
         (arXiv 2410.05454) reach 0.69, 0.78 and 0.87 after 1, 8 and 16 trials on families of \
         these two kinds, with observations and noise of their own.",
        scale.animals,
        BIN_WIDTH_S * 1e3,
        PLANAR_NAMES.join(", "),
        scale.tasks,
        scale.unseen
    )
}

/// Hopf and Duffing systems.
pub(crate) fn planar(school: &School, scale: &Scale) -> Result<Vec<Section>> {
    let family = families::planar(school.seed, scale);
    let student = school.student("planar", &family.recording, 1.0, settings(4, 64))?;
    let model = &student.checkpoint.model;
    let (forecasts, fits, known) = few_shots(model, &family, scale)?;
    let mut table = format!(
        "r2 of the rates {AHEAD_BINS} bins ahead, unseen tasks\n{:34} {:>8} {:>8}\n{}",
        "", NAMES[0], NAMES[1], forecasts.table
    );
    let ceiling = r2(&fits, |f| &f.teacher);
    row(&mut table, "the teacher itself, without noise", ceiling);
    table.push_str("\nr2 of the rates of a trial, known animals\n");
    let (filtered, smoothed) = (r2(&fits, |f| &f.filtered), r2(&fits, |f| &f.smoothed));
    row(&mut table, "counts so far (filter)", filtered);
    row(&mut table, "all counts (smoother)", smoothed);
    let right = share(&fits);
    let _ = writeln!(
        table,
        "\nlabels right after the trials given: {right:.2} of {} tasks",
        known.len()
    );
    let (text, eigenvalues, charts) = recovered(model, &family.unseen, &known)?;
    table.push_str(&text);
    let axes = Axes {
        caption: "forecasts of unseen tasks",
        x: "trials of the task given",
        y: "r2, 30 bins ahead",
    };
    let mut plots = vec![("few-shot.svg".to_owned(), charts::curves(&axes, &forecasts.curves)?)];
    plots.extend(charts);
    Ok(vec![Section {
        title: "Hopf and Duffing families",
        words: words(scale),
        table,
        plots,
        numbers: json!({
            "forecast_r2": forecasts.numbers, "forecast_r2_teacher": ceiling,
            "rate_r2_filtered": filtered, "rate_r2_smoothed": smoothed, "labels_right": right,
            "eigenvalues": eigenvalues,
        }),
    }])
}
