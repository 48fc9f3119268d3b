//! `regimed edge`: how near to the edge of chaos recorded populations are, without a model.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::recordings::RecordingArgs;
use crate::checkpoint::TrainingState;
use crate::edge::{EXPONENT_MAX_PER_S, EdgeReading, Estimator, SECONDS_MIN, Window};
use crate::recording::Trial;

/// Tell from counts alone how near to the edge of chaos a population is
#[derive(Debug, clap::Args)]
pub struct EdgeArgs {
    /// Recordings (.npz or .nwb); labels are not looked at
    #[arg(required = true, value_name = "RECORDING")]
    pub recordings: Vec<PathBuf>,
    /// What `regimed atlas` learned
    #[arg(long, value_name = "FILE")]
    pub estimator: PathBuf,
    /// One JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    /// How to take the recordings.
    pub how: RecordingArgs,
}

/// What is said of one session of a recording.
#[derive(Debug, Serialize)]
struct Said {
    recording: String,
    session: String,
    /// Time read, seconds.
    seconds: f64,
    /// Largest driven Lyapunov exponent, 1/s; `null` where it is not resolved, as the rest.
    exponent_driven_per_s: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    p_chaos: Option<f64>,
    resolved: bool,
}

/// Runs the command.
///
/// # Errors
/// Files that cannot be read.
pub fn run(args: &EdgeArgs) -> Result<()> {
    let estimator = load(&args.estimator)?;
    let mut all = Vec::new();
    for path in &args.recordings {
        let recording = args.how.read(path)?;
        let streams = recording.streams();
        let mut sessions: Vec<&str> = streams.iter().map(|t| t.session.as_str()).collect();
        sessions.dedup();
        for session in sessions {
            let own: Vec<&Trial> = streams.iter().filter(|t| t.session == session).collect();
            let found = read(&estimator, &own, recording.n_channels, recording.bin_width_s)
                .with_context(|| path.display().to_string())?;
            all.push(said(path.display().to_string(), session, &found));
        }
    }
    for said in &all {
        if args.json {
            println!("{}", serde_json::to_string(said)?);
        }
    }
    if !args.json {
        print!("{}", table(&all));
    }
    Ok(())
}

fn load(path: &std::path::Path) -> Result<Estimator> {
    let shown = || format!("cannot use the estimator {}", path.display());
    let state = TrainingState::read(path).with_context(shown)?;
    Estimator::from_arrays(state.arrays).with_context(shown)
}

/// Time that was there, and a reading of each two minutes of it, or of the rest where that is
/// enough.
fn read(
    estimator: &Estimator,
    trials: &[&Trial],
    channels: usize,
    bin_width_s: f64,
) -> Result<(f64, Vec<EdgeReading>)> {
    let fresh = || Window::new(channels, bin_width_s);
    let Some(mut window) = fresh() else {
        bail!("expected bins of at most 50 ms, found {} ms", bin_width_s * 1e3);
    };
    let (mut readings, mut seconds) = (Vec::new(), 0.0);
    for trial in trials {
        window.gap();
        for bin in trial.counts.rows() {
            if window.is_full() {
                readings.extend(estimator.read(&window));
                seconds += window.seconds();
                window = fresh().context("a window")?;
            }
            let counts: Vec<f32> = bin.iter().map(|c| f32::from(*c)).collect();
            window.push(&counts);
        }
    }
    readings.extend(estimator.read(&window));
    Ok((seconds + window.seconds(), readings))
}

fn said(recording: String, session: &str, (seconds, readings): &(f64, Vec<EdgeReading>)) -> Said {
    let total: f64 = readings.iter().map(|r| r.seconds).sum();
    let resolved = !readings.is_empty();
    let mean = |of: fn(&EdgeReading) -> f64| {
        resolved.then(|| readings.iter().map(|r| of(r) * r.seconds).sum::<f64>() / total)
    };
    Said {
        recording,
        session: session.to_owned(),
        seconds: *seconds,
        exponent_driven_per_s: mean(|r| r.driven_per_s.mean),
        low: mean(|r| r.driven_per_s.low),
        high: mean(|r| r.driven_per_s.high),
        p_chaos: mean(|r| r.p_chaos),
        resolved,
    }
}

fn table(all: &[Said]) -> String {
    let width = all.iter().map(|s| s.recording.len()).max().unwrap_or(0).max(9);
    let sessions = all.iter().map(|s| s.session.len()).max().unwrap_or(0).max(7);
    let mut out = format!(
        "{:width$} {:sessions$} {:>9} {:>22} {:>8}\n",
        "recording", "session", "seconds", "driven exponent /s", "P(chaos)"
    );
    for s in all {
        let exponent = match (s.exponent_driven_per_s, s.low, s.high) {
            (Some(mean), Some(low), Some(high)) => format!("{mean:+.2} [{low:+.2} {high:+.2}]"),
            _ => "not resolved".into(),
        };
        let chaos = s.p_chaos.map_or("-".into(), |p| format!("{p:.2}"));
        out.push_str(&format!(
            "{:width$} {:sessions$} {:9.1} {exponent:>22} {chaos:>8}\n",
            s.recording, s.session, s.seconds
        ));
    }
    out.push_str(&format!(
        "largest driven Lyapunov exponent, clipped to +-{EXPONENT_MAX_PER_S} /s, with a 90 % \
         interval; conditional on the simulated networks that the estimator learned from; not \
         resolved: less than {SECONDS_MIN} s, or nothing that channels share exceeds chance\n"
    ));
    out
}
