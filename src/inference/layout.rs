//! A model and a readout laid out for the kernels, and the memory that the kernels work in.

use ndarray::{Array1, Array2, ArrayView1};

use super::BankError;
use super::kernels::{padded, padded_row};
use crate::model::{COUNT_MAX, Component, Model, Readout};

/// Smaller dispersions are taken for this one: nearly Poisson, and nothing is divided by 0.
const DISPERSION_MIN: f32 = 1e-3;

/// Constants of a model and readout, laid out for the kernels.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) rank: usize,
    pub(super) embedding: usize,
    /// `rank + embedding`.
    pub(super) state: usize,
    /// Row stride of a covariance.
    pub(super) stride: usize,
    pub(super) units: usize,
    pub(super) hidden: [usize; 2],
    pub(super) leak: f32,
    pub(super) process_variance: Vec<f32>,
    /// Variance that the latents gain where a hypothesis is entered.
    pub(super) entry_variance: Vec<f32>,
    pub(super) embedding_drift: f32,
    pub(super) bounds: [f32; 2],
    /// `[rank, units]`, units padded.
    pub(super) m: Vec<f32>,
    pub(super) offset: Vec<f32>,
    pub(super) w1: Vec<f32>,
    pub(super) b1: Vec<f32>,
    pub(super) w2: Vec<f32>,
    pub(super) b2: Vec<f32>,
    /// `[hidden1, rank, units]`, units padded.
    pub(super) wn: Vec<f32>,
    pub(super) n0: Vec<f32>,
    pub(super) wc: Vec<f32>,
    /// Channels padded.
    pub(super) channels: usize,
    /// `C` transposed, `[rank, channels]`.
    pub(super) loading: Vec<f32>,
    /// Dispersion of negative binomial counts where the readout has one.
    pub(super) dispersion: Option<Vec<f32>>,
    /// `C_r * C_s` for r <= s, `[rank (rank+1) / 2, channels]`.
    pub(super) products: Vec<f32>,
}

/// Rows of a matrix, or a vector as one row, padded to `stride`; of `rows` rows in all.
fn padded_rows<'a>(
    source: impl IntoIterator<Item = ArrayView1<'a, f32>>,
    rows: usize,
    stride: usize,
) -> Vec<f32> {
    let mut out = vec![0.0; rows * stride];
    for (row, from) in out.chunks_exact_mut(stride).zip(source) {
        row.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
    out
}

/// A vector padded to `len`.
fn padded_vector(source: &Array1<f32>, len: usize) -> Vec<f32> {
    padded_rows([source.view()], 1, len)
}

impl Layout {
    pub(super) fn new(model: &Model, readout: &Readout) -> Self {
        let dims = &model.dims;
        let (rank, embedding) = (dims.rank, dims.embedding);
        let units = padded(dims.units);
        let hidden = [padded_row(dims.hidden[0]), padded_row(dims.hidden[1])];
        let channels = padded(readout.n_channels());
        let hyper = &model.hypernetwork;
        let loading = padded_rows(readout.loading.columns(), rank, channels);
        let mut products = Vec::with_capacity(rank * (rank + 1) / 2 * channels);
        for r in 0..rank {
            for s in r..rank {
                products.extend(
                    (0..channels).map(|i| loading[r * channels + i] * loading[s * channels + i]),
                );
            }
        }
        Self {
            rank,
            embedding,
            state: rank + embedding,
            stride: padded_row(rank + embedding),
            units,
            hidden,
            leak: model.network.leak,
            entry_variance: (&model.network.initial_variance * model.online.entry_variance)
                .to_vec(),
            process_variance: model
                .network
                .process_variance
                .iter()
                .map(|q| q * model.online.process_noise)
                .collect(),
            embedding_drift: model.online.embedding_drift,
            bounds: model.online.log_rate_bounds,
            m: padded_rows(model.network.m.columns(), rank, units),
            offset: padded_vector(&model.network.offset, units),
            w1: padded_rows(hyper.w1.rows(), embedding, hidden[0]),
            b1: padded_vector(&hyper.b1, hidden[0]),
            w2: padded_rows(hyper.w2.rows(), hidden[0], hidden[1]),
            b2: padded_vector(&hyper.b2, hidden[1]),
            wn: padded_rows(hyper.wn.rows(), hidden[1] * rank, units),
            n0: padded_rows(hyper.n0.rows(), rank, units),
            wc: padded_rows(hyper.wc.rows(), hidden[1], rank),
            channels,
            loading,
            dispersion: readout.dispersion.as_ref().map(|alpha| {
                let floored = alpha.iter().map(|a| a.max(DISPERSION_MIN));
                floored.chain(std::iter::repeat(DISPERSION_MIN)).take(channels).collect()
            }),
            products,
        }
    }

    /// What counts of one bin add to the log-likelihood whatever the rates: `-sum log y!`, and for
    /// negative binomial counts `sum_j<y log(1 + alpha j)` as well.
    pub(super) fn count_constant(&self, counts: &[f32], log_factorial: &[f32]) -> f32 {
        let last = log_factorial.len() - 1;
        let mut constant = 0.0f32;
        for (i, &y) in counts.iter().enumerate() {
            let y = (y as usize).min(last);
            constant -= log_factorial[y];
            if let Some(alpha) = self.dispersion.as_ref().filter(|_| y > 1) {
                constant += (1..y).map(|j| (alpha[i] * j as f32).ln_1p()).sum::<f32>();
            }
        }
        constant
    }
}

/// Working memory shared by all hypotheses of a bank.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) phi: Vec<f32>,
    pub(super) slope: Vec<f32>,
    pub(super) h1: Vec<f32>,
    pub(super) h2: Vec<f32>,
    pub(super) d1: Vec<f32>,
    pub(super) d2: Vec<f32>,
    pub(super) tangent: Vec<f32>,
    pub(super) n: Vec<f32>,
    pub(super) contracted: Vec<f32>,
    /// `[rank, stride]`: rows of the transition's Jacobian.
    pub(super) transition: Vec<f32>,
    pub(super) product: Vec<f32>,
    pub(super) gain_t: Vec<f32>,
    pub(super) rates: Vec<f32>,
    pub(super) residual: Vec<f32>,
    pub(super) log_rates: Vec<f32>,
    /// `1 / (1 + alpha rate)` of negative binomial counts.
    pub(super) shrink: Vec<f32>,
    pub(super) square: Vec<f32>,
    pub(super) inverse: Vec<f32>,
    pub(super) latent: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(l: &Layout) -> Self {
        let rows = || vec![0.0; l.rank * l.stride];
        let channels = || vec![0.0; l.channels];
        Self {
            phi: vec![0.0; l.units],
            slope: vec![0.0; l.units],
            h1: vec![0.0; l.hidden[0]],
            h2: vec![0.0; l.hidden[1]],
            d1: vec![0.0; l.hidden[0]],
            d2: vec![0.0; l.hidden[1]],
            tangent: vec![0.0; l.hidden[1]],
            n: vec![0.0; l.rank * l.units],
            contracted: vec![0.0; l.hidden[1] * l.rank],
            transition: rows(),
            product: rows(),
            gain_t: rows(),
            rates: channels(),
            residual: channels(),
            log_rates: channels(),
            shrink: channels(),
            square: vec![0.0; l.rank * l.rank],
            inverse: vec![0.0; l.rank * l.rank],
            latent: vec![0.0; l.rank],
        }
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
