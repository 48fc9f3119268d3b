//! What training learns from: streams of counts with one embedding per session, task and regime.

use std::collections::BTreeMap;
use std::ops::Range;

use super::runs::Runs;
use crate::model::REGIMES_MAX;
use crate::recording::{Counts, Recording, Spool, Trial};

/// Held-out bins that are kept in all.
const HELD_OUT_BINS_MAX: usize = 120_000;

/// Why recordings cannot be trained on together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// Nothing to learn from.
    #[error("expected at least one recording with labelled bins, found none")]
    Empty,
    /// Recordings with different bins.
    #[error(
        "{path}: expected bins of {expected_ms} ms as in the other recordings, found {found_ms} ms \
         (see --bin-ms)"
    )]
    BinWidth {
        /// The file that differs.
        path: String,
        /// Width of the first recording, milliseconds.
        expected_ms: f64,
        /// Width found, milliseconds.
        found_ms: f64,
    },
    /// One session name with two channel counts.
    #[error(
        "{path}: session '{session}': expected {expected} channels as elsewhere, found {found}"
    )]
    Channels {
        /// The file that differs.
        path: String,
        session: String,
        /// Channels seen first.
        expected: usize,
        /// Channels found.
        found: usize,
    },
    /// One session name with two lists of channels.
    #[error(
        "{path}: session '{session}': expected the channels of the session's other recordings, \
         found others ({found}); another --session names another session"
    )]
    ChannelNames {
        /// The file that differs.
        path: String,
        session: String,
        /// A channel that the others lack, or that has another place.
        found: String,
    },
    /// Too many regimes over all recordings.
    #[error("expected at most {REGIMES_MAX} regimes over all recordings, found {0}")]
    Regimes(usize),
    /// The file that counts are kept in while training could not be written.
    #[error("{path}: cannot keep its counts for the training: {reason}")]
    Spool {
        /// The recording.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// A regime that a session shows nowhere in its training part.
    #[error(
        "session '{session}': expected bins of every regime in the training part, found none of \
         '{regime}'"
    )]
    RegimeMissing {
        session: String,
        /// The regime without bins.
        regime: String,
    },
}

/// One embedding's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Label {
    pub(crate) session: usize,
    /// Index into the dataset's regimes; `None` is unlabelled.
    pub(crate) regime: Option<usize>,
    pub(crate) task: i64,
}

/// Consecutive bins of one session.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) session: usize,
    pub(crate) counts: Counts,
    pub(crate) label_of: Runs,
}

/// A session's name and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionShape {
    /// The session's name.
    pub name: String,
    /// Channels per bin.
    pub n_channels: usize,
    /// Their names, where every recording of the session has them.
    pub channels: Option<Vec<String>>,
}

/// A stream kept out of training, with its truth.
#[derive(Debug, Clone)]
pub struct HeldOut {
    /// Index of its session.
    pub session: usize,
    pub counts: Counts,
    /// Regime per bin.
    pub regime: Vec<Option<usize>>,
    /// Task of its first bin.
    pub task: i64,
    /// True largest exponents of its task, without noise and with, 1/s; `None` where the recording
    /// does not hold them, or it is of several tasks.
    pub exponents: [Option<f64>; 2],
}

/// Recordings made ready for training.
#[derive(Debug)]
pub struct Dataset {
    /// Width of a bin, seconds.
    pub bin_width_s: f64,
    /// Regimes over all recordings, in order of appearance.
    pub regime_names: Vec<String>,
    /// Sessions in the order of their first recordings.
    pub sessions: Vec<SessionShape>,
    /// Largest count of a bin.
    pub count_max: u16,
    /// Streams kept out.
    pub held_out: Vec<HeldOut>,
    /// Whether these show tasks that are not learned, rather than more of those that are.
    pub held_out_tasks: bool,
    pub(crate) streams: Vec<Stream>,
    pub(crate) labels: Vec<Label>,
    /// True largest exponents of each label's task, without noise and with, 1/s, where recordings
    /// hold them.
    pub(crate) exponents: Vec<[Option<f64>; 2]>,
    /// Whether all there is to each label's task is one stable fixed point.
    pub(crate) one_point: Vec<bool>,
    pub(crate) steps: StepCounts,
    /// The same with unlabelled bins left out: what follows them was entered from what came before.
    pub(crate) labelled_steps: StepCounts,
}

/// How often one bin's regime (or none) was followed by another's: what hazard rates are learned
/// from.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepCounts {
    /// Bins of a regime that another bin follows.
    pub(crate) bins: BTreeMap<Option<usize>, usize>,
    /// Changes of regime or task from bin to bin.
    pub(crate) changes: BTreeMap<(Option<usize>, Option<usize>), usize>,
}

