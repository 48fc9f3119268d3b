//! `regimed pretrain`: learns a model.

use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::card;
use super::progress::{Interrupt, Progress};
use super::recordings::{Names, RecordingArgs};
use crate::checkpoint::{self, DataFile, Provenance};
use crate::model::Dimensions;
use crate::recording::Spool;
use crate::regime::Verdict;
use crate::training::{Dataset, Gathering, Trainer, TrainingSettings, finish, fit_metric_head};

/// File of a training that is not finished.
const STATE_FILE: &str = "training.safetensors";
/// A short recording is learned within tens of steps: the first validation comes after so many passes
/// over the data, though not before so many steps.
const FIRST_VALIDATION_PASSES: f64 = 20.0;
const FIRST_VALIDATION_STEP: usize = 8;
/// Longest state of a training.
const STATE_BYTES_MAX: u64 = 4 << 30;
/// Fewer bins are refused...
const BINS_MIN: usize = 100;
/// ...and of less than this the user is warned.
const SECONDS_PER_REGIME: f64 = 10.0;
/// Times that a training is validated on what was held out; the best model is kept.
const VALIDATIONS: usize = 12;
/// Where exponents are learned too, a later model is kept whose held-out log loss is at most so many
/// times the least before.
const LATER_IS_BETTER_WITHIN: f64 = 1.25;

/// How counts scatter around their rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CountModel {
    /// Variance as the rate
    Poisson,
    /// More variance than the rate, fitted per channel after training
    NegativeBinomial,
}

/// Learn a model from labelled recordings
#[derive(Debug, clap::Args)]
pub struct PretrainArgs {
    /// Recordings (.npz), one or several sessions
    #[arg(required = true, value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// Directory of the model
    #[arg(long, value_name = "MODEL")]
    pub out: PathBuf,
    /// Steps of Adam
    #[arg(long, default_value_t = TrainingSettings::default().steps)]
    pub steps: usize,
    /// Windows per step
    #[arg(long, default_value_t = TrainingSettings::default().batch)]
    pub batch: usize,
    /// Bins per window
    #[arg(long, default_value_t = TrainingSettings::default().window_bins)]
    pub window_bins: usize,
    /// Learning rate at the start
    #[arg(long, default_value_t = TrainingSettings::default().learning_rate)]
    pub learning_rate: f64,
    /// Rank of the connectivity, R
    #[arg(long, default_value_t = TrainingSettings::default().dims.rank)]
    pub rank: usize,
    /// Dimensions of the task embedding, d
    #[arg(long, default_value_t = TrainingSettings::default().dims.embedding)]
    pub embedding: usize,
    /// Units of the rate network, N
    #[arg(long, default_value_t = TrainingSettings::default().dims.units)]
    pub units: usize,
    /// Bins of the open-loop forecasts
    #[arg(long, default_value_t = TrainingSettings::default().horizon_bins)]
    pub forecast_bins: usize,
    /// Weight of the forecasts beside the one-step likelihood; 0 leaves them out
    #[arg(long, default_value_t = TrainingSettings::default().forecast_weight)]
    pub forecast_weight: f64,
    /// Weight of the error of the network's own Lyapunov exponents (without noise and driven, per bin), where the
    /// recordings tell the true ones; 0 leaves it out
    #[arg(long, default_value_t = TrainingSettings::default().exponent_weight)]
    pub exponent_weight: f64,
    /// Weight of the mean process variance: what the network does not explain is left to noise
    #[arg(long, default_value_t = TrainingSettings::default().process_penalty)]
    pub process_penalty: f64,
    /// Weight of telling regimes apart beside predicting the counts; 0 leaves it out
    #[arg(long, default_value_t = TrainingSettings::default().contrast_weight)]
    pub contrast_weight: f64,
    /// How counts scatter around their rates in the online fit
    #[arg(long, value_enum, default_value_t = CountModel::Poisson)]
    pub counts: CountModel,
    /// Time that a regime lasts on average where the model will serve, if not as in the recordings
    #[arg(long, value_name = "SECONDS")]
    pub mean_dwell: Option<f64>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Save the state of the training every so many steps
    #[arg(long, default_value_t = 200)]
    pub checkpoint_every: usize,
    /// Go on from the state saved in the model directory
    #[arg(long)]
    pub resume: bool,
    #[command(flatten)]
    /// How to take the recordings.
    pub recordings: RecordingArgs,
}

