//! What tells regimes apart beside the dynamics, and how the experts' posteriors are pooled.

use ndarray::{Array1, Array2, Array3};
use serde::{Deserialize, Serialize};

/// Kinds of experts, in the order of their posteriors.
pub(crate) const EXPERT_NAMES: [&str; 4] = ["dynamics", "rates", "averages", "recurrent"];
/// Lowest base rate that posteriors are divided by.
pub(crate) const BASE_RATE_MIN: f32 = 0.01;
/// Number of kinds of experts.
pub(crate) const EXPERTS: usize = EXPERT_NAMES.len();

/// Mean rates of each regime: a Poisson hidden Markov model whose states belong to regimes.
#[derive(Debug, Clone, PartialEq)]
pub struct RateStates {
    /// Counts per bin, `[states, n_channels]`, above 0.
    pub rates: Array2<f32>,
    /// Probability per bin of a state after another, `[states, states]`; rows sum to 1.
    pub transition: Array2<f32>,
    /// Regime of each state, `[states]`; the index after the last is bins without a label.
    pub regime: Vec<usize>,
    /// Evidence of a bin is its likelihood to this power, in (0, 1]: counts scatter more, and for
    /// longer, than Poisson states allow.
    pub power: f32,
}

/// Multinomial logistic regression on exponential averages of the root counts, over several times:
/// `softmax(sum_k W_k a_k + v)`, `a_k` moving towards the newest root counts by a share `s_k` in
/// every bin, from their means on.
#[derive(Debug, Clone, PartialEq)]
pub struct AveragesHead {
    /// Mean root count of each channel, `[n_channels]`: what a channel that does not inform is
    /// taken to show.
    pub mean: Array1<f32>,
    /// `s`, `[averages]`, in (0, 1].
    pub shares: Vec<f32>,
    /// `W`, `[averages, n_channels, n_regimes]`.
    pub weights: Array3<f32>,
    /// `v`, `[n_regimes]`.
    pub bias: Array1<f32>,
}

/// A gated recurrent unit (Cho et al. 2014; the reset gate acts on the recurrent product) on the
/// roots of the counts, `x`:
/// `z, r = sigmoid(W x + b + U h)`, `c = tanh(W x + b + r U h)`, `h' = z h + (1 - z) c`,
/// posterior `softmax(V h + v)`.
#[derive(Debug, Clone, PartialEq)]
pub struct RecurrentHead {
    /// Mean root count of each channel, `[n_channels]`: what a channel that does not inform is
    /// taken to show.
    pub mean: Array1<f32>,
    /// `W`, `[n_channels, 3 hidden]`: update gate, reset gate, candidate.
    pub input: Array2<f32>,
    /// `b`, `[3 hidden]`.
    pub bias: Array1<f32>,
    /// `U`, `[hidden, 3 hidden]`.
    pub recurrent: Array2<f32>,
    /// `V`, `[hidden, n_regimes]`.
    pub output: Array2<f32>,
    /// `v`, `[n_regimes]`.
    pub output_bias: Array1<f32>,
}

/// The experts of one session beside the dynamics.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Mean rates, with states bound to regimes.
    pub rates: RateStates,
    /// Regression on averages.
    pub averages: AveragesHead,
    /// Recurrent network.
    pub recurrent: RecurrentHead,
}

/// Log-linear pool (Genest & Zidek 1986): `log p = sum_e w_e log p_e / T - g log b`, normalised,
/// `b` the regimes' base rates in training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Weights `w` of the experts in the order of [`EXPERT_NAMES`], 0 or more; they sum to 1.
    pub weights: [f32; EXPERTS],
    /// `T`.
    pub temperature: f32,
    /// `g`, 0 to 1: 0 where regimes share the time as they did in training, 1 where that told
    /// nothing.
    pub evenness: f32,
}

impl Pool {
    /// The dynamics alone.
    pub const DYNAMICS: Self =
        Self { weights: [1.0, 0.0, 0.0, 0.0], temperature: 1.0, evenness: 0.0 };

    /// [`Self::DYNAMICS`], for cards without a pool.
    pub(super) fn dynamics() -> Self {
        Self::DYNAMICS
    }
}
