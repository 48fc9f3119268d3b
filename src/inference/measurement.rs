//! Measurement update of a block by one bin of counts.

use pulp::Simd;

use super::block::Block;
use super::lanes::{Row, Wide, triangle};
use super::layout::{Bin, CHUNK, Layout};

/// A step that lowers the log density of latents and counts by more than this, nats, goes too far,
/// and is halved.
pub(crate) const STEP_LOSS_MAX: f32 = 0.01;
/// A step that goes too far is halved this many times at most.
pub(crate) const HALVINGS: usize = 6;
/// The smallest part of a variance that is not explained by the latents before it: rounding makes
/// it no less.
const PIVOT_MIN: f32 = 1e-6;

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
        self.factor(wide, l);
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

    /// The covariance's Cholesky factor `U`, its columns of latents: `P_kk = L L^T`, `U = [L; P_ek
    /// L^-T]`.
    #[inline(always)]
    fn factor<S: Simd, const G: usize>(&mut self, wide: Wide<S, G>, l: &Layout) {
        let (rank, state) = (l.rank, l.state);
        let cov = wide.rows(&self.cov);
        let root = wide.rows_mut(&mut self.scratch.root);
        for j in 0..rank {
            let own = cov[triangle(j, j)];
            let mut left = own;
            for k in 0..j {
                left = wide.mul_sub_from(root[j * rank + k], root[j * rank + k], left);
            }
            let left = wide.max(left, wide.mul(own, wide.splat(PIVOT_MIN)));
            let pivot = wide.sqrt(left);
            let inverse = wide.div(wide.splat(1.0), pivot);
            root[j * rank + j] = pivot;
            for i in j + 1..state {
                let mut sum = cov[triangle(i, j)];
                for k in 0..j {
                    sum = wide.mul_sub_from(root[i * rank + k], root[j * rank + k], sum);
                }
                root[i * rank + j] = wide.mul(sum, inverse);
            }
        }
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
        // Lambda L.
        let product = wide.rows_mut(&mut s.product);
        for i in 0..rank {
            for j in 0..rank {
                let mut sum = wide.splat(0.0);
                for k in j..rank {
                    let lambda = information[triangle(i.max(k), i.min(k))];
                    sum = wide.mul_add(lambda, root[k * rank + j], sum);
                }
                product[i * rank + j] = sum;
            }
        }
        let inverse = wide.rows_mut(&mut s.inverse);
        let log_det = add_and_factor(wide, root, product, square, inverse);
        let white = wide.rows_mut(&mut s.white);
        for i in 0..state {
            let (from, to) =
                (&root[i * rank..(i + 1) * rank], &mut white[i * rank..(i + 1) * rank]);
            solve(wide, square, inverse, |a| if a <= i { from[a] } else { wide.splat(0.0) }, to);
        }
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

/// The Cholesky factor of `I + L^T product`, `[rank, rank]`, with the inverses of its diagonal;
/// returns the log determinant. Pivots are 1 at least.
#[inline(always)]
fn add_and_factor<S: Simd, const G: usize>(
    wide: Wide<S, G>,
    root: &[Row<S, G>],
    product: &[Row<S, G>],
    square: &mut [Row<S, G>],
    inverse: &mut [Row<S, G>],
) -> Row<S, G> {
    let rank = inverse.len();
    let mut log_det = wide.splat(0.0);
    for j in 0..rank {
        for i in j..rank {
            let mut sum = wide.splat(if i == j { 1.0 } else { 0.0 });
            for k in i..rank {
                sum = wide.mul_add(root[k * rank + i], product[k * rank + j], sum);
            }
            for k in 0..j {
                sum = wide.mul_sub_from(square[i * rank + k], square[j * rank + k], sum);
            }
            if i > j {
                square[i * rank + j] = wide.mul(sum, inverse[j]);
                continue;
            }
            let above = wide.max(wide.sub(sum, wide.splat(1.0)), wide.splat(0.0));
            log_det = wide.add(log_det, wide.ln_1p(above));
            square[j * rank + j] = wide.sqrt(wide.add(above, wide.splat(1.0)));
            inverse[j] = wide.div(wide.splat(1.0), square[j * rank + j]);
        }
    }
    log_det
}

/// `x = R^-1 b` for a lower triangle `R` `[rank, rank]` given the inverses of its diagonal.
#[inline(always)]
fn solve<S: Simd, const G: usize>(
    wide: Wide<S, G>,
    r: &[Row<S, G>],
    inverse: &[Row<S, G>],
    b: impl Fn(usize) -> Row<S, G>,
    x: &mut [Row<S, G>],
) {
    let rank = x.len();
    for a in 0..rank {
        let mut sum = b(a);
        for k in 0..a {
            sum = wide.mul_sub_from(r[a * rank + k], x[k], sum);
        }
        x[a] = wide.mul(sum, inverse[a]);
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
