//! `regimed evaluate`: streams recordings through the engine that serves, and scores them; with
//! `--student-teacher`, proves the method on simulated teachers.

mod blocks;
mod compare;
mod decisions;
mod dynamics;
mod maps;
mod page;
mod plots;
mod report;
mod scoring;
mod stream;
mod student_teacher;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::recordings::RecordingArgs;
use crate::checkpoint;
use crate::checkpoint::Checkpoint;
use crate::config::BUILTIN_MODEL;
use crate::recording::Recording;
use crate::regime::DecisionRule;
use decisions::Decisions;
use report::Scored;
use scoring::{arrange, score};

/// Stream recordings through the engine that serves, score them, write a report
#[derive(Debug, clap::Args)]
pub struct EvaluateArgs {
    /// Recordings (.npz)
    #[arg(required_unless_present = "student_teacher", value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// Directory of the model, or "builtin"; several, each with its own --model, are compared on
    /// the same data
    #[arg(long, required_unless_present = "student_teacher", value_name = "MODEL")]
    pub model: Vec<PathBuf>,
    /// Directory for report.json, report.txt, report.html and the plots (SVG)
    #[arg(long, value_name = "DIR")]
    pub report: PathBuf,
    /// File for every bin's conclusions (.npz; keys in docs/recordings.md)
    #[arg(long, value_name = "FILE")]
    pub decisions: Option<PathBuf>,
    /// Decide with the rule that made at most this many false changes per minute in training
    /// (default: the rule that the model chose; without one, 5 % of the changes that it expects)
    #[arg(long, value_name = "N")]
    pub false_changes_per_min: Option<f64>,
    /// Share of the known bins that may be called unknown, from 0.001 and below 0.2 (default: 0.01)
    #[arg(long, value_name = "SHARE")]
    pub unknown_rate: Option<f64>,
    #[command(flatten)]
    /// How to take the recordings; --session names the model's session.
    pub recordings: RecordingArgs,
    #[command(flatten)]
    /// The proof on teachers.
    pub teachers: student_teacher::TeacherArgs,
}

/// Runs the command.
///
/// # Errors
/// A recording or model that cannot be used, or that do not go together.
pub fn run(args: &EvaluateArgs) -> Result<()> {
    if args.teachers.student_teacher {
        if args.model.len() > 1 {
            bail!("--model: expected one student, found {}", args.model.len());
        }
        let given = args.model.first().map(|m| load(m)).transpose()?;
        return student_teacher::run(&args.teachers, given, &args.report);
    }
    if args.decisions.is_some() && args.model.len() > 1 {
        bail!("--decisions: expected one model, whose decisions they are, found several");
    }
    // A model that is not there is told before long recordings are read.
    let loaded = args.model.iter().map(|m| load(m)).collect::<Result<Vec<_>>>()?;
    let mut recordings = args.recordings.read_all(&args.data)?;
    let mut all = Vec::new();
    for (model, checkpoint) in args.model.iter().zip(loaded) {
        let mut scored = one(args, checkpoint, &mut recordings)?;
        scored.report.model = model.display().to_string();
        all.push(scored);
    }
    compare::write(&args.report, &all)
}

/// Scores one model.
fn one(
    args: &EvaluateArgs,
    mut checkpoint: Checkpoint,
    recordings: &mut [Recording],
) -> Result<Scored> {
    for recording in &mut *recordings {
        arrange(&checkpoint, recording)?;
    }
    if let Some(first) = recordings.first() {
        // A model serves other bins than its own, as in the daemon.
        checkpoint.model = (checkpoint.model.at_bin_width(first.bin_width_s))
            .map_err(|e| anyhow::anyhow!("{}: {e}", first.path.display()))?;
    }
    let counts = recordings.iter().flat_map(|r| &r.trials).flat_map(|t| &t.counts);
    let largest = counts.max().copied().unwrap_or(0);
    super::calibrate::warn_of_counts(&checkpoint.model, f32::from(largest));
    let decisions = args.decisions.is_some().then(Decisions::default);
    let mut rule = DecisionRule::of(&checkpoint.model, args.false_changes_per_min);
    if let Some(rate) = args.unknown_rate {
        if !(0.001..0.2).contains(&rate) {
            bail!("--unknown-rate: expected a share from 0.001 and below 0.2, found {rate}");
        }
        let with = checkpoint.model.readouts.iter().find(|r| r.experts.is_some());
        let found = rule.with_unknown_rate(&checkpoint.model, with, rate);
        rule = found.map_err(|e| anyhow::anyhow!("--unknown-rate: {e}"))?;
    }
    let scored = score(&checkpoint, recordings, rule, decisions)?;
    if let (Some(path), Some(decisions)) = (&args.decisions, &scored.tally.decisions) {
        decisions.write(path, &checkpoint.model)?;
    }
    Ok(scored)
}

fn load(model: &Path) -> Result<Checkpoint> {
    Ok(if model == Path::new(BUILTIN_MODEL) {
        checkpoint::builtin()?
    } else {
        checkpoint::load(model)?
    })
}
