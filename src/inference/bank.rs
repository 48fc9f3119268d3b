//! The bank: mixing, weights, and the estimate after a bin.

use pulp::{Simd, WithSimd};

use super::BankError;
use super::block::{Block, blocks};
use super::channels::{Adaptation, Channels, NOVELTY_WINDOW_S, Seen};
use super::estimate::Estimate;
use super::kernels::{exp, padded_row};
use super::lanes::{Wide, triangle, unfold};
use super::layout::{Bin, Layout, check_sizes, entry, log_factorials};
use super::participation::Participation;
use super::signs::{Shown, Signs};
use super::tape::Tape;
use crate::model::{KnownDynamics, Model, NoveltyLimits, Readout, UNKNOWN_RATE};

/// Time constant of the latent covariance behind the participation ratio, seconds.
const PARTICIPATION_WINDOW_S: f64 = 2.0;
/// Weight of a restarted hypothesis, times its prior's.
const RESTARTED_WEIGHT: f32 = 1e-3;

/// Runs something for each block, on rows of as many vectors as it has.
macro_rules! for_each {
    ($block:ident of $blocks:expr, $wide:ident of $simd:expr => $body:expr) => {
        for $block in $blocks {
            if $block.groups == 2 {
                let $wide = Wide::<_, 2>($simd);
                $body
            } else {
                let $wide = Wide::<_, 1>($simd);
                $body
            }
        }
    };
}
pub(super) use for_each;

/// The bank of filters of one session.
#[derive(Debug)]
pub struct FilterBank {
    pub(super) arch: pulp::Arch,
    pub(super) layout: Layout,
    pub(super) blocks: Vec<Block>,
    /// Regime of each hypothesis; `n_regimes` is without a label.
    regime_of: Vec<usize>,
    /// Weight of each regime's hypotheses, `[n_regimes + 1]`.
    regime_weight: Vec<f32>,
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
    /// Mean `[rank]` and covariance of the latents over all hypotheses, a lower triangle.
    latent_mean: Vec<f32>,
    latent_cov: Vec<f32>,
    /// Score of the newest bin, `[rank]`, and its information, a lower triangle.
    moments: Vec<f32>,
    /// That information, and the covariance of the latents before the bin, `[rank, rank]`.
    information: Vec<f32>,
    predicted: Vec<f32>,
    /// `C^T y` of the newest bin, `[rank]`.
    pub(super) projected: Vec<f32>,
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
        let regime_of: Vec<usize> =
            components.iter().map(|c| c.regime.unwrap_or(n_regimes)).collect();
        // They hold for sessions that they were learned with: those that have experts beside.
        let known = model.online.known.as_ref().filter(|_| readout.experts.is_some());
        let squared_rates = readout.baseline.iter().map(|d| (2.0 * d).exp()).sum();
        let entry = entry(&model.online.hazard_per_bin, &regime_of, readout);
        let leaving: Vec<f32> = entry.chunks_exact(k).map(|row| row.iter().sum()).collect();
        let leave: Vec<f32> = regime_of.iter().map(|&r| leaving[r]).collect();
        let arch = pulp::Arch::new();
        let pairs = rank * (rank + 1) / 2;
        let mut bank = Self {
            arch,
            blocks: blocks(&layout, components, &entry, &leave, arch.dispatch(Width)),
            regime_of,
            regime_weight: vec![0.0; n_regimes + 1],
            limits: model.online.novelty_limits,
            known: known.map(|k| (k.clone(), k.limit(UNKNOWN_RATE))),
            signs: Signs::new(rank, smoothing(NOVELTY_WINDOW_S), known, squared_rates),
            initial_variance: model.network.initial_variance.to_vec(),
            temperature: model.online.temperature,
            fresh_share_min: model.online.fresh_share_min,
            novelty_rate: smoothing(NOVELTY_WINDOW_S),
            channels: Channels::new(model, readout, adaptation),
            log_factorial: log_factorials(),
            latent_mean: vec![0.0; rank],
            latent_cov: vec![0.0; pairs],
            moments: vec![0.0; rank + pairs],
            information: vec![0.0; rank * rank],
            predicted: vec![0.0; rank * rank],
            projected: vec![0.0; rank],
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
        self.blocks.iter_mut().for_each(|b| b.reset(&self.initial_variance));
        self.participation.reset();
        self.estimate.novelty = 0.0;
        self.estimate.innovation_runs = 1.0;
        self.estimate.embedding_distance = 0.0;
        self.estimate.log_likelihood = 0.0;
        self.refresh();
    }

