//! The generative model: hypernetwork, low-rank rate network and readouts.
//!
//! `tau dr/dt = -r + J tanh(r) + xi` with `J = M N(e)^T` of rank `R` reduces exactly to the `R`
//! latent dimensions `kappa` (Mastrogiuseppe & Ostojic 2018):
//!
//! ```text
//! kappa[t+1] = (1-a) kappa[t] + a (N(e)^T tanh(M kappa[t] + b) + c(e)) + q[t],   q ~ Normal(0, Q)
//! y_i[t]     ~ Poisson(exp(C_i . kappa[t] + d_i))
//! ```
//!
//! `a = bin / tau`. The hypernetwork maps the task embedding `e` to `N(e)` and `c(e)` (JEDI,
//! arXiv 2603.10489). Everything here is plain data in `f32`, as arrays that carry their shapes.

mod bin_width;
mod embedding_map;
mod experts;
mod hypernetwork;
mod known;
mod prior;

pub(crate) use bin_width::{BinWidthError, nearly_equal, whole_ratio};
pub(crate) use embedding_map::EmbeddingMap;
pub use experts::{AveragesHead, Experts, Pool, RateStates, RecurrentHead};
pub(crate) use experts::{BASE_RATE_MIN, EXPERT_NAMES, EXPERTS};
pub(crate) use hypernetwork::Factors;
pub use hypernetwork::Hypernetwork;
#[cfg(test)]
pub(crate) use known::example_known;
pub(crate) use known::{Exceeded, KnownDynamics, SIGN_NAMES, SIGNS, SignRange, UNKNOWN_RATE};
pub use prior::{Component, RegimePrior};

use ndarray::{Array1, Array2, ArrayRef, Dimension};
use serde::{Deserialize, Serialize};

/// Largest count of a channel in a bin; intake refuses larger ones. Log factorials are tabulated up
/// to it.
pub(crate) const COUNT_MAX: u16 = 4096;
/// Largest number of regimes a model may name.
pub(crate) const REGIMES_MAX: usize = 16;
/// Largest embedding dimension.
pub(crate) const EMBEDDING_MAX: usize = 16;
/// Largest rank (latent dimensions).
pub(crate) const RANK_MAX: usize = 16;
/// Largest number of network units.
pub(crate) const UNITS_MAX: usize = 4096;
/// Largest width of a hidden layer of the hypernetwork.
pub(crate) const HIDDEN_MAX: usize = 1024;
/// Largest number of channels of a session.
pub(crate) const CHANNELS_MAX: usize = 8192;
/// Usual bounds of a log rate, natural log of counts per bin.
pub(crate) const LOG_RATE_BOUNDS: [f32; 2] = [-8.0, 4.0];
/// Largest number of mixture components over all regimes.
pub(crate) const COMPONENTS_MAX: usize = 256;

/// Sizes shared by every part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dimensions {
    /// Task embedding, `d`.
    pub embedding: usize,
    /// Rank of the connectivity and number of latent dimensions, `R`.
    pub rank: usize,
    /// Units of the rate network, `N`.
    pub units: usize,
    /// Widths of the hypernetwork's two hidden layers.
    pub hidden: [usize; 2],
}

/// A size that no model may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name}: expected 1 to {max}, found {found}")]
pub(crate) struct SizeError {
    name: &'static str,
    max: usize,
    found: usize,
}

impl Default for Dimensions {
    fn default() -> Self {
        Self { embedding: 8, rank: 6, units: 64, hidden: [64, 24] }
    }
}

impl Dimensions {
    /// Whether every size is one that a model may have.
    ///
    /// # Errors
    /// The first that is out of range.
    pub(crate) fn check(&self) -> Result<(), SizeError> {
        let range = |name, found: usize, max| {
            if (1..=max).contains(&found) { Ok(()) } else { Err(SizeError { name, max, found }) }
        };
        range("embedding", self.embedding, EMBEDDING_MAX)?;
        range("rank", self.rank, RANK_MAX)?;
        range("units", self.units, UNITS_MAX)?;
        range("hidden[0]", self.hidden[0], HIDDEN_MAX)?;
        range("hidden[1]", self.hidden[1], HIDDEN_MAX)
    }
}

/// The part of the rate network that all tasks and sessions share.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// `M`, `[units, rank]`.
    pub m: Array2<f32>,
    /// `b`, `[units]`: offset of the units' input.
    pub offset: Array1<f32>,
    /// `a = bin / tau`, in (0, 1).
    pub leak: f32,
    /// Diagonal of `Q`, `[rank]`: process noise variance per bin.
    pub process_variance: Array1<f32>,
    /// Diagonal of the initial latent covariance, `[rank]`.
    pub initial_variance: Array1<f32>,
}

