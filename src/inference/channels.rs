//! State of the channels: which inform, how their gains drift, which are silent.

use pulp::Simd;

use super::kernels::{padded, padded_row};
use super::lanes::{Arithmetic, Wide};
use super::tape::Tape;
use crate::model::{Model, Readout, values};

/// How channels' gains are followed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Gains {
    /// Not at all: the readout stays as it was trained.
    Fixed,
    /// With a time constant that is long compared with the model's regimes:
    /// [`Self::REGIMES`] times as long as they last, and [`Self::TIME_CONSTANT_S`] at least.
    #[default]
    Usual,
    /// With this time constant, seconds.
    Over(f64),
}

impl Gains {
    /// Shortest usual time constant, seconds.
    pub const TIME_CONSTANT_S: f64 = 60.0;
    /// Usual time constant in regimes' mean times. Shorter ones follow the regimes themselves:
    /// sleep states that last minutes were lost in gains that changed within one.
    pub const REGIMES: f64 = 20.0;

    /// The time constant where a regime lasts `mean_dwell_s`, seconds.
    fn time_constant_s(self, mean_dwell_s: f64) -> Option<f64> {
        match self {
            Self::Fixed => None,
            Self::Usual => Some(Self::TIME_CONSTANT_S.max(Self::REGIMES * mean_dwell_s)),
            Self::Over(seconds) => Some(seconds),
        }
    }
}

/// What the fit tracks in addition to the dynamics, so that a rig's troubles are not taken for
/// dynamics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adaptation {
    /// How the channels' gains are followed.
    pub gains: Gains,
    /// Channels that fell silent stop informing until they fire again.
    pub silence: bool,
    /// A bin in which far more was counted than expected is taken for missing.
    pub artefacts: bool,
}

impl Adaptation {
    /// Nothing is followed.
    pub const NONE: Self = Self { gains: Gains::Fixed, silence: false, artefacts: false };
}

impl Default for Adaptation {
    fn default() -> Self {
        Self { gains: Gains::Usual, silence: true, artefacts: true }
    }
}

/// Pseudo-counts of a gain of 1, in addition to the observed spikes: the gain of a channel that
/// fires at 1 Hz moves by its own spikes within about 20 s.
const GAIN_PSEUDO_COUNT: f32 = 20.0;
/// Beyond these a channel has another unit or none, which a gain does not describe.
const GAIN_BOUNDS: [f32; 2] = [0.05, 20.0];
/// Gains enter the baselines once in this many bins, because a logarithm is not cheap.
const GAIN_EVERY: u32 = 16;
/// A channel is silent when no spike came where this many were expected: by chance `e^-14`.
const SILENCE: f32 = 14.0;
/// A bin is an artefact with more than the first times the expected counts, and the second many of
/// their standard deviations.
const ARTEFACT: [f32; 2] = [2.5, 6.0];
/// Artefacts in a row, seconds: what lasts longer is how the population fires now.
const ARTEFACT_S_MAX: f64 = 0.5;
/// Time constant of the signs of unknown dynamics, seconds: novelty rises that late at most.
pub(crate) const NOVELTY_WINDOW_S: f64 = 1.0;
/// Time over which the expected counts of a bin are averaged before they are compared with an
/// artefact's, seconds.
const TOTAL_WINDOW_S: f64 = 0.1;

/// A bin's counts as they inform, each `[n_channels]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// 0 where the channel does not inform.
    pub(crate) counts: &'a [f32],
    /// 1 for a channel that informs, else 0.
    pub(crate) weight: &'a [f32],
    /// The channel's rate over that in training.
    pub(crate) gain: &'a [f32],
}

impl Seen<'_> {
    /// A channel's root count at its rate in training; `None` where that is 0, and the mean where
    /// the channel does not inform.
    #[inline(always)]
    pub(crate) fn root(&self, channel: usize, mean: f32) -> Option<f32> {
        if self.weight[channel] == 0.0 {
            return Some(mean);
        }
        let count = self.counts[channel];
        (count > 0.0).then(|| (count / self.gain[channel]).sqrt())
    }
}

