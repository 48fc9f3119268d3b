//! `regimed evaluate`: streams recordings through the engine that serves, and scores them.

mod decisions;
mod dynamics;
mod maps;
mod plots;
mod stream;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::pretrain::sentence;
use super::progress::Progress;
use super::recordings::RecordingArgs;
use super::scoreboard::Durations;
use crate::checkpoint::{self, Checkpoint, write_whole};
use crate::config::BUILTIN_MODEL;
use crate::daemon::builtin_model;
use crate::recording::Trial;
use crate::regime::{ChangeScore, ChangeVerdict, Score, Verdict};
use decisions::Decisions;
use dynamics::{ByLabel, LabelRow, TruthRow};
use stream::{Tally, Timeline};

/// Times after a start or change at which accuracy is told, seconds.
const LAGS_S: [f64; 9] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0];

/// Stream recordings through the engine that serves, score them, write a report
#[derive(Debug, clap::Args)]
pub struct EvaluateArgs {
    /// Recordings (.npz)
    #[arg(required = true, value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// Directory of the model, or "builtin"
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
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
}

/// The report in numbers.
#[derive(Debug, Clone, Serialize)]
struct Report {
    model: String,
    model_weights_sha256: String,
    recordings: Vec<String>,
    bin_width_s: f64,
    regime_names: Vec<String>,
    streams: usize,
    overall: Verdict,
    by_session: Vec<(String, Verdict)>,
    /// `[truth][said]` fractions of each truth's bins.
    confusion: Vec<Vec<f64>>,
    /// `(seconds after a start or change, fraction right)`.
    accuracy_after_s: Vec<(f64, f64)>,
    /// `(mean largest probability, fraction right, bins)` by class of that probability.
    reliability: Vec<(f64, f64, u64)>,
    changes: ChangeVerdict,
    unknown_fraction: f64,
    mean_log_likelihood: f64,
    /// p50, p99, p99.9 and the largest time of a bin, microseconds.
    compute_us: [f64; 4],
    /// p50, p99, p99.9 and the largest time of a reading of the dynamics, microseconds.
    reading_us: [f64; 4],
    dynamics_by_label: Vec<LabelRow>,
    dynamics_against_truth: Vec<TruthRow>,
}

