//! One posterior of all experts.

use super::averages::AveragesFilter;
use super::expert::{Expert, softmax};
use super::rates::RateFilter;
use super::recurrent::RecurrentFilter;
use crate::inference::{Adaptation, BankError, Estimate, FilterBank, Tape};
use crate::model::{BASE_RATE_MIN, EXPERTS, Model, Pool, Readout};

/// Probabilities below this are taken for it: no expert has a veto.
pub(crate) const PROBABILITY_MIN: f32 = 1e-6;

/// The filter bank of a session and, where its readout has them, the experts beside it. The
/// posterior of its estimate is the pool's, the bank's own is the first of its experts'.
#[derive(Debug)]
pub(crate) struct Pooled {
    bank: FilterBank,
    beside: Option<Beside>,
}

#[derive(Debug)]
struct Beside {
    rates: RateFilter,
    averages: AveragesFilter,
    recurrent: RecurrentFilter,
    pool: Pool,
    base_rates: Vec<f32>,
    /// `[experts, n_regimes]`.
    posteriors: Vec<f32>,
}

impl Beside {
    /// Its experts in their order.
    fn each(&mut self) -> [&mut dyn Expert; EXPERTS - 1] {
        [&mut self.rates, &mut self.averages, &mut self.recurrent]
    }
}

impl Pooled {
    /// A session of a model, at its prior.
    ///
    /// # Errors
    /// When the bank does not take the model.
    pub(crate) fn new(
        model: &Model,
        readout: &Readout,
        adaptation: Adaptation,
    ) -> Result<Self, BankError> {
        let bank = FilterBank::new(model, readout, adaptation)?;
        let n_regimes = model.regime_names.len();
        let beside = readout.experts.as_ref().map(|e| Beside {
            rates: RateFilter::new(&e.rates),
            averages: AveragesFilter::new(&e.averages),
            recurrent: RecurrentFilter::new(&e.recurrent),
            pool: model.online.pool,
            base_rates: model.online.base_rates.clone(),
            posteriors: vec![0.0; EXPERTS * n_regimes],
        });
        let mut pooled = Self { bank, beside };
        pooled.pool();
        Ok(pooled)
    }

    /// One bin of counts, `[n_channels]`.
    pub(crate) fn update(&mut self, counts: &[f32]) -> &Estimate {
        self.bank.update(counts);
        let (artefact, seen) = (self.bank.estimate().artefact, self.bank.seen());
        for expert in self.beside.iter_mut().flat_map(Beside::each) {
            if artefact {
                expert.predict();
            } else {
                expert.update(seen);
            }
        }
        self.pool();
        self.bank.estimate()
    }

    /// A missing bin: prediction without update.
    pub(crate) fn predict(&mut self) -> &Estimate {
        self.bank.predict();
        self.beside.iter_mut().flat_map(Beside::each).for_each(Expert::predict);
        self.pool();
        self.bank.estimate()
    }

    /// Back to the prior.
    pub(crate) fn reset(&mut self) {
        self.bank.reset();
        self.beside.iter_mut().flat_map(Beside::each).for_each(Expert::reset);
        self.pool();
    }

    fn pool(&mut self) {
        let Some(beside) = &mut self.beside else { return };
        let out = &mut self.bank.estimate_mut().posterior;
        let n = out.len();
        let mut posteriors = std::mem::take(&mut beside.posteriors);
        let (dynamics, others) = posteriors.split_at_mut(n);
        dynamics.copy_from_slice(out);
        for (expert, own) in beside.each().into_iter().zip(others.chunks_exact_mut(n)) {
            expert.posterior(own);
        }
        combine(&beside.pool, &beside.base_rates, &posteriors, out);
        beside.posteriors = posteriors;
    }

    /// The experts' own posteriors, `[experts, n_regimes]`; `None` where the dynamics are the only
    /// one.
    pub(crate) fn experts(&self) -> Option<&[f32]> {
        self.beside.as_ref().map(|b| b.posteriors.as_slice())
    }

    /// The newest estimate.
    pub(crate) fn estimate(&self) -> &Estimate {
        self.bank.estimate()
    }

    /// The filter bank.
    pub(crate) fn bank(&self) -> &FilterBank {
        &self.bank
    }

    /// Sets which channels inform.
    pub(crate) fn set_active(&mut self, active: impl Iterator<Item = bool>) {
        self.bank.set_active(active);
    }

    /// Writes its state to the tape, or reads it from there.
    pub(crate) fn state(&mut self, tape: &mut Tape) {
        self.bank.state(tape);
        self.beside.iter_mut().flat_map(Beside::each).for_each(|e| e.state(tape));
    }

    /// Restores a state; `false` where the numbers are not sound, and then all is at the prior.
    pub(crate) fn resume(&mut self, tape: &mut Tape) -> bool {
        let mut sound = self.bank.resume(tape);
        for expert in self.beside.iter_mut().flat_map(Beside::each) {
            expert.state(tape);
            sound &= expert.is_sound();
        }
        if sound {
            self.pool();
        } else {
            self.reset();
        }
        sound
    }
}