/// The channels of a session.
#[derive(Debug)]
pub(super) struct Channels {
    adaptation: Adaptation,
    n: usize,
    /// Channels that the source marks as informing; padded.
    active: Vec<bool>,
    /// 1 for a channel that informs, else 0; padded.
    pub(super) weight: Vec<f32>,
    /// Counts of the newest bin, 0 where the weight is; padded.
    pub(super) counts: Vec<f32>,
    /// Log rates at `kappa = 0`, gains included; padded.
    pub(super) baseline: Vec<f32>,
    /// Rates of the newest bin as they were predicted, 0 where the weight is; padded.
    pub(super) expected: Vec<f32>,
    trained: Vec<f32>,
    gain: Vec<f32>,
    /// Counts observed and expected at gain 1, discounted.
    observed: Vec<f32>,
    predicted: Vec<f32>,
    follows_gains: bool,
    keep: f32,
    /// Spikes expected since the last one; padded, as are the runs.
    silent: Vec<f32>,
    /// Expected counts of a bin, smoothed.
    total: f32,
    total_rate: f32,
    artefacts_in_a_row: u32,
    artefacts_max: u32,
    bins_to_gains: u32,
    /// Smoothed residuals of each channel, and the variance they have by chance.
    run: Vec<f32>,
    run_variance: Vec<f32>,
    run_rate: f32,
    /// Of negative binomial counts; 0 for Poisson counts.
    dispersion: Vec<f32>,
}

impl Channels {
    pub(super) fn new(model: &Model, readout: &Readout, adaptation: Adaptation) -> Self {
        let bin_width_s = model.bin_width_s;
        let gain_time_constant_s = adaptation.gains.time_constant_s(model.mean_dwell_s());
        let n = readout.n_channels();
        let zeros = || vec![0.0f32; padded(n)];
        let mut baseline = zeros();
        baseline[..n].copy_from_slice(values(&readout.baseline));
        let keep = |window: f64| (-bin_width_s / window).exp() as f32;
        let mut channels = Self {
            adaptation,
            n,
            active: (0..padded(n)).map(|i| i < n).collect(),
            weight: zeros(),
            counts: zeros(),
            trained: baseline.clone(),
            baseline,
            expected: zeros(),
            gain: vec![1.0; padded(n)],
            observed: zeros(),
            predicted: zeros(),
            follows_gains: gain_time_constant_s.is_some(),
            keep: gain_time_constant_s.map_or(1.0, keep),
            silent: zeros(),
            total: 0.0,
            total_rate: 1.0 - keep(TOTAL_WINDOW_S),
            artefacts_in_a_row: 0,
            artefacts_max: (ARTEFACT_S_MAX / bin_width_s).ceil() as u32,
            bins_to_gains: GAIN_EVERY,
            run: zeros(),
            run_variance: zeros(),
            run_rate: 1.0 - keep(NOVELTY_WINDOW_S),
            dispersion: {
                let alpha = readout.dispersion.iter().flatten().copied();
                alpha.chain(std::iter::repeat(0.0)).take(padded(n)).collect()
            },
        };
        channels.reset();
        channels
    }

    pub(super) fn len(&self) -> usize {
        self.n
    }

    /// Another recording begins: gains and silences of the last one are forgotten.
    pub(super) fn reset(&mut self) {
        self.baseline.copy_from_slice(&self.trained);
        self.gain.fill(1.0);
        self.observed.fill(0.0);
        self.predicted.fill(0.0);
        self.silent.fill(0.0);
        self.run.fill(0.0);
        self.run_variance.fill(0.0);
        self.total = 0.0;
        self.artefacts_in_a_row = 0;
        self.bins_to_gains = GAIN_EVERY;
        self.weigh();
    }