    /// The estimate from the hypotheses as they are.
    fn refresh(&mut self) {
        let arch = self.arch;
        arch.dispatch(Refresh(self));
    }

    /// Writes everything that the next bin depends on to the tape, or reads it from there; see
    /// [`Self::resume`].
    pub fn state(&mut self, tape: &mut Tape) {
        let stride = padded_row(self.layout.state);
        self.blocks.iter_mut().for_each(|b| b.state(tape, stride));
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
        let all_sound = |b: &Block| (0..b.width).all(|lane| b.lane_is_sound(lane));
        let sound = self.blocks.iter().all(all_sound)
            && self.channels.is_sound()
            && self.signs.is_sound()
            && self.participation.is_sound()
            && signs.iter().all(|v| v.is_finite());
        if sound {
            self.refresh();
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
        let arch = self.arch;
        arch.dispatch(Advance { bank: self, counts: Some(counts) });
        &self.estimate
    }

    /// A missing bin: prediction without update.
    pub(crate) fn predict(&mut self) -> &Estimate {
        let arch = self.arch;
        arch.dispatch(Advance { bank: self, counts: None });
        &self.estimate
    }

    #[inline(always)]
    fn advance<S: Simd>(&mut self, simd: S, counts: Option<&[f32]>) {
        let seen = counts.is_some_and(|c| self.channels.take(c));
        self.estimate.artefact = counts.is_some() && !seen;
        self.mix(simd);
        self.linearise(simd);
        self.propagate(simd);
        self.estimate.log_likelihood = 0.0;
        let n_informing = self.channels.n_informing();
        let informed = seen && n_informing > 0;
        if informed {
            // Moments of the prediction, for what the bin shows beside it.
            self.pool(simd);
            self.inform(simd);
            self.correct(simd);
            // The same for all hypotheses: added once, and left out of their evidence.
            let constant = self.layout.count_constant(&self.channels.counts, &self.log_factorial);
            let total = self.normalise(simd);
            self.estimate.log_likelihood = (total + constant) / n_informing as f32;
            self.learn(simd);
        }
        self.restart_unsound(simd);
        self.normalise(simd);
        self.summarise(simd);
        self.look(informed);
        self.track_novelty(simd);
        self.estimate.participation_ratio = self.participation.take(&self.estimate.latent);
    }

    /// Score, information and rates of the newest bin at the predictions.
    #[inline(always)]
    pub(super) fn inform_within<S: Simd>(&mut self, simd: S) {
        let layout = &self.layout;
        let Channels { counts, weight, baseline, expected, .. } = &mut self.channels;
        layout.project(counts, &mut self.projected);
        expected.fill(0.0);
        let bin = Bin { counts, weight, baseline, projected: &self.projected };
        for_each!(block of &mut self.blocks, wide of simd => {
            block.inform(wide, layout, bin, expected);
        });
        self.moments.fill(0.0);
        for_each!(block of &self.blocks, wide of simd => {
            block.pool_moments(wide, &mut self.moments);
        });
        unfold(&self.moments[self.layout.rank..], &mut self.information);
        unfold(&self.latent_cov, &mut self.predicted);
    }

    /// The measurement update by what was found.
    #[inline(always)]
    pub(super) fn correct_within<S: Simd>(&mut self, simd: S) {
        let Channels { counts, weight, baseline, .. } = &self.channels;
        let bin = Bin { counts, weight, baseline, projected: &self.projected };
        for_each!(block of &mut self.blocks, wide of simd => {
            block.correct(wide, &self.layout, bin);
        });
    }

    /// What the channels show of themselves in a bin that informed.
    #[inline(always)]
    pub(super) fn learn_within<S: Simd>(&mut self, simd: S) {
        self.estimate.innovation_runs = self.channels.innovation_runs();
        self.channels.learn(Wide(simd));
        self.estimate.silent_channels = self.channels.n_silent() as u32;
    }

    /// Signs of unknown dynamics.
    pub(super) fn look(&mut self, informed: bool) {
        if informed {
            self.signs.take(&Shown {
                score: &self.moments[..self.layout.rank],
                information: &self.information,
                predicted: &self.predicted,
                latent: &self.estimate.latent,
                excess: self.channels.excess(),
            });
        } else {
            self.signs.skip(&self.estimate.latent);
        }
    }

    /// Checked in every bin: one number that is not finite spreads to all hypotheses with the next
    /// mixing.
    #[inline(always)]
    fn restart_unsound<S: Simd>(&mut self, simd: S) {
        for_each!(block of &mut self.blocks, wide of simd => {
            if !block.is_sound(wide) {
                self.resets += block.restart_unsound(&self.initial_variance, RESTARTED_WEIGHT);
            }
        });
    }

    /// Subtracts the log total from all log weights and returns it.
    #[inline(always)]
    pub(super) fn normalise_within<S: Simd>(&mut self, simd: S) -> f32 {
        let mut top = f32::NEG_INFINITY;
        for_each!(block of &mut self.blocks, wide of simd => top = top.max(block.top(wide)));
        let mut sum = 0.0;
        for_each!(block of &self.blocks, wide of simd => sum += block.total(wide, top));
        let total = top + sum.ln();
        for_each!(block of &mut self.blocks, wide of simd => block.scale_down(wide, total));
        total
    }

    /// Weights, and mean and covariance of the latents over all hypotheses.
    #[inline(always)]
    pub(super) fn pool_within<S: Simd>(&mut self, simd: S) {
        self.latent_mean.fill(0.0);
        self.latent_cov.fill(0.0);
        for_each!(block of &mut self.blocks, wide of simd => {
            block.weigh(wide);
            block.pool_mean(wide, 0, &mut self.latent_mean);
        });
        for_each!(block of &self.blocks, wide of simd => {
            block.pool_cov(wide, 0, &self.latent_mean, &mut self.latent_cov);
        });
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
    pub(super) fn mix_within<S: Simd>(&mut self, simd: S) {
        self.pool(simd);
        self.regime_weight.fill(0.0);
        for (regime, weight) in weights(&self.regime_of, &self.blocks) {
            self.regime_weight[regime] += weight;
        }
        let latents = (self.latent_mean.as_slice(), self.latent_cov.as_slice());
        for_each!(block of &mut self.blocks, wide of simd => {
            block.mix(wide, &self.regime_weight, self.fresh_share_min, latents);
        });
    }

    /// Distance of the embedding from what the model knows, and the novelty with it.
    #[inline(always)]
    pub(super) fn track_novelty_within<S: Simd>(&mut self, simd: S) {
        let d = self.layout.embedding;
        let e = &mut self.estimate;
        let mut nearest = f32::INFINITY;
        for_each!(block of &mut self.blocks, wide of simd => {
            nearest = nearest.min(block.nearest(wide, &e.embedding_mean));
        });
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
    pub(super) fn summarise_within<S: Simd>(&mut self, simd: S) {
        let (rank, d) = (self.layout.rank, self.layout.embedding);
        self.pool(simd);
        let out = &mut self.estimate;
        out.posterior.fill(0.0);
        out.unlabelled = 0.0;
        for (regime, weight) in weights(&self.regime_of, &self.blocks) {
            *out.posterior.get_mut(regime).unwrap_or(&mut out.unlabelled) += weight;
        }
        out.embedding_mean.fill(0.0);
        out.embedding_covariance.fill(0.0);
        for_each!(block of &self.blocks, wide of simd => {
            block.pool_mean(wide, rank, &mut out.embedding_mean);
        });
        for_each!(block of &self.blocks, wide of simd => {
            block.pool_cov(wide, rank, &out.embedding_mean, &mut out.embedding_covariance);
        });
        let sd = |variance: f32| variance.max(0.0).sqrt();
        for i in 0..d {
            out.embedding_sd[i] = sd(out.embedding_covariance[triangle(i, i)]);
        }
        out.latent.copy_from_slice(&self.latent_mean);
        for r in 0..rank {
            out.latent_sd[r] = sd(self.latent_cov[triangle(r, r)]);
        }
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

/// Each hypothesis' regime and weight.
fn weights<'a>(
    regime_of: &'a [usize],
    blocks: &'a [Block],
) -> impl Iterator<Item = (usize, f32)> + 'a {
    let of_blocks = blocks.iter().flat_map(|b| &b.weight[..b.len]);
    regime_of.iter().copied().zip(of_blocks.copied())
}

/// Numbers in a vector of this processor.
struct Width;

impl WithSimd for Width {
    type Output = usize;

    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// [`FilterBank::refresh`].
struct Refresh<'a>(&'a mut FilterBank);

impl WithSimd for Refresh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.summarise(simd);
    }
}

/// [`FilterBank::advance`], compiled for each set of vector instructions. A closure would not do:
/// its call is not inlined into the function that has them.
struct Advance<'a> {
    bank: &'a mut FilterBank,
    counts: Option<&'a [f32]>,
}

impl WithSimd for Advance<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.bank.advance(simd, self.counts);
    }
}
