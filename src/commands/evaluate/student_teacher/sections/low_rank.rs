//! Random networks of low rank, and the ablation of the student's rank.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Charts, cell, examine, known_readout, of_group, settings};
use crate::commands::evaluate::student_teacher::charts::{self, Axes};
use crate::commands::evaluate::student_teacher::families::{self, Scale};
use crate::commands::evaluate::student_teacher::school::{School, Section};
use crate::training::TrainingSettings;

/// Ranks of the ablation, with 64 units; and a full matrix of as many units as the largest rank.
const RANKS: [usize; 5] = [2, 4, 6, 10, 16];
const FULL: usize = 16;

/// A student of the ablation.
struct Student {
    name: String,
    folder: String,
    /// Share of the proof's steps.
    share: f64,
    rank: usize,
    units: usize,
    /// Whether it is a point of the curves over the rank.
    on_curve: bool,
}

/// The one that is compared with the paper, then those of the ablation.
fn students() -> Vec<Student> {
    let mut all = vec![Student {
        name: "rank 6, 64 units, longer".to_owned(),
        folder: "low-rank-6-of-64-longer".to_owned(),
        share: 0.75,
        rank: 6,
        units: 64,
        on_curve: false,
    }];
    all.extend(RANKS.into_iter().map(|rank| Student {
        name: format!("rank {rank}, 64 units"),
        folder: format!("low-rank-{rank}-of-64"),
        share: 0.25,
        rank,
        units: 64,
        on_curve: true,
    }));
    all.push(Student {
        name: format!("full rank, {FULL} units"),
        folder: format!("low-rank-{FULL}-of-{FULL}"),
        share: 0.25,
        rank: FULL,
        units: FULL,
        on_curve: false,
    });
    all
}

fn words(scale: &Scale) -> String {
    format!(
        "Teachers at the paper's scale (JEDI, arXiv 2603.10489): 200 units, rank 5, gain 1.8, {} \
         animals of 96 Poisson channels at a mean of 14 Hz in bins of 10 ms; {} networks are \
         learned by each, {} are not and are given by one trial. r2 of the true rates of other \
         trials, given the counts so far, given all counts of the trial, and 30 bins ahead. The \
         paper reports more than 0.94 for reconstructed rates on its synthetic tasks; its \
         observations and noise are not published. Full rank: as many latents as units, so that \
         J(e) is any matrix.",
        scale.animals,
        4 * scale.tasks,
        4 * scale.unseen
    )
}

fn plots(curves: [Vec<(f64, f64)>; 3], costs: Vec<(f64, f64)>) -> Result<Charts> {
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
        let curve = [("64 units".to_owned(), costs)];
        plots.push(("rank-cost.svg".to_owned(), charts::curves(&axes, &curve)?));
    }
    Ok(plots)
}

/// Random networks of low rank, and the ablation of the student's rank.
pub(crate) fn low_rank(school: &School, scale: &Scale) -> Result<Vec<Section>> {
    let family = families::low_rank(school.seed, scale);
    let mut table = format!(
        "{:24} {:>9} {:>9} {:>12} {:>12}\n",
        "student", "filtered", "smoothed", "30 ahead", "ms per step"
    );
    let shots = 1.min(scale.shots);
    let (mut rows, mut curves, mut costs) = (Vec::<Value>::new(), <[Vec<_>; 3]>::default(), vec![]);
    for student in students() {
        let how =
            TrainingSettings { contrast_weight: 0.0, ..settings(student.rank, student.units) };
        let trained = school.student(&student.folder, &family.recording, student.share, how)?;
        let model = &trained.checkpoint.model;
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
        let cost = trained.step_s.map_or("-".into(), |s| format!("{:.0}", s * 1e3));
        let [a, b, c] = r2.map(cell);
        let _ = writeln!(table, "{:24} {a:>9} {b:>9} {c:>12} {cost:>12}", student.name);
        if rows.is_empty() {
            let ceiling = cell(of_group(&fits, 0, |f| &f.teacher));
            let _ =
                writeln!(table, "{:24} {:>9} {:>9} {ceiling:>12}\n", "the teacher itself", "", "");
        }
        if student.on_curve {
            for (curve, r2) in curves.iter_mut().zip(r2) {
                curve.extend(r2.map(|r2| (student.rank as f64, r2)));
            }
            costs.extend(trained.step_s.map(|s| (student.rank as f64, s * 1e3)));
        }
        rows.push(json!({
            "student": student.name, "rank": student.rank, "units": student.units,
            "rate_r2_filtered": r2[0], "rate_r2_smoothed": r2[1], "forecast_r2": r2[2],
            "step_s": trained.step_s,
        }));
    }
    Ok(vec![Section {
        title: "Low-rank networks, and the student's rank",
        words: words(scale),
        table,
        plots: plots(curves, costs)?,
        numbers: json!(rows),
    }])
}
