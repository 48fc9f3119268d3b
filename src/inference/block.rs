//! A block of hypotheses side by side: Gaussians over `z = (kappa, e)`, their weights, and what
//! their regime's prior says.

use pulp::Simd;

use super::lanes::{Arithmetic, Lanes, Row, Wide, triangle};
use super::layout::{CHUNK, Layout, precision};
use super::tape::Tape;
use crate::model::{Component, values};

/// As many hypotheses as two vectors have lanes, or one. What is over is filled up by copies of the
/// first that have no weight.
///
/// Every array has rows of `width` lanes, one for each hypothesis.
#[derive(Debug)]
pub(super) struct Block {
    /// Vectors of a row: 1 or 2.
    pub(super) groups: usize,
    /// Lanes of a row.
    pub(super) width: usize,
    /// Hypotheses in it.
    pub(super) len: usize,
    /// `[state]`: kappa, e.
    pub(super) mean: Lanes,
    /// `[state (state + 1) / 2]`, the lower triangle.
    pub(super) cov: Lanes,
    /// Log weight, normalised over the bank.
    pub(super) log_weight: Lanes,
    /// Weight; 0 for a lane without a hypothesis.
    pub(super) weight: Lanes,
    /// 1 for a hypothesis, 0 for a lane without one.
    real: Lanes,
    /// Share of the weight that entered with the newest bin.
    pub(super) entered: Lanes,
    /// Score `C^T (y - lambda)` of the newest bin, `[rank]`, then `Lambda = C^T diag(lambda) C`,
    /// `[rank (rank + 1) / 2]`.
    pub(super) moments: Lanes,
    /// Log-likelihood of the newest bin at the predicted mean, without terms that do not depend on
    /// the rates.
    pub(super) predicted: Lanes,
    /// Probability per bin of entering it out of each regime, `[n_regimes + 1]`.
    entry: Lanes,
    /// Probability per bin of leaving its regime.
    leave: Lanes,
    prior_weight: Vec<f32>,
    /// `[embedding]`.
    prior_mean: Lanes,
    /// Lower triangles, `[embedding (embedding + 1) / 2]`.
    prior_cov: Lanes,
    prior_precision: Lanes,
    /// Numbers that stand while a bin is taken.
    pub(super) scratch: Scratch,
}

/// Working memory of a block.
#[derive(Debug)]
pub(super) struct Scratch {
    /// `tanh(M kappa + offset)` and `1 - tanh^2`, `[units]`.
    pub(super) phi: Lanes,
    pub(super) slope: Lanes,
    /// Hidden layers and their slopes.
    pub(super) h1: Lanes,
    pub(super) d1: Lanes,
    pub(super) h2: Lanes,
    pub(super) d2: Lanes,
    /// Of one latent: its row of `N(e)^T`, how each last hidden unit moves it, and how each first.
    pub(super) n: Lanes,
    pub(super) contracted: Lanes,
    pub(super) back: Lanes,
    /// Latents one bin ahead, `[rank]`.
    pub(super) latent: Lanes,
    /// The step's Jacobian, its rows of latents, `[rank, state]`; then that times the covariance.
    pub(super) transition: Lanes,
    pub(super) product: Lanes,
    /// Rates of a chunk of channels, and residuals where the two carry a factor.
    pub(super) rates: Lanes,
    pub(super) residual: Lanes,
    /// `[state, rank]`: the covariance's Cholesky factor, columns of latents; and that whitened.
    pub(super) root: Lanes,
    pub(super) white: Lanes,
    /// `[rank, rank]`.
    pub(super) square: Lanes,
    /// `[rank]`.
    pub(super) inverse: Lanes,
    pub(super) step: Lanes,
    pub(super) moved: Lanes,
}

