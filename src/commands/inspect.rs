//! `regimed inspect`: shows the content of a model or a recording.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::card;
use super::recordings::RecordingArgs;
use crate::config::BUILTIN_MODEL;
use crate::recording::{Recording, TRUTH_KEYS};
use crate::{checkpoint, recording};

/// Names of channels that are shown at most.
const NAMES_SHOWN: usize = 8;

/// Show the content of a model or a recording
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Directory of a model, "builtin", or a recording (.npz or .nwb)
    #[arg(value_name = "MODEL|RECORDING")]
    pub what: PathBuf,
    #[command(flatten)]
    /// How to take a recording.
    pub recordings: RecordingArgs,
}

/// Runs the command.
///
/// # Errors
/// A model or recording that cannot be read.
pub fn run(args: &InspectArgs) -> Result<()> {
    let text = if args.what == Path::new(BUILTIN_MODEL) {
        card::card(&checkpoint::builtin()?)
    } else if args.what.is_dir()
        && !recording::is_zarr(&args.what)
        && !recording::is_phy(&args.what)
    {
        card::card(&checkpoint::load(&args.what)?)
    } else {
        let read = args.recordings.read(&args.what).context("cannot use this recording")?;
        describe(&read)
    };
    print!("{text}");
    Ok(())
}

/// One session's length, rates, tasks and time under every label.
fn session_lines(r: &Recording, session: &str, lines: &mut Vec<String>) {
    let of = || r.trials.iter().filter(|t| t.session == session);
    let bins: usize = of().map(crate::recording::Trial::n_bins).sum();
    let spikes: u64 = of().flat_map(|t| &t.counts).map(|&c| u64::from(c)).sum();
    let mut tasks: Vec<i64> = of().flat_map(|t| t.task.iter().copied()).collect();
    tasks.sort_unstable();
    tasks.dedup();
    let per_bin = spikes as f64 / (bins.max(1) * r.n_channels) as f64;
    lines.push(format!(
        "session    '{session}': {:.1} s, {per_bin:.3} spikes per bin and channel ({:.1} /s), {} \
         tasks",
        bins as f64 * r.bin_width_s,
        per_bin / r.bin_width_s,
        tasks.len()
    ));
    let labelled = |name: Option<usize>| {
        of().flat_map(|t| &t.regime).filter(|l| **l == name).count() as f64 * r.bin_width_s
    };
    for (i, name) in r.regime_names.iter().enumerate() {
        lines.push(format!("           {name}: {:.1} s", labelled(Some(i))));
    }
    lines.push(format!("           without a label: {:.1} s", labelled(None)));
}

fn describe(r: &Recording) -> String {
    let seconds = r.n_bins() as f64 * r.bin_width_s;
    let mut lines = vec![
        format!("recording  {}", r.path.display()),
        format!(
            "size       {} channels, {} bins of {} ms, {seconds:.1} s in {} {}",
            r.n_channels,
            r.n_bins(),
            r.bin_width_s * 1e3,
            r.trials.len(),
            if r.continuous { "consecutive trials" } else { "separate trials" }
        ),
    ];
    let names = r.channels.as_ref().map_or("no names".into(), |names| {
        let more = if names.len() > NAMES_SHOWN { ", ..." } else { "" };
        let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
        shown.join(", ") + more
    });
    lines.push(format!("channels   {names}"));
    let mut sessions: Vec<&str> = Vec::new();
    for trial in &r.trials {
        if !sessions.contains(&trial.session.as_str()) {
            sessions.push(&trial.session);
        }
    }
    for session in sessions {
        session_lines(r, session, &mut lines);
    }
    let mut counts = vec![0u64; r.n_channels];
    for bin in r.trials.iter().flat_map(|t| t.counts.rows()) {
        counts.iter_mut().zip(bin).for_each(|(sum, &c)| *sum += u64::from(c));
    }
    let silent = counts.iter().filter(|c| **c == 0).count();
    let largest = r.trials.iter().flat_map(|t| &t.counts).max().copied().unwrap_or(0);
    lines.push(format!("counts     at most {largest} in a bin; {silent} channels without a spike"));
    let known: Vec<&str> = TRUTH_KEYS
        .iter()
        .filter(|(.., place)| r.trials.iter().any(|t| place(&mut { t.truth }).is_some()))
        .map(|(key, ..)| *key)
        .collect();
    let truth = if known.is_empty() { "none".into() } else { known.join(", ") };
    lines.push(format!("truth      {truth}"));
    lines.join("\n") + "\n"
}
