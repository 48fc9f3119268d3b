//! Measurement update of a block by one bin of counts.

use pulp::Simd;

use super::block::Block;
use super::lanes::{Arithmetic, Row, Wide, triangle};
use super::layout::{Bin, CHUNK, Layout};
use super::small::{add_and_factor, cholesky, solve, times_root, whiten};

/// A step that lowers the log density of latents and counts by more than this, nats, goes too far,
/// and is halved.
pub(crate) const STEP_LOSS_MAX: f32 = 0.01;
/// A step that goes too far is halved this many times at most.
pub(crate) const HALVINGS: usize = 6;

impl Block {
    /// Score and Fisher information of a bin at the predicted mean, and its log-likelihood there.
    /// Adds these hypotheses' share of the predicted rates to `expected`.
    #[inline(always)]
    pub(super) fn inform<S: Simd, const G: usize>(
        &mut self,
        wide: Wide<S, G>,
        l: &Layout,
        bin: Bin<'_>,
        expected: &mut [f32],
    ) {
        let kappa = &wide.rows(&self.mean)[..l.rank];
        let weight = wide.rows(&self.weight)[0];
        let s = &mut self.scratch;
        let moments = wide.rows_mut(&mut self.moments);
        moments.fill(wide.splat(0.0));
        let mut sums = Sums::new(wide);
        for chunk in Chunk::all(l, bin) {
            let rates = &mut wide.rows_mut(&mut s.rates)[..chunk.counts.len()];
            chunk.log_rates(wide, l, kappa, rates);
            let expected = &mut expected[chunk.from..];
            for ((row, own), expected) in rates.iter_mut().zip(chunk.channels()).zip(expected) {
                *row = sums.take(wide, l, &own, *row);
                *expected += wide.sum(wide.mul(weight, *row));
            }
            let moments_of = &l.moments[chunk.from * moments.len()..];
            let moments_of = &moments_of[..rates.len() * moments.len()];
            if l.dispersion.is_none() {
                wide.product(moments, moments_of, rates);
                continue;
            }
            let residuals = &mut wide.rows_mut(&mut s.residual)[..rates.len()];
            for ((rate, residual), own) in
                rates.iter_mut().zip(&mut *residuals).zip(chunk.channels())
            {
                // Score and Fisher information with respect to the log rate carry
                // 1 / (1 + alpha rate).
                let excess = wide.scale_add(own.alpha, *rate, wide.splat(1.0));
                *residual = wide.div(wide.sub(wide.splat(own.count), *rate), excess);
                *rate = wide.div(*rate, excess);
            }
            let (of_score, of_information) = moments_of.split_at(rates.len() * l.rank);
            let (score, information) = moments.split_at_mut(l.rank);
            wide.product(score, of_score, residuals);
            wide.product(information, of_information, rates);
        }
        if l.dispersion.is_none() {
            for (score, projected) in moments[..l.rank].iter_mut().zip(bin.projected) {
                *score = wide.sub(wide.splat(*projected), *score);
            }
        }
        wide.rows_mut(&mut self.predicted)[0] = sums.total(wide);
    }