impl Scratch {
    fn new(l: &Layout, width: usize) -> Self {
        let rows = |n: usize| Lanes::zeros(n * width);
        let [h1, h2] = l.hidden;
        let chunk = CHUNK.min(l.channels);
        Self {
            phi: rows(l.units),
            slope: rows(l.units),
            h1: rows(h1),
            d1: rows(h1),
            h2: rows(h2),
            d2: rows(h2),
            n: rows(l.units),
            contracted: rows(h2),
            back: rows(h1),
            latent: rows(l.rank),
            transition: rows(l.rank * l.state),
            product: rows(l.rank * l.state),
            rates: rows(chunk),
            residual: rows(if l.dispersion.is_some() { chunk } else { 0 }),
            root: rows(l.state * l.rank),
            white: rows(l.state * l.rank),
            square: rows(l.rank * l.rank),
            inverse: rows(l.rank),
            step: rows(l.state),
            moved: rows(l.rank),
        }
    }
}

/// Components in blocks of two vectors, the last ones of one where that holds them.
pub(super) fn blocks(
    layout: &Layout,
    components: &[Component],
    entry: &[f32],
    leave: &[f32],
    lanes: usize,
) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut first = 0;
    while first < components.len() {
        let left = components.len() - first;
        let groups = if left > lanes { 2 } else { 1 };
        let len = left.min(groups * lanes);
        let components = &components[first..first + len];
        let precision = components.iter().map(precision).collect();
        let members = Members { components, first, entry, leave, precision };
        blocks.push(Block::new(layout, &members, groups, groups * lanes));
        first += len;
    }
    blocks
}

/// What a block is made of: components, with the probabilities of entering each out of every regime
/// and of leaving its own.
struct Members<'a> {
    components: &'a [Component],
    first: usize,
    /// `[n_regimes + 1, hypotheses]` of the whole bank.
    entry: &'a [f32],
    /// Of the whole bank.
    leave: &'a [f32],
    /// Inverses of the components' covariances, `[embedding, embedding]`.
    precision: Vec<Vec<f32>>,
}

impl Block {
    fn new(l: &Layout, of: &Members<'_>, groups: usize, width: usize) -> Self {
        let rows = |n: usize| Lanes::zeros(n * width);
        let len = of.components.len();
        let d = l.embedding;
        let pairs = |n: usize| n * (n + 1) / 2;
        let hypotheses = of.leave.len();
        let states = of.entry.len() / hypotheses;
        let mut block = Self {
            groups,
            width,
            len,
            mean: rows(l.state),
            cov: rows(pairs(l.state)),
            log_weight: rows(1),
            weight: rows(1),
            real: rows(1),
            entered: rows(1),
            moments: rows(l.rank + pairs(l.rank)),
            predicted: rows(1),
            entry: rows(states),
            leave: rows(1),
            prior_weight: of.components.iter().map(|c| c.weight).collect(),
            prior_mean: rows(d),
            prior_cov: rows(pairs(d)),
            prior_precision: rows(pairs(d)),
            scratch: Scratch::new(l, width),
        };
        for lane in 0..width {
            let k = if lane < len { lane } else { 0 };
            let component = &of.components[k];
            let covariance = values(&component.covariance);
            for i in 0..d {
                block.prior_mean[i * width + lane] = component.mean[i];
                for j in 0..=i {
                    let at = triangle(i, j) * width + lane;
                    block.prior_cov[at] = covariance[i * d + j];
                    block.prior_precision[at] = of.precision[k][i * d + j];
                }
            }
            if lane < len {
                block.real[lane] = 1.0;
                block.leave[lane] = of.leave[of.first + lane];
                for state in 0..states {
                    block.entry[state * width + lane] =
                        of.entry[state * hypotheses + of.first + lane];
                }
            }
        }
        block
    }

    /// All hypotheses at their prior.
    pub(super) fn reset(&mut self, initial_variance: &[f32]) {
        self.entered.fill(0.0);
        for lane in 0..self.width {
            self.restart(lane, initial_variance);
            self.log_weight[lane] = self.prior_weight.get(lane).map_or(NO_WEIGHT, |w| w.ln());
        }
    }

