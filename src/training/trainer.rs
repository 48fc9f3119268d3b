//! Joint learning of hypernetwork, network, readouts and embeddings; with the dynamics frozen, of a
//! new session's readout alone.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use ndarray::{Array, Array1, Dimension, IntoDimension};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::adam::Parameter;
use super::batch::{BatchLoss, BatchScores, Contrast, ReadoutPlaces, RunEnds};
use super::data::Dataset;
use super::error::{RestoreError, take_array};
use super::filter::{LossShape, Shared};
use super::guard::Guard;
use super::objective::BatchLossOp;
use super::settings::TrainingSettings;
use super::windows::Draw;
use super::{adam, readout};
use crate::model::{
    Dimensions, Hypernetwork, Model, Network, OnlineSettings, Readout, RegimePrior, values,
};

/// The network's drive is `GAIN N^T tanh`: a larger step in `N` for the same step of Adam. Folded
/// into `N` in the finished model.
const GAIN: f64 = 4.0;
/// Weight of the mean squared embedding.
const EMBEDDING_PENALTY: f64 = 1e-4;
/// Weight of the summed squares of the hypernetwork's output layer.
const OUTPUT_PENALTY: f64 = 1e-6;
/// Weight of the prior on embeddings while calibrating, per label.
const PRIOR_PENALTY: f64 = 1e-3;

/// What one step did.
#[derive(Debug, Clone, Copy)]
pub struct StepReport {
    /// Mean one-step predictive log-likelihood, nats per bin and channel, up to the factorials.
    pub one_step: f64,
    /// The same for open-loop forecasts.
    pub forecast: f64,
    /// Cross-entropy of the true label against another regime's, nats per stretch.
    pub contrast: f64,
    /// Huber loss of the network's Lyapunov exponents, per bin.
    pub exponent: f64,
    /// Norm of the gradient before clipping; not finite where the step was skipped, or one before
    /// it undone.
    pub gradient_norm: f64,
}

/// Training in progress.
pub struct Trainer {
    data: Arc<Dataset>,
    settings: TrainingSettings,
    places: ReadoutPlaces,
    parameters: Vec<Parameter>,
    /// Parameters that steps change.
    trainable: Vec<&'static str>,
    /// While calibrating: mean and precision of each label's embedding.
    prior_of_label: Option<(Tensor, Tensor)>,
    /// Weight of each squared loading, 0 for baselines: a normal prior, in the loss' units of nats
    /// per bin and channel.
    loading_weight: Tensor,
    run_ends: RunEnds,
    guard: Guard,
    step: usize,
}

/// Name of the runs' ends in a saved state.
const RUN_ENDS: &str = "run_ends";
/// Name of what the guard knows.
const GUARD: &str = "guard";
const NAMES: [&str; 10] =
    ["embeddings", "w1", "b1", "w2", "b2", "wn", "n0", "wc", "shared", "readouts"];

