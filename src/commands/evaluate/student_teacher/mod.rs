//! `evaluate --student-teacher`: simulates teachers, pretrains students, streams unseen tasks, and writes one
//! report of what the students know of them.

mod charts;
mod families;
mod fits;
mod sections;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::super::progress::{Interrupt, Progress};
use super::report::Page;
use crate::checkpoint::{self, Checkpoint, DataFile, Provenance, sha256_hex};
use crate::recording::Recording;
use crate::training::{Dataset, Trainer, TrainingSettings, finish, fit_metric_head};
use families::Scale;

/// Folder of the students in the report's.
const MODELS: &str = "models";

/// Flags of the proof on teachers.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Proof on teachers")]
pub struct TeacherArgs {
    /// Simulate teachers with known truth, pretrain students, stream unseen tasks, write one report. Takes about
    /// half an hour on 2 cores; --model gives a student of `simulate`'s animals instead of pretraining one
    #[arg(long, conflicts_with_all = ["data", "decisions", "false_changes_per_min"])]
    pub student_teacher: bool,
    /// Steps of the longest pretraining; the others take a share of them
    #[arg(long, requires = "student_teacher", default_value_t = 3000)]
    pub steps: usize,
    /// Seed of teachers and students
    #[arg(long, requires = "student_teacher", default_value_t = 1)]
    pub seed: u64,
    /// Few tasks and trials: shows in a minute or two that everything works, its figures mean little
    #[arg(long, requires = "student_teacher")]
    pub quick: bool,
}

/// One part of the report.
struct Section {
    title: &'static str,
    /// What was done, and how to read it.
    words: String,
    table: String,
    plots: Vec<(String, String)>,
    numbers: Value,
}

/// Where students come from.
struct School {
    dir: PathBuf,
    seed: u64,
    steps: usize,
    interrupt: Interrupt,
}

/// A student, and what a step of its training cost, seconds; `None` where it was trained before.
struct Student {
    checkpoint: Checkpoint,
    step_s: Option<f64>,
}

impl School {
    /// Pretrains a student on a recording with a share of the steps, or takes the one that an earlier run left.
    fn student(
        &self,
        name: &str,
        recording: &Recording,
        share: f64,
        settings: TrainingSettings,
    ) -> Result<Student> {
        let steps = ((self.steps as f64 * share).round() as usize).max(1);
        let settings = TrainingSettings { steps, seed: self.seed, ..settings };
        let data =
            vec![DataFile { file: recording.path.display().to_string(), sha256: hash(recording) }];
        let dir = self.dir.join(MODELS).join(name);
        if let Ok(checkpoint) = checkpoint::load(&dir) {
            let p = &checkpoint.provenance;
            if (p.seed, p.steps, &p.data) == (self.seed, steps, &data)
                && checkpoint.model.dims == settings.dims
            {
                eprintln!("student '{name}': from {}", dir.display());
                return Ok(Student { checkpoint, step_s: None });
            }
        }
        eprintln!("student '{name}': rank {}, {} units", settings.dims.rank, settings.dims.units);
        let dataset = Arc::new(Dataset::for_pretraining(std::slice::from_ref(recording))?);
        let mut trainer = Trainer::new(dataset, settings)?;
        let mut progress = Progress::new("pretrain", steps, 0);
        let began = Instant::now();
        for done in 1..=steps {
            let report = trainer.step()?;
            progress.at(done, || {
                format!("{name}: one step {:.5}, forecast {:.5}", report.one_step, report.forecast)
            });
            if self.interrupt.raised() {
                bail!(
                    "stopped; students that are finished are in {}, and the same command goes on from them",
                    self.dir.join(MODELS).display()
                );
            }
        }
        let step_s = began.elapsed().as_secs_f64() / steps as f64;
        progress.finish();
        let mut found = finish(&trainer, None)?;
        if settings.exponent_weight > 0.0 {
            found.model.metric_head =
                fit_metric_head(&found.model, trainer.data(), settings.threads)?;
        }
        let mut provenance = Provenance::of_this_program(self.seed, steps, data);
        provenance.held_out = found.held_out;
        provenance.held_out_by_session = found.by_session;
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        checkpoint::save(&dir, &found.model, &provenance)?;
        Ok(Student { checkpoint: checkpoint::load(&dir)?, step_s: Some(step_s) })
    }
}

fn hash(recording: &Recording) -> String {
    let bytes: Vec<u8> =
        recording.trials.iter().flat_map(|t| &t.counts).flat_map(|c| c.to_le_bytes()).collect();
    sha256_hex(&bytes)
}

/// Runs the proof.
///
/// # Errors
/// A report that cannot be written, a training that diverges, Ctrl-C.
pub(super) fn run(args: &TeacherArgs, given: Option<Checkpoint>, dir: &Path) -> Result<()> {
    if args.steps == 0 {
        bail!("--steps: expected at least 1, found 0");
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let school = School {
        dir: dir.to_owned(),
        seed: args.seed,
        steps: args.steps,
        interrupt: Interrupt::listen()?,
    };
    let scale = if args.quick {
        Scale { tasks: 8, unseen: 2, shots: 2, scored: 1, animals: 2 }
    } else {
        Scale { tasks: 24, unseen: 6, shots: 16, scored: 4, animals: 2 }
    };
    let mut sections = sections::planar(&school, &scale)?;
    sections.extend(sections::low_rank(&school, &scale)?);
    sections.extend(sections::regimes(&school, &scale, given, args.quick)?);
    write(dir, args, &sections)
}

fn write(dir: &Path, args: &TeacherArgs, sections: &[Section]) -> Result<()> {
    let mut page = Page::new("regimed student and teacher");
    let mut text = format!(
        "steps {}, seed {}, {}\n",
        args.steps,
        args.seed,
        if args.quick { "quick: figures mean little" } else { "full size" }
    );
    page.paragraph(&text);
    let mut plots = Vec::new();
    for s in sections {
        text.push_str(&format!("\n{}\n{}\n{}", s.title, "-".repeat(s.title.len()), s.table));
        page.heading(s.title);
        page.paragraph(&s.words);
        page.text(&s.table);
        for (name, svg) in &s.plots {
            page.plot(svg);
            plots.push((name.as_str(), svg.clone()));
        }
    }
    let of = |s: &Section| (s.title.to_owned(), s.numbers.clone());
    let numbers = json!({
        "steps": args.steps, "seed": args.seed, "quick": args.quick,
        "sections": sections.iter().map(of).collect::<serde_json::Map<String, Value>>(),
    });
    page.write(dir, &text, &plots, &numbers)
}