impl StepCounts {
    /// Adds a stream's labels, `(regime, task)` of each bin.
    fn add(&mut self, labels: impl Iterator<Item = (Option<usize>, i64)>) {
        let mut before = None;
        for now in labels {
            if let Some(before) = before.replace(now) {
                *self.bins.entry(before.0).or_default() += 1;
                if before != now {
                    *self.changes.entry((before.0, now.0)).or_default() += 1;
                }
            }
        }
    }
}

impl Dataset {
    /// For calibration: all of a recording, labelled or not.
    ///
    /// # Errors
    /// As [`Self::for_pretraining`], but labels are not asked for.
    pub fn for_calibration(recording: &Recording) -> Result<Self, DatasetError> {
        let mut data = Self::empty();
        data.add(recording, None)?;
        Ok(data)
    }

    /// Nothing yet.
    pub(super) fn empty() -> Self {
        Self {
            bin_width_s: 0.0,
            regime_names: Vec::new(),
            sessions: Vec::new(),
            count_max: 0,
            held_out: Vec::new(),
            held_out_tasks: false,
            streams: Vec::new(),
            labels: Vec::new(),
            exponents: Vec::new(),
            one_point: Vec::new(),
            steps: StepCounts::default(),
            labelled_steps: StepCounts::default(),
        }
    }

    /// Takes up a recording, all of it to be learned.
    pub(super) fn add(
        &mut self,
        recording: &Recording,
        mut spool: Option<&mut Spool>,
    ) -> Result<(), DatasetError> {
        if self.sessions.is_empty() {
            self.bin_width_s = recording.bin_width_s;
        }
        self.check(recording)?;
        let largest = recording.trials.iter().flat_map(|t| &t.counts).max().copied();
        self.count_max = self.count_max.max(largest.unwrap_or(0));
        let regimes: Vec<usize> =
            recording.regime_names.iter().map(|n| self.regime_index(n)).collect();
        if self.regime_names.len() > REGIMES_MAX {
            return Err(DatasetError::Regimes(self.regime_names.len()));
        }
        for trial in recording.streams() {
            let label = |t: usize| (trial.regime[t].map(|r| regimes[r]), trial.task[t]);
            let labels = (0..trial.n_bins()).map(label);
            self.steps.add(labels.clone());
            self.labelled_steps.add(labels.filter(|l| l.0.is_some()));
            let stream = self.stream(trial, &regimes, spool.as_deref_mut()).map_err(|e| {
                let path = recording.path.display().to_string();
                DatasetError::Spool { path, reason: e.to_string() }
            })?;
            self.streams.push(stream);
        }
        Ok(())
    }

    /// The same with some blocks held out; `blocks` has each bin's, by stream.
    pub(super) fn part(&self, blocks: &[Runs], is_held: impl Fn(usize) -> bool) -> Self {
        let mut part = Self {
            bin_width_s: self.bin_width_s,
            regime_names: self.regime_names.clone(),
            sessions: self.sessions.clone(),
            count_max: self.count_max,
            steps: self.steps.clone(),
            labelled_steps: self.labelled_steps.clone(),
            ..Self::empty()
        };
        for (stream, blocks) in self.streams.iter().zip(blocks) {
            let held = blocks.each().flat_map(|(from, to, block)| {
                std::iter::repeat_n(usize::from(is_held(block)), to - from)
            });
            for (from, to, held) in Runs::of(held).each() {
                if held == 1 {
                    part.hold_out(self, stream, from..to);
                } else {
                    part.learn(self, stream, from..to);
                }
            }
        }
        part
    }

    fn learn(&mut self, of: &Self, stream: &Stream, bins: Range<usize>) {
        let label_of =
            Runs::of(stream.label_of.read(bins.start, bins.len()).into_iter().map(|l| {
                let label = of.labels[l];
                let at = position_or_push(&mut self.labels, |x| *x == label, || label);
                self.exponents.resize(self.labels.len(), of.exponents[l]);
                self.one_point.resize(self.labels.len(), of.one_point[l]);
                at
            }));
        let counts = stream.counts.slice(bins);
        self.streams.push(Stream { session: stream.session, counts, label_of });
    }

    fn hold_out(&mut self, of: &Self, stream: &Stream, bins: Range<usize>) {
        let labels = stream.label_of.read(bins.start, bins.len());
        let exponents = stream.label_of.only().map_or([None; 2], |l| of.exponents[l]);
        let Some(&first) = labels.first() else { return };
        self.held_out.push(HeldOut {
            session: stream.session,
            counts: stream.counts.slice(bins),
            task: of.labels[first].task,
            regime: labels.into_iter().map(|l| of.labels[l].regime).collect(),
            exponents,
        });
    }