    /// One hypothesis at its prior, its weight aside.
    fn restart(&mut self, lane: usize, initial_variance: &[f32]) {
        let (width, rank) = (self.width, initial_variance.len());
        let d = self.prior_mean.len() / width;
        for i in 0..rank + d {
            let prior = i.checked_sub(rank);
            self.mean[i * width + lane] = prior.map_or(0.0, |e| self.prior_mean[e * width + lane]);
            for j in 0..=i {
                self.cov[triangle(i, j) * width + lane] = match (prior, j.checked_sub(rank)) {
                    (Some(e), Some(f)) => self.prior_cov[triangle(e, f) * width + lane],
                    (None, _) if i == j => initial_variance[i],
                    _ => 0.0,
                };
            }
        }
    }

    /// Mean, covariance and log weight of each hypothesis for the tape, rows padded to `stride`.
    pub(super) fn state(&mut self, tape: &mut Tape, stride: usize) {
        let width = self.width;
        let state = self.mean.len() / width;
        for lane in 0..self.len {
            let mut padding = 0.0;
            for i in 0..stride {
                let at = i * width + lane;
                tape.float(if i < state { &mut self.mean[at] } else { &mut padding });
            }
            for i in 0..state {
                for j in 0..stride {
                    let at = triangle(i.max(j), i.min(j)) * width + lane;
                    tape.float(if j < state { &mut self.cov[at] } else { &mut padding });
                }
            }
            tape.float(&mut self.log_weight[lane]);
        }
    }

    /// Weights from log weights.
    #[inline(always)]
    pub(super) fn weigh<S: Simd, const G: usize>(&mut self, wide: Wide<S, G>) {
        let weight = wide.exp(wide.rows(&self.log_weight)[0]);
        wide.rows_mut(&mut self.weight)[0] = wide.mul(weight, wide.rows(&self.real)[0]);
    }

    /// Adds the weighted mean to `mean`: of the latents where `from` is 0, of the embedding where
    /// it is the rank.
    #[inline(always)]
    pub(super) fn pool_mean<S: Simd, const G: usize>(
        &self,
        wide: Wide<S, G>,
        from: usize,
        mean: &mut [f32],
    ) {
        let weight = wide.rows(&self.weight)[0];
        for (sum, row) in mean.iter_mut().zip(&wide.rows(&self.mean)[from..]) {
            *sum += wide.sum(wide.mul(weight, *row));
        }
    }

    /// Adds the weighted covariance around `mean` to `cov`, a lower triangle; of the latents or the
    /// embedding, as for [`Self::pool_mean`].
    #[inline(always)]
    pub(super) fn pool_cov<S: Simd, const G: usize>(
        &self,
        wide: Wide<S, G>,
        from: usize,
        mean: &[f32],
        cov: &mut [f32],
    ) {
        let weight = wide.rows(&self.weight)[0];
        let (means, own) = (wide.rows(&self.mean), wide.rows(&self.cov));
        for i in 0..mean.len() {
            let off = wide.mul(weight, wide.sub(means[from + i], wide.splat(mean[i])));
            for j in 0..=i {
                let other = wide.sub(means[from + j], wide.splat(mean[j]));
                let own = wide.mul(weight, own[triangle(from + i, from + j)]);
                cov[triangle(i, j)] += wide.sum(wide.mul_add(off, other, own));
            }
        }
    }

    /// Adds each hypothesis' moments by the weights before the bin: score and information.
    #[inline(always)]
    pub(super) fn pool_moments<S: Simd, const G: usize>(&self, wide: Wide<S, G>, sums: &mut [f32]) {
        let weight = wide.rows(&self.weight)[0];
        for (sum, row) in sums.iter_mut().zip(wide.rows(&self.moments)) {
            *sum += wide.sum(wide.mul(weight, *row));
        }
    }