/// Runs the command.
///
/// # Errors
/// Bad data, a state that does not fit, a training that diverges.
pub fn run(args: &PretrainArgs) -> Result<()> {
    for (flag, value) in [
        ("--steps", args.steps),
        ("--batch", args.batch),
        ("--window-bins", args.window_bins),
        ("--checkpoint-every", args.checkpoint_every),
    ] {
        if value == 0 {
            bail!("{flag}: expected at least 1, found 0");
        }
    }
    for (flag, weight) in [
        ("--contrast-weight", args.contrast_weight),
        ("--forecast-weight", args.forecast_weight),
        ("--exponent-weight", args.exponent_weight),
        ("--process-penalty", args.process_penalty),
    ] {
        if !(weight >= 0.0 && weight.is_finite()) {
            bail!("{flag}: expected 0 or more, found {weight}");
        }
    }
    if let Some(found) = args.mean_dwell.filter(|s| !(*s > 0.0 && s.is_finite())) {
        bail!("--mean-dwell: expected seconds above 0, found {found}");
    }
    let mut settings = TrainingSettings {
        steps: args.steps,
        batch: args.batch,
        window_bins: args.window_bins,
        learning_rate: args.learning_rate,
        seed: args.seed,
        horizon_bins: args.forecast_bins,
        forecast_weight: args.forecast_weight,
        exponent_weight: args.exponent_weight,
        process_penalty: args.process_penalty,
        contrast_weight: args.contrast_weight,
        mean_dwell_s: args.mean_dwell,
        negative_binomial: args.counts == CountModel::NegativeBinomial,
        ..TrainingSettings::default()
    };
    settings.dims.rank = args.rank;
    settings.dims.embedding = args.embedding;
    settings.dims.units = args.units;
    settings.dims.check().map_err(anyhow::Error::msg)?;
    let (data, files) = gather(args)?;
    for s in &data.sessions {
        eprintln!("session '{}': {} channels", s.name, s.n_channels);
    }
    eprintln!(
        "{} regimes ({}), bins of {} ms, {} held-out streams",
        data.regime_names.len(),
        data.regime_names.join(", "),
        data.bin_width_s * 1e3,
        data.held_out.len()
    );
    let seconds = data.training_bins() as f64 * data.bin_width_s;
    let needed = SECONDS_PER_REGIME * data.regime_names.len().max(1) as f64;
    if seconds < needed {
        eprintln!(
            "warning: {seconds:.1} s to learn from; expect little of a model that saw less than {needed:.0} s ({SECONDS_PER_REGIME:.0} s of each regime)"
        );
    }
    settings.bound_rates(f32::from(data.count_max));
    let mut trainer = Trainer::new(data, settings)?;
    let identity = identity(&files, &settings, &args.recordings);
    let state_path = args.out.join(STATE_FILE);
    if args.resume {
        resume(&mut trainer, &state_path, &identity)?;
        eprintln!("resumed after {} steps", trainer.steps_done());
    }
    let mut keeper = Keeper::new(args, files);
    if args.resume {
        keeper.take_up();
    }
    let complete = train(&mut trainer, args, &mut keeper, (&state_path, &identity))?;
    teach_exponents(args, &trainer)?;
    if let Some(best) = &keeper.best {
        for (name, verdict) in &best.held_out_by_session {
            println!("session {name}: {}", sentence(verdict));
        }
        match &best.held_out {
            Some(verdict) => println!("held out: {} (step {})", sentence(verdict), best.steps),
            None => println!("held out: nothing labelled"),
        }
    }
    if complete {
        // The state is of use only to an unfinished training.
        let _ = std::fs::remove_file(&state_path);
        card::write(&args.out, &checkpoint::load(&args.out)?)?;
        println!("model written to {}", args.out.display());
    } else {
        println!(
            "stopped after {} of {} steps; the best model so far is in {}; --resume goes on",
            trainer.steps_done(),
            args.steps,
            args.out.display()
        );
    }
    Ok(())
}

/// Reads recordings one after the other; counts to learn from are kept in a file and read back window by window.
fn gather(args: &PretrainArgs) -> Result<(Arc<Dataset>, Vec<DataFile>)> {
    let out = &args.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let spool = Spool::in_folder(out)
        .with_context(|| format!("cannot keep counts in {}", out.display()))?;
    let mut gathering = Gathering::new(Some(spool));
    let mut files = Vec::new();
    let mut names = Names::default();
    let mut bins = 0;
    for path in &args.data {
        let mut recording = args.recordings.read(path).context("cannot use this recording")?;
        if args.recordings.session.is_none() {
            names.tell_apart(&mut recording);
        }
        bins += recording.n_bins();
        gathering.add(&recording)?;
        files.push(checkpoint::data_file(path)?);
    }
    if bins < BINS_MIN {
        bail!(
            "expected at least {BINS_MIN} bins to learn from, found {bins} (a model needs minutes of each regime)"
        );
    }
    Ok((Arc::new(gathering.finish()?), files))
}

