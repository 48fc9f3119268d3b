//! `regimed export`: a session's recorded decisions, metrics and events as arrays for numpy.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::journal::utc;
use crate::config::DECISIONS;
use crate::journal;
use crate::recording::{Archive, Column};
use crate::wire::journal_record::What;
use crate::wire::{Decision, Estimate, Event, Metrics};

/// Write a session's recorded decisions, metrics and events from a journal to an .npz for numpy
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The journal's folder (journal.folder of the configuration)
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// File to write (docs/journal.md names its arrays)
    #[arg(long, value_name = "FILE.npz")]
    pub out: PathBuf,
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
    let within = |ns: i64| (args.from..args.to).contains(&(ns as f64 * 1e-9));
    let parent = args.out.parent().filter(|p| !p.as_os_str().is_empty());
    let gathering = Gathering::new(parent.unwrap_or(Path::new(".")))?;
    let mut arrays = Arrays::default();
    let mut problem = None;
    let mut names = Vec::new();
    let recorded = args.folder.join(DECISIONS);
    if recorded.is_dir() {
        each(&recorded, &session, |what| {
            let What::Decision(mut decision) = what else { return };
            if decision.regime_names.is_empty() {
                decision.regime_names.clone_from(&names);
            } else {
                names.clone_from(&decision.regime_names);
            }
            if problem.is_none() && within(decision.receive_time_ns) {
                problem = arrays.decision(&gathering.0, &decision).err();
            }
        })?;
    }
    if let Some(e) = problem {
        return Err(e);
    }
    let mut events = Vec::new();
    each(&args.folder, &session, |what| {
        if let What::Event(event) = what
            && within(event.decision_time_ns)
        {
            events.push(event);
        }
    })?;
    let (decisions, metrics) = (arrays.decisions, arrays.metrics);
    let mut archive = Archive::create(&args.out)?;
    archive.strings("session", std::slice::from_ref(&session))?;
    arrays.finish(&mut archive)?;
    write_events(&mut archive, &events)?;
    archive.finish()?;
    let out = args.out.display();
    eprintln!(
        "{out}: {decisions} decisions, {metrics} readings of the dynamics and {} events of session \
         '{session}'",
        events.len()
    );
    if decisions == 0 {
        eprintln!("no decisions were recorded in that time: journal.decisions_every turns that on");
    }
    Ok(())
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
fn each(folder: &Path, session: &str, mut take: impl FnMut(What)) -> Result<()> {
    let reading = journal::read(folder, |record| {
        if record.session == session
            && let Some(what) = record.what
        {
            take(what);
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

/// Whole numbers of a decision.
type Whole = (&'static str, fn(&Decision) -> i64);
const WHOLE: [Whole; 11] = [
    ("sequence", |d| d.sequence as i64),
    ("bin", |d| d.bin as i64),
    ("rig_time_ns", |d| d.rig_time_ns),
    ("receive_time_ns", |d| d.receive_time_ns),
    ("publish_time_ns", |d| d.publish_time_ns),
    ("latency_ns", |d| d.latency_ns as i64),
    ("event", |d| d.event_sequence as i64),
    ("predicted", |d| i64::from(d.predicted)),
    ("artefact", |d| i64::from(d.artefact)),
    ("silent_channels", |d| i64::from(d.silent_channels)),
    ("regime", |d| d.regime_names.iter().position(|n| *n == d.regime).map_or(-1, |i| i as i64)),
];
/// Floats of a decision; `None`: one alone.
type Floats = (&'static str, bool, fn(&Decision) -> Vec<f32>);
const FLOATS: [Floats; 9] = [
    ("posterior", true, |d| d.posterior.clone()),
    ("experts", true, |d| d.experts.iter().flat_map(|e| e.posterior.iter().copied()).collect()),
    ("embedding_mean", true, |d| d.embedding_mean.clone()),
    ("embedding_sd", true, |d| d.embedding_sd.clone()),
    ("latent", true, |d| d.latent.clone()),
    ("latent_sd", true, |d| d.latent_sd.clone()),
    ("unlabelled", false, |d| vec![d.unlabelled]),
    ("novelty", false, |d| vec![d.novelty]),
    ("log_likelihood", false, |d| vec![d.log_likelihood]),
];
/// A whole number of an event.
type WholeOfEvent = (&'static str, fn(&Event) -> i64);
/// A reading's value.
type Reading = (&'static str, fn(&Metrics) -> f32);

fn mean(of: Option<Estimate>) -> f32 {
    of.map_or(f32::NAN, |e| e.mean)
}

const READINGS: [Reading; 13] = [
    ("metrics_spectral_radius", |m| m.spectral_radius),
    ("metrics_spectral_abscissa_per_s", |m| m.spectral_abscissa_per_s),
    ("metrics_leading_frequency_hz", |m| m.leading_frequency_hz),
    ("metrics_leading_time_constant_s", |m| m.leading_time_constant_s),
    ("metrics_participation_ratio", |m| m.participation_ratio),
    ("metrics_bare_spectral_radius", |m| m.bare_spectral_radius),
    ("metrics_lyapunov_max_noise_free_per_s", |m| mean(m.lyapunov_max_noise_free_per_s)),
    ("metrics_lyapunov_max_driven_per_s", |m| mean(m.lyapunov_max_driven_per_s)),
    ("metrics_kaplan_yorke_dimension", |m| mean(m.kaplan_yorke_dimension)),
    ("metrics_oscillation_hz", |m| mean(m.oscillation_hz)),
    ("metrics_branching_ratio_per_bin", |m| mean(m.branching_ratio_per_bin)),
    ("metrics_connectivity_radius", |m| mean(m.connectivity_radius)),
    ("metrics_signature", |m| m.signature as f32),
];

/// The arrays as they grow.
#[derive(Default)]
struct Arrays {
    whole: Vec<Column>,
    floats: Vec<Column>,
    readings: Vec<Column>,
    reading_bins: Option<Column>,
    /// Regime names, and the widths of `FLOATS`, as the first decision has them.
    names: Vec<String>,
    widths: Vec<usize>,
    decisions: u64,
    metrics: u64,
}

impl Arrays {
    fn decision(&mut self, folder: &Path, d: &Decision) -> Result<()> {
        let floats: Vec<Vec<f32>> = FLOATS.iter().map(|(.., of)| of(d)).collect();
        let widths: Vec<usize> = floats.iter().map(Vec::len).collect();
        if self.decisions == 0 {
            self.names.clone_from(&d.regime_names);
            self.widths.clone_from(&widths);
            for (key, _) in WHOLE {
                self.whole.push(Column::i64(folder, key)?);
            }
            for ((key, many, _), width) in FLOATS.iter().zip(&widths) {
                self.floats.push(Column::f32(folder, key, many.then_some(*width))?);
            }
            for (key, _) in READINGS {
                self.readings.push(Column::f32(folder, key, None)?);
            }
            self.reading_bins = Some(Column::i64(folder, "metrics_bin")?);
        }
        if d.regime_names != self.names || widths != self.widths {
            bail!(
                "expected decisions of one model, found another from {} on: export both parts, \
                 with --from and --to",
                utc(d.receive_time_ns)
            );
        }
        self.decisions += 1;
        for (column, (_, of)) in self.whole.iter_mut().zip(WHOLE) {
            column.whole(of(d))?;
        }
        for (column, row) in self.floats.iter_mut().zip(&floats) {
            column.floats(row)?;
        }
        if let (Some(metrics), Some(bins)) = (&d.metrics, &mut self.reading_bins) {
            self.metrics += 1;
            bins.whole(metrics.bin as i64)?;
            for (column, (_, of)) in self.readings.iter_mut().zip(READINGS) {
                column.floats(&[of(metrics)])?;
            }
        }
        Ok(())
    }

    fn finish(self, archive: &mut Archive<'_>) -> Result<()> {
        archive.strings("regime_names", &self.names)?;
        let columns = self.whole.into_iter().chain(self.floats).chain(self.readings);
        for column in columns.chain(self.reading_bins) {
            column.finish(archive)?;
        }
        Ok(())
    }
}

fn write_events(archive: &mut Archive<'_>, events: &[Event]) -> Result<()> {
    let whole: [WholeOfEvent; 8] = [
        ("event_sequence", |e| e.event_sequence as i64),
        ("event_bin", |e| e.bin as i64),
        ("event_bin_sequence", |e| e.sequence as i64),
        ("event_onset_bin", |e| e.onset_bin as i64),
        ("event_onset_low_bin", |e| e.onset_low_bin as i64),
        ("event_onset_high_bin", |e| e.onset_high_bin as i64),
        ("event_rig_time_ns", |e| e.rig_time_ns),
        ("event_decision_time_ns", |e| e.decision_time_ns),
    ];
    for (key, of) in whole {
        archive.i64(key, &events.iter().map(of).collect::<Vec<_>>())?;
    }
    let probability: Vec<f32> = events.iter().map(|e| e.probability).collect();
    archive.f32("event_probability", &[events.len()], &probability)?;
    archive.strings("event_from", &events.iter().map(|e| e.from.clone()).collect::<Vec<_>>())?;
    archive.strings("event_to", &events.iter().map(|e| e.to.clone()).collect::<Vec<_>>())?;
    Ok(())
}