    /// Passes weight on and takes over the moments of what enters; see
    /// [`super::FilterBank::mix`]. `latent` are mean and covariance of the whole bank's latents.
    #[inline(always)]
    pub(super) fn mix<S: Simd, const G: usize>(
        &mut self,
        wide: Wide<S, G>,
        regime_weight: &[f32],
        fresh_share_min: f32,
        (latent_mean, latent_cov): (&[f32], &[f32]),
    ) {
        let rank = latent_mean.len();
        let mut entering = wide.splat(0.0);
        for (weight, entry) in regime_weight.iter().zip(wide.rows(&self.entry)) {
            entering = wide.scale_add(*weight, *entry, entering);
        }
        let weight = wide.rows(&self.weight)[0];
        let staying = wide.mul_sub_from(wide.rows(&self.leave)[0], weight, weight);
        let weight = wide.max(wide.add(staying, entering), wide.splat(f32::MIN_POSITIVE));
        wide.rows_mut(&mut self.log_weight)[0] = wide.ln(weight);
        let (zero, least) = (wide.splat(0.0), wide.splat(fresh_share_min));
        let fresh = wide.div(entering, weight);
        let fresh = wide.where_less(fresh, least, zero, fresh);
        wide.rows_mut(&mut self.entered)[0] = fresh;
        if wide.largest(fresh) == 0.0 {
            return;
        }
        let stay = wide.sub(wide.splat(1.0), fresh);
        let spread = wide.mul(fresh, stay);
        // Difference of what was there and what enters, `[rank + embedding]`.
        let (means, cov) = (wide.rows_mut(&mut self.mean), wide.rows_mut(&mut self.cov));
        let (prior_mean, prior_cov) = (wide.rows(&self.prior_mean), wide.rows(&self.prior_cov));
        let delta = wide.rows_mut(&mut self.scratch.step);
        for (i, (delta, mean)) in delta.iter_mut().zip(means).enumerate() {
            let enters = match i.checked_sub(rank) {
                None => wide.splat(latent_mean[i]),
                Some(e) => prior_mean[e],
            };
            *delta = wide.sub(*mean, enters);
            *mean = wide.mul_sub_from(fresh, *delta, *mean);
        }
        for i in 0..delta.len() {
            let off = wide.mul(spread, delta[i]);
            for j in 0..=i {
                let c = &mut cov[triangle(i, j)];
                let kept = wide.mul_add(off, delta[j], wide.mul(stay, *c));
                *c = match (i.checked_sub(rank), j.checked_sub(rank)) {
                    (None, _) => wide.scale_add(latent_cov[triangle(i, j)], fresh, kept),
                    (Some(e), Some(f)) => wide.mul_add(fresh, prior_cov[triangle(e, f)], kept),
                    _ => kept,
                };
            }
        }
    }

    /// The largest log weight. A hypothesis that became non-finite must not spoil the others'
    /// weights; it is restarted after this. Lanes without a hypothesis stay without weight.
    #[inline(always)]
    pub(super) fn top<S: Simd, const G: usize>(&mut self, wide: Wide<S, G>) -> f32 {
        let (real, none) = (wide.rows(&self.real)[0], wide.splat(NO_WEIGHT));
        let row = &mut wide.rows_mut(&mut self.log_weight)[0];
        *row = wide.where_less(wide.splat(0.5), real, *row, none);
        wide.largest(wide.where_finite(*row, *row, none))
    }

    /// `sum exp(log weight - top)`.
    #[inline(always)]
    pub(super) fn total<S: Simd, const G: usize>(&self, wide: Wide<S, G>, top: f32) -> f32 {
        let none = wide.splat(NO_WEIGHT);
        let row = wide.rows(&self.log_weight)[0];
        let finite = wide.where_finite(row, row, none);
        let share = wide.exp(wide.sub(finite, wide.splat(top)));
        wide.sum(wide.mul(share, wide.rows(&self.real)[0]))
    }