/// How one recording session observes the latents: `log rate = C kappa + d` (per bin).
#[derive(Debug, Clone, PartialEq)]
pub struct Readout {
    /// Session name.
    pub session: String,
    /// `C`, `[n_channels, rank]`.
    pub loading: Array2<f32>,
    /// `d`, `[n_channels]`: log of counts per bin at `kappa = 0`.
    pub baseline: Array1<f32>,
    /// Names of the channels, `[n_channels]`, where the recordings had them; a rig's channels are
    /// put in this order.
    pub channels: Option<Vec<String>>,
    /// `alpha`, `[n_channels]`, where counts are negative binomial: variance = rate + alpha rate^2.
    /// `None`: Poisson.
    pub dispersion: Option<Array1<f32>>,
    /// Whether its labels are to be believed: a new animal calibrated without labels has latents
    /// that need not agree with the model's, and is `unknown` all along.
    pub trusted: bool,
    /// The regimes' embeddings as this session's tasks show them.
    pub prior: RegimePrior,
    /// What tells its regimes apart beside the dynamics; `None` where nothing labelled was learned
    /// of this session itself.
    pub experts: Option<Experts>,
}

impl Readout {
    /// Number of channels.
    #[must_use]
    pub fn n_channels(&self) -> usize {
        self.baseline.len()
    }
}

/// Limits of the two signs of unknown dynamics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoveltyLimits {
    /// Of the innovations' runs: how far counts stray from their predictions for long, 1 by chance.
    pub innovation_runs: f32,
    /// Of the embedding's squared Mahalanobis distance from the nearest component, per dimension.
    pub embedding_distance: f32,
}

impl NoveltyLimits {
    /// Nothing is unknown.
    pub const NONE: Self = Self { innovation_runs: f32::MAX, embedding_distance: f32::MAX };
}

/// The decision rule with which the label in force was right most often on what training held out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenRule {
    /// Posterior probability that a new label must reach.
    pub probability_min: f32,
    /// Bins in a row for which it must.
    pub dwell_bins: u32,
    /// Whether what training saw without a label makes the label `unknown`.
    pub unlabelled: bool,
    /// Power, 0 to 1, of the base rates that regimes' posteriors are divided by before they are
    /// compared: 1 gives each regime an even chance, whatever its share of the time was.
    pub evenness: f32,
}

/// How a decision rule did on what training held out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingPoint {
    /// Posterior probability that a new label must reach.
    pub probability_min: f32,
    /// Labels that came into force and were wrong, per minute.
    pub false_changes_per_min: f64,
    /// Median time from a change to its label in force, seconds; absent where none was found.
    pub median_delay_s: Option<f64>,
}

/// Settings of the online fit that belong to a trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnlineSettings {
    /// Hazard rates, `[n_regimes + 1, n_regimes + 1]`: probability per bin that, out of the
    /// row's regime, the column's is entered at its prior (the diagonal: another task of the same
    /// regime). Row and column `n_regimes` are for bins without a label. A row sums to below 1.
    #[serde(with = "row_major")]
    pub hazard_per_bin: Array2<f32>,
    /// Factor of the process noise `Q` in the online fit: noise for what the model does not know.
    pub process_noise: f32,
    /// Where less than this share of a hypothesis' weight was newly entered, it keeps its moments:
    /// what enters a hypothesis that leads would only blur it. Once it no longer leads, entering
    /// outweighs it.
    pub fresh_share_min: f32,
    /// Variance that the latents gain where a hypothesis is entered, in that at a recording's
    /// start. More than 0 where training saw no change, and learned what follows one from trials
    /// put together.
    #[serde(default)]
    pub entry_variance: f32,
    /// Variance the embedding's random walk gains per bin.
    pub embedding_drift: f32,
    /// Temperature of the label posterior: `p^(1/T)`, normalised.
    pub temperature: f32,
    /// What known dynamics hardly ever exceed: novelty is measured against these.
    pub novelty_limits: NoveltyLimits,
    /// What known dynamics look like: novelty is measured against this instead, where training
    /// held out enough to learn it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<KnownDynamics>,
    /// Share of the labelled bins that each regime had in training, `[n_regimes]`; empty where it
    /// is not known.
    #[serde(default)]
    pub base_rates: Vec<f32>,
    /// How the posteriors of the experts are pooled, where a session has them.
    #[serde(default = "Pool::dynamics")]
    pub pool: Pool,
    /// The decision rule that serves unless another rate of false changes is asked for; absent
    /// where nothing labelled was held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<ChosenRule>,
    /// Decision rules from lenient to strict, each with fewer false changes than the one before;
    /// empty where nothing labelled was held out.
    pub operating_points: Vec<OperatingPoint>,
    /// Probabilities of the onset's posterior at which the low end, the median and the high end of
    /// its 90 % interval are read off, ascending: those that held what they say on what training
    /// held out; else [`ONSET_LEVELS`].
    #[serde(default = "onset_levels")]
    pub onset_levels: [f64; 3],
    /// Bounds of `C kappa + d`, natural log of counts per bin.
    pub log_rate_bounds: [f32; 2],
}

