//! One hypothesis: predict and update of a Gaussian over `z = (kappa, e)`.

use pulp::Simd;

use super::kernels::{axpy, dot, exp, gemv_t, invert, ln_1p, tanh};
use super::layout::{Bin, Layout, Scratch};
use crate::model::RANK_MAX;

/// A step that lowers the log density of latents and counts by more than this, nats, goes too far,
/// and is halved.
pub(crate) const STEP_LOSS_MAX: f32 = 0.01;
/// A step that goes too far is halved this many times at most.
pub(crate) const HALVINGS: usize = 6;
/// One Gaussian over `(kappa, e)`.
#[derive(Debug, Clone)]
pub(super) struct Hypothesis {
    /// `[stride]`: kappa, e, zeros.
    pub(super) mean: Vec<f32>,
    /// `[state, stride]`.
    pub(super) cov: Vec<f32>,
    /// Log weight, normalised over the bank.
    pub(super) log_weight: f32,
    /// Share of the weight that entered with the newest bin.
    pub(super) entered: f32,
    /// Score `C^T (y - lambda)` of the newest update, `[rank]`.
    pub(super) score: Vec<f32>,
    /// `(I + Lambda P)^-1 score`, `[rank]`.
    pub(super) whitened: Vec<f32>,
    /// `Lambda = C^T diag(lambda) C`, `[rank, rank]`.
    pub(super) information: Vec<f32>,
    /// Log-likelihood of the newest bin at the predicted mean, without terms that do not depend on
    /// the rates.
    predicted: f32,
}

impl Hypothesis {
    pub(super) fn new(l: &Layout) -> Self {
        Self {
            mean: vec![0.0; l.stride],
            cov: vec![0.0; l.state * l.stride],
            log_weight: 0.0,
            entered: 0.0,
            score: vec![0.0; l.rank],
            whitened: vec![0.0; l.rank],
            information: vec![0.0; l.rank * l.rank],
            predicted: 0.0,
        }
    }

    /// Factors at the mean embedding, the mean step, and its Jacobian with respect to the latents
    /// in `s.transition`.
    #[inline(always)]
    pub(super) fn factors<S: Simd>(&self, simd: S, l: &Layout, s: &mut Scratch) {
        let (rank, units, a) = (l.rank, l.units, l.leak);
        let (kappa, e) = (&self.mean[..rank], &self.mean[rank..l.state]);
        s.phi.copy_from_slice(&l.offset);
        gemv_t(simd, &mut s.phi, kappa, &l.m);
        for (phi, slope) in s.phi.iter_mut().zip(&mut s.slope) {
            *phi = tanh(*phi);
            *slope = 1.0 - *phi * *phi;
        }
        s.h1.copy_from_slice(&l.b1);
        gemv_t(simd, &mut s.h1, e, &l.w1);
        activate(&mut s.h1, &mut s.d1);
        s.h2.copy_from_slice(&l.b2);
        gemv_t(simd, &mut s.h2, &s.h1, &l.w2);
        activate(&mut s.h2, &mut s.d2);
        s.n.copy_from_slice(&l.n0);
        gemv_t(simd, &mut s.n, &s.h2, &l.wn);
        // How each last hidden unit moves the step, given phi: [rank, hidden1].
        let last = l.hidden[1];
        for b in 0..last {
            for r in 0..rank {
                let at = b * rank + r;
                s.contracted[r * last + b] =
                    l.wc[at] + dot(simd, &l.wn[at * units..(at + 1) * units], &s.phi);
            }
        }
        // Step: (1-a) kappa + a (N^T phi + c), c through h2.
        for r in 0..rank {
            let drive = dot(simd, &l.n0[r * units..(r + 1) * units], &s.phi);
            let learned = dot(simd, &s.h2, &s.contracted[r * last..(r + 1) * last]);
            s.latent[r] = (1.0 - a) * kappa[r] + a * (drive + learned);
        }
        // Jacobian with respect to kappa: (1-a) I + a N^T D M.
        s.transition.fill(0.0);
        for r in 0..rank {
            let n = &mut s.n[r * units..(r + 1) * units];
            n.iter_mut().zip(&s.slope).for_each(|(n, d)| *n *= d);
            for j in 0..rank {
                s.transition[r * l.stride + j] = a * dot(simd, n, &l.m[j * units..(j + 1) * units]);
            }
            s.transition[r * l.stride + r] += 1.0 - a;
        }
    }

