//! A model and a readout laid out for the kernels.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use super::BankError;
use super::kernels::padded;
use super::lanes::TILE;
use crate::model::{COUNT_MAX, Component, Model, Readout};

/// Smaller dispersions are taken for this one: nearly Poisson, and nothing is divided by 0.
const DISPERSION_MIN: f32 = 1e-3;

/// Channels whose rates are in memory at once: with as many lanes as there are, they stay in the
/// first cache.
pub(super) const CHUNK: usize = 64;

/// Constants of a model and readout, laid out for the kernels: rows as they are summed.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) rank: usize,
    pub(super) embedding: usize,
    /// `rank + embedding`.
    pub(super) state: usize,
    /// Padded.
    pub(super) units: usize,
    pub(super) hidden: [usize; 2],
    pub(super) leak: f32,
    pub(super) process_variance: Vec<f32>,
    /// Variance that the latents gain where a hypothesis is entered.
    pub(super) entry_variance: Vec<f32>,
    pub(super) embedding_drift: f32,
    pub(super) bounds: [f32; 2],
    /// `[units, rank]` and transposed.
    pub(super) m: Vec<f32>,
    pub(super) m_t: Vec<f32>,
    pub(super) offset: Vec<f32>,
    /// `[embedding, hidden0]` and transposed.
    pub(super) w1: Vec<f32>,
    pub(super) w1_t: Vec<f32>,
    pub(super) b1: Vec<f32>,
    /// `[hidden0, hidden1]` and transposed.
    pub(super) w2: Vec<f32>,
    pub(super) w2_t: Vec<f32>,
    pub(super) b2: Vec<f32>,
    /// `[rank, hidden1, units]`.
    pub(super) wn: Vec<f32>,
    /// `[rank, units]`.
    pub(super) n0: Vec<f32>,
    /// `[rank, hidden1]`.
    pub(super) wc: Vec<f32>,
    /// Channels padded.
    pub(super) channels: usize,
    /// `C`, `[channels, rank]`.
    pub(super) loading: Vec<f32>,
    /// Dispersion of negative binomial counts where the readout has one.
    pub(super) dispersion: Option<Vec<f32>>,
    /// For each [`CHUNK`] of channels the columns of `C`, then `C_r * C_s` for `s <= r`:
    /// `[rank + rank (rank + 1) / 2, channels of the chunk]`.
    pub(super) moments: Vec<f32>,
}

/// Rows of a matrix padded to `stride`.
fn padded_rows<'a>(
    source: impl IntoIterator<Item = ArrayView1<'a, f32>>,
    stride: usize,
) -> Vec<f32> {
    let mut out = Vec::new();
    for row in source {
        out.extend(row.iter());
        out.resize(out.len().next_multiple_of(stride), 0.0);
    }
    out
}

/// A vector padded to `len`.
fn padded_vector(source: &Array1<f32>, len: usize) -> Vec<f32> {
    padded_rows([source.view()], len)
}

/// As it lies in memory.
fn flat(source: &ArrayView2<'_, f32>) -> Vec<f32> {
    source.iter().copied().collect()
}

/// Columns of `C` and their products, chunk by chunk.
fn moments(loading: &[f32], rank: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(loading.len() * (rank + 3) / 2);
    for chunk in loading.chunks(CHUNK * rank) {
        for r in 0..rank {
            out.extend(chunk.chunks_exact(rank).map(|c| c[r]));
        }
        for r in 0..rank {
            for s in 0..=r {
                out.extend(chunk.chunks_exact(rank).map(|c| c[r] * c[s]));
            }
        }
    }
    out
}

impl Layout {
    pub(super) fn new(model: &Model, readout: &Readout) -> Self {
        let (dims, hyper) = (&model.dims, &model.hypernetwork);
        let (rank, embedding) = (dims.rank, dims.embedding);
        let units = dims.units.next_multiple_of(TILE);
        let channels = padded(readout.n_channels());
        let mut loading = flat(&readout.loading.view());
        loading.resize(channels * rank, 0.0);
        let m_t = padded_rows(model.network.m.columns(), units);
        let per_latent =
            |values: &Array1<f32>, times: f32| values.iter().map(|v| v * times).collect();
        Self {
            rank,
            embedding,
            state: rank + embedding,
            units,
            hidden: dims.hidden,
            leak: model.network.leak,
            entry_variance: per_latent(
                &model.network.initial_variance,
                model.online.entry_variance,
            ),
            process_variance: per_latent(
                &model.network.process_variance,
                model.online.process_noise,
            ),
            embedding_drift: model.online.embedding_drift,
            bounds: model.online.log_rate_bounds,
            m: (0..units).flat_map(|u| m_t.iter().skip(u).step_by(units)).copied().collect(),
            m_t,
            offset: padded_vector(&model.network.offset, units),
            w1: flat(&hyper.w1.view()),
            w1_t: flat(&hyper.w1.t()),
            b1: hyper.b1.to_vec(),
            w2: flat(&hyper.w2.view()),
            w2_t: flat(&hyper.w2.t()),
            b2: hyper.b2.to_vec(),
            wn: padded_rows(hyper.wn.view().permuted_axes([1, 0, 2]).rows(), units),
            n0: padded_rows(hyper.n0.rows(), units),
            wc: flat(&hyper.wc.t()),
            channels,
            moments: moments(&loading, rank),
            loading,
            dispersion: readout.dispersion.as_ref().map(|alpha| {
                let floored = alpha.iter().map(|a| a.max(DISPERSION_MIN));
                floored.chain(std::iter::repeat(DISPERSION_MIN)).take(channels).collect()
            }),
        }
    }