impl Trainer {
    /// A fresh start: random hypernetwork, readouts from the data's moments.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn new(data: Arc<Dataset>, settings: TrainingSettings) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let normal = Normal::new(0.0f64, 1.0).map_err(candle_core::Error::wrap)?;
        let mut draw = |n: usize, scale: f64| -> Vec<f32> {
            (0..n).map(|_| (scale * normal.sample(&mut rng)) as f32).collect()
        };
        let Dimensions { embedding: d, rank, units, hidden: [h1, h2] } = settings.dims;
        let over = |n: usize| 1.0 / (n as f64).sqrt();
        let shared = Shared {
            m: draw(units * rank, over(rank)),
            offset: draw(units, 0.3),
            logit_leak: -2.0,
            log_process: vec![-3.0; rank],
            log_initial: vec![0.0; rank],
        };
        // The output layer starts small and its bias larger: every embedding first has the same
        // network, and differences are learned.
        let values = [
            draw(data.labels.len() * d, 0.1),
            draw(d * h1, over(d)),
            vec![0.0; h1],
            draw(h1 * h2, over(h1)),
            vec![0.0; h2],
            draw(h2 * rank * units, 0.02 * over(h2)),
            draw(rank * units, 0.3 * over(units)),
            vec![0.0; h2 * rank],
            shared.pack(),
            readout::from_data(&data, rank)?,
        ];
        Self::assemble(data, settings, values, NAMES.to_vec())
    }

    /// Calibration: `model`'s dynamics stay as they are; readouts and embeddings of `data` are
    /// learned. Labels that name one of the model's regimes start at that regime's prior and are
    /// drawn to it, others to the whole prior. `rotation [rank, rank]` turns the latents that the
    /// data's moments suggest.
    ///
    /// # Errors
    /// Errors of candle.
    pub(crate) fn calibrating(
        model: &Model,
        data: Arc<Dataset>,
        settings: TrainingSettings,
        rotation: &[f32],
    ) -> Result<Self> {
        let rank = model.dims.rank;
        let leak = model.network.leak;
        let shared = Shared {
            m: model.network.m.t().iter().copied().collect(),
            offset: model.network.offset.to_vec(),
            logit_leak: (leak / (1.0 - leak)).ln(),
            log_process: model.network.process_variance.iter().map(|q| q.ln()).collect(),
            log_initial: model.network.initial_variance.iter().map(|p| p.ln()).collect(),
        };
        let regimes: Vec<Option<usize>> = data
            .labels
            .iter()
            .map(|l| {
                let name = &data.regime_names[l.regime?];
                model.regime_names.iter().position(|n| n == name)
            })
            .collect();
        let moments: Vec<(Vec<f64>, Vec<f64>)> =
            regimes.iter().map(|r| model.prior.moments(*r)).collect();
        let means: Vec<f32> = moments.iter().flat_map(|m| m.0.iter().map(|&x| x as f32)).collect();
        let precisions: Vec<f32> =
            moments.iter().flat_map(|m| m.1.iter().map(|&v| (1.0 / v) as f32)).collect();
        let h = &model.hypernetwork;
        let gain = GAIN as f32;
        // A readout from the data's own moments is only known up to a rotation of the latents,
        // which the frozen dynamics fix.
        let mut readouts = readout::from_data(&data, rank)?;
        let places = readout::places(&data, rank);
        for s in 0..places.channels.len() {
            readout::rotate(&mut readouts[places.range(s)], rotation, rank);
        }
        let values = [
            means.clone(),
            values(&h.w1).to_vec(),
            h.b1.to_vec(),
            values(&h.w2).to_vec(),
            h.b2.to_vec(),
            h.wn.iter().map(|w| w / gain).collect(),
            h.n0.iter().map(|w| w / gain).collect(),
            values(&h.wc).to_vec(),
            shared.pack(),
            readouts,
        ];
        let settings = TrainingSettings { dims: model.dims, ..settings };
        let shape = (data.labels.len(), model.dims.embedding);
        let mut trainer = Self::assemble(data, settings, values, vec!["embeddings", "readouts"])?;
        trainer.prior_of_label = Some((
            Tensor::from_vec(means, shape, &Device::Cpu)?,
            Tensor::from_vec(precisions, shape, &Device::Cpu)?,
        ));
        Ok(trainer)
    }

    fn assemble(
        data: Arc<Dataset>,
        settings: TrainingSettings,
        values: [Vec<f32>; 10],
        trainable: Vec<&'static str>,
    ) -> Result<Self> {
        let Dimensions { embedding: d, rank, units, hidden: [h1, h2] } = settings.dims;
        let places = readout::places(&data, rank);
        let shapes: [(usize, usize); 10] = [
            (data.labels.len(), d),
            (d, h1),
            (1, h1),
            (h1, h2),
            (1, h2),
            (h2, rank * units),
            (1, rank * units),
            (h2, rank),
            (1, Shared::<f32>::len(&settings.loss_shape())),
            (1, places.len()),
        ];
        let parameters = NAMES
            .iter()
            .zip(values)
            .zip(shapes)
            .map(|((name, values), shape)| {
                Ok(Parameter::new(name, Var::from_vec(values, shape, &Device::Cpu)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let loading_weight = readout::loading_weight(&data, &places)?;
        let run_ends = RunEnds::new(data.labels.len(), rank);
        Ok(Self {
            data,
            settings,
            places,
            parameters,
            trainable,
            prior_of_label: None,
            loading_weight,
            run_ends,
            guard: Guard::new(),
            step: 0,
        })
    }

    #[must_use]
    pub(crate) fn steps_done(&self) -> usize {
        self.step
    }

    /// The settings of the training.
    #[must_use]
    pub fn settings(&self) -> &TrainingSettings {
        &self.settings
    }

    /// What it learns from.
    #[must_use]
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.parameters
            .iter()
            .find(|p| p.name == name)
            .map(|p| p.var.as_tensor())
            .expect("NAMES lists every parameter")
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        self.tensor(name).flatten_all()?.to_vec1()
    }

    /// `[labels, rank * units + rank]`.
    fn factors(&self) -> Result<Tensor> {
        let layer = |x: &Tensor, w: &str, b: &str| -> Result<Tensor> {
            x.matmul(self.tensor(w))?.broadcast_add(self.tensor(b))?.tanh()
        };
        let hidden = layer(&layer(self.tensor("embeddings"), "w1", "b1")?, "w2", "b2")?;
        let n = hidden.matmul(self.tensor("wn"))?.broadcast_add(self.tensor("n0"))?;
        Tensor::cat(&[(n * GAIN)?, hidden.matmul(self.tensor("wc"))?], 1)
    }

    fn penalty(&self) -> Result<Tensor> {
        let embeddings = self.tensor("embeddings");
        let loadings = (self.tensor("readouts").sqr()?.mul(&self.loading_weight)?).sum_all()?;
        if let Some((mean, precision)) = &self.prior_of_label {
            let squared = (embeddings - mean)?.sqr()?.mul(precision)?;
            return loadings + (squared.mean_all()? * PRIOR_PENALTY)?;
        }
        let loadings = if self.settings.process_penalty > 0.0 {
            let at = Shared::<f32>::process_range(&self.settings.loss_shape());
            let log_process = self.tensor("shared").narrow(1, at.start, at.len())?;
            (loadings + (log_process.exp()?.mean_all()? * self.settings.process_penalty)?)?
        } else {
            loadings
        };
        let small = (embeddings.sqr()?.mean_all()? * EMBEDDING_PENALTY)?;
        loadings + (small + (self.tensor("wn").sqr()?.sum_all()? * OUTPUT_PENALTY)?)?
    }

    /// One step: draws a batch, runs the filter and its adjoint, moves the parameters.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn step(&mut self) -> Result<StepReport> {
        // A stream of random numbers for each step: a training that is resumed draws what it would
        // have drawn without the interruption.
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        rng.set_stream(self.step as u64 + 1);
        let calibrates = self.prior_of_label.is_some();
        let draw = Draw::of(&self.settings, &self.data, calibrates);
        let batch = BatchLoss {
            shape: self.shape(),
            places: self.places.clone(),
            data: &self.data,
            windows: self.data.draw(&draw, &mut rng),
            contrast: Contrast {
                weight: self.settings.contrast_weight,
                temperature: self.settings.contrast_temperature,
            },
            exponent_weight: self.settings.exponent_weight,
            run_ends: &self.run_ends,
            threads: self.settings.threads,
        };
        let factors = self.factors()?;
        // Scores and gradients come from our own adjoint, on plain arrays; candle's graph only
        // carries them on, through an operation that was already evaluated.
        let found = batch.evaluate(
            &factors.flatten_all()?.to_vec1::<f32>()?,
            &self.values("shared")?,
            &self.values("readouts")?,
        )?;
        let BatchScores { one_step, forecast, contrast, exponent, .. } = found.scores;
        let mut report =
            StepReport { one_step, forecast, contrast, exponent, gradient_norm: f64::INFINITY };
        self.step += 1;
        if self.guard.takes_back(found.loss, &mut self.parameters)? {
            return Ok(report);
        }
        self.run_ends.take(&found.scores.run_ends);
        let op = BatchLossOp::new(found);
        let loss = factors.apply_op3(self.tensor("shared"), self.tensor("readouts"), op)?;
        let gradients = (loss + self.penalty()?)?.backward()?;
        // The learning rate falls to 0 along half a cosine (Loshchilov & Hutter 2017).
        let done = self.step - 1;
        let progress = done as f64 / self.settings.steps.max(1) as f64;
        let fallen = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        let rate = self.settings.learning_rate * self.guard.rate() * fallen;
        // Frozen parameters stay out of the gradient's norm, by which steps are clipped.
        let (moving, still): (Vec<Parameter>, Vec<Parameter>) =
            std::mem::take(&mut self.parameters)
                .into_iter()
                .partition(|p| self.trainable.contains(&p.name));
        self.parameters = moving;
        let gradient_norm =
            adam::update(&mut self.parameters, &gradients, rate, self.settings.clip_norm, done);
        self.parameters.extend(still);
        report.gradient_norm = gradient_norm?;
        Ok(report)
    }

    /// Steps that were undone, because they led astray.
    #[must_use]
    pub(crate) fn steps_undone(&self) -> u32 {
        self.guard.undone()
    }

    /// Whether the training cannot be kept from going astray.
    #[must_use]
    pub(crate) fn is_lost(&self) -> bool {
        self.guard.gives_up()
    }

    /// The loss' shape: nothing is entered where recordings show how changes go.
    fn shape(&self) -> LossShape {
        let TrainingSettings { window_bins, burn_in_bins, .. } = self.settings;
        let mut shape = self.settings.loss_shape();
        if self.prior_of_label.is_some() || !self.data.splices(window_bins, burn_in_bins) {
            shape.entry_variance = 0.0;
        }
        shape
    }

    /// The whole state as named arrays, `name`, `name.first` and `name.second`.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn state(&self) -> Result<HashMap<String, Vec<f32>>> {
        let mut state = HashMap::new();
        for p in &self.parameters {
            state.insert(p.name.to_owned(), p.values()?);
            state.insert(format!("{}.first", p.name), p.first.clone());
            state.insert(format!("{}.second", p.name), p.second.clone());
        }
        state.insert(RUN_ENDS.to_owned(), self.run_ends.states.clone());
        state.insert(GUARD.to_owned(), self.guard.state());
        Ok(state)
    }

    /// Takes up a state saved after `step` steps.
    ///
    /// # Errors
    /// Names the array that is missing or of another size.
    pub(crate) fn restore(
        &mut self,
        step: usize,
        mut state: HashMap<String, Vec<f32>>,
    ) -> std::result::Result<(), RestoreError> {
        for p in &mut self.parameters {
            let mut take = |suffix: &str| {
                let name = format!("{}{suffix}", p.name);
                take_array(&mut state, name, p.first.len())
            };
            let (values, first, second) = (take("")?, take(".first")?, take(".second")?);
            p.set(values)?;
            p.first = first;
            p.second = second;
        }
        let expected = self.run_ends.states.len();
        let ends = take_array(&mut state, RUN_ENDS.to_owned(), expected)?;
        self.run_ends.states = ends;
        let known = take_array(&mut state, GUARD.to_owned(), self.guard.state().len())?;
        self.guard = Guard::restored(&known);
        self.step = step;
        Ok(())
    }

    /// A session's readout in the model's layout, without a prior.
    pub(crate) fn readout(&self, session: usize) -> Result<Readout> {
        let rank = self.settings.dims.rank;
        let shape = &self.data.sessions[session];
        let flat = self.values("readouts")?;
        let (loading, baseline) =
            flat[self.places.range(session)].split_at(rank * shape.n_channels);
        // Training keeps loadings as the filter reads them, `[rank, channels]`.
        let loading = array((rank, shape.n_channels), loading.to_vec())?;
        Ok(Readout {
            session: shape.name.clone(),
            loading: loading.t().as_standard_layout().into_owned(),
            baseline: Array1::from(baseline.to_vec()),
            channels: shape.channels.clone(),
            dispersion: None,
            trusted: true,
            prior: RegimePrior::default(),
            experts: None,
        })
    }

    /// Embeddings learned for one session: `(regime, e)`, the regime `None` for bins without a
    /// label.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn embeddings(&self, session: usize) -> Result<Vec<(Option<usize>, Vec<f32>)>> {
        let d = self.settings.dims.embedding;
        let flat = self.values("embeddings")?;
        let rows = self.data.labels.iter().zip(flat.chunks_exact(d));
        Ok(rows
            .filter(|(l, _)| l.session == session)
            .map(|(l, e)| (l.regime, e.to_vec()))
            .collect())
    }

    /// The current model; readouts' priors, the pooled prior, temperature and novelty limits are
    /// yet to be fitted.
    ///
    /// # Errors
    /// Errors of candle.
    pub(crate) fn unfitted_model(&self) -> Result<Model> {
        let dims = self.settings.dims;
        let shape = self.shape();
        let shared = Shared::unpack(&shape, &self.values("shared")?);
        let scaled = |name: &str| -> Result<Vec<f32>> {
            Ok(self.values(name)?.into_iter().map(|x| x * GAIN as f32).collect())
        };
        let Dimensions { embedding, rank, units, hidden: [h1, h2] } = dims;
        let m = array((rank, units), shared.m)?;
        Ok(Model {
            dims,
            bin_width_s: self.data.bin_width_s,
            regime_names: self.data.regime_names.clone(),
            hypernetwork: Hypernetwork {
                w1: array((embedding, h1), self.values("w1")?)?,
                b1: Array1::from(self.values("b1")?),
                w2: array((h1, h2), self.values("w2")?)?,
                b2: Array1::from(self.values("b2")?),
                wn: array((h2, rank, units), scaled("wn")?)?,
                n0: array((rank, units), scaled("n0")?)?,
                wc: array((h2, rank), self.values("wc")?)?,
            },
            network: Network {
                m: m.t().as_standard_layout().into_owned(),
                offset: Array1::from(shared.offset),
                leak: 1.0 / (1.0 + (-shared.logit_leak).exp()),
                process_variance: shared.log_process.iter().map(|x| x.exp()).collect(),
                initial_variance: shared.log_initial.iter().map(|x| x.exp()).collect(),
            },
            readouts: (0..self.data.sessions.len())
                .map(|s| self.readout(s))
                .collect::<Result<_>>()?,
            prior: RegimePrior::default(),
            online: OnlineSettings {
                log_rate_bounds: self.settings.log_rate_bounds,
                entry_variance: shape.entry_variance,
                ..OnlineSettings::new(self.data.regime_names.len())
            },
        })
    }
}

/// Values of a shape, as an array of it.
fn array<D: Dimension>(
    shape: impl IntoDimension<Dim = D>,
    values: Vec<f32>,
) -> Result<Array<f32, D>> {
    Array::from_shape_vec(shape.into_dimension(), values).map_err(candle_core::Error::wrap)
}