    /// State of the channels for the tape; the source's own mask is not part of it.
    pub(super) fn state(&mut self, tape: &mut Tape) {
        let n = self.n;
        let Self { baseline, gain, observed, predicted, silent, run, run_variance, .. } = self;
        let gain = &mut gain[..padded_row(n)];
        for values in [baseline, gain, observed, predicted] {
            tape.floats(values);
        }
        for values in [silent, run, run_variance] {
            tape.floats(&mut values[..n]);
        }
        tape.float(&mut self.total);
        tape.word(&mut self.artefacts_in_a_row);
        tape.word(&mut self.bins_to_gains);
        // A 0 from a disk would make the countdown underflow.
        self.bins_to_gains = self.bins_to_gains.clamp(1, GAIN_EVERY);
        self.weigh();
    }

    /// Every number is one that could have come about.
    pub(super) fn is_sound(&self) -> bool {
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        let gains = self.gain.iter().all(|g| (GAIN_BOUNDS[0]..=GAIN_BOUNDS[1]).contains(g));
        gains
            && self.total.is_finite()
            && [&self.baseline, &self.observed, &self.predicted, &self.silent, &self.run]
                .iter()
                .all(|values| finite(values))
            && finite(&self.run_variance)
    }

    /// The newest bin.
    pub(super) fn seen(&self) -> Seen<'_> {
        let n = self.n;
        let Self { counts, weight, gain, .. } = self;
        Seen { counts: &counts[..n], weight: &weight[..n], gain: &gain[..n] }
    }

    /// Channels that inform.
    #[inline(always)]
    pub(super) fn n_informing(&self) -> usize {
        self.weight.iter().filter(|&&w| w > 0.0).count()
    }

    /// Channels taken for silent.
    #[inline(always)]
    pub(super) fn n_silent(&self) -> usize {
        self.silent.iter().filter(|&&s| s > SILENCE).count()
    }

    pub(super) fn set_active(&mut self, active: impl Iterator<Item = bool>) {
        self.active.iter_mut().zip(active).for_each(|(to, on)| *to = on);
        self.weigh();
    }

    fn weigh(&mut self) {
        for ((w, &on), &silent) in self.weight.iter_mut().zip(&self.active).zip(&self.silent) {
            *w = f32::from(u8::from(on && silent <= SILENCE));
        }
    }

    /// Takes a bin's counts, `[channels]`. `false` where it is an artefact and must not inform.
    #[inline(always)]
    pub(super) fn take(&mut self, counts: &[f32]) -> bool {
        // One spike ends a silence, and the channel informs from this bin on.
        let mut back = false;
        for ((silent, &y), &on) in self.silent.iter_mut().zip(counts).zip(&self.active) {
            let fires = on & (y > 0.0);
            back |= fires & (*silent > SILENCE);
            *silent = if fires { 0.0 } else { *silent };
        }
        if back {
            self.weigh();
        }
        for ((to, &y), w) in self.counts.iter_mut().zip(counts).zip(&self.weight) {
            *to = y * w;
        }
        let total = total(&self.counts);
        let [times, deviations] = ARTEFACT;
        let artefact = self.adaptation.artefacts
            && self.total > 0.0
            && total > times * self.total + deviations * self.total.sqrt()
            && self.artefacts_in_a_row < self.artefacts_max;
        self.artefacts_in_a_row = if artefact { self.artefacts_in_a_row + 1 } else { 0 };
        !artefact
    }

    /// Learns from a bin that informed: `expected` is filled.
    #[inline(always)]
    pub(super) fn learn<S: Simd>(&mut self, wide: Wide<S, 1>) {
        let total = total(&self.expected);
        // The first bin has no past to be smoothed with.
        let rate = if self.total > 0.0 { self.total_rate } else { 1.0 };
        self.total += rate * (total - self.total);
        if self.adaptation.silence {
            let mut fell_silent = false;
            let each = self.silent.iter_mut().zip(&self.counts).zip(&self.expected);
            for ((silent, &y), &expected) in each {
                // Nothing is expected of a channel that does not inform: its silence does not grow.
                let more = if y == 0.0 { expected } else { 0.0 };
                *silent += more;
                fell_silent |= (more > 0.0) & (*silent > SILENCE);
            }
            if fell_silent {
                self.weigh();
            }
        }
        if self.follows_gains {
            self.follow_gains(wide);
        }
    }

    /// How far counts stray from their predictions for long: squared residuals, smoothed over
    /// [`NOVELTY_WINDOW_S`], summed over channels, over what white innovations give. 1 by chance.
    #[inline(always)]
    pub(super) fn innovation_runs(&mut self) -> f32 {
        let g = self.run_rate;
        let keep = (1.0 - g) * (1.0 - g);
        let runs = self.run.iter_mut().zip(&mut self.run_variance);
        let each = runs.zip(&self.counts).zip(&self.expected).zip(&self.dispersion);
        for ((((run, variance), y), rate), alpha) in each {
            *run += g * (y - rate - *run);
            *variance = keep * *variance + g * g * rate * (1.0 + alpha * rate);
        }
        let by_chance = total(&self.run_variance);
        total_of(&self.run, &self.run, |run, _| run * run) / by_chance.max(f32::MIN_POSITIVE)
    }

    /// `sum (y - lambda)^2 - y` and `sum lambda^2` of the newest bin.
    #[inline(always)]
    pub(super) fn excess(&self) -> [f32; 2] {
        let excess = |y: f32, rate: f32| (y - rate) * (y - rate) - y;
        [
            total_of(&self.counts, &self.expected, excess),
            total_of(&self.expected, &self.expected, |rate, _| rate * rate),
        ]
    }

    /// A gamma posterior of each channel's gain whose evidence fades (power steady model, Smith
    /// 1979): `gain = (pseudo + sum y) / (pseudo + sum lambda)`, sums discounted, `lambda` at
    /// gain 1.
    ///
    /// The time constant is long compared with regimes, so gains follow drift (electrodes that
    /// move, units that are lost) and not the dynamics. `lambda` is taken at gain 1, or a gain
    /// would be measured against itself and could run away; pseudo-counts keep rarely firing
    /// channels at 1.
    #[inline(always)]
    fn follow_gains<S: Simd>(&mut self, wide: Wide<S, 1>) {
        let sums = self.observed.iter_mut().zip(&mut self.predicted);
        let each = sums.zip(&self.counts).zip(&self.expected).zip(&self.gain);
        for ((((observed, predicted), y), expected), gain) in each {
            *observed = self.keep * *observed + y;
            *predicted = self.keep * *predicted + expected / gain;
        }
        self.bins_to_gains -= 1;
        if self.bins_to_gains > 0 {
            return;
        }
        self.bins_to_gains = GAIN_EVERY;
        for ((gain, observed), predicted) in
            self.gain.iter_mut().zip(&self.observed).zip(&self.predicted)
        {
            let found = (GAIN_PSEUDO_COUNT + observed) / (GAIN_PSEUDO_COUNT + predicted);
            *gain = found.clamp(GAIN_BOUNDS[0], GAIN_BOUNDS[1]);
        }
        let logs = wide.rows_mut(&mut self.baseline).iter_mut();
        let each = logs.zip(wide.rows(&self.trained)).zip(wide.rows(&self.gain));
        for ((baseline, trained), gain) in each {
            *baseline = wide.add(*trained, wide.ln(*gain));
        }
    }
}

/// Numbers that are summed at once.
const AT_ONCE: usize = 16;

/// Sum over channels, padded.
#[inline(always)]
fn total(values: &[f32]) -> f32 {
    total_of(values, values, |v, _| v)
}

/// Sum over channels, padded, of what two arrays give; [`AT_ONCE`] sums, so that they run as
/// vectors.
#[inline(always)]
fn total_of(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; AT_ONCE];
    for (a, b) in a.as_chunks::<AT_ONCE>().0.iter().zip(b.as_chunks::<AT_ONCE>().0) {
        for i in 0..AT_ONCE {
            sums[i] += of(a[i], b[i]);
        }
    }
    sums.iter().sum()
}
