//! Question: do 90 % credible intervals of the embedding and of the spectra hold the truth 90 % of
//! the time, and does the embedding go on improving while nothing changes? Budget: coverage 0.90 +-
//! 0.05. Truth is known where the model itself makes the recording; of teachers, whose embedding
//! nobody knows, the estimate after a minute stands for it.
//!
//!     cargo bench --bench intervals [-- MODEL]

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};
use regimed::internals::checkpoint;
use regimed::internals::dynamics::{StatePosterior, spectrum, spectrum_interval};
use regimed::internals::inference::{Adaptation, Estimate, FilterBank};
use regimed::internals::model::{Component, Model, Readout};
use regimed::internals::teacher::{Animal, AnimalSettings, Regime, Simulation};

const TIMES_S: [f64; 6] = [1.0, 2.0, 5.0, 10.0, 20.0, 40.0];
const PER_COMPONENT: usize = 6;
const TEACHER_TASKS: u64 = 6;
const FIRST_TASK: u64 = 6_000;
const REFERENCE_S: f64 = 60.0;
const STATIONARY_S: f64 = 3600.0;
const QUANTILE: f64 = 1.645;
const AIM: [f64; 2] = [0.85, 0.95];

/// What was counted at one time.
#[derive(Clone, Default)]
struct At {
    dimensions: f64,
    covered: f64,
    square_error: f64,
    log_sd: f64,
    /// Gain of precision over the prior, log, over the dimensions that gained any.
    log_gain: f64,
    gained: f64,
    /// Radius, abscissa, frequency.
    metrics: [f64; 3],
    covered_metrics: [f64; 3],
}

impl At {
    /// An estimate against the truth, known up to a variance; `prior` is the sd before any bin.
    fn embedding(&mut self, truth: &[f32], variance: &[f32], prior: &[f32], e: &Estimate) {
        for i in 0..truth.len() {
            let error = f64::from(e.embedding_mean[i] - truth[i]);
            let sd = f64::from(e.embedding_sd[i].powi(2) + variance[i]).sqrt();
            self.dimensions += 1.0;
            self.covered += f64::from(u8::from(error.abs() <= QUANTILE * sd));
            self.square_error += error * error;
            self.log_sd += sd.ln();
            let gain = sd.powi(-2) - f64::from(prior[i]).powi(-2);
            if gain > 0.0 {
                self.log_gain += gain.ln();
                self.gained += 1.0;
            }
        }
    }

    fn tell(&self, seconds: f64, before: Option<(f64, &Self)>) {
        let n = self.dimensions;
        let sd = (self.log_sd / n).exp();
        let coverage = self.covered / n;
        let held = if (AIM[0]..=AIM[1]).contains(&coverage) { "held" } else { "missed" };
        print!(
            "{seconds:>5.0} s   embedding {coverage:.3} ({held})   rms error {:.3}   mean sd \
             {sd:.3}",
            (self.square_error / n).sqrt()
        );
        if let Some((s, b)) = before {
            let gain = self.log_gain / self.gained - b.log_gain / b.gained;
            print!("   precision gained ~ t^{:.2}", gain / (seconds / s).ln());
        }
        if self.metrics[0] > 0.0 {
            let share = |i: usize| self.covered_metrics[i] / self.metrics[i].max(1.0);
            print!(
                "   radius {:.3}, abscissa {:.3}, frequency {:.3}",
                share(0),
                share(1),
                share(2)
            );
        }
        println!();
    }
}

fn draw(component: &Component, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let d = component.mean.len();
    let cov =
        nalgebra::DMatrix::from_iterator(d, d, component.covariance.iter().map(|&x| f64::from(x)));
    let root = cov.cholesky().expect("positive definite").l();
    let normal = nalgebra::DVector::from_fn(d, |_, _| rng.sample::<f64, _>(StandardNormal));
    let delta = root * normal;
    component.mean.iter().zip(delta.iter()).map(|(m, x)| m + *x as f32).collect()
}