    /// Cuts the longest held-out streams so that all together are at most [`HELD_OUT_BINS_MAX`]:
    /// every validation plays them.
    pub(super) fn limit_held_out(&mut self) {
        let mut lengths: Vec<usize> = self.held_out.iter().map(|s| s.regime.len()).collect();
        lengths.sort_unstable();
        let mut left = HELD_OUT_BINS_MAX;
        let longest = lengths
            .iter()
            .enumerate()
            .find_map(|(i, &n)| {
                let share = left / (lengths.len() - i);
                left -= n.min(share);
                (n > share).then_some(share)
            })
            .unwrap_or(usize::MAX);
        for stream in &mut self.held_out {
            stream.regime.truncate(longest);
            stream.counts.truncate(longest);
        }
    }

    fn check(&mut self, recording: &Recording) -> Result<(), DatasetError> {
        let path = recording.path.display().to_string();
        if (recording.bin_width_s - self.bin_width_s).abs() > 1e-9 {
            return Err(DatasetError::BinWidth {
                path,
                expected_ms: self.bin_width_s * 1e3,
                found_ms: recording.bin_width_s * 1e3,
            });
        }
        for trial in &recording.trials {
            let known = self.sessions.iter().any(|s| s.name == trial.session);
            let at = self.session_index(&trial.session, recording.n_channels);
            let expected = self.sessions[at].n_channels;
            if !known {
                self.sessions[at].channels.clone_from(&recording.channels);
            }
            let differs = match (&self.sessions[at].channels, &recording.channels) {
                (Some(a), Some(b)) => b.iter().zip(a).find(|(b, a)| a != b).map(|(b, _)| b),
                // Without names on one side, the channels cannot be matched.
                _ => {
                    self.sessions[at].channels = None;
                    None
                }
            };
            if let Some(found) = differs.filter(|_| expected == recording.n_channels) {
                let (session, found) = (trial.session.clone(), found.clone());
                return Err(DatasetError::ChannelNames { path, session, found });
            }
            if expected != recording.n_channels {
                return Err(DatasetError::Channels {
                    path,
                    session: trial.session.clone(),
                    expected,
                    found: recording.n_channels,
                });
            }
        }
        Ok(())
    }

    /// Bins in all training streams.
    #[must_use]
    pub(crate) fn training_bins(&self) -> usize {
        self.streams.iter().map(|s| s.label_of.len()).sum()
    }

    /// Fraction of bins without a label.
    pub(crate) fn unlabelled_share(&self) -> f64 {
        let all: usize = self.steps.bins.values().sum();
        let unlabelled = self.steps.bins.get(&None).copied().unwrap_or(0);
        unlabelled as f64 / all.max(1) as f64
    }

    pub(super) fn every_regime_shown(&self) -> Result<(), DatasetError> {
        for (s, session) in self.sessions.iter().enumerate() {
            for (r, regime) in self.regime_names.iter().enumerate() {
                if !self.labels.iter().any(|l| l.session == s && l.regime == Some(r)) {
                    return Err(DatasetError::RegimeMissing {
                        session: session.name.clone(),
                        regime: regime.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn regime_index(&mut self, name: &str) -> usize {
        position_or_push(&mut self.regime_names, |n| n == name, || name.to_owned())
    }

    fn session_index(&mut self, name: &str, n_channels: usize) -> usize {
        let shape = || SessionShape { name: name.to_owned(), n_channels, channels: None };
        position_or_push(&mut self.sessions, |s| s.name == name, shape)
    }

    fn stream(
        &mut self,
        trial: Trial,
        regimes: &[usize],
        spool: Option<&mut Spool>,
    ) -> std::io::Result<Stream> {
        let n_channels = trial.counts.ncols();
        let session = self.session_index(&trial.session, n_channels);
        let labels = trial.task.iter().zip(&trial.regime).map(|(&task, regime)| {
            let label = Label { session, regime: regime.map(|r| regimes[r]), task };
            position_or_push(&mut self.labels, |l| *l == label, || label)
        });
        let label_of = Runs::of(labels);
        self.exponents.resize(self.labels.len(), [None; 2]);
        self.one_point.resize(self.labels.len(), false);
        // Of one task: its truth holds for each of its trials.
        if let Some(label) = label_of.first() {
            self.exponents[label] = exponents(&trial);
            let points = (trial.truth.stable_points, trial.truth.unstable_points);
            self.one_point[label] = points == (Some(1.0), Some(0.0));
        }
        let counts = match spool {
            Some(spool) => spool.keep(&trial.counts)?,
            None => Counts::in_memory(trial.counts),
        };
        Ok(Stream { session, counts, label_of })
    }
}

/// The truth of a trial of one task.
fn exponents(trial: &Trial) -> [Option<f64>; 2] {
    let labels = || trial.task.iter().zip(&trial.regime);
    if labels().any(|l| Some(l) != labels().next()) {
        return [None; 2];
    }
    [trial.truth.lyapunov_max_noise_free_per_s, trial.truth.lyapunov_max_per_s]
}

fn position_or_push<T>(
    list: &mut Vec<T>,
    same: impl FnMut(&T) -> bool,
    make: impl FnOnce() -> T,
) -> usize {
    list.iter().position(same).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    })
}