/// Fits the kept model's metric head to recordings that tell their tasks' exponents.
fn teach_exponents(args: &PretrainArgs, trainer: &Trainer) -> Result<()> {
    let mut kept = checkpoint::load(&args.out)?;
    let threads = trainer.settings().threads;
    kept.model.metric_head = fit_metric_head(&kept.model, trainer.data(), threads)?;
    let Some(head) = &kept.model.metric_head else { return Ok(()) };
    for (name, head) in kept.model.regime_names.iter().zip(&head.regimes) {
        if let Some(h) = head {
            println!(
                "exponents of '{name}': error {:.2} /s without noise, {:.2} /s driven (rms over {} held-out tasks)",
                h.rms_error[0], h.rms_error[1], h.tasks[1]
            );
        }
    }
    checkpoint::save(&args.out, &kept.model, &kept.provenance)?;
    Ok(())
}

/// A verdict in words.
pub(crate) fn sentence(v: &Verdict) -> String {
    let after = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
    format!(
        "accuracy {:.3} (balanced {:.3}) over {} bins; after 0.5 s {}, 1 s {}, 2 s {}; log loss {:.3}",
        v.accuracy,
        v.balanced_accuracy,
        v.n_bins,
        after(v.accuracy_after_500ms),
        after(v.accuracy_after_1s),
        after(v.accuracy_after_2s),
        v.log_loss
    )
}

/// Keeps the model with the smallest held-out log loss in the model directory.
struct Keeper<'a> {
    args: &'a PretrainArgs,
    files: Vec<DataFile>,
    best: Option<Provenance>,
    /// Smallest held-out log loss so far.
    least: Option<f64>,
}

impl<'a> Keeper<'a> {
    fn new(args: &'a PretrainArgs, files: Vec<DataFile>) -> Self {
        Self { args, files, best: None, least: None }
    }

    /// Of a training that was interrupted.
    fn take_up(&mut self) {
        self.best = checkpoint::load(&self.args.out).ok().map(|c| c.provenance);
        self.least = self.best.as_ref().and_then(|p| p.held_out.as_ref()).map(|v| v.log_loss);
    }

    /// Fits priors to the training as it stands and keeps the model where it is the best so far;
    /// returns what was held out's log loss.
    fn validate(&mut self, trainer: &Trainer) -> Result<Option<f64>> {
        // Exponents are learned more slowly than labels: of about equally good models the later one.
        let exponents = trainer.settings().exponent_weight > 0.0;
        let slack = if exponents { LATER_IS_BETTER_WITHIN } else { 1.0 };
        let limit = self.least.map(|least| slack * least);
        let found = finish(trainer, limit)?;
        let steps = trainer.steps_done();
        let mut provenance = Provenance::of_this_program(self.args.seed, steps, self.files.clone());
        provenance.held_out = found.held_out;
        provenance.held_out_by_session = found.by_session;
        let now = provenance.held_out.as_ref().map(|v| v.log_loss);
        let better = now.zip(limit).is_none_or(|(now, limit)| now < limit);
        self.least = self.least.into_iter().chain(now).reduce(f64::min);
        if better {
            checkpoint::save(&self.args.out, &found.model, &provenance)?;
            self.best = Some(provenance);
        }
        Ok(now)
    }
}

/// Whether a training is validated after step `done`: in even intervals, and before the first of them
/// at steps that grow by half.
fn validates_after(done: usize, settings: &TrainingSettings, data: &Dataset) -> bool {
    let pass = data.training_bins() as f64 / (settings.batch * settings.window_bins) as f64;
    let mut early = ((FIRST_VALIDATION_PASSES * pass) as usize).max(FIRST_VALIDATION_STEP);
    while early < done {
        early += early / 2;
    }
    let every = settings.steps.div_ceil(VALIDATIONS);
    done == settings.steps || done.is_multiple_of(every) || (done == early && done < every)
}

/// Runs the steps that are left; false when interrupted.
fn train(
    trainer: &mut Trainer,
    args: &PretrainArgs,
    keeper: &mut Keeper<'_>,
    (state_path, identity): (&Path, &str),
) -> Result<bool> {
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new("pretrain", args.steps, trainer.steps_done());
    let mut skipped = 0;
    let mut held_out = None;
    while trainer.steps_done() < args.steps {
        let report = trainer.step()?;
        skipped += usize::from(!report.gradient_norm.is_finite());
        let done = trainer.steps_done();
        let stop = interrupt.raised();
        if stop || done.is_multiple_of(args.checkpoint_every) {
            save_state(trainer, state_path, identity)?;
        }
        if validates_after(done, trainer.settings(), trainer.data())
            || (stop && keeper.best.is_none())
        {
            held_out = keeper.validate(trainer)?;
        }
        progress.at(done, || {
            let held_out =
                held_out.map_or(String::new(), |l| format!(", held-out log loss {l:.3}"));
            let skipped =
                if skipped > 0 { format!(", {skipped} steps skipped") } else { String::new() };
            format!(
                "one step {:.5}, forecast {:.5}, contrast {:.3}, exponent {:.4}, gradient {:.2}{held_out}{skipped}",
                report.one_step,
                report.forecast,
                report.contrast,
                report.exponent,
                report.gradient_norm
            )
        });
        if stop {
            break;
        }
    }
    progress.finish();
    Ok(trainer.steps_done() >= args.steps)
}

