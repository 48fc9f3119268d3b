//! `evaluate --student-teacher`: simulates teachers, pretrains students, streams unseen tasks, and
//! writes one report of what the students know of them.

mod charts;
mod families;
mod fits;
mod school;
mod sections;

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::page::Page;
use crate::checkpoint::Checkpoint;
use crate::commands::progress::Interrupt;
use families::Scale;
use school::{School, Section};

/// Flags of the proof on teachers.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Proof on teachers")]
pub struct TeacherArgs {
    /// Simulate teachers with known truth, pretrain students, stream unseen tasks, write one
    /// report. Takes about half an hour on 2 cores; --model gives a student of `simulate`'s animals
    /// instead of pretraining one
    #[arg(long, conflicts_with_all = ["data", "decisions", "false_changes_per_min"])]
    pub student_teacher: bool,
    /// Steps of the longest pretraining; the others take a share of them
    #[arg(long, requires = "student_teacher", default_value_t = 3000)]
    pub steps: usize,
    /// Seed of teachers and students
    #[arg(long, requires = "student_teacher", default_value_t = 1)]
    pub seed: u64,
    /// Few tasks and trials: shows in a minute or two that everything works, its figures mean
    /// little
    #[arg(long, requires = "student_teacher")]
    pub quick: bool,
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