/// Runs the command.
///
/// # Errors
/// A recording or model that cannot be used, or that do not go together.
pub fn run(args: &EvaluateArgs) -> Result<()> {
    let checkpoint = if args.model == Path::new(BUILTIN_MODEL) {
        builtin_model()?
    } else {
        checkpoint::load(&args.model)?
    };
    let recordings = args.recordings.read_all(&args.data)?;
    let mut checkpoint = checkpoint;
    if let Some(first) = recordings.first() {
        // A model serves other bins than its own, as in the daemon.
        checkpoint.model = (checkpoint.model.at_bin_width(first.bin_width_s))
            .map_err(|e| anyhow::anyhow!("{}: {e}", first.path.display()))?;
    }
    let model = &checkpoint.model;
    let mut tally = Tally {
        false_changes_per_min: args.false_changes_per_min,
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
        decisions: args.decisions.is_some().then(Decisions::default),
    };
    let mut sessions: Vec<(String, Score)> = Vec::new();
    let mut timeline = Timeline::default();
    let mut n_streams = 0;
    let total: usize = recordings.iter().map(crate::recording::Recording::n_bins).sum();
    let trials = recordings.iter().map(|r| r.streams().len()).sum::<usize>().max(1);
    let mut progress = Progress::new("evaluate", total, 0);
    for recording in &recordings {
        check(&checkpoint, recording)?;
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
    if let (Some(path), Some(decisions)) = (&args.decisions, &tally.decisions) {
        decisions.write(path, model)?;
    }
    let report = report(args, &checkpoint, &tally, &sessions, n_streams);
    write(args, &report, &timeline, &tally)
}

fn check(checkpoint: &Checkpoint, recording: &crate::recording::Recording) -> Result<()> {
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
                "{path}: expected sessions of the model ({}), found '{}' (see --session)",
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

fn report(
    args: &EvaluateArgs,
    checkpoint: &Checkpoint,
    tally: &Tally,
    sessions: &[(String, Score)],
    streams: usize,
) -> Report {
    let model = &checkpoint.model;
    let n = model.regime_names.len();
    let confusion = tally
        .score
        .confusion()
        .chunks_exact(n)
        .map(|row| {
            let total = row.iter().sum::<u64>().max(1) as f64;
            row.iter().map(|&c| c as f64 / total).collect()
        })
        .collect();
    let bins = tally.bins.max(1) as f64;
    Report {
        model: args.model.display().to_string(),
        model_weights_sha256: checkpoint.weights_sha256.clone(),
        recordings: args.data.iter().map(|p| p.display().to_string()).collect(),
        bin_width_s: model.bin_width_s,
        regime_names: model.regime_names.clone(),
        streams,
        overall: tally.score.verdict(),
        by_session: sessions.iter().map(|(name, s)| (name.clone(), s.verdict())).collect(),
        confusion,
        accuracy_after_s: LAGS_S
            .iter()
            .filter(|s| **s >= model.bin_width_s)
            .filter_map(|&s| Some((s, tally.score.accuracy_after(s)?)))
            .collect(),
        reliability: tally.score.reliability(),
        changes: tally.changes.verdict(model.bin_width_s),
        unknown_fraction: tally.unknown_bins as f64 / bins,
        mean_log_likelihood: tally.log_likelihood / bins,
        compute_us: tally.compute.percentiles(),
        reading_us: tally.reading.percentiles(),
        dynamics_by_label: tally.by_label.rows(&model.regime_names),
        dynamics_against_truth: dynamics::truth_rows(&tally.compared, &model.regime_names),
    }
}

fn table(r: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("model      {} ({})", r.model, &r.model_weights_sha256[..12]));
    line(format!("recordings {} ({} streams)", r.recordings.join(", "), r.streams));
    line(format!("overall    {}", sentence(&r.overall)));
    for (name, v) in &r.by_session {
        line(format!("session {name:<3}{}", sentence(v)));
    }
    let c = &r.changes;
    let seconds = |x: Option<f64>| x.map_or("-".into(), |x| format!("{:.0} ms", x * 1e3));
    line(format!(
        "changes    {} of {} found, median delay {}, 90 % within {}; {:.2} false per minute; unknown {:.1} % of bins",
        c.found,
        c.changes,
        seconds(c.median_delay_s),
        seconds(c.p90_delay_s),
        c.false_changes_per_minute,
        100.0 * r.unknown_fraction
    ));
    if let Some(coverage) = c.onset_coverage {
        line(format!(
            "onsets     median error {}; 90 % intervals hold {:.1} %",
            seconds(c.median_onset_error_s),
            100.0 * coverage
        ));
    }
    line(format!("calibration error {:.3}", r.overall.calibration_error));
    let [p50, p99, p999, max] = r.compute_us;
    line(format!(
        "compute    p50 {p50:.0}, p99 {p99:.0}, p99.9 {p999:.0}, max {max:.0} us per bin"
    ));
    let [p50, p99, _, max] = r.reading_us;
    line(format!("dynamics   p50 {p50:.0}, p99 {p99:.0}, max {max:.0} us per reading"));
    line(format!("log-likelihood {:.4} nats per channel and bin", r.mean_log_likelihood));
    line(String::new());
    let width = r.regime_names.iter().map(String::len).max().unwrap_or(0).max(8);
    let mut head = format!("{:width$} ", "truth");
    for name in &r.regime_names {
        let _ = write!(head, " {name:>width$}");
    }
    line(head);
    for (name, row) in r.regime_names.iter().zip(&r.confusion) {
        let mut text = format!("{name:width$} ");
        for x in row {
            let _ = write!(text, " {x:>width$.3}");
        }
        line(text);
    }
    out.push_str(&dynamics::tables(&r.dynamics_by_label, &r.dynamics_against_truth, width));
    out
}

fn write(args: &EvaluateArgs, report: &Report, timeline: &Timeline, tally: &Tally) -> Result<()> {
    let text = table(report);
    let dir = &args.report;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let names = &report.regime_names;
    let mut plots = vec![
        ("timeline.svg", plots::timeline(timeline, &report.regime_names, report.bin_width_s)?),
        ("accuracy.svg", plots::accuracy(&report.accuracy_after_s, report.regime_names.len())?),
        ("reliability.svg", plots::reliability(&report.reliability)?),
        ("confusion.svg", plots::confusion(&report.confusion, names)?),
    ];
    if tally.ends.len() > 2 {
        plots.push(("embeddings.svg", maps::embeddings(&tally.ends, names)?));
    }
    if !tally.compared.is_empty() {
        plots.push(("exponents.svg", maps::exponents(&tally.compared, names)?));
    }
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>regimed evaluate</title>\
         <style>body{font:15px sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
         pre{background:#f4f4f4;padding:1rem;overflow:auto}svg{max-width:100%;height:auto}</style>\
         <h1>regimed evaluate</h1><pre>",
    );
    html.push_str(&text.replace('&', "&amp;").replace('<', "&lt;"));
    html.push_str("</pre>");
    for (name, svg) in &plots {
        save(&dir.join(name), svg)?;
        html.push_str(svg);
    }
    html.push_str("</html>\n");
    save(&dir.join("report.html"), &html)?;
    save(&dir.join("report.txt"), &text)?;
    save(&dir.join("report.json"), &(serde_json::to_string_pretty(report)? + "\n"))?;
    print!("{text}");
    println!("report in {}", dir.display());
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<()> {
    write_whole(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