    /// `C^T y` of one bin.
    #[inline(always)]
    pub(super) fn project(&self, counts: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (row, &y) in self.loading.chunks_exact(self.rank).zip(counts) {
            if y > 0.0 {
                out.iter_mut().zip(row).for_each(|(o, c)| *o += y * c);
            }
        }
    }

    /// What counts of one bin add to the log-likelihood whatever the rates: `-sum log y!`, and for
    /// negative binomial counts `sum_j<y log(1 + alpha j)` as well.
    #[inline(always)]
    pub(super) fn count_constant(&self, counts: &[f32], log_factorial: &[f32]) -> f32 {
        let last = log_factorial.len() - 1;
        let mut constant = 0.0f32;
        // Most counts are 0 or 1, and add nothing.
        for (i, &y) in counts.iter().enumerate().filter(|(_, y)| **y > 1.0) {
            let y = (y as usize).min(last);
            constant -= log_factorial[y];
            if let Some(alpha) = &self.dispersion {
                constant += (1..y).map(|j| (alpha[i] * j as f32).ln_1p()).sum::<f32>();
            }
        }
        constant
    }
}

/// One bin as the update sees it, padded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bin<'a> {
    /// Zero where `weight` is.
    pub(super) counts: &'a [f32],
    /// 1 for a channel that informs, else 0.
    pub(super) weight: &'a [f32],
    /// Log rates at `kappa = 0`.
    pub(super) baseline: &'a [f32],
    /// `C^T y`, `[rank]`.
    pub(super) projected: &'a [f32],
}

/// Whether readout, prior and hazards have the model's sizes.
pub(super) fn check_sizes(model: &Model, readout: &Readout) -> Result<(), BankError> {
    let size = |what, expected, found| {
        if expected == found { Ok(()) } else { Err(BankError::Size { what, expected, found }) }
    };
    let (d, components) = (model.dims.embedding, &readout.prior.components);
    if components.is_empty() {
        return Err(BankError::NoHypotheses);
    }
    size("readout loading", readout.n_channels() * model.dims.rank, readout.loading.len())?;
    for c in components {
        size("prior mean", d, c.mean.len())?;
        size("prior covariance", d * d, c.covariance.len())?;
    }
    let states = model.regime_names.len() + 1;
    size("hazard rates", states * states, model.online.hazard_per_bin.len())
}

/// `C^T C`, `[rank, rank]`.
pub(super) fn gram(readout: &Readout, rank: usize) -> Vec<f32> {
    let mut gram = vec![0.0; rank * rank];
    for row in readout.loading.rows() {
        for r in 0..rank {
            for q in 0..rank {
                gram[r * rank + q] += row[r] * row[q];
            }
        }
    }
    gram
}

/// Inverse of a component's covariance, `[embedding, embedding]`. The checkpoint's checks and the
/// floor of a fitted prior exclude a singular one; its distance would be 0 everywhere.
pub(super) fn precision(component: &Component) -> Vec<f32> {
    let d = component.mean.len();
    let cov = component.covariance.iter().map(|&x| f64::from(x));
    let inverse = nalgebra::DMatrix::from_iterator(d, d, cov).try_inverse();
    inverse.map_or_else(|| vec![0.0; d * d], |p| p.iter().map(|&x| x as f32).collect())
}

/// Hazard rates `[n_regimes + 1, n_regimes + 1]` spread over the components of each regime that is
/// entered; `[n_regimes + 1, components]`.
pub(super) fn entry(hazard: &Array2<f32>, regime_of: &[usize], readout: &Readout) -> Vec<f32> {
    let components = &readout.prior.components;
    let mut total = vec![0.0f32; hazard.nrows()];
    for (&r, c) in regime_of.iter().zip(components) {
        total[r] += c.weight;
    }
    let into = |from: ArrayView1<'_, f32>| -> Vec<f32> {
        let parts = regime_of.iter().zip(components);
        parts.map(|(&r, c)| from[r] * c.weight / total[r]).collect()
    };
    hazard.rows().into_iter().flat_map(into).collect()
}

/// `log k!` for `k` up to [`COUNT_MAX`].
pub(super) fn log_factorials() -> Vec<f32> {
    let mut sum = 0.0f64;
    let mut table = vec![0.0];
    for k in 1..=u32::from(COUNT_MAX) {
        sum += f64::from(k).ln();
        table.push(sum as f32);
    }
    table
}