/// What must be the same for a training to go on: a setting a line, by its name.
fn identity(files: &[DataFile], s: &TrainingSettings, r: &RecordingArgs) -> String {
    let hashes: Vec<&str> = files.iter().map(|f| f.sha256.as_str()).collect();
    let part = |f: Option<f64>| f.map_or("none".into(), |f| f.to_string());
    let Dimensions { embedding, rank, units, hidden: [h1, h2] } = s.dims;
    let lines: [(&str, String); 17] = [
        ("recordings", hashes.join("+")),
        ("--steps", s.steps.to_string()),
        ("--batch", s.batch.to_string()),
        ("--window-bins", s.window_bins.to_string()),
        ("--learning-rate", s.learning_rate.to_string()),
        ("--contrast-weight", s.contrast_weight.to_string()),
        ("--forecast-weight", s.forecast_weight.to_string()),
        ("--forecast-bins", s.horizon_bins.to_string()),
        ("--exponent-weight", s.exponent_weight.to_string()),
        ("--process-penalty", s.process_penalty.to_string()),
        ("--rank", rank.to_string()),
        ("--embedding", embedding.to_string()),
        ("--units", format!("{units} of {h1} and {h2}")),
        ("--seed", s.seed.to_string()),
        ("--bin-ms", part(r.bin_ms)),
        ("--first", part(r.first)),
        ("--last", part(r.last)),
    ];
    let named = [("--labels", &r.labels), ("--tasks", &r.tasks), ("--session", &r.session)];
    let named = named.into_iter().filter_map(|(name, text)| Some((name, text.clone()?)));
    let lines = lines.into_iter().chain(named).map(|(name, value)| format!("{name} {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What of two identities differs, for people.
fn differences(expected: &str, found: &str) -> String {
    let of = |identity: &str| -> BTreeMap<String, String> {
        let named = identity.lines().filter_map(|line| line.split_once(' '));
        named.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (expected, found) = (of(expected), of(found));
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differ = |name: &String| {
        let value =
            |of: &BTreeMap<String, String>| of.get(name).map_or("none".to_owned(), String::clone);
        let (e, f) = (value(&expected), value(&found));
        match (e == f, name.as_str()) {
            (true, _) => None,
            (_, "recordings") => Some("other recordings than it has begun with".to_owned()),
            _ => Some(format!("{name} {f}, it was begun with {name} {e}")),
        }
    };
    let all: Vec<String> = names.into_iter().filter_map(differ).collect();
    if all.is_empty() { "settings of another version".into() } else { all.join("; ") }
}

fn save_state(trainer: &Trainer, path: &Path, identity: &str) -> Result<()> {
    let state: Vec<(String, Vec<u8>)> = trainer
        .state()?
        .into_iter()
        .map(|(name, v)| (name, v.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = state
        .iter()
        .map(|(name, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let notes = HashMap::from([
        ("step".to_owned(), trainer.steps_done().to_string()),
        ("identity".to_owned(), identity.to_owned()),
    ]);
    let bytes = safetensors::serialize(views, Some(notes))?;
    checkpoint::write_whole(path, &bytes)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn resume(trainer: &mut Trainer, path: &Path, identity: &str) -> Result<()> {
    let bytes = crate::files::read(path, STATE_BYTES_MAX).with_context(|| {
        format!("--resume: cannot read {} (no interrupted training here)", path.display())
    })?;
    let broken = || format!("{}: not a training state", path.display());
    let (_, header) = SafeTensors::read_metadata(&bytes).with_context(broken)?;
    let notes = header.metadata().clone().unwrap_or_default();
    let begun = notes.get("identity").map_or("", String::as_str);
    if begun != identity {
        bail!(
            "--resume: expected the settings that {} was begun with, found {}",
            path.display(),
            differences(begun, identity)
        );
    }
    let step = notes.get("step").and_then(|s| s.parse().ok()).with_context(broken)?;
    let state = SafeTensors::deserialize(&bytes)
        .with_context(broken)?
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4);
            (name, values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        })
        .collect();
    trainer.restore(step, state).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}