/// One recording of the model's own making at embedding `e`, streamed.
fn own(model: &Model, readout: &Readout, e: &[f32], rng: &mut ChaCha8Rng, out: &mut [At]) {
    let rank = model.dims.rank;
    let factors = model.hypernetwork.factors(e);
    let noise: Vec<f32> = (model.network.process_variance.iter())
        .map(|q| (q * model.online.process_noise).sqrt())
        .collect();
    let [low, high] = model.online.log_rate_bounds;
    let mut bank = FilterBank::new(model, readout, Adaptation::NONE).expect("a bank");
    let prior = bank.estimate().embedding_sd.clone();
    let mut kappa: Vec<f32> = (model.network.initial_variance.iter())
        .map(|v| v.sqrt() * rng.sample::<f32, _>(StandardNormal))
        .collect();
    let mut next = kappa.clone();
    let mut counts = vec![0.0f32; readout.n_channels()];
    let bins: Vec<usize> = TIMES_S.iter().map(|s| (s / model.bin_width_s) as usize).collect();
    for bin in 1..=bins[bins.len() - 1] {
        model.advance(&factors, &kappa, &mut next);
        for r in 0..rank {
            kappa[r] = next[r] + noise[r] * rng.sample::<f32, _>(StandardNormal);
        }
        for (i, c) in counts.iter_mut().enumerate() {
            let row = readout.loading.row(i);
            let eta = row.iter().zip(&kappa).map(|(c, k)| c * k).sum::<f32>() + readout.baseline[i];
            let rate = f64::from(eta.clamp(low, high).exp());
            let drawn: f64 = Poisson::new(rate).map_or(0.0, |p| p.sample(rng));
            *c = drawn as f32;
        }
        let estimate = bank.update(&counts);
        let Some(at) = bins.iter().position(|&b| b == bin) else { continue };
        out[at].embedding(e, &vec![0.0; e.len()], &prior, estimate);
        let of = StatePosterior {
            embedding: &estimate.embedding_mean,
            embedding_covariance: &estimate.embedding_covariance,
            latent: [&estimate.latent, &estimate.latent_sd],
        };
        let (Some(truth), Some(found)) = (spectrum(model, e, &kappa), spectrum_interval(model, of))
        else {
            continue;
        };
        let pairs = [
            (truth.spectral_radius, found.spectral_radius),
            (truth.spectral_abscissa_per_s, found.spectral_abscissa_per_s),
            (truth.leading_frequency_hz, found.leading_frequency_hz),
        ];
        for (i, (truth, [low, high])) in pairs.into_iter().enumerate() {
            out[at].metrics[i] += 1.0;
            out[at].covered_metrics[i] += f64::from(u8::from((low..=high).contains(&truth)));
        }
    }
}

/// An unseen task of a teacher: the estimate at each time against that after [`REFERENCE_S`].
fn teacher(model: &Model, session: usize, animal: &Animal, task: (Regime, u64), out: &mut [At]) {
    let mut simulation = Simulation::new(animal.clone(), animal.task(task.0, task.1), task.1);
    let mut bank =
        FilterBank::new(model, &model.readouts[session], Adaptation::NONE).expect("a bank");
    let prior = bank.estimate().embedding_sd.clone();
    let mut raw = vec![0u16; animal.n_channels()];
    let mut at_times = Vec::new();
    for bin in 1..=(REFERENCE_S / model.bin_width_s) as usize {
        simulation.bin(&mut raw);
        let counts: Vec<f32> = raw.iter().map(|&c| f32::from(c)).collect();
        let estimate = bank.update(&counts);
        if TIMES_S.iter().any(|s| (s / model.bin_width_s) as usize == bin) {
            at_times.push(estimate.clone());
        }
    }
    let last = bank.estimate();
    let variance: Vec<f32> = last.embedding_sd.iter().map(|s| s * s).collect();
    for (out, estimate) in out.iter_mut().zip(&at_times) {
        out.embedding(&last.embedding_mean, &variance, &prior, estimate);
    }
}

fn tell(title: &str, found: &[At]) {
    println!("{title}");
    for (i, at) in found.iter().enumerate() {
        let before = i.checked_sub(1).map(|b| (TIMES_S[b], &found[b]));
        at.tell(TIMES_S[i], before);
    }
}

fn main() {
    let model = match std::env::args().skip(1).find(|a| !a.starts_with('-')) {
        Some(dir) => checkpoint::load(Path::new(&dir)).expect("a model").model,
        None => regimed::internals::checkpoint::builtin().expect("the built-in model").model,
    };
    println!("fraction of 90 % intervals that hold the truth; in theory precision gained ~ t^1");
    let stationary = model.with_mean_dwell(STATIONARY_S);
    let mut fixed = model.with_mean_dwell(1e9);
    fixed.online.embedding_drift = 0.0;
    for (title, model) in [
        ("recordings of the model's own making, regimes said to last as in training", &model),
        ("the same, a configured dwell of an hour (as they do)", &stationary),
        ("the same, regimes said to last for ever and the embedding not to drift", &fixed),
    ] {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut found = vec![At::default(); TIMES_S.len()];
        for readout in &model.readouts {
            for component in &readout.prior.components {
                for _ in 0..PER_COMPONENT {
                    let e = draw(component, &mut rng);
                    own(model, readout, &e, &mut rng, &mut found);
                }
            }
        }
        tell(title, &found);
    }
    let mut found = vec![At::default(); TIMES_S.len()];
    for index in 0..3u64 {
        let animal = Animal::new(1, index, AnimalSettings::default());
        for regime in Regime::ALL {
            for task in FIRST_TASK..FIRST_TASK + TEACHER_TASKS {
                teacher(&stationary, index as usize, &animal, (regime, task), &mut found);
            }
        }
    }
    tell(
        "teachers' unseen tasks, against the estimate after a minute, a configured dwell of an \
         hour",
        &found,
    );
}
