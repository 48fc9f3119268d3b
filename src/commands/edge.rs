//! `regimed edge`: how near to the edge of chaos recorded populations are, without a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use plotters::prelude::*;
use serde::Serialize;

use super::drawing::{Axes, chart, colour, drawn, svg};
use super::recordings::RecordingArgs;
use crate::checkpoint::{builtin_edge, read_edge};
use crate::edge::{
    DrivenExponent, EXPONENT_MAX_PER_S, EdgeMeter, EdgeReading, Estimator, SECONDS_MAX, SECONDS_MIN,
};
use crate::recording::{Recording, Trial};

/// Tell from counts alone how near to the edge of chaos a population is
#[derive(Debug, clap::Args)]
pub struct EdgeArgs {
    /// Recordings (.npz or .nwb); labels are not looked at
    #[arg(required = true, value_name = "RECORDING")]
    pub recordings: Vec<PathBuf>,
    /// Seconds that a reading is of, 20 to 120
    #[arg(long, value_name = "SECONDS", default_value_t = SECONDS_MAX)]
    pub window: f64,
    /// One JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
    /// Draw the exponent over time, of windows that move on by a second (SVG)
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// An estimator that `regimed atlas` learned, instead of the one in the binary
    #[arg(long, value_name = "FILE")]
    pub estimator: Option<PathBuf>,
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
/// Files that cannot be read or written, a window or bins out of range.
pub fn run(args: &EdgeArgs) -> Result<()> {
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&args.window) {
        bail!("--window: expected {SECONDS_MIN} to {SECONDS_MAX} seconds, found {}", args.window);
    }
    let estimator = Arc::new(match &args.estimator {
        None => builtin_edge()?,
        Some(path) => read_edge(path)
            .with_context(|| format!("cannot use the estimator {}", path.display()))?,
    });
    let (mut all, mut courses) = (Vec::new(), Vec::new());
    for path in &args.recordings {
        let recording = args.how.read(path)?;
        for session in sessions(&recording) {
            let course = course(&estimator, &recording, session, args)
                .with_context(|| path.display().to_string())?;
            let said = said(&path.display().to_string(), session, &course);
            if args.json {
                println!("{}", serde_json::to_string(&said)?);
            }
            let name = name_of(path);
            let name = if name == session { name } else { format!("{name} {session}") };
            courses.push((name, course));
            all.push(said);
        }
    }
    if !args.json {
        print!("{}", table(&all));
    }
    if let Some(path) = &args.plot {
        std::fs::write(path, picture(&courses)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// Names of the sessions, in their order.
fn sessions(recording: &Recording) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for trial in &recording.trials {
        if !names.contains(&trial.session.as_str()) {
            names.push(&trial.session);
        }
    }
    names
}

/// A session's readings.
#[derive(Debug, Default)]
struct Course {
    /// Time of the recording, seconds.
    seconds: f64,
    /// Of windows behind one another.
    apart: Vec<EdgeReading>,
    /// Time and reading of windows that move on by a second, where they are drawn.
    moving: Vec<(f64, EdgeReading)>,
}

fn course(
    estimator: &Arc<Estimator>,
    recording: &Recording,
    session: &str,
    args: &EdgeArgs,
) -> Result<Course> {
    let window_s = args.window;
    let (channels, width_s) = (recording.n_channels, recording.bin_width_s);
    let meter = || EdgeMeter::new(estimator.clone(), channels, width_s, window_s);
    let Some(mut moving) = meter() else {
        bail!("expected bins of at most 100 ms, found {} ms", width_s * 1e3);
    };
    let mut course = Course::default();
    let mut bins = 0usize;
    let streams = recording.streams();
    let own: Vec<&Trial> = streams.iter().filter(|t| t.session == session).collect();
    for trial in own {
        moving.gap();
        for bin in trial.counts.rows() {
            let counts: Vec<f32> = bin.iter().map(|c| f32::from(*c)).collect();
            moving.push(&counts);
            bins += 1;
            let seconds = bins as f64 * width_s;
            if args.plot.is_some()
                && let Some(reading) = moving.due()
            {
                course.moving.push((seconds, reading));
            }
            if seconds - course.apart.len() as f64 * window_s >= window_s - 0.5 * width_s {
                course.apart.extend(moving.newest());
            }
        }
    }
    course.seconds = bins as f64 * width_s;
    // The rest is read with what stands before it, and counts for its own time.
    let seconds = course.seconds - course.apart.len() as f64 * window_s;
    if course.apart.is_empty() || seconds >= SECONDS_MIN {
        course.apart.extend(moving.newest().map(|reading| EdgeReading { seconds, ..reading }));
    }
    Ok(course)
}

fn said(recording: &str, session: &str, course: &Course) -> Said {
    let found: Vec<(f64, DrivenExponent)> =
        course.apart.iter().filter_map(|r| Some((r.seconds, r.exponent?))).collect();
    let total: f64 = found.iter().map(|(seconds, _)| seconds).sum();
    let mean = |of: fn(&DrivenExponent) -> f64| {
        let sum: f64 = found.iter().map(|(seconds, e)| seconds * of(e)).sum();
        (!found.is_empty()).then(|| sum / total)
    };
    Said {
        recording: recording.to_owned(),
        session: session.to_owned(),
        seconds: course.seconds,
        exponent_driven_per_s: mean(|e| e.per_s),
        low: mean(|e| e.low),
        high: mean(|e| e.high),
        p_chaos: mean(|e| e.p_chaos),
        resolved: !found.is_empty(),
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
            (Some(per_s), Some(low), Some(high)) => format!("{per_s:+.2} [{low:+.2} {high:+.2}]"),
            _ => "not resolved".into(),
        };
        let chaos = s.p_chaos.map_or("-".into(), |p| format!("{p:.2}"));
        out.push_str(&format!(
            "{:width$} {:sessions$} {:9.1} {exponent:>22} {chaos:>8}\n",
            s.recording, s.session, s.seconds
        ));
    }
    out.push_str(&format!(
        "Largest driven Lyapunov exponent, clipped to +-{EXPONENT_MAX_PER_S} /s, with a 90 % \
         interval; conditional on\nthe simulated networks that the estimator learned from. Not \
         resolved: less than {SECONDS_MIN} s, or nothing that\nchannels share exceeds chance.\n"
    ));
    out
}

/// Exponents over time with their intervals, one colour a session.
fn picture(courses: &[(String, Course)]) -> Result<String> {
    let end = courses.iter().map(|(_, c)| c.seconds).fold(1.0, f64::max);
    svg((1000, 380), |area| {
        let (plot, legend) = area.split_horizontally(800);
        let axes = Axes {
            caption: "largest driven exponent with its 90 % interval; above 0 is chaos",
            x: "time (s)",
            y: "1/s, clipped to +-2",
        };
        let mut chart = chart(&plot, &axes, 0.0..end, -2.1..2.1)?;
        let zero = PathElement::new(vec![(0.0, 0.0), (end, 0.0)], BLACK.mix(0.5));
        chart.draw_series([zero]).map_err(drawn)?;
        for (i, (name, course)) in courses.iter().enumerate() {
            let of: Vec<(f64, DrivenExponent)> =
                course.moving.iter().filter_map(|(t, r)| Some((*t, r.exponent?))).collect();
            for pair in of.windows(2).filter(|pair| pair[1].0 - pair[0].0 < 1.5) {
                let [(from, a), (to, b)] = [pair[0], pair[1]];
                let corners = vec![(from, a.low), (from, a.high), (to, b.high), (to, b.low)];
                let band = Polygon::new(corners, colour(i).mix(0.18).filled());
                let line = vec![(from, a.per_s), (to, b.per_s)];
                let line = PathElement::new(line, colour(i).stroke_width(2));
                chart.draw_series([band]).map_err(drawn)?;
                chart.draw_series([line]).map_err(drawn)?;
            }
            let y = 40 + 20 * i as i32;
            let box_ = Rectangle::new([(4, y), (16, y + 12)], colour(i).filled());
            legend.draw(&box_).map_err(drawn)?;
            let resolved = if of.is_empty() { " (not resolved)" } else { "" };
            let text = format!("{name}{resolved}");
            let font = ("sans-serif", 13.0).into_font();
            legend.draw(&Text::new(text, (22, y), font)).map_err(drawn)?;
        }
        Ok(())
    })
}