    /// The step's Jacobian with respect to the embedding: tangents of the hypernetwork's last
    /// hidden layer in the `d` directions, contracted. After [`Self::factors`].
    #[inline(always)]
    pub(super) fn tangents<S: Simd>(simd: S, l: &Layout, s: &mut Scratch) {
        let (rank, last, a) = (l.rank, l.hidden[1], l.leak);
        for j in 0..l.embedding {
            let row = &l.w1[j * l.hidden[0]..(j + 1) * l.hidden[0]];
            s.h1.iter_mut().zip(row.iter().zip(&s.d1)).for_each(|(t, (w, d))| *t = w * d);
            s.tangent.fill(0.0);
            gemv_t(simd, &mut s.tangent, &s.h1, &l.w2);
            s.tangent.iter_mut().zip(&s.d2).for_each(|(t, d)| *t *= d);
            for r in 0..rank {
                let slope = dot(simd, &s.tangent, &s.contracted[r * last..(r + 1) * last]);
                s.transition[r * l.stride + rank + j] = a * slope;
            }
        }
    }

    /// Time update: mean and covariance one bin ahead.
    #[inline(always)]
    pub(super) fn predict<S: Simd>(&mut self, simd: S, l: &Layout, s: &mut Scratch) {
        self.factors(simd, l, s);
        Self::tangents(simd, l, s);
        self.propagate(simd, l, s);
    }

    /// Mean and covariance through the step found.
    #[inline(always)]
    pub(super) fn propagate<S: Simd>(&mut self, simd: S, l: &Layout, s: &mut Scratch) {
        let (rank, stride) = (l.rank, l.stride);
        self.mean[..rank].copy_from_slice(&s.latent);
        s.product.fill(0.0);
        for r in 0..rank {
            let row = &mut s.product[r * stride..(r + 1) * stride];
            gemv_t(simd, row, &s.transition[r * stride..r * stride + l.state], &self.cov);
        }
        for r in 0..rank {
            for q in 0..=r {
                let value = dot(
                    simd,
                    &s.product[r * stride..(r + 1) * stride],
                    &s.transition[q * stride..(q + 1) * stride],
                );
                self.cov[r * stride + q] = value;
                self.cov[q * stride + r] = value;
            }
            self.cov[r * stride + r] += l.process_variance[r] + self.entered * l.entry_variance[r];
            for j in rank..l.state {
                let value = s.product[r * stride + j];
                self.cov[r * stride + j] = value;
                self.cov[j * stride + r] = value;
            }
        }
        for j in rank..l.state {
            self.cov[j * stride + j] += l.embedding_drift;
        }
    }

    /// Log-likelihood of the bin at the mean, without terms that do not depend on the rates:
    /// `sum_i w_i (y_i eta_i - exp eta_i)`, or of negative binomial counts
    /// `sum_i w_i (y_i eta_i - (y_i + 1/alpha_i) log(1 + alpha_i exp eta_i))`. Leaves the rates in
    /// `s.rates`.
    #[inline(always)]
    fn rates<S: Simd>(&self, simd: S, l: &Layout, s: &mut Scratch, bin: Bin<'_>) -> f32 {
        s.log_rates.copy_from_slice(bin.baseline);
        gemv_t(simd, &mut s.log_rates, &self.mean[..l.rank], &l.loading);
        let [low, high] = l.bounds;
        for ((eta, rate), w) in s.log_rates.iter_mut().zip(&mut s.rates).zip(bin.weight) {
            *eta = eta.clamp(low, high);
            *rate = w * exp(*eta);
        }
        let linear = dot(simd, bin.counts, &s.log_rates);
        let Some(dispersion) = &l.dispersion else {
            return linear - dot(simd, &s.rates, bin.weight);
        };
        // The residual's place holds the terms until it is needed itself.
        let each = s.residual.iter_mut().zip(&mut s.shrink).zip(&s.rates);
        for ((((term, shrink), rate), alpha), y) in each.zip(dispersion).zip(bin.counts) {
            let excess = alpha * rate;
            *shrink = 1.0 / (1.0 + excess);
            *term = (y + 1.0 / alpha) * ln_1p(excess);
        }
        linear - dot(simd, &s.residual, bin.weight)
    }

