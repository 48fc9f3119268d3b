//! Time update of a block: the hypernetwork's step, its Jacobian, and the covariance through it.

use pulp::Simd;

use super::block::Block;
use super::lanes::{Arithmetic, Row, TILE, Wide, triangle};
use super::layout::Layout;

impl Block {
    /// The mean's step, and its Jacobian with respect to latents and embedding in
    /// `scratch.transition`.
    ///
    /// Latent by latent, so that the hypernetwork's rows for one are read once and then lie in the
    /// first cache. The Jacobian with respect to the embedding goes back through the
    /// hypernetwork from each latent: there are fewer latents than there are dimensions of the
    /// embedding.
    #[inline(always)]
    pub(super) fn linearise<S: Simd, const G: usize>(&mut self, wide: Wide<S, G>, l: &Layout) {
        let (rank, units, leak) = (l.rank, l.units, l.leak);
        let (kappa, e) = wide.rows(&self.mean).split_at(rank);
        let s = &mut self.scratch;
        let (phi, slope) = (wide.rows_mut(&mut s.phi), wide.rows_mut(&mut s.slope));
        layer(wide, phi, slope, &l.offset, &l.m, kappa);
        let (h1, d1) = (wide.rows_mut(&mut s.h1), wide.rows_mut(&mut s.d1));
        layer(wide, h1, d1, &l.b1, &l.w1_t, e);
        let (h2, d2) = (wide.rows_mut(&mut s.h2), wide.rows_mut(&mut s.d2));
        layer(wide, h2, d2, &l.b2, &l.w2_t, h1);
        let last = h2.len();
        let (n, contracted) = (wide.rows_mut(&mut s.n), wide.rows_mut(&mut s.contracted));
        let (back, latent) = (wide.rows_mut(&mut s.back), wide.rows_mut(&mut s.latent));
        let transition = wide.rows_mut(&mut s.transition);
        let leaky = wide.splat(leak);
        for r in 0..rank {
            let wn = &l.wn[r * last * units..(r + 1) * last * units];
            let n0 = &l.n0[r * units..(r + 1) * units];
            // How each last hidden unit moves this latent, given phi.
            wide.spread(contracted, &l.wc[r * last..(r + 1) * last]);
            wide.product(contracted, wn, phi);
            // Step: (1-a) kappa + a (N^T phi + c), c and what is learned of N through h2.
            let mut fixed = [wide.splat(0.0)];
            wide.product(&mut fixed, n0, phi);
            let drive = wide.add(fixed[0], wide.inner(h2, contracted));
            latent[r] = wide.mul_add(leaky, drive, wide.mul(wide.splat(1.0 - leak), kappa[r]));
            // Jacobian with respect to kappa: (1-a) I + a N^T D M.
            wide.spread(n, n0);
            wide.transposed(n, wn, h2);
            scale(wide, n, slope);
            let row = &mut transition[r * l.state..(r + 1) * l.state];
            row.fill(wide.splat(0.0));
            let (by_latents, by_embedding) = row.split_at_mut(rank);
            wide.product(by_latents, &l.m_t, n);
            // And with respect to the embedding.
            scale(wide, contracted, d2);
            back.fill(wide.splat(0.0));
            wide.product(back, &l.w2, contracted);
            scale(wide, back, d1);
            wide.product(by_embedding, &l.w1, back);
            row.iter_mut().for_each(|x| *x = wide.mul(leaky, *x));
            row[r] = wide.add(row[r], wide.splat(1.0 - leak));
        }
    }

    /// Mean and covariance through the step found.
    #[inline(always)]
    pub(super) fn propagate<S: Simd, const G: usize>(&mut self, wide: Wide<S, G>, l: &Layout) {
        let (rank, state) = (l.rank, l.state);
        let s = &mut self.scratch;
        wide.rows_mut(&mut self.mean)[..rank].copy_from_slice(wide.rows(&s.latent));
        let cov = wide.rows_mut(&mut self.cov);
        let (transition, product) = (wide.rows(&s.transition), wide.rows_mut(&mut s.product));
        let mut r = 0;
        while r < rank {
            let of = [r, r + 1, r + 2, r + 3].map(|r| r.min(rank - 1) * state);
            let rows = of.map(|at| &transition[at..at + state]);
            for j in 0..state {
                let sums = through(wide, rows, cov, j);
                for (sum, at) in sums.into_iter().zip(of) {
                    product[at + j] = sum;
                }
            }
            r += TILE;
        }
        let entered = wide.rows(&self.entered)[0];
        for r in 0..rank {
            let row = &product[r * state..(r + 1) * state];
            for q in 0..=r {
                cov[triangle(r, q)] = wide.inner(row, &transition[q * state..(q + 1) * state]);
            }
            let fresh = wide.mul(entered, wide.splat(l.entry_variance[r]));
            let noise = wide.add(fresh, wide.splat(l.process_variance[r]));
            cov[triangle(r, r)] = wide.add(cov[triangle(r, r)], noise);
            for j in rank..state {
                cov[triangle(j, r)] = row[j];
            }
        }
        for j in rank..state {
            let own = &mut cov[triangle(j, j)];
            *own = wide.add(*own, wide.splat(l.embedding_drift));
        }
    }
}

/// `out = tanh(bias + weights x)`, and `slope = 1 - out^2`; `weights` `[out, x]`.
#[inline(always)]
fn layer<S: Simd, const G: usize>(
    wide: Wide<S, G>,
    out: &mut [Row<S, G>],
    slope: &mut [Row<S, G>],
    bias: &[f32],
    weights: &[f32],
    x: &[Row<S, G>],
) {
    wide.spread(out, bias);
    wide.product(out, weights, x);
    for (out, slope) in out.iter_mut().zip(slope) {
        *out = wide.tanh(*out);
        *slope = wide.mul_sub_from(*out, *out, wide.splat(1.0));
    }
}

/// `x_i *= by_i`.
#[inline(always)]
fn scale<S: Simd, const G: usize>(wide: Wide<S, G>, x: &mut [Row<S, G>], by: &[Row<S, G>]) {
    for (x, by) in x.iter_mut().zip(by) {
        *x = wide.mul(*x, *by);
    }
}

/// `sum_i rows_ti P_ij` of a covariance's lower triangle.
#[inline(always)]
fn through<S: Simd, const G: usize>(
    wide: Wide<S, G>,
    rows: [&[Row<S, G>]; TILE],
    cov: &[Row<S, G>],
    j: usize,
) -> [Row<S, G>; TILE] {
    let mut sums = [wide.splat(0.0); TILE];
    for i in 0..rows[0].len() {
        let p = cov[triangle(i.max(j), i.min(j))];
        for t in 0..TILE {
            sums[t] = wide.mul_add(rows[t][i], p, sums[t]);
        }
    }
    sums
}
