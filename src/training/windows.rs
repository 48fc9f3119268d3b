//! Windows of the streams that are learned from: what one step of training sees.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::data::{Dataset, Stream};
use super::settings::TrainingSettings;

/// A step passes over short data at most this often, with at least this many windows.
const PASSES_MAX: usize = 2;
const BATCH_MIN: usize = 8;

impl Dataset {
    /// A batch of windows, streams drawn in proportion to the windows they hold. With
    /// `contrast_bins` above 0, each window gets a stretch that long after the burn-in and, for
    /// it, a rival label.
    pub(crate) fn draw(&self, of: &Draw, rng: &mut ChaCha8Rng) -> Vec<Drawn> {
        let share: Vec<usize> =
            self.streams.iter().map(|s| s.label_of.len().div_ceil(of.window_bins)).collect();
        let total: usize = share.iter().sum();
        // More would only be the same bins again, at the same cost.
        (0..of.batch.min((PASSES_MAX * total).max(BATCH_MIN)))
            .map(|_| {
                let mut at = rng.random_range(0..total);
                let stream = share
                    .iter()
                    .position(|&n| {
                        let here = at < n;
                        at = at.wrapping_sub(if here { 0 } else { n });
                        here
                    })
                    .unwrap_or(0);
                let Stream { session, label_of, .. } = &self.streams[stream];
                let bins = label_of.len();
                let len = of.window_bins.min(bins);
                let from = rng.random_range(0..=bins - len);
                let labels = label_of.read(from, len);
                let rival = self.draw_rival(of, &labels, rng);
                let exponent = self.draw_run(of, &labels, rng);
                Drawn { session: *session, stream, from, labels, rival, exponent }
            })
            .collect()
    }

    /// A run from one of a window's states, where its task's exponent is known.
    fn draw_run(&self, of: &Draw, labels: &[usize], rng: &mut ChaCha8Rng) -> Option<Run> {
        if of.run_bins == 0 || labels.len() <= of.burn_in_bins {
            return None;
        }
        let from = rng.random_range(of.burn_in_bins..labels.len());
        let label = labels[from];
        let noise_seed = rng.random_bool(0.5).then(|| rng.random());
        let per_s = self.exponents[label][usize::from(noise_seed.is_some())]?;
        Some(Run {
            from,
            label,
            bins: of.run_bins,
            per_bin: (per_s * self.bin_width_s) as f32,
            noise_seed,
            start: match rng.random_range(0..6) {
                0 | 1 => RunStart::Filtered,
                2 | 3 => RunStart::GoesOn,
                4 => RunStart::Opposite,
                _ => RunStart::Elsewhere(rng.random_range(0..self.labels.len())),
            },
        })
    }

    /// A stretch of a window, and a label of the same session and another regime.
    fn draw_rival(&self, of: &Draw, labels: &[usize], rng: &mut ChaCha8Rng) -> Option<Rival> {
        let len = of.contrast_bins.min(labels.len().checked_sub(of.burn_in_bins)?);
        if len == 0 {
            return None;
        }
        let from = rng.random_range(of.burn_in_bins..=labels.len() - len);
        let truth = self.labels[labels[from + len / 2]];
        truth.regime?;
        let others = |r: usize| {
            (0..self.labels.len()).filter(move |&i| {
                self.labels[i].session == truth.session && self.labels[i].regime == Some(r)
            })
        };
        let regimes: Vec<usize> = (0..self.regime_names.len())
            .filter(|&r| Some(r) != truth.regime && others(r).next().is_some())
            .collect();
        if regimes.is_empty() {
            return None;
        }
        let candidates: Vec<usize> = others(regimes[rng.random_range(0..regimes.len())]).collect();
        let label = candidates[rng.random_range(0..candidates.len())];
        Some(Rival { from, to: from + len, label })
    }
}

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunStart {
    /// At the window's filtered state.
    Filtered,
    /// Where the label's last run ended, if there was one.
    GoesOn,
    /// Where another label's last run ended, if there was one.
    Elsewhere(usize),
    /// Opposite to where the label's last run ended, if there was one.
    Opposite,
}

/// A run of the network itself from one of a window's states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run {
    /// Bin of the window after which it begins.
    pub(crate) from: usize,
    /// Index of that bin's label.
    pub(crate) label: usize,
    /// Seed of its process noise; `None`: noise-free.
    pub(crate) noise_seed: Option<u64>,
    /// Where it begins.
    pub(crate) start: RunStart,
    /// Its length, bins.
    pub(crate) bins: usize,
    /// The true exponent, per bin.
    pub(crate) per_bin: f32,
}

/// How to draw a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) batch: usize,
    pub(crate) window_bins: usize,
    pub(crate) burn_in_bins: usize,
    pub(crate) contrast_bins: usize,
    /// Length of a run whose exponent is known; 0 for none.
    pub(crate) run_bins: usize,
}

impl Draw {
    /// Calibration has no rivals and no runs: its embeddings carry little information yet.
    pub(crate) fn of(settings: &TrainingSettings, bin_width_s: f64, calibrates: bool) -> Self {
        let bins = |weight: f64, seconds: f64| {
            let wanted = weight > 0.0 && !calibrates;
            if wanted { (seconds / bin_width_s).round().max(2.0) as usize } else { 0 }
        };
        Self {
            batch: settings.batch,
            window_bins: settings.window_bins,
            burn_in_bins: settings.burn_in_bins,
            contrast_bins: bins(settings.contrast_weight, settings.contrast_s),
            run_bins: bins(settings.exponent_weight, settings.exponent_s),
        }
    }
}

/// A window of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    pub(crate) session: usize,
    /// Index of its stream, and its first bin there.
    pub(crate) stream: usize,
    pub(crate) from: usize,
    /// Index of each bin's label.
    pub(crate) labels: Vec<usize>,
    pub(crate) rival: Option<Rival>,
    pub(crate) exponent: Option<Run>,
}

/// Another regime's label for a stretch of a window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rival {
    /// First bin of the stretch in its window.
    pub(crate) from: usize,
    /// The bin after its last.
    pub(crate) to: usize,
    /// Index into the dataset's labels.
    pub(crate) label: usize,
}