    /// Mean and covariance given score and information; adds the evidence to the log weights. The
    /// mean is one step of Newton's method from the prediction towards the mode, with the Fisher
    /// information in place of the Hessian.
    ///
    /// A Poisson log-likelihood falls off exponentially, so where far more was counted than
    /// expected a full step overshoots, in log rates by as much as the counts are too many, and
    /// throws the filter. The step is therefore halved until the log density of latents and counts
    /// does not fall. A halving costs one evaluation of the rates, and ordinary bins need none;
    /// iterating Newton's method to the mode in every bin would cost as much in all of them.
    #[inline(always)]
    pub(super) fn correct<S: Simd, const G: usize>(
        &mut self,
        wide: Wide<S, G>,
        l: &Layout,
        bin: Bin<'_>,
    ) {
        let scratch = &mut self.scratch;
        cholesky(wide, wide.rows(&self.cov), l.rank, wide.rows_mut(&mut scratch.root));
        let (log_det, quadratic) = self.gain(wide, l);
        self.shrink(wide, l);
        let s = &mut self.scratch;
        let means = wide.rows_mut(&mut self.mean);
        let (step, moved) = (wide.rows(&s.step), wide.rows_mut(&mut s.moved));
        let half = wide.splat(0.5);
        let least = wide.sub(wide.rows(&self.predicted)[0], wide.splat(STEP_LOSS_MAX));
        let mut share = wide.splat(1.0);
        let mut density = least;
        for halvings in 0..=HALVINGS {
            for ((to, from), by) in moved.iter_mut().zip(means.iter()).zip(step) {
                *to = wide.mul_add(share, *by, *from);
            }
            let penalty = wide.mul(wide.mul(half, wide.mul(share, share)), quadratic);
            let likelihood = log_likelihood(wide, l, bin, moved, wide.rows_mut(&mut s.rates));
            density = wide.sub(likelihood, penalty);
            let shorter = wide.mul(half, share);
            let next = wide.where_less(density, least, shorter, share);
            let fell = wide.largest(wide.sub(share, next)) > 0.0;
            if !fell || halvings == HALVINGS {
                break;
            }
            // The mean goes back halfway. The covariance stays that of the whole step: it is the
            // curvature at the prediction, which says as much about a shorter step.
            share = next;
        }
        for (mean, by) in means.iter_mut().zip(step) {
            *mean = wide.mul_add(share, *by, *mean);
        }
        let evidence = wide.mul_sub_from(half, log_det, density);
        let weight = &mut wide.rows_mut(&mut self.log_weight)[0];
        *weight = wide.add(*weight, evidence);
    }

    /// With `I + L^T Lambda L = R R^T`: `U` whitened, `R^-1 U^T`, and the step
    /// `U R^-T R^-1 L^T score`, which is `P (I + Lambda P)^-1 score`. Returns `log det (I + Lambda
    /// P)` and the step's squared length by the prediction's precision.
    #[inline(always)]
    fn gain<S: Simd, const G: usize>(
        &mut self,
        wide: Wide<S, G>,
        l: &Layout,
    ) -> (Row<S, G>, Row<S, G>) {
        let (rank, state) = (l.rank, l.state);
        let (score, information) = wide.rows(&self.moments).split_at(rank);
        let s = &mut self.scratch;
        let root = wide.rows(&s.root);
        let square = wide.rows_mut(&mut s.square);
        let product = wide.rows_mut(&mut s.product);
        times_root(wide, information, root, rank, product);
        let inverse = wide.rows_mut(&mut s.inverse);
        let log_det = add_and_factor(wide, root, product, square, inverse);
        let white = wide.rows_mut(&mut s.white);
        whiten(wide, root, (square, inverse), white);
        // w = R^-1 L^T score; the step is the whitened U times w.
        let moved = wide.rows_mut(&mut s.moved);
        let projected = |a: usize| {
            let mut sum = wide.splat(0.0);
            for k in a..rank {
                sum = wide.mul_add(root[k * rank + a], score[k], sum);
            }
            sum
        };
        solve(wide, square, inverse, projected, moved);
        let step = wide.rows_mut(&mut s.step);
        for i in 0..state {
            step[i] = wide.inner(&white[i * rank..(i + 1) * rank], moved);
        }
        // Its length: |R^-T w|^2.
        let mut quadratic = wide.splat(0.0);
        for a in (0..rank).rev() {
            let mut sum = moved[a];
            for b in a + 1..rank {
                sum = wide.mul_sub_from(square[b * rank + a], moved[b], sum);
            }
            moved[a] = wide.mul(sum, inverse[a]);
            quadratic = wide.mul_add(moved[a], moved[a], quadratic);
        }
        (log_det, quadratic)
    }

    /// `P - U (I - R^-T R^-1) U^T`: of the latents what is left is the whitened factor's square, of
    /// the embedding what the latents did not explain, and that.
    #[inline(always)]
    fn shrink<S: Simd, const G: usize>(&mut self, wide: Wide<S, G>, l: &Layout) {
        let (rank, state) = (l.rank, l.state);
        let cov = wide.rows_mut(&mut self.cov);
        let (root, white) = (wide.rows(&self.scratch.root), wide.rows(&self.scratch.white));
        for i in 0..state {
            let (u_i, y_i) = (&root[i * rank..][..rank], &white[i * rank..][..rank]);
            for j in 0..=i {
                let (u_j, y_j) = (&root[j * rank..][..rank], &white[j * rank..][..rank]);
                let left = wide.inner(y_i, y_j);
                let own = &mut cov[triangle(i, j)];
                *own = if j < rank {
                    left
                } else {
                    wide.add(wide.sub(*own, wide.inner(u_i, u_j)), left)
                };
            }
        }
    }
}

