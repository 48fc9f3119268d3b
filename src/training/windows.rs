//! Windows of the streams that are learned from: what one step of training sees.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::data::{Dataset, Stream};
use super::filter::burn_in_of;
use super::settings::TrainingSettings;
use super::splice::{draw_fade, overlap};
use crate::recording::CountsBuffer;

/// A step passes over short data at most this often, with at least this many windows.
const PASSES_MAX: usize = 2;
const BATCH_MIN: usize = 8;
/// Where no change is seen, this share of the windows is spliced of two trials.
const SPLICED_SHARE: f64 = 0.5;
/// The stretch behind a splice is at most as many times as long as others.
const SPLICED_CONTRAST: usize = 2;

/// One of several, drawn in proportion to its share.
pub(super) fn drawn_by_share(shares: &[usize], rng: &mut ChaCha8Rng) -> usize {
    let mut at = rng.random_range(0..shares.iter().sum());
    let drawn = shares.iter().position(|&n| {
        let here = at < n;
        at = at.wrapping_sub(if here { 0 } else { n });
        here
    });
    drawn.unwrap_or(0)
}

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
                let stream = drawn_by_share(&share, rng);
                let Stream { session, label_of, .. } = &self.streams[stream];
                let bins = label_of.len();
                let len = of.window_bins.min(bins);
                let from = rng.random_range(0..=bins - len);
                let mut labels = label_of.read(from, len);
                let splice = self.draw_splice(of, &mut labels, rng);
                let rival = self.draw_rival(of, &labels, splice.map(|s| s.at), rng);
                let exponent = self.draw_run(of, &labels, rng);
                Drawn { session: *session, stream, from, splice, labels, rival, exponent }
            })
            .collect()
    }

    /// Counts of a window, `[bins, channels]`.
    ///
    /// # Errors
    /// Where a file of counts cannot be read.
    pub(crate) fn read<'b>(
        &self,
        of: &Drawn,
        buffer: &'b mut CountsBuffer,
    ) -> std::io::Result<&'b [f32]> {
        let Drawn { stream, from, splice, ref labels, .. } = *of;
        let counts = &self.streams[stream].counts;
        buffer.clear();
        let Some(Splice { at, stream, from: other, fade: bins, seed }) = splice else {
            counts.append_to(from, labels.len(), buffer)?;
            return Ok(buffer.counts());
        };
        counts.append_to(from, at + bins, buffer)?;
        self.streams[stream].counts.append_to(other, labels.len() - at, buffer)?;
        let channels = self.sessions[of.session].n_channels;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let second = (at + bins) * channels;
        overlap(buffer.counts(), second, (bins, channels), &mut rng);
        Ok(buffer.counts())
    }

    /// Whether every stream is of one label: a change is then never seen, and only trials put
    /// together show what follows one.
    fn shows_no_change(&self) -> bool {
        self.streams.iter().all(|s| s.label_of.only().is_some())
            && self.labels.iter().any(|l| l.regime != self.labels[0].regime)
    }

    /// Whether windows of so many bins are spliced: where no change is seen, and trials are long
    /// enough for two pieces with a first part that is not scored.
    pub(crate) fn splices(&self, window_bins: usize, burn_in_bins: usize) -> bool {
        let long = |s: &Stream| {
            let bins = s.label_of.len().min(window_bins);
            bins >= 2 * (burn_in_of(burn_in_bins, bins) + 1)
        };
        self.shows_no_change() && self.streams.iter().any(long)
    }

    /// Lets a window go on with a trial of another regime of its session.
    fn draw_splice(&self, of: &Draw, labels: &mut [usize], rng: &mut ChaCha8Rng) -> Option<Splice> {
        let len = labels.len();
        let first = burn_in_of(of.burn_in_bins, len) + 1;
        if !of.splices || len < 2 * first || !rng.random_bool(SPLICED_SHARE) {
            return None;
        }
        let at = rng.random_range(first..=len - first);
        let before = self.labels[labels[0]];
        let others: Vec<(usize, usize)> = (0..self.streams.len())
            .filter_map(|i| {
                let Stream { session, label_of, .. } = &self.streams[i];
                let label = label_of.first()?;
                let goes_on = *session == before.session
                    && self.labels[label].regime != before.regime
                    && label_of.len() >= len - at;
                goes_on.then_some((i, label))
            })
            .collect();
        let &(stream, label) = others.get(rng.random_range(0..others.len().max(1)))?;
        let room = self.streams[stream].label_of.len() - (len - at);
        labels[at..].fill(label);
        let fade = draw_fade(self.bin_width_s, len - at, rng);
        let (from, seed) = (rng.random_range(0..=room), rng.random());
        Some(Splice { at, stream, from, fade, seed })
    }

    /// A run from one of a window's states, where its task's exponent is known.
    fn draw_run(&self, of: &Draw, labels: &[usize], rng: &mut ChaCha8Rng) -> Option<Run> {
        if of.run_bins == 0 {
            return None;
        }
        let from = rng.random_range(burn_in_of(of.burn_in_bins, labels.len())..labels.len());
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

    /// A stretch of a window, and a label of the same session and another regime. Behind a splice,
    /// it may be the label from before.
    fn draw_rival(
        &self,
        of: &Draw,
        labels: &[usize],
        splice: Option<usize>,
        rng: &mut ChaCha8Rng,
    ) -> Option<Rival> {
        let begins = splice.unwrap_or_else(|| burn_in_of(of.burn_in_bins, labels.len()));
        let len = match splice {
            Some(_) if of.contrast_bins > 0 => {
                rng.random_range(1..=SPLICED_CONTRAST * of.contrast_bins)
            }
            _ => of.contrast_bins,
        };
        let len = len.min(labels.len().checked_sub(begins)?);
        if len == 0 {
            return None;
        }
        let from = splice.unwrap_or_else(|| rng.random_range(begins..=labels.len() - len));
        if let Some(at) = splice
            && rng.random_bool(0.5)
        {
            let rival = Rival { from, to: from + len, label: labels[at - 1], enters: false };
            return Some(rival);
        }
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
        Some(Rival { from, to: from + len, label, enters: true })
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
    /// Whether windows are spliced of trials.
    pub(crate) splices: bool,
}

impl Draw {
    /// Calibration has no rivals and no runs: its embeddings carry little information yet.
    pub(crate) fn of(settings: &TrainingSettings, data: &Dataset, calibrates: bool) -> Self {
        let bin_width_s = data.bin_width_s;
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
            splices: !calibrates && data.splices(settings.window_bins, settings.burn_in_bins),
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
    pub(crate) splice: Option<Splice>,
    /// Index of each bin's label.
    pub(crate) labels: Vec<usize>,
    pub(crate) rival: Option<Rival>,
    pub(crate) exponent: Option<Run>,
}

/// Where a window goes on with another trial.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Splice {
    /// First bin of the window that is of the other trial.
    pub(crate) at: usize,
    /// Index of the other's stream, and the bin there.
    pub(crate) stream: usize,
    pub(crate) from: usize,
    /// Bins over which the one gives way to the other, and the seed of how.
    pub(crate) fade: usize,
    pub(crate) seed: u64,
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
    /// Whether it would be entered there, rather than go on.
    pub(crate) enters: bool,
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::recording::{DynamicsTruth, Recording, Trial};

    /// Trials of 60 bins and two regimes, whose counts are the trial's number; `longer` ones are of
    /// both.
    fn data(longer: bool) -> Dataset {
        let trial = |i: usize| Trial {
            session: "s".into(),
            counts: Array2::from_elem((60, 2), i as u16 + 1),
            task: vec![0; 60],
            regime: (0..60).map(|t| Some(if longer { t / 30 } else { i % 2 })).collect(),
            truth: DynamicsTruth::default(),
        };
        Dataset::for_calibration(&Recording {
            path: "test".into(),
            n_channels: 2,
            channels: None,
            bin_width_s: 0.05,
            regime_names: vec!["a".into(), "b".into()],
            trials: (0..6).map(trial).collect(),
            continuous: false,
        })
        .expect("a dataset")
    }

    #[test]
    fn where_no_change_is_seen_half_the_windows_go_on_with_another_regimes_trial() {
        let data = data(false);
        let settings = TrainingSettings {
            batch: 400,
            window_bins: 40,
            contrast_s: 0.5,
            ..TrainingSettings::default()
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let batches: Vec<Drawn> =
            (0..60).flat_map(|_| data.draw(&Draw::of(&settings, &data, false), &mut rng)).collect();
        let spliced = batches.iter().filter(|w| w.splice.is_some()).count();
        assert!((0.4..0.6).contains(&(spliced as f64 / batches.len() as f64)), "{spliced}");
        let (mut buffer, mut stays) = (CountsBuffer::default(), 0);
        for window in &batches {
            let counts = data.read(window, &mut buffer).expect("counts");
            assert_eq!(counts.len(), 2 * window.labels.len());
            let Some(Splice { at, stream, fade, .. }) = window.splice else { continue };
            let of = |bins: std::ops::Range<usize>, stream: usize| {
                let own = stream as f32 + 1.0;
                counts[2 * bins.start..2 * bins.end].iter().all(|c| *c == own)
            };
            assert!(of(0..at, window.stream) && of(at + fade..window.labels.len(), stream));
            let [before, after] =
                [at - 1, at].map(|t| data.labels[window.labels[t]].regime.expect("a label"));
            assert_eq!([before, after], [window.stream % 2, stream % 2]);
            assert_ne!(before, after);
            let rival = window.rival.expect("a rival");
            assert_eq!(rival.from, at);
            assert!(rival.to > at && rival.to <= window.labels.len());
            assert_eq!(rival.label == window.labels[at - 1] && !rival.enters, !rival.enters);
            stays += usize::from(!rival.enters);
        }
        assert!(stays > spliced / 3 && stays < 2 * spliced / 3, "{stays} of {spliced}");
    }

    #[test]
    fn trials_of_a_few_bins_are_learned_from_as_well() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for window_bins in [3, 6, 9] {
            let data = data(false);
            let settings = TrainingSettings { window_bins, ..TrainingSettings::default() };
            let windows = data.draw(&Draw::of(&settings, &data, false), &mut rng);
            let rivals = windows.iter().filter_map(|w| w.rival);
            assert!(rivals.count() == windows.len(), "{window_bins} bins");
            let spliced = windows.iter().filter(|w| w.splice.is_some()).count();
            assert!(spliced > windows.len() / 4, "{spliced} of {window_bins} bins");
        }
    }

    #[test]
    fn recordings_with_changes_and_calibrations_are_learned_as_they_are() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let settings = TrainingSettings { window_bins: 40, ..TrainingSettings::default() };
        for (longer, calibrates) in [(true, false), (false, true)] {
            let data = data(longer);
            let windows = data.draw(&Draw::of(&settings, &data, calibrates), &mut rng);
            assert!(windows.iter().all(|w| w.splice.is_none()));
        }
    }
}
