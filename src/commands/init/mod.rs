//! `regimed init`: a configuration for the rig that is there.

mod listen;
mod rig;

use std::io::{BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::serve::runtime;
use super::watch::duration;
use crate::checkpoint;
use crate::checkpoint::Checkpoint;
use crate::config::{BUILTIN_MODEL, parse};
use crate::model::Readout;
use crate::tasks;
use listen::{Found, listen};
use rig::{Rig, Table, quoted};

/// Write a configuration for the rig that is there, after listening to it for a while
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The rig; asked for on a terminal where it is not given
    #[arg(long, value_name = "RIG", value_enum)]
    pub rig: Option<Rig>,
    /// Where it is: an endpoint, an address or a file; for LSL, name=..., type=... or source_id=...
    /// [default: the rig's usual place]
    #[arg(long, value_name = "WHERE")]
    pub at: Option<String>,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "regimed.toml")]
    pub out: PathBuf,
    /// Replace the file where it is there
    #[arg(long)]
    pub force: bool,
    /// Model directory, or "builtin"
    #[arg(long, value_name = "MODEL", default_value = BUILTIN_MODEL)]
    pub model: String,
    /// Name of the session [default: as the rig's messages say, or "rig"]
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Listen for this long
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub for_time: Duration,
    /// Channels of a rig that is silent now
    #[arg(long, value_name = "N")]
    pub channels: Option<usize>,
    /// Samples a second of Open Ephys or Intan [default: as the rig says, else 30000]
    #[arg(long, value_name = "HZ")]
    pub sample_rate_hz: Option<f64>,
    /// Folder of a journal, in which events are kept before they are announced
    #[arg(long, value_name = "FOLDER")]
    pub journal: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A file that is there, a model that cannot be used, a rig that says nothing.
pub fn run(args: &InitArgs) -> Result<()> {
    if args.out.exists() && !args.force {
        bail!(
            "expected a file that is not there yet, found {} (--force replaces it, --out names \
             another)",
            args.out.display()
        );
    }
    let model = match args.model.as_str() {
        BUILTIN_MODEL => checkpoint::builtin()?,
        dir => checkpoint::load(Path::new(dir)).context("cannot use the model")?,
    };
    let rig = args.rig.map_or_else(ask, Ok)?;
    let at = match (&args.at, rig.usual_place()) {
        (Some(at), _) => at.clone(),
        (None, Some(usual)) => usual.to_owned(),
        (None, None) => bail!("expected --at FILE, the recording, found nothing"),
    };
    // A file in the configuration is looked for beside it.
    let at = match rig {
        Rig::Replay => std::path::absolute(&at)?.to_string_lossy().into_owned(),
        _ => at,
    };
    let seconds = args.for_time.as_secs_f64();
    eprintln!("listening to {at} for {seconds} s ...");
    let table = Table { at: at.clone(), sample_rate_hz: args.sample_rate_hz, ..Table::default() };
    let bin_ms = model.model.bin_width_s * 1e3;
    let mut found = tasks::block_on(&runtime()?, listen(rig, table, bin_ms, args.for_time))?;
    if found.channels == 0 {
        let why = if found.connected { "it answers, but sends nothing" } else { "nothing answers" };
        let Some(channels) = args.channels else {
            bail!(
                "expected something from the rig at {at} within {seconds} s: {why} (start the rig, \
                 name its place with --at, or say --channels N for a rig that is silent now)"
            );
        };
        eprintln!("{at}: {why}; {channels} channels as said");
        found.channels = channels;
    }
    let text = written(args, rig, &model, &found);
    // What it writes, it can read.
    parse(&args.out, &text).context("the configuration does not hold: this is a fault of init")?;
    std::fs::write(&args.out, &text)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let out = args.out.display();
    eprintln!(
        "{out}: {} channels{}; next:\n  regimed doctor --config {out}\n  regimed serve --config \
         {out}",
        found.channels,
        if found.rate_hz > 0.0 {
            format!(", {:.1} spikes a second and channel", found.rate_hz)
        } else {
            String::new()
        }
    );
    Ok(())
}

/// Asks for the rig.
fn ask() -> Result<Rig> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        bail!("expected --rig (there is no terminal on which to ask), found nothing");
    }
    let mut output = std::io::stderr().lock();
    for (i, (_, words)) in Rig::ALL.iter().enumerate() {
        writeln!(output, "  {}  {words}", i + 1)?;
    }
    loop {
        write!(output, "Which rig? [1-{}] ", Rig::ALL.len())?;
        output.flush()?;
        let mut line = String::new();
        if input.lock().read_line(&mut line)? == 0 {
            bail!("expected a rig, found the end of the input");
        }
        let number = line.trim().parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        if let Some((rig, _)) = number.and_then(|n| Rig::ALL.get(n)) {
            return Ok(*rig);
        }
    }
}

