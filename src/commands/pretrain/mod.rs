//! `regimed pretrain`: learns a model.

mod identity;
mod own_regimes;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::abilities::abilities;
use super::card;
use super::progress::{Interrupt, Progress};
use super::recordings::{Names, RecordingArgs};
use crate::checkpoint;
use crate::checkpoint::{
    DataFile, DynamicsScore, Provenance, TRAINING_FILE, TrainingState, TrainingStateError,
};
use crate::recording::Spool;
use crate::training::{
    Finished, Folds, Gathering, Pretraining, SessionExperts, TrainingSettings, fit_experts,
};
use identity::{differences, identity};

/// Parts of the progress over experts.
const EXPERT_PARTS: usize = 100;
/// Fewer bins are refused...
const BINS_MIN: usize = 100;
/// ...and of less than this the user is warned.
const SECONDS_PER_REGIME: f64 = 10.0;

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
    /// Weight of the forecasts, relative to the one-step likelihood; 0 leaves them out
    #[arg(long, default_value_t = TrainingSettings::default().forecast_weight)]
    pub forecast_weight: f64,
    /// Weight of the error of the network's own Lyapunov exponents (without noise and driven, per
    /// bin), where recordings hold the true ones; 0 leaves it out
    #[arg(long, default_value_t = TrainingSettings::default().exponent_weight)]
    pub exponent_weight: f64,
    /// Weight of the mean process variance: what the network does not explain is left to noise
    #[arg(long, default_value_t = TrainingSettings::default().process_penalty)]
    pub process_penalty: f64,
    /// Weight of the contrast between regimes, relative to predicting the counts; 0 leaves it out
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
    /// Save the state of the training every N steps
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
    let mut settings = settings(args)?;
    let (folds, files) = gather(args)?;
    describe(&folds);
    settings.bound_rates(f32::from(folds.serving().count_max));
    let interrupt = Interrupt::listen()?;
    let experts = learn_experts(&folds, &settings, &interrupt)?;
    let mut training = Pretraining::new(&folds, settings, experts)?;
    let identity = identity(&files, &settings, &args.recordings);
    let state_path = args.out.join(TRAINING_FILE);
    let mut keeper = Keeper { args, files, best: None };
    if args.resume {
        resume(&mut training, &state_path, &identity)?;
        eprintln!("resumed after {} steps", training.trainer().steps_done());
        keeper.best = checkpoint::load(&args.out).ok().map(|c| c.provenance);
    }
    if !args.resume {
        training.score_start()?;
    }
    let complete = train(&mut training, &mut keeper, (&state_path, &identity), &interrupt)?;
    let trainer = training.trainer();
    let Some(best) = &keeper.best else {
        bail!("there is no model: the training went astray before one could be kept");
    };
    show_scores(best);
    for line in abilities(&checkpoint::load(&args.out)?) {
        println!("{line}");
    }
    let out = args.out.display();
    if complete {
        // The state is of use only to an unfinished training.
        let _ = std::fs::remove_file(&state_path);
        if let Err(e) = own_regimes::learn(
            (&args.data, &args.recordings),
            &folds.serving().regime_names,
            &args.out,
            &interrupt,
        ) {
            eprintln!("warning: new animals need labels, their regimes were not learned: {e:#}");
        }
        card::write(&args.out, &checkpoint::load(&args.out)?)?;
        println!("model written to {out}");
    } else {
        let (done, steps) = (trainer.steps_done(), args.steps);
        println!(
            "stopped after {done} of {steps} steps; the best model so far is in {out}; --resume \
             goes on"
        );
    }
    Ok(())
}

fn show_scores(best: &Provenance) {
    for (name, verdict) in &best.held_out_by_session {
        println!("session {name}: {verdict}");
    }
    match &best.held_out {
        Some(verdict) => println!("held out: {verdict} (step {})", best.steps),
        None => println!("held out: nothing labelled"),
    }
}

/// What the flags ask for.
fn settings(args: &PretrainArgs) -> Result<TrainingSettings> {
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
        forecast_weight: args.forecast_weight,
        exponent_weight: args.exponent_weight,
        process_penalty: args.process_penalty,
        contrast_weight: args.contrast_weight,
        mean_dwell_s: args.mean_dwell,
        negative_binomial: args.counts == CountModel::NegativeBinomial,
        ..TrainingSettings::default().forecasting(args.forecast_bins)
    };
    settings.dims.rank = args.rank;
    settings.dims.embedding = args.embedding;
    settings.dims.units = args.units;
    settings.dims.check()?;
    Ok(settings)
}

/// Shows what there is to learn from.
fn describe(folds: &Folds) {
    let data = folds.serving();
    for s in &data.sessions {
        eprintln!("session '{}': {} channels", s.name, s.n_channels);
    }
    eprintln!(
        "{} regimes ({}), bins of {} ms, {} held-out streams in {} folds",
        data.regime_names.len(),
        data.regime_names.join(", "),
        data.bin_width_s * 1e3,
        folds.judges.iter().map(|j| j.held_out.len()).sum::<usize>(),
        folds.judges.len()
    );
    let seconds = data.training_bins() as f64 * data.bin_width_s;
    let needed = SECONDS_PER_REGIME * data.regime_names.len().max(1) as f64;
    if seconds < needed {
        eprintln!(
            "warning: {seconds:.1} s to learn from; expect little of a model that saw less than \
             {needed:.0} s ({SECONDS_PER_REGIME:.0} s of each regime)"
        );
    }
}