    /// Measurement update by one bin. Returns the Laplace evidence without terms that do not depend
    /// on the rates; adds this hypothesis' share of the predicted rates to `expected`.
    #[inline(always)]
    pub(super) fn update<S: Simd>(
        &mut self,
        simd: S,
        l: &Layout,
        s: &mut Scratch,
        bin: Bin<'_>,
        expected: &mut [f32],
    ) -> f32 {
        self.inform(simd, l, s, bin, expected);
        self.correct(simd, l, s, bin)
    }

    /// Score and Fisher information of a bin at the predicted mean.
    #[inline(always)]
    pub(super) fn inform<S: Simd>(
        &mut self,
        simd: S,
        l: &Layout,
        s: &mut Scratch,
        bin: Bin<'_>,
        expected: &mut [f32],
    ) {
        let (rank, channels) = (l.rank, l.channels);
        self.predicted = self.rates(simd, l, s, bin);
        axpy(simd, expected, exp(self.log_weight), &s.rates);
        for ((res, y), rate) in s.residual.iter_mut().zip(bin.counts).zip(&s.rates) {
            *res = y - rate;
        }
        if l.dispersion.is_some() {
            // Score and Fisher information with respect to the log rate carry 1 / (1 + alpha rate).
            for ((res, rate), shrink) in s.residual.iter_mut().zip(&mut s.rates).zip(&s.shrink) {
                *res *= shrink;
                *rate *= shrink;
            }
        }
        let mut pair = 0;
        for r in 0..rank {
            self.score[r] = dot(simd, &l.loading[r * channels..(r + 1) * channels], &s.residual);
            for q in r..rank {
                let value =
                    dot(simd, &l.products[pair * channels..(pair + 1) * channels], &s.rates);
                self.information[r * rank + q] = value;
                self.information[q * rank + r] = value;
                pair += 1;
            }
        }
    }

    /// Mean and covariance given score and information; returns the evidence. The mean is one step
    /// of Newton's method from the prediction towards the mode, with the Fisher information in
    /// place of the Hessian.
    ///
    /// A Poisson log-likelihood falls off exponentially, so where far more was counted than
    /// expected a full step overshoots, in log rates by as much as the counts are too many, and
    /// throws the filter. The step is therefore halved until the log density of latents and counts
    /// does not fall. A halving costs one evaluation of the rates, and ordinary bins need none;
    /// iterating Newton's method to the mode in every bin would cost as much in all of them.
    #[inline(always)]
    pub(super) fn correct<S: Simd>(
        &mut self,
        simd: S,
        l: &Layout,
        s: &mut Scratch,
        bin: Bin<'_>,
    ) -> f32 {
        let (rank, stride) = (l.rank, l.stride);
        let log_det = self.gains(simd, l, s);
        let mut column = [0.0f32; RANK_MAX];
        s.latent.copy_from_slice(&self.mean[..rank]);
        gemv_t(simd, &mut self.mean, &self.score, &s.gain_t);
        for i in 0..l.state {
            for r in 0..rank {
                column[r] = -s.gain_t[r * stride + i];
            }
            let row = &mut self.cov[i * stride..(i + 1) * stride];
            gemv_t(simd, row, &column[..rank], &s.product);
        }
        for i in 0..l.state {
            for j in 0..i {
                let value = 0.5 * (self.cov[i * stride + j] + self.cov[j * stride + i]);
                self.cov[i * stride + j] = value;
                self.cov[j * stride + i] = value;
            }
        }
        let quadratic: f32 =
            (0..rank).map(|r| (self.mean[r] - s.latent[r]) * self.whitened[r]).sum();
        let mut density = self.rates(simd, l, s, bin) - 0.5 * quadratic;
        let mut share = 1.0f32;
        for _ in 0..HALVINGS {
            if density >= self.predicted - STEP_LOSS_MAX {
                break;
            }
            // The mean goes back halfway. The covariance stays that of the whole step: it is the
            // curvature at the prediction, which says as much about a shorter step.
            share *= 0.5;
            for r in 0..rank {
                column[r] = -share * self.score[r];
            }
            gemv_t(simd, &mut self.mean, &column[..rank], &s.gain_t);
            density = self.rates(simd, l, s, bin) - 0.5 * share * share * quadratic;
        }
        density - 0.5 * log_det
    }

