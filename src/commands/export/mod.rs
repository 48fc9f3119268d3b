//! `regimed export`: a session's recorded decisions, metrics, events, notes and triggers, as arrays
//! for numpy or as an NWB file.

mod arrays;
mod noted;
mod nwb;
mod readings;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::DECISIONS;
use crate::journal;
use crate::recording::Archive;
use crate::wire::Decision;
use crate::wire::journal_record::What;
use arrays::{Arrays, write_acts, write_events};
use noted::Noted;

/// Write a session's decisions, metrics, events, notes and triggers from a journal to an .npz for
/// numpy, or to an NWB file
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The journal's folder (journal.folder of the configuration)
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// File of arrays to write (docs/journal.md names them)
    #[arg(long, value_name = "FILE.npz", required_unless_present = "nwb")]
    pub out: Option<PathBuf>,
    /// NWB file to write: regimes as a table of intervals, posterior and metrics as time series
    #[arg(long, value_name = "FILE.nwb")]
    pub nwb: Option<PathBuf>,
    /// The session; may be left out where the journal has one alone
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Only what was received from this time on, seconds since the Unix epoch
    #[arg(long, value_name = "S", default_value_t = f64::NEG_INFINITY)]
    pub from: f64,
    /// Only what was received before this time, seconds since the Unix epoch
    #[arg(long, value_name = "S", default_value_t = f64::INFINITY)]
    pub to: f64,
}

/// Runs the command.
///
/// # Errors
/// A journal that cannot be read, a session that is not in it, decisions of different models.
pub fn run(args: &ExportArgs) -> Result<()> {
    let session = session(args)?;
    let noted = noted(args, &session)?;
    let mut decisions = 0;
    if let Some(out) = &args.out {
        decisions = write_arrays(args, &session, &noted, out)?;
    }
    if let Some(out) = &args.nwb {
        let mut kept = Vec::new();
        each_decision(args, &session, |decision| {
            kept.push(decision);
            Ok(())
        })?;
        decisions = kept.len() as u64;
        nwb::write(out, &session, &kept, &noted)?;
        let out = out.display();
        let n = noted.events.len();
        eprintln!("{out}: {decisions} decisions and {n} events of session '{session}'");
    }
    if decisions == 0 {
        eprintln!("no decisions were recorded in that time: journal.decisions_every turns that on");
    }
    Ok(())
}

fn within(args: &ExportArgs, ns: i64) -> bool {
    (args.from..args.to).contains(&(ns as f64 * 1e-9))
}

/// The arrays; how many decisions there are.
fn write_arrays(args: &ExportArgs, session: &str, noted: &Noted, out: &Path) -> Result<u64> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty());
    let gathering = Gathering::new(parent.unwrap_or(Path::new(".")))?;
    let mut arrays = Arrays::default();
    each_decision(args, session, |decision| arrays.decision(&gathering.0, &decision))?;
    let (decisions, metrics) = (arrays.decisions, arrays.metrics);
    let mut archive = Archive::create(out)?;
    archive.strings("session", &[session.to_owned()])?;
    archive.f64("bin_width_s", &[], &[noted.bin_width_s])?;
    arrays.finish(&mut archive)?;
    write_events(&mut archive, &noted.events)?;
    write_acts(&mut archive, noted)?;
    archive.finish()?;
    eprintln!(
        "{}: {decisions} decisions, {metrics} readings of the dynamics and {} events of session \
         '{session}'",
        out.display(),
        noted.events.len()
    );
    Ok(decisions)
}

/// Every recorded decision of the time asked for, with its regimes' names.
fn each_decision(
    args: &ExportArgs,
    session: &str,
    mut take: impl FnMut(Decision) -> Result<()>,
) -> Result<()> {
    let recorded = args.folder.join(DECISIONS);
    if !recorded.is_dir() {
        return Ok(());
    }
    let (mut problem, mut names) = (None, Vec::new());
    each(&recorded, session, |_, what| {
        let What::Decision(mut decision) = what else { return };
        if decision.regime_names.is_empty() {
            decision.regime_names.clone_from(&names);
        } else {
            names.clone_from(&decision.regime_names);
        }
        if problem.is_none() && within(args, decision.receive_time_ns) {
            problem = take(decision).err();
        }
    })?;
    problem.map_or(Ok(()), Err)
}

/// What the journal says beside decisions.
fn noted(args: &ExportArgs, session: &str) -> Result<Noted> {
    let mut noted = Noted::default();
    each(&args.folder, session, |time_ns, what| match what {
        What::SessionStarted(s) => {
            (noted.bin_width_s, noted.model) = (s.bin_width_s, s.model);
        }
        What::ModelChanged(m) if !m.calibrated => noted.model = m.model,
        What::SessionStopped(_) => noted.stopped_ns.push(time_ns),
        What::Event(e) if within(args, e.decision_time_ns) => noted.events.push(e),
        What::Annotation(a) if within(args, a.time_ns) => noted.annotations.push(a),
        What::Triggered(t) if within(args, t.decision_time_ns) => noted.triggered.push(t),
        _ => {}
    })?;
    Ok(noted)
}

/// The session that is asked for.
fn session(args: &ExportArgs) -> Result<String> {
    let mut names = BTreeSet::new();
    let read = journal::read(&args.folder, |record| {
        if !record.session.is_empty() {
            names.insert(record.session);
        }
    });
    read.with_context(|| format!("cannot read the journal in {}", args.folder.display()))?;
    let known = || names.iter().cloned().collect::<Vec<_>>().join(", ");
    match &args.session {
        Some(name) if names.contains(name) => Ok(name.clone()),
        Some(name) => bail!("--session: expected one of {}, found '{name}'", known()),
        None if names.len() == 1 => Ok(known()),
        None => bail!("expected --session, one of {}, found none", known()),
    }
}

/// Every record of a session.
fn each(folder: &Path, session: &str, mut take: impl FnMut(i64, What)) -> Result<()> {
    let reading = journal::read(folder, |record| {
        if record.session == session
            && let Some(what) = record.what
        {
            take(record.time_ns, what);
        }
    })
    .with_context(|| format!("cannot read {}", folder.display()))?;
    if reading.lost > 0 {
        let folder = folder.display();
        eprintln!("{folder}: {} records are damaged and left out", reading.lost);
    }
    Ok(())
}

/// Folder of the columns while they are gathered.
struct Gathering(PathBuf);

impl Gathering {
    fn new(parent: &Path) -> Result<Self> {
        let folder = parent.join(format!(".regimed-export-{}", std::process::id()));
        std::fs::create_dir(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
