//! The model card, `model.json`: everything of a model but its arrays, and where it comes from.

use serde::{Deserialize, Serialize};

use super::fault::{Fault, fault};
use crate::dynamics::DynamicsSkill;
use crate::model::{
    CHANNELS_MAX, COMPONENTS_MAX, Dimensions, Exceeded, Experts, HIDDEN_MAX, KnownDynamics,
    OnlineSettings, REGIMES_MAX, RegimePrior, SIGN_NAMES, SIGNS,
};
use crate::regime::Verdict;

/// Version of the directory's format.
pub(crate) const FORMAT_VERSION: u32 = 4;
/// Oldest version that is read.
pub(super) const FORMAT_VERSION_MIN: u32 = 2;
pub(super) const FORMAT: &str = "regimed-model";
/// Largest number of states of a session's rates.
const RATE_STATES_MAX: usize = 1024;
/// Largest number of exponential averages.
const AVERAGES_MAX: usize = 64;
/// A recording that a model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// File name.
    pub file: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of the program that trained it.
    pub regimed_version: String,
    /// Git commit of that program, where known.
    pub git_commit: String,
    /// Seed of the training.
    pub seed: u64,
    /// Steps of Adam.
    pub steps: usize,
    /// Recordings it was trained on.
    pub data: Vec<DataFile>,
    /// Scores on held-out streams; absent where none was labelled.
    pub held_out: Option<Verdict>,
    /// The same by session, `(name, scores)`.
    pub held_out_by_session: Vec<(String, Verdict)>,
    /// Scores of the dynamics alone on held-out streams before the first step, with the readout
    /// that the data's moments give, and now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gained: Option<[DynamicsScore; 2]>,
    /// What the dynamics foretell of held-out streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skill: Option<DynamicsSkill>,
}

/// Scores of the dynamics alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicsScore {
    /// Mean predictive log-likelihood, nats per bin and channel.
    pub log_likelihood: Option<f64>,
    /// Log loss of the labels, nats per bin.
    pub log_loss: Option<f64>,
}

