//! The bank: mixing, weights, and the estimate after a bin.

use pulp::{Simd, WithSimd};

use super::BankError;
use super::channels::{Adaptation, Channels, NOVELTY_WINDOW_S, Seen};
use super::estimate::Estimate;
use super::hypothesis::{Hypothesis, gather};
use super::kernels::exp;
use super::layout::{Bin, Layout, Scratch, check_sizes, entry, log_factorials, precision};
use super::participation::Participation;
use super::signs::{Shown, Signs};
use super::tape::Tape;
use crate::model::{KnownDynamics, Model, NoveltyLimits, Readout, UNKNOWN_RATE};

/// Time constant of the latent covariance behind the participation ratio, seconds.
const PARTICIPATION_WINDOW_S: f64 = 2.0;
/// Weight of a restarted hypothesis, times its prior's.
const RESTARTED_WEIGHT: f32 = 1e-3;

/// The bank of filters of one session.
#[derive(Debug)]
pub struct FilterBank {
    pub(super) arch: pulp::Arch,
    pub(super) layout: Layout,
    pub(super) scratch: Scratch,
    pub(super) hypotheses: Vec<Hypothesis>,
    /// Regime of each hypothesis; `n_regimes` is without a label.
    regime_of: Vec<usize>,
    /// Probability per bin of entering a hypothesis out of a regime, `[n_regimes + 1, hypotheses]`.
    entry: Vec<f32>,
    /// Probability per bin of leaving a regime: sums of `entry`'s rows.
    leave: Vec<f32>,
    /// Weight of each regime's hypotheses, `[n_regimes + 1]`.
    regime_weight: Vec<f32>,
    prior_weight: Vec<f32>,
    /// `[hypotheses, embedding]`.
    prior_mean: Vec<f32>,
    /// `[hypotheses, embedding, embedding]`.
    prior_cov: Vec<f32>,
    /// Inverses of these.
    prior_precision: Vec<f32>,
    limits: NoveltyLimits,
    /// With the score that known dynamics exceed as often as is usual.
    known: Option<(KnownDynamics, f32)>,
    signs: Signs,
    initial_variance: Vec<f32>,
    temperature: f32,
    fresh_share_min: f32,
    novelty_rate: f32,
    pub(super) channels: Channels,
    log_factorial: Vec<f32>,
    weights: Vec<f32>,
    latent_mean: Vec<f32>,
    latent_cov: Vec<f32>,
    /// Score `[rank]` and information `[rank, rank]` of the newest bin.
    score: Vec<f32>,
    information: Vec<f32>,
    pub(super) participation: Participation,
    pub(super) estimate: Estimate,
    resets: u64,
}

