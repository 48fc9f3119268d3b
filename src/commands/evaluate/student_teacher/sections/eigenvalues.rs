//! Eigenvalues at the students' fixed points against the teachers', and maps of the embeddings.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Charts, cell};
use crate::commands::evaluate::dynamics::correlation;
use crate::commands::evaluate::maps;
use crate::commands::evaluate::student_teacher::charts::{self, Axes};
use crate::commands::evaluate::student_teacher::families::TestTask;
use crate::commands::evaluate::student_teacher::fits::Known;
use crate::dynamics::{FixedPoint, fixed_points};
use crate::inference::smooth;
use crate::model::Model;
use crate::teacher::{PLANAR_NAMES, PlanarKind, PlanarTask};

/// A student's fixed points for one task, compared with the teacher's.
struct Recovered {
    label: usize,
    /// Growth per second and frequency in Hz: the teacher's, the student's.
    eigenvalues: Option<[[f64; 2]; 2]>,
    /// Whether the student has as many stable points as the teacher.
    points_right: bool,
    /// The parameter that the family's map is coloured by.
    parameter: f64,
    embedding: Vec<f32>,
}

/// Searches the fixed points of one task's student from the smoothed path of its last trial.
fn of_task(model: &Model, task: &TestTask, system: &PlanarTask, known: &Known) -> Recovered {
    let truth = system.eigenvalue_per_s();
    let hz = truth.im / TAU;
    let mut found = Recovered {
        label: task.label,
        eigenvalues: None,
        points_right: false,
        parameter: if task.label < 2 { hz } else { system.shape },
        embedding: known.embedding.clone(),
    };
    let path = task
        .trials
        .last()
        .and_then(|trial| smooth(model, &known.readout, &known.embedding, &trial.counts));
    let Some(path) = path else { return found };
    let starts: Vec<Vec<f32>> =
        path.rows().into_iter().step_by(10).map(|kappa| kappa.to_vec()).collect();
    let mean: Vec<f64> = path
        .columns()
        .into_iter()
        .map(|along| f64::from(along.iter().sum::<f32>() / path.nrows() as f32))
        .collect();
    let points = fixed_points(model, &known.embedding, &starts);
    let n_stable = points.iter().filter(|p| p.is_stable()).count();
    found.points_right = n_stable == system.stable_points();
    let cycle = system.kind == PlanarKind::HopfCycle;
    let apart =
        |p: &FixedPoint| -> f64 { p.kappa.iter().zip(&mean).map(|(a, b)| (a - b).powi(2)).sum() };
    // Where the system rests; for a cycle, what it turns about.
    let point = points
        .iter()
        .filter(|p| p.is_fixed() && p.is_stable() != cycle)
        .min_by(|a, b| apart(a).total_cmp(&apart(b)));
    found.eigenvalues = point.map(|p| [[truth.re, hz], [p.growth_per_s, p.frequency_hz]]);
    found
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Errors and correlations by kind of system.
fn table(found: &[Recovered], points_right: f64) -> (String, Vec<Value>) {
    let mut table = format!(
        "\neigenvalues at the fixed point, student against teacher\n\
         ({} of {} tasks have one of the kind sought; {points_right:.2} have the right number of \
         stable points)\n{:20} {:>6} {:>16} {:>14} {:>16} {:>14}\n",
        found.iter().filter(|f| f.eigenvalues.is_some()).count(),
        found.len(),
        "",
        "tasks",
        "|growth| err /s",
        "correlation",
        "frequency err Hz",
        "correlation"
    );
    let mut rows = Vec::new();
    for (label, name) in PLANAR_NAMES.iter().enumerate() {
        let of: Vec<[[f64; 2]; 2]> =
            found.iter().filter(|f| f.label == label).filter_map(|f| f.eigenvalues).collect();
        let pairs = |i: usize| of.iter().map(|[a, b]| (a[i], b[i])).collect::<Vec<_>>();
        let error = |i: usize| median(pairs(i).iter().map(|p| (p.0 - p.1).abs()).collect());
        let row = [error(0), correlation(&pairs(0)), error(1), correlation(&pairs(1))];
        let [a, b, c, d] = row.map(cell);
        let _ = writeln!(table, "{name:20} {:>6} {a:>16} {b:>14} {c:>16} {d:>14}", of.len());
        rows.push(json!({
            "kind": name, "tasks": of.len(), "growth_error_per_s": row[0],
            "growth_correlation": row[1], "frequency_error_hz": row[2],
            "frequency_correlation": row[3],
        }));
    }
    (table, rows)
}

fn plots(found: &[Recovered]) -> Result<Charts> {
    let names: Vec<String> = PLANAR_NAMES.iter().map(|n| (*n).to_owned()).collect();
    let axes = Axes {
        caption: "eigenvalues: rings the teachers', dots the students'",
        x: "growth (1/s)",
        y: "frequency (Hz)",
    };
    let pairs: Vec<_> = found
        .iter()
        .filter_map(|f| f.eigenvalues.map(|[truth, found]| (f.label, truth, found)))
        .collect();
    let ends: Vec<_> = found.iter().map(|f| (Some(f.label), f.embedding.clone())).collect();
    let map = |family: usize| -> Vec<_> {
        let of = found.iter().filter(|f| f.label / 2 == family);
        of.map(|f| (f.parameter, f.embedding.clone())).collect()
    };
    Ok(vec![
        ("eigenvalues.svg".to_owned(), charts::pairs(&axes, &pairs, &names)?),
        ("planar-embeddings.svg".to_owned(), maps::embeddings(&ends, &names)?),
        (
            "hopf-frequency.svg".to_owned(),
            charts::by_parameter("embeddings of Hopf systems, by true frequency", &map(0))?,
        ),
        (
            "duffing-shape.svg".to_owned(),
            charts::by_parameter("embeddings of Duffing systems, by true s", &map(1))?,
        ),
    ])
}

/// Compares the students' fixed points with the teachers': table, figures, plots.
pub(super) fn recovered(
    model: &Model,
    tasks: &[TestTask],
    known: &[Known],
) -> Result<(String, Value, Charts)> {
    let found: Vec<Recovered> = tasks
        .iter()
        .zip(known)
        .filter_map(|(task, known)| Some(of_task(model, task, task.planar.as_ref()?, known)))
        .collect();
    let n_right = found.iter().filter(|f| f.points_right).count();
    let right = n_right as f64 / found.len().max(1) as f64;
    let (text, rows) = table(&found, right);
    Ok((text, json!({"kinds": rows, "stable_points_right": right}), plots(&found)?))
}