/// Reads recordings one after the other; counts to learn from are kept in a file and read back
/// window by window.
fn gather(args: &PretrainArgs) -> Result<(Folds, Vec<DataFile>)> {
    let out = &args.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let spool = Spool::in_folder(out)
        .with_context(|| format!("cannot keep counts in {}", out.display()))?;
    let mut gathering = Gathering::new(Some(spool));
    let mut files = Vec::new();
    let mut names = Names::default();
    let mut bins = 0;
    for path in &args.data {
        let (mut recording, file) =
            args.recordings.read_with_hash(path).context("cannot use this recording")?;
        if args.recordings.session.is_none() {
            names.make_distinct(&mut recording);
        }
        bins += recording.n_bins();
        gathering.add(&recording)?;
        files.push(file);
    }
    if bins < BINS_MIN {
        bail!(
            "expected at least {BINS_MIN} bins to learn from, found {bins} (a model needs minutes \
             of each regime)"
        );
    }
    Ok((gathering.finish()?, files))
}

/// Learns what tells regimes apart beside the dynamics.
fn learn_experts(
    folds: &Folds,
    settings: &TrainingSettings,
    interrupt: &Interrupt,
) -> Result<Vec<SessionExperts>> {
    let mut progress = Progress::new("experts", EXPERT_PARTS, 0);
    let experts = fit_experts(folds, settings, |done| {
        let parts = (done * EXPERT_PARTS as f64) as usize;
        progress.at(parts, || "mean rates and recurrent head".into());
        !interrupt.raised()
    })?;
    progress.finish();
    experts.context("stopped before there was a model")
}

/// Keeps the best model, with its provenance.
struct Keeper<'a> {
    args: &'a PretrainArgs,
    files: Vec<DataFile>,
    best: Option<Provenance>,
}

impl Keeper<'_> {
    /// Keeps a model in the model directory in place of the one before.
    fn keep(&mut self, found: Finished, training: &Pretraining) -> Result<()> {
        let steps = training.trainer().steps_done();
        let mut provenance = Provenance::of_this_program(self.args.seed, steps, self.files.clone());
        let now = [found.log_likelihood, found.log_loss];
        provenance.gained = training.start().map(|start| {
            [start, now]
                .map(|[log_likelihood, log_loss]| DynamicsScore { log_likelihood, log_loss })
        });
        provenance.skill = found.skill;
        provenance.held_out = found.held_out;
        provenance.held_out_by_session = found.by_session;
        // What is learned last is of this model's regimes, and not of those of a model before.
        checkpoint::save_recogniser(&self.args.out, None)
            .context("cannot remove what recognised other regimes")?;
        checkpoint::save(&self.args.out, &found.model, &provenance)?;
        self.best = Some(provenance);
        Ok(())
    }
}

/// Runs the steps that are left; false when interrupted.
fn train(
    training: &mut Pretraining,
    keeper: &mut Keeper<'_>,
    (state_path, identity): (&Path, &str),
    interrupt: &Interrupt,
) -> Result<bool> {
    let args = keeper.args;
    let mut progress = Progress::new("pretrain", args.steps, training.trainer().steps_done());
    let mut skipped = 0;
    let mut held_out = None;
    while !training.is_complete() {
        let report = training.step()?;
        skipped += usize::from(!report.gradient_norm.is_finite());
        let done = training.trainer().steps_done();
        let stop = interrupt.raised();
        if stop || done.is_multiple_of(args.checkpoint_every) {
            save_state(training, state_path, identity)?;
        }
        if let Some(validation) = training.validate_if_due(stop)? {
            held_out = validation.log_loss;
            if let Some(found) = validation.better {
                keeper.keep(found, training)?;
            }
        }
        progress.at(done, || {
            let held_out =
                held_out.map_or(String::new(), |l| format!(", held-out log loss {l:.3}"));
            let skipped =
                if skipped > 0 { format!(", {skipped} steps skipped") } else { String::new() };
            format!(
                "one step {:.5}, forecast {:.5}, contrast {:.3}, exponent {:.4}, gradient \
                 {:.2}{held_out}{skipped}",
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
    say_how_it_ended(training, args.steps);
    Ok(training.is_complete())
}

fn say_how_it_ended(training: &Pretraining, steps: usize) {
    let done = training.trainer().steps_done();
    if training.gains_nothing() {
        println!("ended after {done} of {steps} steps: held-out data gained nothing any more");
    }
    if training.steps_undone() > 0 {
        println!("{} steps led astray and were undone", training.steps_undone());
    }
    if training.is_lost() {
        println!(
            "stopped after {done} of {steps} steps: the training could not be kept from going \
             astray; the model is the best before that. Try a lower --learning-rate"
        );
    }
}

fn save_state(training: &Pretraining, path: &Path, identity: &str) -> Result<()> {
    let state = TrainingState {
        steps: training.trainer().steps_done(),
        identity: identity.to_owned(),
        arrays: training.state()?,
    };
    state.write(path).with_context(|| format!("cannot write {}", path.display()))
}

fn resume(training: &mut Pretraining, path: &Path, identity: &str) -> Result<()> {
    let state = TrainingState::read(path).map_err(|e| match e {
        TrainingStateError::Io(e) => anyhow::Error::new(e).context(format!(
            "--resume: cannot read {} (no interrupted training here)",
            path.display()
        )),
        TrainingStateError::Format(_) => anyhow::anyhow!("{}: {e}", path.display()),
    })?;
    if state.identity != identity {
        bail!(
            "--resume: expected the settings that {} was begun with, found {}",
            path.display(),
            differences(&state.identity, identity)
        );
    }
    training.restore(state.steps, state.arrays).with_context(|| path.display().to_string())
}
