//! `regimed calibrate`: adds a session's readout to a model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::card;
use super::progress::{Interrupt, Progress};
use super::recordings::RecordingArgs;
use crate::checkpoint;
use crate::checkpoint::{Checkpoint, DataFile};
use crate::config::BUILTIN_MODEL;
use crate::model::{Model, Readout, nearly_equal};
use crate::recording::Recording;
use crate::training::{
    Dataset, RECALIBRATION_ROUNDS, Regimes, TrainingSettings, calibrate_animal, recalibrate,
};

/// Add a session's readout to a model; its dynamics stay as they are
#[derive(Debug, clap::Args)]
pub struct CalibrateArgs {
    /// Recording of the new session (.npz), labelled or not
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// Directory of the model, or "builtin" (with --out)
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Directory for the model with the new readout (default: the model's own)
    #[arg(long, value_name = "MODEL")]
    pub out: Option<PathBuf>,
    /// The model's session that this is another day of: same animal and channels, some units lost.
    /// No labels are needed, and steps, batch, window, rate and seed play no part
    #[arg(long, value_name = "SESSION")]
    pub from: Option<String>,
    /// Steps of Adam
    #[arg(long, default_value_t = TrainingSettings::for_calibration().steps)]
    pub steps: usize,
    /// Windows per step
    #[arg(long, default_value_t = TrainingSettings::for_calibration().batch)]
    pub batch: usize,
    /// Bins per window
    #[arg(long, default_value_t = TrainingSettings::for_calibration().window_bins)]
    pub window_bins: usize,
    /// Learning rate at the start
    #[arg(long, default_value_t = TrainingSettings::for_calibration().learning_rate)]
    pub learning_rate: f64,
    /// Seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    /// How to take the recording; --session names the new session.
    pub recordings: RecordingArgs,
}

/// Runs the command.
///
/// # Errors
/// A recording or model that cannot be used, or that do not go together.
pub fn run(args: &CalibrateArgs) -> Result<()> {
    if args.steps == 0 || args.batch == 0 || args.window_bins == 0 {
        bail!("--steps, --batch, --window-bins: expected at least 1 each, found a 0");
    }
    let checkpoint = model(args)?;
    let (recording, file) = recording(args, &checkpoint.model)?;
    let data = Dataset::for_calibration(&recording)?;
    let [session] = data.sessions.as_slice() else {
        bail!("{}: expected one session, found {}", args.data.display(), data.sessions.len());
    };
    let name = session.name.clone();
    warn_of_counts(&checkpoint.model, f32::from(data.count_max));
    eprintln!(
        "session '{name}': {} channels, {:.1} s",
        session.n_channels,
        recording.n_bins() as f64 * recording.bin_width_s
    );
    let readout = match &args.from {
        Some(from) => another_day(&checkpoint.model, from, &data, &name)?,
        None => {
            drop(data);
            new_animal(args, &checkpoint, &recording, &name)?
        }
    };
    keep(args, checkpoint, readout, file)
}

fn model(args: &CalibrateArgs) -> Result<Checkpoint> {
    if args.model != Path::new(BUILTIN_MODEL) {
        return Ok(checkpoint::load(&args.model)?);
    }
    if args.out.is_none() {
        bail!(
            "--model {BUILTIN_MODEL}: expected --out with a place for the calibrated model, found \
             none"
        );
    }
    Ok(checkpoint::builtin()?)
}

/// The recording, with its channels in the order of the readout that is calibrated again.
fn recording(args: &CalibrateArgs, model: &Model) -> Result<(Recording, DataFile)> {
    let (mut recording, file) = args.recordings.read_with_hash(&args.data)?;
    let before = args.from.as_ref().and_then(|from| model.readout(from));
    if let Some(names) = before.and_then(|r| r.channels.as_ref()) {
        recording.arrange(names)?;
    }
    let (expected, found) = (model.bin_width_s * 1e3, recording.bin_width_s * 1e3);
    if !nearly_equal(found, expected) {
        bail!(
            "{}: expected bins of {expected} ms as the model's, found {found} ms (see --bin-ms)",
            args.data.display()
        );
    }
    Ok((recording, file))
}

fn new_animal(
    args: &CalibrateArgs,
    checkpoint: &Checkpoint,
    recording: &Recording,
    name: &str,
) -> Result<Readout> {
    let model = &checkpoint.model;
    let settings = TrainingSettings {
        steps: args.steps,
        batch: args.batch,
        window_bins: args.window_bins,
        learning_rate: args.learning_rate,
        seed: args.seed,
        log_rate_bounds: model.online.log_rate_bounds,
        ..TrainingSettings::for_calibration()
    };
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new("calibrate", args.steps, 0);
    let recogniser = checkpoint.recogniser()?;
    let (found, regimes) =
        calibrate_animal(model, recording, &recogniser, settings, |done, one_step| {
            progress.at(done, || format!("one step {one_step:.5}"));
            !interrupt.raised()
        })?;
    progress.finish();
    println!(
        "session '{name}': one-step log-likelihood {:.5} nats per bin and channel; regimes: {}",
        found.one_step,
        source(&regimes, model)
    );
    if let Regimes::Unknown(why) = &regimes {
        eprintln!(
            "warning: {why}. Session '{name}' will be called unknown all along (give labels, or \
             --from for another day of a known animal)"
        );
    }
    Ok(found.readout)
}

/// Where a calibration's regimes come from, in words.
fn source(regimes: &Regimes, model: &Model) -> String {
    match regimes {
        Regimes::Given => "its own labels".into(),
        Regimes::Unknown(_) => "not known".into(),
        Regimes::Recognised { certainty, agreement, seconds } => {
            let each = model.regime_names.iter().zip(seconds).filter(|(_, s)| **s > 0.0);
            let each: Vec<String> = each.map(|(name, s)| format!("{name} {s:.0} s")).collect();
            format!(
                "recognised in its counts ({}; mean probability {certainty:.2}, the calibrated \
                 model agrees in {:.0} %)",
                each.join(", "),
                100.0 * agreement
            )
        }
    }
}

/// Warns where the model cannot distinguish counts this large.
pub(super) fn warn_of_counts(model: &Model, largest: f32) {
    let most = model.count_max();
    if largest > most {
        eprintln!(
            "warning: counts reach {largest} a bin, and this model can tell {most:.0} at most: \
             what is above looks alike to it (narrower bins, or a model trained on such counts)"
        );
    }
}

/// The readout of another day of session `from`.
fn another_day(model: &Model, from: &str, data: &Dataset, name: &str) -> Result<Readout> {
    let Some(before) = model.readout(from) else {
        let known = model.session_names().join(", ");
        bail!("--from {from}: expected a session of the model ({known})");
    };
    let (expected, found) = (before.n_channels(), data.sessions[0].n_channels);
    if expected != found {
        bail!("--from {from}: expected {expected} channels as that session has, found {found}");
    }
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new("calibrate", RECALIBRATION_ROUNDS, 0);
    let found = recalibrate(model, before, data, name, |round, log_likelihood| {
        progress.at(round, || format!("one step {log_likelihood:.5}"));
        !interrupt.raised()
    })?;
    progress.finish();
    println!(
        "session '{name}': {} of {expected} channels taken for other units than '{from}' had; \
         one-step log-likelihood {:.4} nats per bin and channel, {:.4} with the readout of \
         '{from}'",
        found.replaced, found.log_likelihood[1], found.log_likelihood[0]
    );
    Ok(found.readout)
}

/// Writes the model with a session's new readout.
fn keep(
    args: &CalibrateArgs,
    mut checkpoint: Checkpoint,
    readout: Readout,
    file: DataFile,
) -> Result<()> {
    let model = &mut checkpoint.model;
    match model.readouts.iter_mut().find(|r| r.session == readout.session) {
        Some(place) => *place = readout,
        None => model.readouts.push(readout),
    }
    let out = args.out.as_ref().unwrap_or(&args.model);
    checkpoint.provenance.data.push(file);
    // First none: what another model left there may not be of this one's regimes.
    if *out != args.model {
        checkpoint::save_recogniser(out, None)
            .context("cannot remove another model's recogniser")?;
    }
    checkpoint::save(out, &checkpoint.model, &checkpoint.provenance)
        .context("cannot write the calibrated model")?;
    checkpoint::save_recogniser(out, checkpoint.recogniser.as_deref())
        .context("cannot write the model's recogniser")?;
    card::write(out, &checkpoint::load(out)?)?;
    println!(
        "model with {} sessions written to {}",
        checkpoint.model.readouts.len(),
        out.display()
    );
    Ok(())
}