/// Levels that need no correction where posteriors are what they say.
pub(crate) const ONSET_LEVELS: [f64; 3] = [0.05, 0.5, 0.95];

fn onset_levels() -> [f64; 3] {
    ONSET_LEVELS
}

impl OnlineSettings {
    /// One hazard rate out of every regime, to all regimes alike.
    #[must_use]
    pub(crate) fn uniform_hazard(n_regimes: usize, hazard_per_bin: f32) -> Array2<f32> {
        let to_regime = hazard_per_bin / n_regimes as f32;
        let rate = |(_, to)| if to < n_regimes { to_regime } else { 0.0 };
        Array2::from_shape_fn((n_regimes + 1, n_regimes + 1), rate)
    }

    /// The usual settings for `n_regimes` regimes.
    #[must_use]
    pub fn new(n_regimes: usize) -> Self {
        Self {
            hazard_per_bin: Self::uniform_hazard(n_regimes, 1.0 / 300.0),
            process_noise: 1.0,
            fresh_share_min: 0.005,
            entry_variance: 0.0,
            embedding_drift: 1e-7,
            temperature: 1.0,
            novelty_limits: NoveltyLimits::NONE,
            known: None,
            base_rates: Vec::new(),
            pool: Pool::DYNAMICS,
            rule: None,
            operating_points: Vec::new(),
            onset_levels: ONSET_LEVELS,
            log_rate_bounds: LOG_RATE_BOUNDS,
        }
    }
}

/// A trained model: everything that the online fit needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Sizes of all arrays.
    pub dims: Dimensions,
    /// Width of the bins it was trained on, seconds.
    pub bin_width_s: f64,
    /// Names of the regimes; labels everywhere are indices into this.
    pub regime_names: Vec<String>,
    /// Embedding to low-rank factors.
    pub hypernetwork: Hypernetwork,
    /// Shared part of the network.
    pub network: Network,
    /// One per session known.
    pub readouts: Vec<Readout>,
    /// Mixture over all sessions' embeddings: the prior of a session yet to be calibrated.
    pub prior: RegimePrior,
    /// What the online fit and the decision rule need beyond the network.
    pub online: OnlineSettings,
}

impl Model {
    /// The readout of a session by name.
    #[must_use]
    pub fn readout(&self, session: &str) -> Option<&Readout> {
        self.readouts.iter().find(|r| r.session == session)
    }

    /// Names of the sessions, for messages.
    #[must_use]
    pub fn session_names(&self) -> Vec<&str> {
        self.readouts.iter().map(|r| r.session.as_str()).collect()
    }

    /// Expected time in the regime that is left soonest, by the hazard rates, seconds.
    #[must_use]
    pub(crate) fn shortest_regime_s(&self) -> f64 {
        let n = self.regime_names.len();
        let left = |r: usize| -> f64 {
            let row = self.online.hazard_per_bin.row(r);
            (0..=n).filter(|&to| to != r).map(|to| f64::from(row[to])).sum()
        };
        self.bin_width_s / (0..n).map(left).fold(0.0, f64::max)
    }

    /// Time that a regime lasts by the hazard rates, seconds: the inverse of the rates' mean over
    /// regimes.
    #[must_use]
    pub(crate) fn mean_dwell_s(&self) -> f64 {
        let n = self.regime_names.len();
        let regimes = self.online.hazard_per_bin.rows().into_iter().take(n);
        let left = regimes.into_iter().flatten().map(|&h| f64::from(h));
        self.bin_width_s * n as f64 / left.sum::<f64>()
    }

