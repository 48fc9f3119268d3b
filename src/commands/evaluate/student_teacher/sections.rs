//! The report's sections: which students learn from which teachers, and what is asked of them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use super::charts::Axes;
use super::families::{AHEAD_BINS, BIN_WIDTH_S, Family, Scale, TestTask};
use super::fits::{Fit, Known};
use super::school::{School, Section};
use super::{charts, families, fits};
use crate::checkpoint::Checkpoint;
use crate::commands::evaluate::dynamics::correlation;
use crate::commands::evaluate::report;
use crate::commands::evaluate::scoring::score;
use crate::commands::progress::Progress;
use crate::commands::simulate::{SimulateArgs, simulated};
use crate::dynamics::fixed_points;
use crate::inference::smooth;
use crate::model::{Dimensions, Model, Readout};
use crate::recording::{Recording, Trial};
use crate::teacher::{AnimalSettings, PLANAR_NAMES, PlanarKind, REGIME_NAMES};
use crate::training::{Dataset, TrainingSettings, calibrate};

/// Trials of an unseen task that are given before it is scored, as far as there are so many.
const SHOTS: [usize; 4] = [0, 1, 8, 16];
/// Ranks of the ablation, with 64 units; and a full matrix of as many units as the largest rank.
const RANKS: [usize; 5] = [2, 4, 6, 10, 16];
const FULL: usize = 16;
/// Steps of a new animal's calibration.
const CALIBRATION_STEPS: usize = 300;
/// Labelled recording of an animal that was not learned, seconds.
const NEW_ANIMAL_S: f64 = 60.0;