/// The pool of `posteriors [experts, n_regimes]`, `[n_regimes]`; `base_rates [n_regimes]`, or empty
/// where they are not known.
pub(crate) fn combine(pool: &Pool, base_rates: &[f32], posteriors: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (o, rate) in out.iter_mut().zip(base_rates) {
        *o = -pool.evenness * rate.max(BASE_RATE_MIN).ln();
    }
    for (&weight, posterior) in pool.weights.iter().zip(posteriors.chunks_exact(out.len())) {
        // An expert that does not count need not be asked.
        if weight > 0.0 {
            let power = weight / pool.temperature;
            let logs = posterior.iter().map(|p| p.max(PROBABILITY_MIN).ln());
            out.iter_mut().zip(logs).for_each(|(o, l)| *o += power * l);
        }
    }
    softmax(out);
}

/// Experts that were not trained, for tests: their numbers are sound, and they disagree.
#[cfg(test)]
pub(crate) fn example_experts(channels: usize, regimes: usize) -> crate::model::Experts {
    use ndarray::{Array1, Array2, Array3};

    use crate::model::{AveragesHead, Experts, RateStates, RecurrentHead};

    let wave = |i: usize, k: usize| ((i * 7 + k * 3) % 5) as f32 * 0.2 - 0.4;
    let hidden = 3;
    Experts {
        rates: RateStates {
            rates: Array2::from_shape_fn((regimes, channels), |(r, i)| 0.5 + 0.4 * wave(i, r)),
            transition: Array2::from_shape_fn((regimes, regimes), |(a, b)| {
                if a == b { 0.9 } else { 0.1 / (regimes - 1) as f32 }
            }),
            regime: (0..regimes).collect(),
            power: 0.5,
        },
        averages: AveragesHead {
            mean: Array1::from_elem(channels, 0.4),
            shares: vec![0.6, 0.1],
            weights: Array3::from_shape_fn((2, channels, regimes), |(k, i, r)| wave(i + k, r)),
            bias: Array1::zeros(regimes),
        },
        recurrent: RecurrentHead {
            mean: Array1::from_elem(channels, 0.4),
            input: Array2::from_shape_fn((channels, 3 * hidden), |(i, k)| wave(i, k)),
            bias: Array1::zeros(3 * hidden),
            recurrent: Array2::from_shape_fn((hidden, 3 * hidden), |(i, k)| wave(i, k + 1)),
            output: Array2::from_shape_fn((hidden, regimes), |(k, r)| 2.0 * wave(k, r)),
            output_bias: Array1::zeros(regimes),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::example_model;

    fn model() -> Model {
        let mut model = example_model();
        let (n, regimes) = (model.readouts[0].n_channels(), model.regime_names.len());
        model.readouts[0].experts = Some(example_experts(n, regimes));
        model.online.pool = Pool { weights: [0.4, 0.2, 0.1, 0.3], temperature: 0.8, evenness: 0.5 };
        model.online.base_rates = vec![0.8, 0.2];
        model
    }

    fn counts(t: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((t * (i + 2)) % 3) as f32).collect()
    }

    #[test]
    fn the_published_posterior_is_the_weighted_product_over_the_base_rates() {
        let model = model();
        let mut pooled =
            Pooled::new(&model, &model.readouts[0], Adaptation::default()).expect("experts");
        let mut alone =
            FilterBank::new(&model, &model.readouts[0], Adaptation::default()).expect("a bank");
        let n = alone.n_channels();
        for t in 0..50 {
            let bin = counts(t, n);
            let published = pooled.update(&bin).posterior.clone();
            let own = pooled.experts().expect("experts").to_vec();
            assert_eq!(own[..2], alone.update(&bin).posterior, "the dynamics are the bank's");
            let score = |r: usize| -> f64 {
                let pool = &model.online.pool;
                let of = |e: usize| {
                    f64::from(pool.weights[e] / pool.temperature) * f64::from(own[2 * e + r]).ln()
                };
                let rate = f64::from(model.online.base_rates[r]);
                ((0..EXPERTS).map(of).sum::<f64>() - 0.5 * rate.ln()).exp()
            };
            let expected = score(1) / (score(0) + score(1));
            assert!((f64::from(published[1]) - expected).abs() < 1e-4, "bin {t}: {published:?}");
        }
    }

    #[test]
    fn a_channel_that_does_not_inform_changes_nothing() {
        let model = model();
        let new =
            || Pooled::new(&model, &model.readouts[0], Adaptation::default()).expect("experts");
        let (mut one, mut other) = (new(), new());
        let n = one.bank().n_channels();
        for t in 0..30 {
            let bin = counts(t, n);
            let mut with_noise = bin.clone();
            with_noise[1] = 40.0;
            for pooled in [&mut one, &mut other] {
                pooled.set_active((0..n).map(|i| i != 1));
            }
            one.update(&bin);
            other.update(&with_noise);
            assert_eq!(one.estimate().posterior, other.estimate().posterior, "bin {t}");
        }
    }

    #[test]
    fn a_missing_bin_leaves_the_heads_and_lets_the_rates_forget() {
        let model = model();
        let mut pooled =
            Pooled::new(&model, &model.readouts[0], Adaptation::default()).expect("experts");
        let n = pooled.bank().n_channels();
        for t in 0..20 {
            pooled.update(&counts(t, n));
        }
        let before = pooled.experts().expect("experts").to_vec();
        for _ in 0..200 {
            pooled.predict();
        }
        let after = pooled.experts().expect("experts").to_vec();
        assert_eq!(before[4..], after[4..], "averages and recurrent head wait");
        assert!((after[2] - 0.5).abs() < 1e-3, "rates are at their mean: {after:?}");
    }
}