    /// The model with hazard rates scaled so that a regime lasts `seconds` on average over regimes.
    /// Where one lasts long, the longer it lasts the better its embedding becomes known.
    #[must_use]
    pub fn with_mean_dwell(&self, seconds: f64) -> Self {
        let mut model = self.clone();
        let rates = &mut model.online.hazard_per_bin;
        let most = rates.rows().into_iter().map(|row| row.iter().sum::<f32>()).fold(0.0, f32::max);
        if most > 0.0 {
            let scale = (self.mean_dwell_s() / seconds) as f32;
            // No regime is left more surely than every other bin.
            let scale = scale.min(0.5 / most);
            *rates *= scale;
        }
        model
    }

    /// Noise-free step `kappa[t] -> kappa[t+1]` under the factors of one embedding.
    pub fn advance(&self, factors: &Factors, kappa: &[f32], out: &mut [f32]) {
        let a = self.network.leak;
        for ((out, k), c) in out.iter_mut().zip(kappa).zip(&factors.c) {
            *out = (1.0 - a) * k + a * c;
        }
        for (x, n) in self.inputs(kappa).zip(factors.n.columns()) {
            let phi = x.tanh();
            out.iter_mut().zip(n).for_each(|(out, n)| *out += a * n * phi);
        }
    }

    /// Inputs of the units at latents `kappa [rank]`: `M kappa + b`, `[units]`.
    fn inputs<'a>(&'a self, kappa: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        self.network
            .m
            .rows()
            .into_iter()
            .zip(&self.network.offset)
            .map(move |(m, b)| m.iter().zip(kappa).map(|(m, k)| m * k).sum::<f32>() + b)
    }

    /// Largest count that the model distinguishes from larger ones: its largest rate plus four
    /// standard deviations of a Poisson variable.
    #[must_use]
    pub(crate) fn count_max(&self) -> f32 {
        let rate = self.online.log_rate_bounds[1].exp();
        rate + 4.0 * rate.sqrt()
    }

    /// Counts per bin that a session's channels are expected to have at latents `kappa [rank]`,
    /// `[n_channels]`.
    pub fn rates<'a>(&self, of: &'a Readout, kappa: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        let [low, high] = self.online.log_rate_bounds;
        of.loading.rows().into_iter().zip(&of.baseline).map(move |(c, d)| {
            let eta: f32 = c.iter().zip(kappa).map(|(c, k)| c * k).sum::<f32>() + d;
            eta.clamp(low, high).exp()
        })
    }

    /// `N(e)^T M`, `[rank, rank]`: its eigenvalues are the nonzero ones of `J` itself.
    #[must_use]
    pub(crate) fn bare_connectivity(&self, factors: &Factors) -> Array2<f64> {
        let product = |(n, m): (&f32, &f32)| f64::from(n * m);
        Array2::from_shape_fn((self.dims.rank, self.dims.rank), |(r, j)| {
            factors.n.row(r).iter().zip(self.network.m.column(j)).map(product).sum()
        })
    }

    /// `N(e)^T D M`, `[rank, rank]`, `D = diag tanh'(M kappa + b)`: its eigenvalues are the nonzero
    /// ones of the network's `J D`.
    #[must_use]
    pub(crate) fn reduced_jacobian(&self, factors: &Factors, kappa: &[f32]) -> Array2<f64> {
        let mut jacobian = Array2::<f64>::zeros((self.dims.rank, self.dims.rank));
        let units = self.inputs(kappa).zip(self.network.m.rows()).zip(factors.n.columns());
        for ((x, m), n) in units {
            let slope = f64::from(1.0 - x.tanh().powi(2));
            for (mut row, &n) in jacobian.rows_mut().into_iter().zip(n) {
                let left = f64::from(n) * slope;
                row.iter_mut().zip(m).for_each(|(entry, &m)| *entry += left * f64::from(m));
            }
        }
        jacobian
    }
}

/// An array's values, row by row: a model's arrays are kept in no other order.
pub(crate) fn values<T, D: Dimension>(array: &ArrayRef<T, D>) -> &[T] {
    array.as_slice().expect("a model's arrays are row-major")
}

/// Square matrices in the model card: a list of their values, row by row.
mod row_major {
    use ndarray::Array2;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(of: &Array2<f32>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(of)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Array2<f32>, D::Error> {
        let values = Vec::<f32>::deserialize(from)?;
        let (n, found) = (values.len().isqrt(), values.len());
        Array2::from_shape_vec((n, n), values).map_err(|_| {
            de::Error::custom(format!("expected the values of a square matrix, found {found}"))
        })
    }
}