impl FilterBank {
    /// A bank for one session of a model, at its prior.
    ///
    /// # Errors
    /// When the prior is empty or the readout does not fit the model's sizes.
    pub fn new(
        model: &Model,
        readout: &Readout,
        adaptation: Adaptation,
    ) -> Result<Self, BankError> {
        check_sizes(model, readout)?;
        let (dims, components) = (&model.dims, &readout.prior.components);
        let layout = Layout::new(model, readout);
        let (k, rank) = (components.len(), dims.rank);
        let smoothing = |window: f64| (1.0 - (-model.bin_width_s / window).exp()) as f32;
        let n_regimes = model.regime_names.len();
        let states = n_regimes + 1;
        let regime_of: Vec<usize> =
            components.iter().map(|c| c.regime.unwrap_or(n_regimes)).collect();
        // They hold for sessions that they were learned with: those that have experts beside.
        let known = model.online.known.as_ref().filter(|_| readout.experts.is_some());
        let squared_rates = readout.baseline.iter().map(|d| (2.0 * d).exp()).sum();
        let entry = entry(&model.online.hazard_per_bin, &regime_of, readout);
        let mut bank = Self {
            arch: pulp::Arch::new(),
            leave: entry.chunks_exact(k).map(|row| row.iter().sum()).collect(),
            entry,
            regime_weight: vec![0.0; states],
            scratch: Scratch::new(&layout),
            hypotheses: vec![Hypothesis::new(&layout); k],
            regime_of,
            prior_weight: components.iter().map(|c| c.weight).collect(),
            prior_mean: components.iter().flat_map(|c| c.mean.iter().copied()).collect(),
            prior_cov: components.iter().flat_map(|c| c.covariance.iter().copied()).collect(),
            prior_precision: components.iter().flat_map(precision).collect(),
            limits: model.online.novelty_limits,
            known: known.map(|k| (k.clone(), k.limit(UNKNOWN_RATE))),
            signs: Signs::new(rank, smoothing(NOVELTY_WINDOW_S), known, squared_rates),
            initial_variance: model.network.initial_variance.to_vec(),
            temperature: model.online.temperature,
            fresh_share_min: model.online.fresh_share_min,
            novelty_rate: smoothing(NOVELTY_WINDOW_S),
            channels: Channels::new(model, readout, adaptation),
            log_factorial: log_factorials(),
            weights: vec![0.0; k],
            latent_mean: vec![0.0; rank],
            latent_cov: vec![0.0; rank * rank],
            score: vec![0.0; rank],
            information: vec![0.0; rank * rank],
            participation: Participation::new(rank, smoothing(PARTICIPATION_WINDOW_S), readout),
            estimate: Estimate::empty(n_regimes, dims.embedding, rank),
            resets: 0,
            layout,
        };
        bank.reset();
        Ok(bank)
    }

    /// Number of channels a bin must have.
    #[must_use]
    pub fn n_channels(&self) -> usize {
        self.channels.len()
    }

    /// Rates of the newest bin as they were predicted, counts per bin, `[n_channels]`; 0 where a
    /// channel does not inform.
    #[must_use]
    pub fn expected_counts(&self) -> &[f32] {
        &self.channels.expected[..self.channels.len()]
    }

    /// The newest estimate.
    #[must_use]
    pub fn estimate(&self) -> &Estimate {
        &self.estimate
    }

    /// The newest estimate, for what pools its posterior with others'.
    pub(crate) fn estimate_mut(&mut self) -> &mut Estimate {
        &mut self.estimate
    }