impl Provenance {
    /// Fills in what this program knows of itself.
    #[must_use]
    pub(crate) fn of_this_program(seed: u64, steps: usize, data: Vec<DataFile>) -> Self {
        Self {
            regimed_version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: env!("REGIMED_GIT_COMMIT").to_owned(),
            seed,
            steps,
            data,
            held_out: None,
            held_out_by_session: Vec::new(),
            gained: None,
            skill: None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionCard {
    pub(super) name: String,
    pub(super) n_channels: usize,
    /// Names of the channels, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) channels: Option<Vec<String>>,
    /// Counts are negative binomial, with a dispersion per channel among the arrays; else Poisson.
    pub(super) negative_binomial: bool,
    /// False where the session was calibrated without labels.
    #[serde(default = "yes")]
    pub(super) trusted: bool,
    pub(super) prior: RegimePrior,
    /// Where it has experts beside the dynamics; their arrays are among the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) experts: Option<ExpertsCard>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpertsCard {
    /// Regime of each state of the rates; the index after the last is bins without a label.
    pub(super) state_regime: Vec<usize>,
    /// Power of their evidence.
    pub(super) power: f32,
    /// Exponential averages of the root counts.
    pub(super) averages: usize,
    /// Units of the recurrent head.
    pub(super) hidden: usize,
}

impl ExpertsCard {
    pub(super) fn of(experts: &Experts) -> Self {
        let Experts { rates, averages, recurrent } = experts;
        Self {
            state_regime: rates.regime.clone(),
            power: rates.power,
            averages: averages.shares.len(),
            hidden: recurrent.recurrent.nrows(),
        }
    }
}

fn yes() -> bool {
    true
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Card {
    pub(super) format: String,
    pub(super) format_version: u32,
    pub(super) dimensions: Dimensions,
    pub(super) bin_width_s: f64,
    pub(super) regime_names: Vec<String>,
    pub(super) online: OnlineSettings,
    /// Exponents as learned from simulated truth: read of models made before, and left out.
    #[serde(default, rename = "metric_head", skip_serializing)]
    pub(super) _metric_head: Option<serde_json::Value>,
    pub(super) sessions: Vec<SessionCard>,
    pub(super) prior: RegimePrior,
    pub(super) provenance: Provenance,
    pub(super) weights_sha256: String,
}

pub(super) fn check_card(card: &Card) -> Result<(), Fault> {
    if let Err(found) = card.dimensions.check() {
        return fault("dimensions", "sizes in range", found);
    }
    if !(card.bin_width_s.is_finite() && card.bin_width_s > 0.0) {
        return fault("bin_width_s", "a width above 0", card.bin_width_s);
    }
    let names = &card.regime_names;
    if !(1..=REGIMES_MAX).contains(&names.len()) {
        return fault("regime_names", format!("1 to {REGIMES_MAX} names"), names.len());
    }
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() || names[..i].contains(name) {
            return fault("regime_names", "distinct names", format!("'{name}' twice or empty"));
        }
    }
    check_prior("prior", &card.prior, card)?;
    check_sessions(card)?;
    check_online(&card.online, names.len() + 1)
}

fn check_sessions(card: &Card) -> Result<(), Fault> {
    for (i, session) in card.sessions.iter().enumerate() {
        if card.sessions[..i].iter().any(|s| s.name == session.name) {
            return fault("sessions", "distinct names", format!("'{}' twice", session.name));
        }
        if !(1..=CHANNELS_MAX).contains(&session.n_channels) {
            let what = format!("session '{}' n_channels", session.name);
            return fault(what, format!("1 to {CHANNELS_MAX}"), session.n_channels);
        }
        if let Some(names) = session.channels.as_ref().filter(|c| c.len() != session.n_channels) {
            let expected = format!("{} names", session.n_channels);
            return fault(format!("session '{}' channels", session.name), expected, names.len());
        }
        check_prior(&format!("session '{}' prior", session.name), &session.prior, card)?;
        check_experts(session, card.regime_names.len())?;
    }
    Ok(())
}

fn check_experts(session: &SessionCard, regimes: usize) -> Result<(), Fault> {
    let Some(ExpertsCard { state_regime, power, averages, hidden }) = &session.experts else {
        return Ok(());
    };
    let what = |key: &str| format!("session '{}' experts.{key}", session.name);
    if !(1..=RATE_STATES_MAX).contains(&state_regime.len()) {
        let expected = format!("1 to {RATE_STATES_MAX} states");
        return fault(what("state_regime"), expected, state_regime.len());
    }
    if let Some(found) = state_regime.iter().find(|r| **r > regimes) {
        return fault(what("state_regime"), format!("regimes of 0 to {regimes}"), found);
    }
    if !(*power > 0.0 && *power <= 1.0) {
        return fault(what("power"), "above 0 and at most 1", power);
    }
    if !(1..=AVERAGES_MAX).contains(averages) {
        return fault(what("averages"), format!("1 to {AVERAGES_MAX}"), averages);
    }
    if !(1..=HIDDEN_MAX).contains(hidden) {
        return fault(what("hidden"), format!("1 to {HIDDEN_MAX}"), hidden);
    }
    Ok(())
}

fn check_pool(o: &OnlineSettings) -> Result<(), Fault> {
    let (weights, temperature) = (&o.pool.weights, o.pool.temperature);
    let total: f32 = weights.iter().sum();
    if weights.iter().any(|w| *w < 0.0) || (total - 1.0).abs() > 1e-3 {
        let expected = "weights of 0 or more with a sum of 1";
        return fault("online.pool.weights", expected, format!("{weights:?}"));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return fault("online.pool.temperature", "above 0", temperature);
    }
    if !(0.0..=1.0).contains(&o.pool.evenness) {
        return fault("online.pool.evenness", "from 0 to 1", o.pool.evenness);
    }
    if let Some(found) = o.base_rates.iter().find(|r| !(0.0..=1.0).contains(*r)) {
        return fault("online.base_rates", "shares from 0 to 1", found);
    }
    let Some(rule) = o.rule else { return Ok(()) };
    if !(0.0..=1.0).contains(&rule.evenness) {
        return fault("online.rule.evenness", "from 0 to 1", rule.evenness);
    }
    if !(0.0..=1.0).contains(&rule.probability_min) {
        return fault("online.rule.probability_min", "from 0 to 1", rule.probability_min);
    }
    if rule.dwell_bins == 0 {
        return fault("online.rule.dwell_bins", "1 or more", 0);
    }
    Ok(())
}

fn check_online(o: &OnlineSettings, states: usize) -> Result<(), Fault> {
    if o.hazard_per_bin.dim() != (states, states) {
        let found = format!("{} values", o.hazard_per_bin.len());
        return fault("online.hazard_per_bin", format!("{states} x {states} values"), found);
    }
    for (r, row) in o.hazard_per_bin.rows().into_iter().enumerate() {
        if !(row.iter().all(|&h| h >= 0.0) && row.iter().sum::<f32>() < 1.0) {
            let expected = "rates of 0 or more with a sum below 1";
            let found = format!("a sum of {}", row.iter().sum::<f32>());
            return fault(format!("online.hazard_per_bin row {r}"), expected, found);
        }
    }
    check_pool(o)?;
    if !(o.process_noise > 0.0 && o.process_noise.is_finite()) {
        return fault("online.process_noise", "above 0", o.process_noise);
    }
    if !(0.0..1.0).contains(&o.fresh_share_min) {
        return fault("online.fresh_share_min", "from 0 and below 1", o.fresh_share_min);
    }
    if !(o.entry_variance >= 0.0 && o.entry_variance.is_finite()) {
        return fault("online.entry_variance", "0 or more", o.entry_variance);
    }
    for (i, p) in o.operating_points.iter().enumerate() {
        let before = i.checked_sub(1).map(|b| &o.operating_points[b]);
        let in_order = before.is_none_or(|b| {
            p.false_changes_per_min < b.false_changes_per_min
                && p.probability_min > b.probability_min
        });
        let (chance, often) = (p.probability_min, p.false_changes_per_min);
        if !((0.0..1.0).contains(&chance) && often >= 0.0 && often.is_finite() && in_order) {
            let expected = "probabilities below 1 that rise as false changes fall";
            let found = format!("{chance} for {often} false changes a minute");
            return fault(format!("online.operating_points[{i}]"), expected, found);
        }
    }
    let [low, middle, high] = o.onset_levels;
    if !(0.0 < low && low <= middle && middle <= high && high <= 1.0) {
        let found = format!("{:?}", o.onset_levels);
        return fault("online.onset_levels", "three probabilities above 0, ascending", found);
    }
    if !(o.embedding_drift >= 0.0 && o.embedding_drift.is_finite()) {
        return fault("online.embedding_drift", "0 or more", o.embedding_drift);
    }
    if !(o.temperature > 0.0 && o.temperature.is_finite()) {
        return fault("online.temperature", "above 0", o.temperature);
    }
    let limits = o.novelty_limits;
    if !(limits.innovation_runs > 0.0 && limits.embedding_distance > 0.0) {
        let found = format!("{} and {}", limits.innovation_runs, limits.embedding_distance);
        return fault("online.novelty_limits", "limits above 0", found);
    }
    if let Some(known) = &o.known {
        check_known(known)?;
    }
    let [low, high] = o.log_rate_bounds;
    if !(low < high && low >= -40.0 && high <= 40.0) {
        return fault("online.log_rate_bounds", "low < high within 40", format!("{low}, {high}"));
    }
    Ok(())
}

fn check_known(known: &KnownDynamics) -> Result<(), Fault> {
    for (name, sign) in SIGN_NAMES.iter().zip(&known.signs) {
        if !(sign.median.abs() <= 80.0 && sign.below > 0.0 && sign.above > 0.0) {
            let found = format!("{}, {} and {}", sign.median, sign.below, sign.above);
            let what = format!("online.known.signs ({name})");
            return fault(what, "a median within 80 and spreads above 0", found);
        }
    }
    let finite = known.precision.iter().all(|p| p.is_finite());
    if known.precision.dim() != (SIGNS, SIGNS) || !finite {
        let found = format!("{} values", known.precision.len());
        return fault("online.known.precision", format!("{SIGNS} x {SIGNS} finite values"), found);
    }
    let in_order = known.exceeded.windows(2).all(|w| {
        let [a, b] = [w[0], w[1]];
        a.share > b.share && a.score <= b.score
    });
    let sane =
        |e: &Exceeded| e.share > 0.0 && e.share < 1.0 && e.score > 0.0 && e.score.is_finite();
    if known.exceeded.len() < 2 || !in_order || !known.exceeded.iter().all(sane) {
        let expected = "two shares or more that fall as their scores rise";
        return fault("online.known.exceeded", expected, format!("{:?}", known.exceeded));
    }
    Ok(())
}

fn check_prior(what: &str, prior: &RegimePrior, card: &Card) -> Result<(), Fault> {
    let d = card.dimensions.embedding;
    let n = prior.components.len();
    if !(1..=COMPONENTS_MAX).contains(&n) {
        return fault(what, format!("1 to {COMPONENTS_MAX} components"), n);
    }
    for (i, c) in prior.components.iter().enumerate() {
        let here = format!("{what} component {i}");
        if let Some(found) = c.regime.filter(|r| *r >= card.regime_names.len()) {
            return fault(here, format!("a regime below {}", card.regime_names.len()), found);
        }
        if !(c.weight > 0.0 && c.weight <= 1.0) {
            return fault(here, "a weight in (0, 1]", c.weight);
        }
        if c.mean.len() != d || c.covariance.len() != d * d {
            let found = format!("{} and {} values", c.mean.len(), c.covariance.len());
            return fault(here, format!("{d} and {} values", d * d), found);
        }
        if !c.mean.iter().all(|x| x.is_finite()) {
            return fault(here, "a finite mean", "one that is not");
        }
        let covariance =
            nalgebra::DMatrix::from_iterator(d, d, c.covariance.iter().map(|&x| f64::from(x)));
        if covariance.cholesky().is_none() {
            return fault(here, "a positive definite covariance", "one that is not");
        }
    }
    let total: f32 = prior.components.iter().map(|c| c.weight).sum();
    if (total - 1.0).abs() > 1e-3 {
        return fault(what, "weights that sum to 1", total);
    }
    Ok(())
}