fn settings(rank: usize, units: usize) -> TrainingSettings {
    TrainingSettings {
        dims: Dimensions { rank, units, ..Dimensions::default() },
        batch: 64,
        horizon_bins: AHEAD_BINS,
        forecast_every_bins: 15,
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

/// Determination over the fits of one group, two digits.
fn of_group(fits: &[Fit], group: usize, which: fn(&Fit) -> &fits::Determination) -> Option<f64> {
    fits::pooled(fits.iter().filter(|f| f.group == group).map(which))
}

fn said(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{x:.2}"))
}

fn share(fits: &[Fit], group: Option<usize>) -> f64 {
    let of = fits.iter().filter(|f| group.is_none_or(|g| f.group == g));
    let (right, all) = of.fold((0, 0), |(r, n), f| (r + f.labelled_right, n + f.tasks));
    right as f64 / f64::from(all.max(1) as u32)
}

/// Hopf and Duffing systems.
pub(super) fn planar(school: &School, scale: &Scale) -> Result<Vec<Section>> {
    let family = families::planar(school.seed, scale);
    let student = school.student("planar", &family.recording, 1.0, settings(4, 64))?;
    let model = &student.checkpoint.model;
    let names = ["Hopf", "Duffing"];
    let group = |t: &TestTask| t.label / 2;
    let mut table = format!(
        "r2 of the rates {AHEAD_BINS} bins ahead, unseen tasks\n{:34} {:>8} {:>8}\n",
        "", names[0], names[1]
    );
    let mut numbers = Vec::new();
    let mut curves: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    let mut push = |who: &str, shots: usize, fits: &[Fit], table: &mut String| {
        let r2: Vec<Option<f64>> = (0..2).map(|g| of_group(fits, g, |f| &f.forecast)).collect();
        let _ = writeln!(
            table,
            "{:34} {:>8} {:>8}",
            format!("{who}, {shots} trial{}", if shots == 1 { "" } else { "s" }),
            said(r2[0]),
            said(r2[1])
        );
        for (g, r2) in r2.iter().enumerate() {
            let name = format!("{}, {who}", names[g]);
            let at = curves.iter().position(|c| c.0 == name).unwrap_or_else(|| {
                curves.push((name, Vec::new()));
                curves.len() - 1
            });
            curves[at].1.extend(r2.map(|r2| (shots as f64, r2)));
        }
        numbers.push(json!({"animal": who, "trials": shots, "hopf": r2[0], "duffing": r2[1]}));
    };
    let mut newest = None;
    let steps = SHOTS.iter().filter(|s| **s <= scale.shots).count();
    let mut progress = Progress::new("few shots", 2 * steps - 1, 0);
    let mut done = 0;
    for shots in SHOTS.into_iter().filter(|s| *s <= scale.shots) {
        let (fits, known) = examine(model, &family.unseen, (shots, scale.scored), group, |t| {
            known_readout(model, t)
        })?;
        push("known animals", shots, &fits, &mut table);
        newest = Some((fits, known));
        done += 1;
        progress.at(done, || format!("{shots} trials"));
    }
    for shots in SHOTS.into_iter().filter(|s| (1..=scale.shots).contains(s)) {
        let (fits, _) = examine(model, &family.new_animal, (shots, scale.scored), group, |task| {
            calibrated(model, &family, task, shots)
        })?;
        push("new animal, unlabelled", shots, &fits, &mut table);
        done += 1;
        progress.at(done, || format!("new animal, {shots} trials"));
    }
    progress.finish();
    let Some((fits, known)) = newest else { return Ok(Vec::new()) };
    let ceiling: Vec<Option<f64>> = (0..2).map(|g| of_group(&fits, g, |f| &f.teacher)).collect();
    let _ = writeln!(
        table,
        "{:34} {:>8} {:>8}\n\nr2 of the rates of a trial, known animals",
        "the teacher itself, without noise",
        said(ceiling[0]),
        said(ceiling[1])
    );
    let mut rates = Vec::new();
    for (name, which) in [
        ("counts so far (filter)", (|f: &Fit| &f.filtered) as fn(&Fit) -> &fits::Determination),
        ("all counts (smoother)", |f| &f.smoothed),
    ] {
        let r2: Vec<Option<f64>> = (0..2).map(|g| of_group(&fits, g, which)).collect();
        let _ = writeln!(table, "{name:34} {:>8} {:>8}", said(r2[0]), said(r2[1]));
        rates.push(r2);
    }
    let right = share(&fits, None);
    let _ = writeln!(
        table,
        "\nlabels right after the trials given: {right:.2} of {} tasks",
        known.len()
    );
    let (text, eigenvalues, charts) = recovered(model, &family.unseen, &known)?;
    table.push_str(&text);
    let mut plots = vec![(
        "few-shot.svg".to_owned(),
        charts::curves(
            &Axes {
                caption: "forecasts of unseen tasks",
                x: "trials of the task given",
                y: "r2, 30 bins ahead",
            },
            &curves,
        )?,
    )];
    plots.extend(charts);
    Ok(vec![Section {
        title: "Hopf and Duffing families",
        words: format!(
            "{} animals of 96 Poisson channels at 14 Hz at {} ms bins; of each kind ({}) {} systems are learned, {} are not. A task is given by so many trials of 2 s through the filter bank, each trial's posterior over the embedding the next one's prior; forecasts start every 10 bins of other trials from filtered states and are means over the posterior. r2 is against each channel's mean over the animal's scored trials of the family. A new animal's readout is calibrated on the same trials alone, without labels, on frozen dynamics. The teacher without noise, from its true state, is what no forecast can beat by much. Eigenvalues are those of the bin-to-bin map, ln z / bin; trials hardly visit a cycle's centre, so its growth is a guess. For scale: meta-dynamical state-space models (arXiv 2410.05454) reach 0.69, 0.78 and 0.87 after 1, 8 and 16 trials on families of these two kinds, with observations and noise of their own.",
            scale.animals,
            BIN_WIDTH_S * 1e3,
            PLANAR_NAMES.join(", "),
            scale.tasks,
            scale.unseen
        ),
        table,
        plots,
        numbers: json!({
            "forecast_r2": numbers, "forecast_r2_teacher": ceiling, "rate_r2_filtered": rates[0],
            "rate_r2_smoothed": rates[1], "labels_right": right, "eigenvalues": eigenvalues,
        }),
    }])
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

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

type Charts = Vec<(String, String)>;

/// Eigenvalues at the students' fixed points against the teachers', and maps of the embeddings.
fn recovered(
    model: &Model,
    tasks: &[TestTask],
    known: &[Known],
) -> Result<(String, serde_json::Value, Charts)> {
    let mut found = Vec::new();
    let mut points_right = 0;
    let mut maps: [Vec<(f64, Vec<f32>)>; 2] = [Vec::new(), Vec::new()];
    let mut ends = Vec::new();
    for (task, known) in tasks.iter().zip(known) {
        let Some(system) = task.planar else { continue };
        let truth = system.eigenvalue_per_s();
        maps[task.label / 2].push((
            if task.label < 2 { truth.im / std::f64::consts::TAU } else { system.shape },
            known.embedding.clone(),
        ));
        ends.push((Some(task.label), known.embedding.clone()));
        let Some(trial) = task.trials.last() else { continue };
        let Some(path) = smooth(model, &known.readout, &known.embedding, &trial.counts) else {
            continue;
        };
        let starts: Vec<Vec<f32>> =
            path.rows().into_iter().step_by(10).map(|kappa| kappa.to_vec()).collect();
        let mean: Vec<f64> = path
            .columns()
            .into_iter()
            .map(|along| f64::from(along.iter().sum::<f32>() / path.nrows() as f32))
            .collect();
        let points = fixed_points(model, &known.embedding, &starts);
        points_right +=
            usize::from(points.iter().filter(|p| p.is_stable()).count() == system.stable_points());
        let cycle = system.kind == PlanarKind::HopfCycle;
        let apart = |p: &crate::dynamics::FixedPoint| -> f64 {
            p.kappa.iter().zip(&mean).map(|(a, b)| (a - b).powi(2)).sum()
        };
        // Where the system rests; for a cycle, what it turns about.
        let point = points
            .iter()
            .filter(|p| p.is_fixed() && p.is_stable() != cycle)
            .min_by(|a, b| apart(a).total_cmp(&apart(b)));
        if let Some(p) = point {
            let hz = truth.im / std::f64::consts::TAU;
            found.push((task.label, [truth.re, hz], [p.growth_per_s, p.frequency_hz]));
        }
    }
    let mut table = format!(
        "\neigenvalues at the fixed point, student against teacher\n({} of {} tasks have one of the kind sought; {:.2} have the right number of stable points)\n{:20} {:>6} {:>16} {:>14} {:>16} {:>14}\n",
        found.len(),
        tasks.len(),
        points_right as f64 / tasks.len().max(1) as f64,
        "",
        "tasks",
        "|growth| err /s",
        "correlation",
        "frequency err Hz",
        "correlation"
    );
    let mut rows = Vec::new();
    for (label, name) in PLANAR_NAMES.iter().enumerate() {
        let of: Vec<_> = found.iter().filter(|f| f.0 == label).collect();
        let pairs = |i: usize| of.iter().map(|f| (f.1[i], f.2[i])).collect::<Vec<_>>();
        let error = |i: usize| median(pairs(i).iter().map(|p| (p.0 - p.1).abs()).collect());
        let row = [error(0), correlation(&pairs(0)), error(1), correlation(&pairs(1))];
        let _ = writeln!(
            table,
            "{name:20} {:>6} {:>16} {:>14} {:>16} {:>14}",
            of.len(),
            said(row[0]),
            said(row[1]),
            said(row[2]),
            said(row[3])
        );
        rows.push(json!({
            "kind": name, "tasks": of.len(), "growth_error_per_s": row[0], "growth_correlation": row[1],
            "frequency_error_hz": row[2], "frequency_correlation": row[3],
        }));
    }
    let names: Vec<String> = PLANAR_NAMES.iter().map(|n| (*n).to_owned()).collect();
    let axes = Axes {
        caption: "eigenvalues: rings the teachers', dots the students'",
        x: "growth (1/s)",
        y: "frequency (Hz)",
    };
    let charts = vec![
        ("eigenvalues.svg".to_owned(), charts::pairs(&axes, &found, &names)?),
        ("planar-embeddings.svg".to_owned(), super::super::maps::embeddings(&ends, &names)?),
        (
            "hopf-frequency.svg".to_owned(),
            charts::by_parameter("embeddings of Hopf systems, by true frequency", &maps[0])?,
        ),
        (
            "duffing-shape.svg".to_owned(),
            charts::by_parameter("embeddings of Duffing systems, by true s", &maps[1])?,
        ),
    ];
    let right = points_right as f64 / tasks.len().max(1) as f64;
    Ok((table, json!({"kinds": rows, "stable_points_right": right}), charts))
}

/// Random networks of low rank, and the ablation of the student's rank.
pub(super) fn low_rank(school: &School, scale: &Scale) -> Result<Vec<Section>> {
    let family = families::low_rank(school.seed, scale);
    let mut table = format!(
        "{:24} {:>9} {:>9} {:>12} {:>12}\n",
        "student", "filtered", "smoothed", "30 ahead", "ms per step"
    );
    let mut students: Vec<(String, f64, usize, usize)> =
        RANKS.into_iter().map(|r| (format!("rank {r}, 64 units"), 0.25, r, 64)).collect();
    students.push((format!("full rank, {FULL} units"), 0.25, FULL, FULL));
    students.insert(0, ("rank 6, 64 units, longer".to_owned(), 0.75, 6, 64));
    let shots = 1.min(scale.shots);
    let (mut rows, mut curves, mut costs) = (Vec::new(), vec![Vec::new(); 3], Vec::new());
    for (name, share, rank, units) in students {
        let folder =
            format!("low-rank-{rank}-of-{units}{}", if share > 0.5 { "-longer" } else { "" });
        let how = TrainingSettings { contrast_weight: 0.0, ..settings(rank, units) };
        let student = school.student(&folder, &family.recording, share, how)?;
        let model = &student.checkpoint.model;
        let (fits, _) = examine(
            model,
            &family.unseen,
            (shots, scale.scored),
            |_| 0,
            |t| known_readout(model, t),
        )?;
        let r2 = [
            of_group(&fits, 0, |f| &f.filtered),
            of_group(&fits, 0, |f| &f.smoothed),
            of_group(&fits, 0, |f| &f.forecast),
        ];
        let cost = student.step_s.map_or("-".into(), |s| format!("{:.0}", s * 1e3));
        let _ = writeln!(
            table,
            "{name:24} {:>9} {:>9} {:>12} {cost:>12}",
            said(r2[0]),
            said(r2[1]),
            said(r2[2])
        );
        if units != FULL && share < 0.5 {
            for (curve, r2) in curves.iter_mut().zip(r2) {
                curve.extend(r2.map(|r2| (rank as f64, r2)));
            }
            costs.extend(student.step_s.map(|s| (rank as f64, s * 1e3)));
        }
        rows.push(json!({
            "student": name, "rank": rank, "units": units, "rate_r2_filtered": r2[0],
            "rate_r2_smoothed": r2[1], "forecast_r2": r2[2], "step_s": student.step_s,
        }));
        if rows.len() == 1 {
            let _ = writeln!(
                table,
                "{:24} {:>9} {:>9} {:>12}\n",
                "the teacher itself",
                "",
                "",
                said(of_group(&fits, 0, |f| &f.teacher))
            );
        }
    }
    let named = ["filtered", "smoothed", "30 bins ahead"].map(str::to_owned);
    let curves: Vec<_> = named.into_iter().zip(curves).collect();
    let axes = Axes {
        caption: "unseen low-rank networks (true rank 5)",
        x: "student's rank",
        y: "r2 of the rates",
    };
    let mut plots = vec![("rank.svg".to_owned(), charts::curves(&axes, &curves)?)];
    if costs.len() > 1 {
        let axes = Axes { caption: "cost of pretraining", x: "student's rank", y: "ms per step" };
        plots.push((
            "rank-cost.svg".to_owned(),
            charts::curves(&axes, &[("64 units".into(), costs)])?,
        ));
    }
    Ok(vec![Section {
        title: "Low-rank networks, and the student's rank",
        words: format!(
            "Teachers at the paper's scale (JEDI, arXiv 2603.10489): 200 units, rank 5, gain 1.8, {} animals of 96 Poisson channels at a mean of 14 Hz in bins of 10 ms; {} networks are learned by each, {} are not and are given by one trial. r2 of the true rates of other trials, given the counts so far, given all counts of the trial, and 30 bins ahead. The paper reports more than 0.94 for reconstructed rates on its synthetic tasks; its observations and noise are not published. Full rank: as many latents as units, so that J(e) is any matrix.",
            scale.animals,
            4 * scale.tasks,
            4 * scale.unseen
        ),
        table,
        plots,
        numbers: json!(rows),
    }])
}

/// The animals of `simulate`: labels, exponents, frequencies, rates, an animal that was not learned.
pub(super) fn regimes(
    school: &School,
    scale: &Scale,
    given: Option<Checkpoint>,
    quick: bool,
) -> Result<Vec<Section>> {
    let simulate = |animals: u64, first_animal: u64, tasks: u64, seconds: f64| SimulateArgs {
        out: PathBuf::from("regime teachers"),
        animals,
        first_animal,
        tasks,
        first_task: 0,
        trials: 1,
        seconds,
        switch_every: None,
        bin_ms: BIN_WIDTH_S * 1e3,
        channels: AnimalSettings::default().channels,
        rate_hz: AnimalSettings::default().rate_hz,
        seed: school.seed,
        day: None,
        no_truth: false,
    };
    let unseen = |args: SimulateArgs| SimulateArgs { first_task: 5_000, ..args };
    let animals = scale.animals + 1;
    let taken = given.is_some();
    let checkpoint = match given {
        Some(checkpoint) => checkpoint,
        None => {
            let lesson = simulated(&simulate(animals, 0, 2 * scale.tasks, 4.0));
            // As the built-in model is made (models/README.md), but in fewer steps.
            let how = TrainingSettings {
                exponent_weight: 0.1,
                process_penalty: 0.03,
                contrast_weight: 0.0,
                mean_dwell_s: Some(3.0),
                dims: Dimensions { rank: 8, ..Dimensions::default() },
                ..TrainingSettings::default()
            };
            school.student("regimes", &lesson, 1.0, how)?.checkpoint
        }
    };
    let seconds = if quick { 2.0 } else { 5.0 };
    let tests = simulated(&unseen(simulate(animals, 0, 2 * scale.unseen, seconds)));
    let scored = score(&checkpoint, &[tests], None, None)?;
    let mut table = report::table(&scored.report);
    let mut plots: Charts =
        report::drawn(&scored)?.into_iter().map(|(n, svg)| (format!("regimes-{n}"), svg)).collect();

    let model = &checkpoint.model;
    let tasks =
        families::regimes_unseen(school.seed, &Scale { shots: 0, scored: 1, animals, ..*scale });
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
        let [a, b, c, d] = r2.map(said);
        let _ = writeln!(table, "{name:20} {a:>9} {b:>9} {c:>9} {d:>9}");
        rates.push(json!({
            "regime": name, "rate_r2_filtered": r2[0], "rate_r2_smoothed": r2[1],
            "forecast_r2": r2[2], "forecast_r2_teacher": r2[3],
        }));
    }

    // An animal that was not learned: 60 s of it, with labels, on frozen dynamics.
    let trial_s = 2.0;
    let per_regime = if quick { 2 } else { (NEW_ANIMAL_S / trial_s / 5.0).round() as u64 };
    let lesson = SimulateArgs { no_truth: true, ..simulate(1, animals, per_regime, trial_s) };
    let data = Arc::new(Dataset::for_calibration(&simulated(&lesson))?);
    let settings = TrainingSettings {
        steps: if quick { 60 } else { 600 },
        batch: 16,
        learning_rate: 1e-2,
        log_rate_bounds: model.online.log_rate_bounds,
        ..TrainingSettings::default()
    };
    let mut progress = Progress::new("calibrate", settings.steps, 0);
    let found = calibrate(model, &data, settings, |done, one_step| {
        progress.at(done, || format!("new animal: one step {one_step:.5}"));
        !school.interrupt.raised()
    })?;
    progress.finish();
    let mut with = checkpoint.clone();
    with.model.readouts.push(found.readout);
    let tests =
        SimulateArgs { no_truth: true, ..unseen(simulate(1, animals, 2 * scale.unseen, 2.0)) };
    let new_animal = score(&with, &[simulated(&tests)], None, None)?;
    let verdict = &new_animal.report.overall;
    let _ = writeln!(
        table,
        "\nan animal that was not learned, after {:.0} s with labels: {}",
        per_regime as f64 * 5.0 * trial_s,
        verdict
    );
    plots.push((
        "regimes-new-animal.svg".to_owned(),
        super::super::plots::confusion(
            &new_animal.report.confusion,
            &new_animal.report.regime_names,
        )?,
    ));
    Ok(vec![Section {
        title: "Regimes, exponents, frequencies",
        words: format!(
            "The animals of `regimed simulate`: networks of 256 units whose low-rank and random parts make the regime; {}. Unseen tasks of known animals are streamed through the engine that serves; truth is measured on the full networks. Exponents: after 4 s of stream. The last matrix: an animal that was not learned, calibrated with labels on frozen dynamics.",
            if taken { "the student is the model given" } else { "the student is pretrained here" }
        ),
        table,
        plots,
        numbers: json!({
            "known_animals": scored.report, "rates": rates, "new_animal": new_animal.report,
        }),
    }])
}