    /// `Lambda P` in `s.product`, the gain `P (I + Lambda P_kk)^-1` transposed in `s.gain_t`, both
    /// `[rank, stride]`, and the whitened score; returns the log determinant of `I + Lambda P_kk`.
    #[inline(always)]
    fn gains<S: Simd>(&mut self, simd: S, l: &Layout, s: &mut Scratch) -> f32 {
        let (rank, stride) = (l.rank, l.stride);
        s.product.fill(0.0);
        s.gain_t.fill(0.0);
        for r in 0..rank {
            let row = &mut s.product[r * stride..(r + 1) * stride];
            let head = &self.cov[..rank * stride];
            gemv_t(simd, row, &self.information[r * rank..(r + 1) * rank], head);
            s.square[r * rank..(r + 1) * rank].copy_from_slice(&row[..rank]);
            s.square[r * rank + r] += 1.0;
        }
        let log_det = invert(&mut s.square, &mut s.inverse, rank);
        let mut column = [0.0f32; RANK_MAX];
        for r in 0..rank {
            self.whitened[r] =
                (0..rank).map(|k| s.inverse[r * rank + k] * self.score[k]).sum::<f32>();
            for k in 0..rank {
                column[k] = s.inverse[k * rank + r];
            }
            let row = &mut s.gain_t[r * stride..(r + 1) * stride];
            gemv_t(simd, row, &column[..rank], &self.cov[..rank * stride]);
        }
        log_det
    }

    /// True while every number of the hypothesis is finite and every variance positive.
    #[inline(always)]
    pub(super) fn is_sound(&self, l: &Layout) -> bool {
        // Infinity and NaN times 0 are NaN: one comparison for all numbers, and no branch in
        // between.
        self.log_weight.is_finite()
            && self.mean.iter().chain(&self.cov).map(|v| v * 0.0).sum::<f32>() == 0.0
            && (0..l.state).all(|i| self.cov[i * l.stride + i] > 0.0)
    }
}

/// Score `[rank]` and information `[rank, rank]` of the newest bin over all hypotheses, by their
/// weights before it.
#[inline(always)]
pub(super) fn gather(
    weights: &[f32],
    hypotheses: &[Hypothesis],
    score: &mut [f32],
    information: &mut [f32],
) {
    score.fill(0.0);
    information.fill(0.0);
    for (&w, h) in weights.iter().zip(hypotheses) {
        score.iter_mut().zip(&h.score).for_each(|(s, x)| *s += w * x);
        information.iter_mut().zip(&h.information).for_each(|(s, x)| *s += w * x);
    }
}

/// `h = tanh(h)`, `d = 1 - h^2`.
#[inline(always)]
fn activate(h: &mut [f32], d: &mut [f32]) {
    for (h, d) in h.iter_mut().zip(d) {
        *h = tanh(*h);
        *d = 1.0 - *h * *h;
    }
}
