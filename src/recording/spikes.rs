//! Spike times of sorted units to binned trials, with intervals of time as labels.

use std::collections::HashMap;
use std::path::Path;

use super::grid::Grid;
use super::{BINS_MAX, DynamicsTruth, Recording, RecordingError, Trial, in_bins};
use crate::model::{COUNT_MAX, REGIMES_MAX};

/// Width of a bin where none is asked for, milliseconds.
const BIN_MS_DEFAULT: f64 = 10.0;
/// Largest number of counts of a recording, bins times channels.
const COUNTS_MAX: usize = 1 << 31;

/// How to take a file of spike times.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpikeSettings {
    /// Width of a bin, milliseconds; `None`: 10.
    pub bin_ms: Option<f64>,
    /// Column of a table of intervals that names each one's regime, as `table/column`.
    pub labels: Option<String>,
    /// Column of a table of intervals that names each one's task, as `table/column`.
    pub tasks: Option<String>,
    /// Groups of a Phy folder's clusters that are taken; empty: `good`.
    pub groups: Vec<String>,
}

impl SpikeSettings {
    /// The bin width, seconds.
    pub(super) fn bin_width_s(&self, path: &Path) -> Result<f64, RecordingError> {
        let bin_s = self.bin_ms.unwrap_or(BIN_MS_DEFAULT) / 1e3;
        if bin_s > 0.0 && bin_s <= 10.0 {
            return Ok(bin_s);
        }
        let found = format!("{} ms", 1e3 * bin_s);
        Err(RecordingError::key(path, "bin_ms", "a width above 0 and at most 10 s", found))
    }
}

/// A table of intervals: `(start, stop, value)`, seconds; those without a value are left out.
pub(super) type Intervals = Vec<(f64, f64, String)>;

/// Least and largest of some times.
pub(super) fn span(times: impl Iterator<Item = f64>) -> (f64, f64) {
    times.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), t| (a.min(t), b.max(t)))
}

/// What a file holds of a session.
pub(super) struct Trains<'a> {
    pub(super) path: &'a Path,
    /// Where its spike times are, for messages.
    pub(super) key: &'a str,
    /// Where its labels are, for messages.
    pub(super) labels_key: &'a str,
    pub(super) session: String,
    /// Names of the units, where they have any.
    pub(super) channels: Option<Vec<String>>,
    /// Spike times of each unit, seconds.
    pub(super) units: Vec<Vec<f64>>,
    pub(super) labels: Option<Intervals>,
    pub(super) tasks: Option<Intervals>,
    /// Times in which every unit was observed, in order and disjoint, seconds.
    pub(super) observed: Option<Vec<(f64, f64)>>,
    /// When the recording began, where that is known.
    pub(super) begin_s: Option<f64>,
}

/// Bins of a recording, numbered from its first.
struct Bins {
    grid: Grid,
    origin: i64,
    n: usize,
}

impl Bins {
    /// Over all spikes, and over the stretches of time that `marks` names.
    fn over(trains: &Trains<'_>, marks: &[(f64, f64)], bin_s: f64) -> Result<Self, RecordingError> {
        let units = &trains.units;
        let spikes = span(units.iter().flatten().copied());
        if spikes.0 > spikes.1 {
            return Err(trains.wrong(trains.key, "at least one spike", "none"));
        }
        let begin_s = trains.begin_s.map_or(spikes.0, |b| b.min(spikes.0));
        // Bins lie on multiples of their width: recordings of one clock share them.
        let grid = Grid::new(bin_s);
        let origin = marks.iter().map(|m| grid.bin(m.0)).fold(grid.bin(begin_s), i64::min);
        let last = marks.iter().map(|m| grid.last(m.1)).fold(grid.bin(spikes.1), i64::max);
        let n = usize::try_from(last.saturating_sub(origin)).unwrap_or(0).saturating_add(1);
        if n > BINS_MAX || n.saturating_mul(units.len()) > COUNTS_MAX {
            let expected =
                format!("at most {BINS_MAX} bins and {COUNTS_MAX} counts (see --bin-ms)");
            let found = format!("{n} bins of {} units", units.len());
            return Err(trains.wrong(trains.key, &expected, &found));
        }
        Ok(Self { grid, origin, n })
    }

    fn place(&self, bin: i64) -> usize {
        usize::try_from(bin - self.origin).unwrap_or(0).min(self.n)
    }