/// Channels whose rates are in memory at once.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    /// Its first channel.
    from: usize,
    counts: &'a [f32],
    weight: &'a [f32],
    baseline: &'a [f32],
    /// Dispersions; none of Poisson counts.
    alpha: &'a [f32],
}

/// One of them.
struct Channel {
    count: f32,
    weight: f32,
    /// 0 of Poisson counts.
    alpha: f32,
}

impl<'a> Chunk<'a> {
    #[inline(always)]
    fn all(l: &'a Layout, bin: Bin<'a>) -> impl Iterator<Item = Self> {
        let alpha = l.dispersion.as_deref().unwrap_or_default();
        (0..l.channels).step_by(CHUNK).map(move |from| {
            let to = (from + CHUNK).min(l.channels);
            Self {
                from,
                counts: &bin.counts[from..to],
                weight: &bin.weight[from..to],
                baseline: &bin.baseline[from..to],
                alpha: alpha.get(from..to).unwrap_or_default(),
            }
        })
    }

    #[inline(always)]
    fn channels(self) -> impl Iterator<Item = Channel> {
        let each = self.counts.iter().zip(self.weight).enumerate();
        each.map(move |(i, (&count, &weight))| Channel {
            count,
            weight,
            alpha: self.alpha.get(i).copied().unwrap_or(0.0),
        })
    }

    /// Log rates at given latents, not yet within their bounds.
    #[inline(always)]
    fn log_rates<S: Simd, const G: usize>(
        self,
        wide: Wide<S, G>,
        l: &Layout,
        kappa: &[Row<S, G>],
        out: &mut [Row<S, G>],
    ) {
        wide.spread(out, self.baseline);
        let loading = &l.loading[self.from * l.rank..][..out.len() * l.rank];
        wide.product(out, loading, kappa);
    }
}

/// Log-likelihood of the bin, without terms that do not depend on the rates:
/// `sum_i w_i (y_i eta_i - exp eta_i)`, or of negative binomial counts
/// `sum_i w_i (y_i eta_i - (y_i + 1/alpha_i) log(1 + alpha_i exp eta_i))`.
struct Sums<S: Simd, const G: usize> {
    gained: Row<S, G>,
    lost: Row<S, G>,
}

impl<S: Simd, const G: usize> Sums<S, G> {
    #[inline(always)]
    fn new(wide: Wide<S, G>) -> Self {
        Self { gained: wide.splat(0.0), lost: wide.splat(0.0) }
    }

    /// Adds a channel's share; returns its rate times its weight.
    #[inline(always)]
    fn take(
        &mut self,
        wide: Wide<S, G>,
        l: &Layout,
        own: &Channel,
        log_rate: Row<S, G>,
    ) -> Row<S, G> {
        let log_rate = wide.clamp(log_rate, l.bounds);
        let rate = wide.mul(wide.splat(own.weight), wide.exp(log_rate));
        self.gained = wide.scale_add(own.count, log_rate, self.gained);
        if l.dispersion.is_none() {
            self.lost = wide.add(self.lost, rate);
        } else {
            let times = own.weight * (own.count + 1.0 / own.alpha);
            let excess = wide.ln_1p(wide.mul(wide.splat(own.alpha), rate));
            self.lost = wide.scale_add(times, excess, self.lost);
        }
        rate
    }

    #[inline(always)]
    fn total(&self, wide: Wide<S, G>) -> Row<S, G> {
        wide.sub(self.gained, self.lost)
    }
}

/// [`Sums`] at given latents; `memory` for a chunk's log rates.
#[inline(always)]
fn log_likelihood<S: Simd, const G: usize>(
    wide: Wide<S, G>,
    l: &Layout,
    bin: Bin<'_>,
    kappa: &[Row<S, G>],
    memory: &mut [Row<S, G>],
) -> Row<S, G> {
    let mut sums = Sums::new(wide);
    for chunk in Chunk::all(l, bin) {
        let logs = &mut memory[..chunk.counts.len()];
        chunk.log_rates(wide, l, kappa, logs);
        for (row, own) in logs.iter().zip(chunk.channels()) {
            sums.take(wide, l, &own, *row);
        }
    }
    sums.total(wide)
}