    /// The newest bin's counts as they informed.
    pub(crate) fn seen(&self) -> Seen<'_> {
        self.channels.seen()
    }

    /// How often a hypothesis became non-finite and was restarted at its prior.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Back to the prior: nothing seen yet.
    pub fn reset(&mut self) {
        self.channels.reset();
        self.signs.reset();
        for k in 0..self.hypotheses.len() {
            self.restart(k);
            self.hypotheses[k].log_weight = self.prior_weight[k].ln();
        }
        self.participation.reset();
        self.estimate.novelty = 0.0;
        self.estimate.innovation_runs = 1.0;
        self.estimate.embedding_distance = 0.0;
        self.estimate.log_likelihood = 0.0;
        self.summarise();
    }

    /// Writes everything that the next bin depends on to the tape, or reads it from there; see
    /// [`Self::resume`].
    pub fn state(&mut self, tape: &mut Tape) {
        for h in &mut self.hypotheses {
            tape.floats(&mut h.mean);
            tape.floats(&mut h.cov);
            tape.float(&mut h.log_weight);
        }
        self.participation.state(tape);
        self.channels.state(tape);
        self.signs.state(tape);
        let e = &mut self.estimate;
        for value in [&mut e.novelty, &mut e.innovation_runs, &mut e.embedding_distance] {
            tape.float(value);
        }
    }

    /// Restores a state that a bank of the same model and readout has written: continues bit for
    /// bit as that one would have. `false` where the numbers are not sound; the bank is then at its
    /// prior.
    pub fn resume(&mut self, tape: &mut Tape) -> bool {
        // Words from a disk may be anything.
        self.state(tape);
        let e = &self.estimate;
        let signs = [e.novelty, e.innovation_runs, e.embedding_distance];
        let sound = self.hypotheses.iter().all(|h| h.is_sound(&self.layout))
            && self.channels.is_sound()
            && self.signs.is_sound()
            && self.participation.is_sound()
            && signs.iter().all(|v| v.is_finite());
        if sound {
            self.summarise();
        } else {
            self.reset();
        }
        sound
    }

    /// Sets which channels inform; `false` excludes a channel until it is set again.
    pub fn set_active(&mut self, active: impl Iterator<Item = bool>) {
        self.channels.set_active(active);
    }

    /// One bin of counts, `[n_channels]`, each finite and in `0..=COUNT_MAX` (sources see to that).
    pub fn update(&mut self, counts: &[f32]) -> &Estimate {
        assert_eq!(counts.len(), self.channels.len(), "counts of one bin");
        let seen = self.channels.take(counts);
        self.estimate.artefact = !seen;
        let arch = self.arch;
        arch.dispatch(Advance { bank: self, seen });
        &self.estimate
    }

    /// A missing bin: prediction without update.
    pub(crate) fn predict(&mut self) -> &Estimate {
        self.estimate.artefact = false;
        let arch = self.arch;
        arch.dispatch(Advance { bank: self, seen: false });
        &self.estimate
    }

    #[inline(always)]
    fn advance<S: Simd>(&mut self, simd: S, seen: bool) {
        self.mix();
        for h in &mut self.hypotheses {
            h.predict(simd, &self.layout, &mut self.scratch);
        }
        self.estimate.log_likelihood = 0.0;
        let n_informing = self.channels.n_informing();
        let informed = seen && n_informing > 0;
        if informed {
            // Moments of the prediction, for what the bin shows beside it.
            self.pool();
            let Channels { counts, weight, baseline, expected, .. } = &mut self.channels;
            expected.fill(0.0);
            let bin = Bin { counts, weight, baseline };
            // The same for all hypotheses: added once, and left out of their evidence.
            let constant = self.layout.count_constant(counts, &self.log_factorial);
            for h in &mut self.hypotheses {
                let evidence = h.update(simd, &self.layout, &mut self.scratch, bin, expected);
                h.log_weight += evidence;
            }
            gather(&self.weights, &self.hypotheses, &mut self.score, &mut self.information);
            let total = self.normalise();
            self.estimate.log_likelihood = (total + constant) / n_informing as f32;
            self.estimate.innovation_runs = self.channels.innovation_runs();
            self.channels.learn();
            self.estimate.silent_channels = self.channels.n_silent() as u32;
        }
        // Checked in every bin: one number that is not finite spreads to all hypotheses with the
        // next mixing.
        for k in 0..self.hypotheses.len() {
            if !self.hypotheses[k].is_sound(&self.layout) {
                self.restart(k);
                self.hypotheses[k].log_weight = (RESTARTED_WEIGHT * self.prior_weight[k]).ln();
                self.resets += 1;
            }
        }
        self.normalise();
        self.summarise();
        if informed {
            self.signs.take(&Shown {
                score: &self.score,
                information: &self.information,
                predicted: &self.latent_cov,
                latent: &self.estimate.latent,
                excess: self.channels.excess(),
            });
        } else {
            self.signs.skip(&self.estimate.latent);
        }
        self.track_novelty();
        self.estimate.participation_ratio = self.participation.take(&self.estimate.latent);
    }

    fn restart(&mut self, k: usize) {
        let (rank, d, stride) = (self.layout.rank, self.layout.embedding, self.layout.stride);
        let h = &mut self.hypotheses[k];
        h.mean.fill(0.0);
        h.cov.fill(0.0);
        h.mean[rank..rank + d].copy_from_slice(&self.prior_mean[k * d..(k + 1) * d]);
        for r in 0..rank {
            h.cov[r * stride + r] = self.initial_variance[r];
        }
        for i in 0..d {
            let from = &self.prior_cov[(k * d + i) * d..(k * d + i + 1) * d];
            h.cov[(rank + i) * stride + rank..(rank + i) * stride + rank + d].copy_from_slice(from);
        }
    }

    /// Subtracts the log total from all log weights and returns it.
    #[inline(always)]
    pub(super) fn normalise(&mut self) -> f32 {
        // A hypothesis that became non-finite must not spoil the others' weights; it is
        // restarted after this.
        let finite = |h: &Hypothesis| if h.log_weight.is_finite() { h.log_weight } else { -1e30 };
        let top = self.hypotheses.iter().map(finite).fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = self.hypotheses.iter().map(|h| exp(finite(h) - top)).sum();
        let total = top + sum.ln();
        for h in &mut self.hypotheses {
            h.log_weight -= total;
        }
        total
    }

    /// Mean and covariance of the latents over all hypotheses.
    #[inline(always)]
    fn pool(&mut self) {
        let (rank, stride) = (self.layout.rank, self.layout.stride);
        self.latent_mean.fill(0.0);
        self.latent_cov.fill(0.0);
        for (w, h) in self.weights.iter_mut().zip(&self.hypotheses) {
            *w = exp(h.log_weight);
            for r in 0..rank {
                self.latent_mean[r] += *w * h.mean[r];
            }
        }
        for (&w, h) in self.weights.iter().zip(&self.hypotheses) {
            for r in 0..rank {
                let dr = h.mean[r] - self.latent_mean[r];
                for q in 0..rank {
                    let dq = h.mean[q] - self.latent_mean[q];
                    self.latent_cov[r * rank + q] += w * (h.cov[r * stride + q] + dr * dq);
                }
            }
        }
    }

    /// Interacting multiple models (Blom & Bar-Shalom 1988): every hypothesis passes weight to the
    /// others at the hazard rates, and takes over the moments of what enters it. The latents that
    /// enter are those of the whole bank, because the population's state does not jump when its
    /// dynamics change; the embedding that enters is the prior component's.
    ///
    /// Where less than `fresh_share_min` (0.5 %) of a weight is new, the moments stay as they are.
    /// A leading hypothesis is otherwise blurred in every bin by the prior of a change that has not
    /// happened, and never refines its embedding; the exact mixture would be the same within that
    /// share (docs/decisions/0005).
    #[inline(always)]
    pub(super) fn mix(&mut self) {
        let (rank, d, stride) = (self.layout.rank, self.layout.embedding, self.layout.stride);
        self.pool();
        self.regime_weight.fill(0.0);
        for (&regime, w) in self.regime_of.iter().zip(&self.weights) {
            self.regime_weight[regime] += w;
        }
        let n = self.hypotheses.len();
        for (k, h) in self.hypotheses.iter_mut().enumerate() {
            let entering: f32 =
                self.regime_weight.iter().enumerate().map(|(r, w)| w * self.entry[r * n + k]).sum();
            let staying = (1.0 - self.leave[self.regime_of[k]]) * self.weights[k];
            let weight = (staying + entering).max(f32::MIN_POSITIVE);
            h.log_weight = weight.ln();
            let fresh = entering / weight;
            if fresh < self.fresh_share_min {
                h.entered = 0.0;
                continue;
            }
            h.entered = fresh;
            let spread = fresh * (1.0 - fresh);
            // Difference of what was there and what enters, `[rank + embedding]`.
            let mut delta = [0.0f32; crate::model::RANK_MAX + crate::model::EMBEDDING_MAX];
            for i in 0..rank {
                delta[i] = h.mean[i] - self.latent_mean[i];
            }
            for i in 0..d {
                delta[rank + i] = h.mean[rank + i] - self.prior_mean[k * d + i];
            }
            for i in 0..rank + d {
                h.mean[i] -= fresh * delta[i];
                let row = &mut h.cov[i * stride..(i + 1) * stride];
                for (c, dj) in row.iter_mut().zip(&delta) {
                    *c = (1.0 - fresh) * *c + spread * delta[i] * dj;
                }
                if i < rank {
                    for j in 0..rank {
                        row[j] += fresh * self.latent_cov[i * rank + j];
                    }
                } else {
                    let from = &self.prior_cov[(k * d + i - rank) * d..(k * d + i - rank + 1) * d];
                    for (c, p) in row[rank..].iter_mut().zip(from) {
                        *c += fresh * p;
                    }
                }
            }
        }
    }

    /// Distance of the embedding from what the model knows, and the novelty with it.
    #[inline(always)]
    pub(super) fn track_novelty(&mut self) {
        let d = self.layout.embedding;
        let e = &mut self.estimate;
        let mut nearest = f32::INFINITY;
        for (mean, precision) in
            self.prior_mean.chunks_exact(d).zip(self.prior_precision.chunks_exact(d * d))
        {
            let delta = |i: usize| e.embedding_mean[i] - mean[i];
            let squared: f32 = (0..d)
                .map(|i| delta(i) * (0..d).map(|j| precision[i * d + j] * delta(j)).sum::<f32>())
                .sum();
            nearest = nearest.min(squared);
        }
        e.embedding_distance += self.novelty_rate * (nearest / d as f32 - e.embedding_distance);
        e.signs = self.signs.now(e.innovation_runs, e.embedding_distance);
        e.novelty = match &self.known {
            Some((known, limit)) => known.score(&e.signs) / limit,
            None => (e.innovation_runs / self.limits.innovation_runs)
                .max(e.embedding_distance / self.limits.embedding_distance),
        };
    }

    /// Label posterior and moments of the embedding and latents.
    #[inline(always)]
    pub(super) fn summarise(&mut self) {
        let (rank, d, stride) = (self.layout.rank, self.layout.embedding, self.layout.stride);
        let out = &mut self.estimate;
        out.posterior.fill(0.0);
        out.unlabelled = 0.0;
        out.embedding_mean.fill(0.0);
        out.embedding_covariance.fill(0.0);
        out.latent.fill(0.0);
        out.latent_sd.fill(0.0);
        for (k, h) in self.hypotheses.iter().enumerate() {
            let w = exp(h.log_weight);
            *out.posterior.get_mut(self.regime_of[k]).unwrap_or(&mut out.unlabelled) += w;
            for i in 0..rank {
                out.latent[i] += w * h.mean[i];
            }
            for i in 0..d {
                out.embedding_mean[i] += w * h.mean[rank + i];
            }
        }
        for h in &self.hypotheses {
            let w = exp(h.log_weight);
            let mut at = 0;
            for i in 0..d {
                let delta = h.mean[rank + i] - out.embedding_mean[i];
                for j in 0..=i {
                    let other = h.mean[rank + j] - out.embedding_mean[j];
                    let own = h.cov[(rank + i) * stride + rank + j];
                    out.embedding_covariance[at] += w * (own + delta * other);
                    at += 1;
                }
            }
            for i in 0..rank {
                let delta = h.mean[i] - out.latent[i];
                out.latent_sd[i] += w * (h.cov[i * stride + i] + delta * delta);
            }
        }
        for i in 0..d {
            out.embedding_sd[i] = out.embedding_covariance[i * (i + 3) / 2].max(0.0).sqrt();
        }
        out.latent_sd.iter_mut().for_each(|v| *v = v.max(0.0).sqrt());
        let power = 1.0 / self.temperature;
        let tempered = |p: f32| exp(p.max(1e-30).ln() * power);
        // Zero is not tempered: there is no hypothesis without a label.
        let unlabelled = if out.unlabelled > 0.0 { tempered(out.unlabelled) } else { 0.0 };
        let mut sum = 0.0;
        for p in &mut out.posterior {
            *p = tempered(*p);
            sum += *p;
        }
        out.posterior.iter_mut().for_each(|p| *p /= sum);
        out.unlabelled = unlabelled / (unlabelled + sum);
    }
}

/// [`FilterBank::advance`], compiled for each set of vector instructions. A closure would not do:
/// its call is not inlined into the function that has them.
struct Advance<'a> {
    bank: &'a mut FilterBank,
    seen: bool,
}

impl WithSimd for Advance<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.bank.advance(simd, self.seen);
    }
}