/// The model's session whose channels most of these are, and how many of them were heard. Some may
/// have been silent while it listened.
fn known<'a>(model: &'a Checkpoint, found: &Found) -> Option<(&'a Readout, usize)> {
    let heard = |r: &Readout| {
        let names = r.channels.as_deref().unwrap_or_default();
        names.iter().filter(|n| found.names.contains(n)).count()
    };
    let all = model.model.readouts.iter().rev().map(|r| (r, heard(r)));
    all.filter(|(r, n)| *n > 0 && 2 * n >= r.n_channels()).max_by_key(|(_, n)| *n)
}

/// The lines that say which of the model's sessions this is, or how it becomes one.
fn readout(args: &InitArgs, model: &Checkpoint, found: &Found) -> String {
    let readouts = &model.model.readouts;
    if let Some((known, heard)) = known(model, found) {
        let name = quoted(&known.session);
        let of = known.n_channels();
        return format!(
            "# The model's session of whose {of} channels {heard} were heard; on another day \
             better\n# calibrate_from.\nreadout = {name}\n# calibrate_from = {name}\n"
        );
    }
    let n = found.channels;
    let mut text = format!(
        "channels = {n}\ncalibrate_s = 60   # a new animal: regimes are recognised on its first \
         minute\n"
    );
    let same = readouts.iter().filter(|r| r.n_channels() == n).map(|r| quoted(&r.session));
    let same: Vec<String> = same.take(4).collect();
    if !same.is_empty() && args.model != BUILTIN_MODEL {
        text += &format!(
            "# Where it is an animal that the model knows ({}),\n# instead of these two: readout = \
             {}\n",
            same.join(", "),
            same[0]
        );
    }
    text
}

fn written(args: &InitArgs, rig: Rig, model: &Checkpoint, found: &Found) -> String {
    let names = model.model.regime_names.join(", ");
    let out = args.out.display();
    let mut text = format!(
        "# For the rig that `regimed init` heard. To check it: regimed doctor --config {out}\n\
         # Every key with its default: docs/configuration.md.\n\n"
    );
    let line =
        |key: &str, usual: &str, what: &str| format!("{key} = {}   # {what}\n", quoted(usual));
    let grpc = if rig == Rig::Grpc { found.table.at.as_str() } else { "127.0.0.1:7733" };
    let pull = if rig == Rig::Zeromq {
        found.table.at.trim_start_matches("tcp://")
    } else {
        "127.0.0.1:7734"
    };
    text += "[grpc]\n";
    text += &line("listen", grpc, "decisions and events out, counts in");
    text += "\n[zeromq]\n";
    text += &line("pull", pull, "counts in");
    text += &line("publish", "127.0.0.1:7735", "decisions and events out");
    text += "\n[http]\n";
    text += &line("listen", "127.0.0.1:9464", "the page, /metrics for Prometheus, health");
    text += "\n";
    match &args.journal {
        Some(folder) => {
            let folder = quoted(&folder.to_string_lossy());
            text += &format!(
                "[journal]\nfolder = {folder}   # events are here before they are announced\n\n"
            );
        }
        None => {
            text += "# [journal]                  # without it, events are kept in memory alone\n\
                     # folder = \"journal\"\n\
                     # decisions_every = 10       # for `regimed export`\n\n";
        }
    }
    let own = found.session.as_deref().unwrap_or("rig");
    let sane = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let own: String = own.chars().map(|c| if sane(c) { c } else { '-' }).take(64).collect();
    let session = quoted(args.session.as_deref().unwrap_or(&own));
    let model_path = quoted(&model_path(args));
    text += &format!("[[session]]\nname = {session}\nmodel = {model_path}   # regimes: {names}\n");
    text += &readout(args, model, found);
    let bin_ms = found.bin_ms.unwrap_or(model.model.bin_width_s * 1e3);
    // Bins that are counted here have the model's width.
    if rig.has_bins() || rig.comes() {
        text += &format!("bin_ms = {}\n", (bin_ms * 1e6).round() / 1e6);
    }
    let mut table = found.table.clone();
    if let Some((known, _)) = known(model, found) {
        // Others have no part in the readout.
        let names = known.channels.as_deref().unwrap_or_default();
        table.electrodes.retain(|name| names.contains(name));
    }
    let table = table.text(rig);
    if !table.is_empty() {
        text += &format!("\n{table}");
    }
    text
}

/// The model's path as the written file, which may be in another folder, has to name it.
fn model_path(args: &InitArgs) -> String {
    if args.model == BUILTIN_MODEL {
        return args.model.clone();
    }
    let absolute = std::path::absolute(&args.model);
    absolute.map_or_else(|_| args.model.clone(), |p| p.to_string_lossy().into_owned())
}