    /// A bin belongs to the interval that its middle lies in; to the last of several.
    fn marked(&self, intervals: &Intervals, names: &mut Vec<String>) -> Vec<Option<usize>> {
        let mut known = HashMap::new();
        let mut spans = Vec::with_capacity(intervals.len());
        for (start, stop, value) in intervals {
            let index = *known.entry(value.as_str()).or_insert_with(|| {
                names.push(value.clone());
                names.len() - 1
            });
            let (from, to) = (self.grid.first_middle(*start), self.grid.first_middle(*stop));
            spans.push((self.place(from), self.place(to), index));
        }
        let mut marked = vec![None; self.n];
        // From the last to the first, each bin once: where from here on none was marked.
        let mut free: Vec<usize> = (0..=self.n).collect();
        for (from, to, index) in spans.into_iter().rev() {
            let mut at = next_free(&mut free, from);
            while at < to {
                marked[at] = Some(index);
                free[at] = at + 1;
                at = next_free(&mut free, at);
            }
        }
        marked
    }

    fn counts(&self, units: &[Vec<f64>]) -> Vec<u16> {
        let mut counts = vec![0u16; self.n * units.len()];
        for (unit, times) in units.iter().enumerate() {
            for &t in times {
                let bin = self.place(self.grid.bin(t)).min(self.n - 1);
                let count = &mut counts[bin * units.len() + unit];
                *count = (*count + 1).min(COUNT_MAX);
            }
        }
        counts
    }
}

/// The first free place at `from` or after it; shortens the path of those that it passed.
fn next_free(free: &mut [usize], from: usize) -> usize {
    let mut at = from;
    while free[at] != at {
        free[at] = free[free[at]];
        at = free[at];
    }
    at
}

impl Trains<'_> {
    fn wrong(&self, key: &str, expected: &str, found: &str) -> RecordingError {
        RecordingError::key(self.path, key, expected, found)
    }

    /// One continuous trial, or one for each stretch in which all units were observed.
    pub(super) fn binned(self, bin_s: f64) -> Result<Recording, RecordingError> {
        let named = self.labels.iter().chain(&self.tasks).flatten().map(|(a, b, _)| (*a, *b));
        let marks: Vec<(f64, f64)> = named.chain(self.observed.iter().flatten().copied()).collect();
        let bins = Bins::over(&self, &marks, bin_s)?;
        let n = bins.n;
        let mut regime_names = Vec::new();
        let labels = self.labels.as_ref();
        let regime = labels.map_or_else(|| vec![None; n], |l| bins.marked(l, &mut regime_names));
        if regime_names.len() > REGIMES_MAX {
            let found = format!("{} ({}, ...)", regime_names.len(), regime_names[..3].join(", "));
            let expected = format!("at most {REGIMES_MAX} different labels");
            return Err(self.wrong(self.labels_key, &expected, &found));
        }
        let task: Vec<i64> = match &self.tasks {
            None => vec![0; n],
            Some(tasks) => {
                let marked = bins.marked(tasks, &mut Vec::new());
                marked.into_iter().map(|t| t.map_or(-1, |t| t as i64)).collect()
            }
        };
        let counts = bins.counts(&self.units);
        let width = self.units.len();
        let trial = |from: usize, to: usize| Trial {
            session: self.session.clone(),
            counts: in_bins(counts[from * width..to * width].to_vec(), width),
            task: task[from..to].to_vec(),
            regime: regime[from..to].to_vec(),
            truth: DynamicsTruth::default(),
        };
        let stretches = stretches(&self, &bins)?;
        // What lies between two stretches was not seen: they are no one stream.
        let continuous = stretches.len() == 1;
        Ok(Recording {
            path: self.path.to_owned(),
            n_channels: width,
            channels: self.channels,
            bin_width_s: bin_s,
            regime_names,
            trials: stretches.into_iter().map(|(from, to)| trial(from, to)).collect(),
            continuous,
        })
    }
}

/// Stretches of whole bins in which all units were observed.
fn stretches(trains: &Trains<'_>, bins: &Bins) -> Result<Vec<(usize, usize)>, RecordingError> {
    let Some(observed) = &trains.observed else { return Ok(vec![(0, bins.n)]) };
    let whole = |&(a, b): &(f64, f64)| {
        let (from, to) = bins.grid.whole(a, b);
        (bins.place(from), bins.place(to))
    };
    let stretches: Vec<_> = observed.iter().map(whole).filter(|(from, to)| from < to).collect();
    if stretches.is_empty() {
        let expected = "at least one whole bin in which all units were observed";
        return Err(trains.wrong("/units/obs_intervals", expected, "none"));
    }
    Ok(stretches)
}
