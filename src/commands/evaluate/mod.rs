//! `regimed evaluate`: streams recordings through the engine that serves, and scores them; with
//! `--student-teacher`, proves the method on teachers of its own.

mod decisions;
mod dynamics;
mod maps;
mod plots;
mod report;
mod stream;
mod student_teacher;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::progress::Progress;
use super::recordings::RecordingArgs;
use super::scoreboard::Durations;
use crate::checkpoint::{self, Checkpoint};
use crate::config::BUILTIN_MODEL;
use crate::daemon::builtin_model;
use crate::recording::{Recording, Trial};
use crate::regime::{ChangeScore, Score};
use decisions::Decisions;
use dynamics::ByLabel;
use report::Report;
use stream::{Tally, Timeline};

/// Stream recordings through the engine that serves, score them, write a report
#[derive(Debug, clap::Args)]
pub struct EvaluateArgs {
    /// Recordings (.npz)
    #[arg(required_unless_present = "student_teacher", value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// Directory of the model, or "builtin"
    #[arg(long, required_unless_present = "student_teacher", value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Directory for report.json, report.txt, report.html and the plots (SVG)
    #[arg(long, value_name = "DIR")]
    pub report: PathBuf,
    /// File for what was concluded from every bin (.npz; keys in docs/recordings.md)
    #[arg(long, value_name = "FILE")]
    pub decisions: Option<PathBuf>,
    /// Decide with the rule that made at most so many false changes per minute in training
    /// (default: 5 % of the changes that the model expects)
    #[arg(long, value_name = "N")]
    pub false_changes_per_min: Option<f64>,
    #[command(flatten)]
    /// How to take the recordings; --session names the model's session.
    pub recordings: RecordingArgs,
    #[command(flatten)]
    /// The proof on teachers.
    pub teachers: student_teacher::TeacherArgs,
}

/// What streaming showed.
struct Scored {
    report: Report,
    timeline: Timeline,
    tally: Tally,
}

/// Runs the command.
///
/// # Errors
/// A recording or model that cannot be used, or that do not go together.
pub fn run(args: &EvaluateArgs) -> Result<()> {
    let given = args.model.as_deref().map(load).transpose()?;
    if args.teachers.student_teacher {
        return student_teacher::run(&args.teachers, given, &args.report);
    }
    let Some(mut checkpoint) = given else { bail!("--model: expected a model, found none") };
    let mut recordings = args.recordings.read_all(&args.data)?;
    for recording in &mut recordings {
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
    let mut scored = score(&checkpoint, &recordings, args.false_changes_per_min, decisions)?;
    if let (Some(path), Some(decisions)) = (&args.decisions, &scored.tally.decisions) {
        decisions.write(path, &checkpoint.model)?;
    }
    scored.report.model = args.model.as_ref().map_or_else(String::new, |m| m.display().to_string());
    report::write(&args.report, &scored)
}

fn load(model: &Path) -> Result<Checkpoint> {
    Ok(if model == Path::new(BUILTIN_MODEL) { builtin_model()? } else { checkpoint::load(model)? })
}

/// Streams recordings through the engine.
fn score(
    checkpoint: &Checkpoint,
    recordings: &[Recording],
    false_changes_per_min: Option<f64>,
    decisions: Option<Decisions>,
) -> Result<Scored> {
    let model = &checkpoint.model;
    let mut tally = Tally {
        false_changes_per_min,
        score: Score::new(model.regime_names.len(), model.bin_width_s),
        changes: ChangeScore::default(),
        compute: Durations::default(),
        unknown_bins: 0,
        bins: 0,
        log_likelihood: 0.0,
        by_label: ByLabel::default(),
        compared: Vec::new(),
        ends: Vec::new(),
        reading: Durations::default(),
        decisions,
    };
    let mut sessions: Vec<(String, Score)> = Vec::new();
    let mut timeline = Timeline::default();
    let mut n_streams = 0;
    let total: usize = recordings.iter().map(Recording::n_bins).sum();
    let trials = recordings.iter().map(|r| r.streams().len()).sum::<usize>().max(1);
    let mut progress = Progress::new("evaluate", total, 0);
    for recording in recordings {
        check(checkpoint, recording)?;
        let regimes: Vec<Option<usize>> = recording
            .regime_names
            .iter()
            .map(|n| model.regime_names.iter().position(|m| m == n))
            .collect();
        for trial in recording.streams() {
            let mut trial: Trial = trial;
            for r in &mut trial.regime {
                *r = r.and_then(|r| regimes[r]);
            }
            let fresh = || Score::new(model.regime_names.len(), model.bin_width_s);
            let at = sessions.iter().position(|s| s.0 == trial.session).unwrap_or_else(|| {
                sessions.push((trial.session.clone(), fresh()));
                sessions.len() - 1
            });
            let seen = tally.run(model, &trial, &mut sessions[at].1)?;
            // Streams spread over all recordings make the plot.
            if n_streams % total.div_ceil(stream::TIMELINE_BINS).min(trials) == 0 {
                timeline.extend(seen);
            }
            n_streams += 1;
            progress.at(tally.bins as usize, || format!("session {}", trial.session));
        }
    }
    progress.finish();
    let report = Report::of(checkpoint, recordings, &tally, &sessions, n_streams);
    Ok(Scored { report, timeline, tally })
}

/// Puts a recording's channels in the order of the readouts that its sessions are read by, where both have names.
fn arrange(checkpoint: &Checkpoint, recording: &mut Recording) -> Result<()> {
    let of = |t: &Trial| checkpoint.model.readout(&t.session)?.channels.clone();
    let Some(names) = recording.trials.first().and_then(of) else { return Ok(()) };
    if recording.trials.iter().any(|t| of(t).as_ref() != Some(&names)) {
        bail!(
            "{}: expected one order of channels for all its sessions, found several readouts with different ones",
            recording.path.display()
        );
    }
    Ok(recording.arrange(&names)?)
}

fn check(checkpoint: &Checkpoint, recording: &Recording) -> Result<()> {
    let model = &checkpoint.model;
    let path = recording.path.display();
    let (expected, found) = (model.bin_width_s * 1e3, recording.bin_width_s * 1e3);
    if (expected - found).abs() > 1e-6 * expected {
        bail!(
            "{path}: expected bins of {expected} ms as the first recording's, found {found} ms (see --bin-ms)"
        );
    }
    for trial in &recording.trials {
        let Some(readout) = model.readout(&trial.session) else {
            bail!(
                "{path}: expected sessions of the model ({}), found '{}' (--session NAME says which it is like; `regimed calibrate` adds it to the model)",
                model.session_names().join(", "),
                trial.session
            );
        };
        if readout.n_channels() != recording.n_channels {
            bail!(
                "{path}: session '{}': expected {} channels as the model's, found {}",
                trial.session,
                readout.n_channels(),
                recording.n_channels
            );
        }
    }
    Ok(())
}