    #[inline(always)]
    pub(super) fn scale_down<S: Simd, const G: usize>(&mut self, wide: Wide<S, G>, by: f32) {
        let row = &mut wide.rows_mut(&mut self.log_weight)[0];
        *row = wide.sub(*row, wide.splat(by));
    }

    /// Smallest squared Mahalanobis distance of an embedding from the prior's components.
    #[inline(always)]
    pub(super) fn nearest<S: Simd, const G: usize>(
        &mut self,
        wide: Wide<S, G>,
        embedding: &[f32],
    ) -> f32 {
        let (mean, precision) = (wide.rows(&self.prior_mean), wide.rows(&self.prior_precision));
        let delta = wide.rows_mut(&mut self.scratch.step);
        let mut squared = wide.splat(0.0);
        for i in 0..embedding.len() {
            delta[i] = wide.sub(wide.splat(embedding[i]), mean[i]);
            let mut row = wide.mul(precision[triangle(i, i)], delta[i]);
            for j in 0..i {
                let twice = wide.add(delta[j], delta[j]);
                row = wide.mul_add(precision[triangle(i, j)], twice, row);
            }
            squared = wide.mul_add(row, delta[i], squared);
        }
        -wide.largest(wide.sub(wide.splat(0.0), squared))
    }

    /// True while every number of every hypothesis is finite and every variance positive.
    #[inline(always)]
    pub(super) fn is_sound<S: Simd, const G: usize>(&self, wide: Wide<S, G>) -> bool {
        wide.largest(self.flaws(wide)) == 0.0
    }

    /// 1 for a lane that is not sound, else 0.
    #[inline(always)]
    fn flaws<S: Simd, const G: usize>(&self, wide: Wide<S, G>) -> Row<S, G> {
        let (zero, one) = (wide.splat(0.0), wide.splat(1.0));
        // Infinity and NaN times 0 are NaN: one comparison for all numbers, and no branch in
        // between.
        let mut sums = [zero; 4];
        let all = wide.rows(&self.cov).iter().chain(wide.rows(&self.mean));
        for (t, row) in all.enumerate() {
            sums[t % 4] = wide.mul_add(*row, zero, sums[t % 4]);
        }
        let sum = wide.add(wide.add(sums[0], sums[1]), wide.add(sums[2], sums[3]));
        let sum = wide.mul_add(wide.rows(&self.log_weight)[0], zero, sum);
        let mut flaw = wide.where_finite(sum, zero, one);
        let cov = wide.rows(&self.cov);
        for i in 0..wide.rows(&self.mean).len() {
            flaw = wide.where_less(zero, cov[triangle(i, i)], flaw, one);
        }
        flaw
    }

    /// Restarts hypotheses that are not sound with a share of their prior weight; how many.
    #[cold]
    pub(super) fn restart_unsound(&mut self, initial_variance: &[f32], share: f32) -> u64 {
        let mut restarted = 0;
        for lane in 0..self.width {
            if self.lane_is_sound(lane) {
                continue;
            }
            self.restart(lane, initial_variance);
            let prior = self.prior_weight.get(lane);
            self.log_weight[lane] = prior.map_or(NO_WEIGHT, |w| (share * w).ln());
            restarted += u64::from(prior.is_some());
        }
        restarted
    }

    /// [`Self::is_sound`] of one hypothesis.
    pub(super) fn lane_is_sound(&self, lane: usize) -> bool {
        let of = |rows: &Lanes| rows.iter().skip(lane).step_by(self.width).all(|v| v.is_finite());
        let state = self.mean.len() / self.width;
        of(&self.mean)
            && of(&self.cov)
            && self.log_weight[lane].is_finite()
            && (0..state).all(|i| self.cov[triangle(i, i) * self.width + lane] > 0.0)
    }
}

/// Log weight of a lane without a hypothesis, and of one that is no number.
const NO_WEIGHT: f32 = -1e30;
