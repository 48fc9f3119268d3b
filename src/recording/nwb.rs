//! NWB files (Neurodata Without Borders 2): sorted units' spike times, binned, with a column of an
//! interval table as labels.

use std::path::Path;

use hdf5_reader::messages::datatype::Datatype;
use hdf5_reader::{Dataset, Hdf5File, OpenOptions};

use super::{DynamicsTruth, Recording, RecordingError, Trial};
use crate::model::{CHANNELS_MAX, REGIMES_MAX};

/// Width of a bin where none is asked for, milliseconds.
pub const BIN_MS_DEFAULT: f64 = 10.0;
/// Largest array read from a file, bytes, stored or as doubles.
const READ_BYTES_MAX: usize = 1 << 30;
/// Most that compression makes of a byte (deflate's 1032, and some)...
const EXPANSION_MAX: u64 = 1040;
/// ...beside what a short file may declare: what an array is filled with where nothing of it is stored.
const FILL_BYTES_MAX: u64 = 16 << 20;
/// Largest number of counts of a recording, bins times channels.
const COUNTS_MAX: usize = 1 << 31;
/// Most bins: more than a week of 10 ms.
const BINS_MAX: usize = 1 << 26;
/// Largest count of a bin.
const COUNT_MAX: u16 = 4096;

/// How to take an NWB file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NwbSettings {
    /// Width of a bin, milliseconds.
    pub bin_ms: Option<f64>,
    /// Column of an interval table that names each interval's regime, as `table/column`.
    pub labels: Option<String>,
    /// Column of an interval table that names each interval's task, as `table/column`.
    pub tasks: Option<String>,
}

struct File<'a> {
    path: &'a Path,
    file: Hdf5File,
    /// Bytes.
    length: u64,
}

/// An interval table's column: `(start, stop, value)`, seconds.
type Intervals = Vec<(f64, f64, String)>;

impl File<'_> {
    fn wrong(
        &self,
        key: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> RecordingError {
        RecordingError::key(self.path, key, expected, found)
    }

    fn dataset(&self, key: &str, expected: &str) -> Result<Dataset, RecordingError> {
        let dataset =
            self.file.dataset(key).map_err(|_| self.wrong(key, expected, "no such dataset"))?;
        // A declared length is believed as far as the file can hold it; values become doubles.
        let held = self.length.saturating_mul(EXPANSION_MAX).max(FILL_BYTES_MAX);
        let most = held.min(READ_BYTES_MAX as u64) / 8;
        // Lengths of 0 count as 1: the others are to be believable beside them as well.
        let declared = dataset.shape().iter().fold(1u64, |n, &d| n.saturating_mul(d.max(1)));
        if declared > most {
            let expected = format!("at most {most} values in this file");
            return Err(self.wrong(key, expected, declared.to_string()));
        }
        Ok(dataset)
    }

    /// Any numbers as `f64`.
    fn numbers(&self, key: &str, expected: &str) -> Result<Vec<f64>, RecordingError> {
        let dataset = self.dataset(key, expected)?;
        let unreadable =
            |e: hdf5_reader::error::Error| self.wrong(key, expected, format!("unreadable: {e}"));
        macro_rules! read {
            ($kind:ty) => {
                dataset
                    .read_array::<$kind>()
                    .map_err(unreadable)?
                    .iter()
                    .map(|&x| num_traits::cast(x).unwrap_or(f64::NAN))
                    .collect()
            };
        }
        let found: Vec<f64> = match dataset.dtype() {
            Datatype::FloatingPoint { size: 4, .. } => read!(f32),
            Datatype::FloatingPoint { size: 8, .. } => read!(f64),
            Datatype::FixedPoint { size: 1, signed: true, .. } => read!(i8),
            Datatype::FixedPoint { size: 2, signed: true, .. } => read!(i16),
            Datatype::FixedPoint { size: 4, signed: true, .. } => read!(i32),
            Datatype::FixedPoint { size: 8, signed: true, .. } => read!(i64),
            Datatype::FixedPoint { size: 1, signed: false, .. } => read!(u8),
            Datatype::FixedPoint { size: 2, signed: false, .. } => read!(u16),
            Datatype::FixedPoint { size: 4, signed: false, .. } => read!(u32),
            Datatype::FixedPoint { size: 8, signed: false, .. } => read!(u64),
            other => return Err(self.wrong(key, expected, format!("{other:?}"))),
        };
        Ok(found)
    }

    /// A column's values as text, numbers as they print.
    fn texts(&self, key: &str) -> Result<Vec<String>, RecordingError> {
        let expected = "a column of text, numbers or truth values";
        let dataset = self.dataset(key, expected)?;
        match dataset.dtype() {
            Datatype::FixedPoint { .. } | Datatype::FloatingPoint { .. } => {
                Ok(self.numbers(key, expected)?.iter().map(ToString::to_string).collect())
            }
            Datatype::Enum { members, .. } => {
                let values = dataset
                    .read_raw_bytes()
                    .map_err(|e| self.wrong(key, expected, format!("unreadable: {e}")))?;
                let name = |value: u8| {
                    members
                        .iter()
                        .find(|m| m.value.first() == Some(&value))
                        .map_or_else(|| value.to_string(), |m| m.name.to_lowercase())
                };
                Ok(values.into_iter().map(name).collect())
            }
            _ => dataset
                .read_strings()
                .map_err(|e| self.wrong(key, expected, format!("unreadable: {e}"))),
        }
    }

    fn intervals(&self, flag: &str, of: &str) -> Result<Intervals, RecordingError> {
        let Some((table, column)) = of.split_once('/') else {
            let expected = "a table and a column, e.g. trials/condition";
            return Err(self.wrong(flag, expected, format!("'{of}'")));
        };
        let group = format!("/intervals/{table}");
        if self.file.group(&group).is_err() {
            let known = self
                .file
                .group("/intervals")
                .and_then(|g| g.member_names())
                .map_or_else(|_| "no intervals at all".into(), |(groups, _)| groups.join(", "));
            return Err(self.wrong(&group, "a table of intervals", known));
        }
        if self.file.dataset(&format!("{group}/{column}")).is_err() {
            let known = self
                .file
                .group(&group)
                .and_then(|g| g.member_names())
                .map_or_else(|_| "nothing".into(), |(_, columns)| columns.join(", "));
            return Err(self.wrong(&group, format!("a column '{column}'"), known));
        }
        let times = |name: &str| self.numbers(&format!("{group}/{name}"), "times in seconds");
        let (start, stop) = (times("start_time")?, times("stop_time")?);
        let values = self.texts(&format!("{group}/{column}"))?;
        if start.len() != values.len() || stop.len() != values.len() {
            let expected = format!("{} start and stop times", values.len());
            let found = format!("{} and {}", start.len(), stop.len());
            return Err(self.wrong(&group, expected, found));
        }
        let rows = start.into_iter().zip(stop).zip(values).map(|((a, b), v)| (a, b, v));
        Ok(rows.filter(|(a, b, _)| a.is_finite() && b.is_finite()).collect())
    }

    /// Spike times of each unit, seconds.
    fn units(&self) -> Result<Vec<Vec<f64>>, RecordingError> {
        let key = "/units/spike_times";
        let times = self.numbers(key, "spike times of sorted units, in seconds")?;
        let ends = self.numbers("/units/spike_times_index", "where each unit's spike times end")?;
        if ends.is_empty() || ends.len() > CHANNELS_MAX {
            let expected = format!("1 to {CHANNELS_MAX} units");
            return Err(self.wrong("/units", expected, ends.len().to_string()));
        }
        let mut units = Vec::with_capacity(ends.len());
        let mut from = 0;
        for end in ends {
            let to = end as usize;
            if to < from || to > times.len() {
                let expected = format!("ends that rise to at most {}", times.len());
                return Err(self.wrong("/units/spike_times_index", expected, end.to_string()));
            }
            units.push(times[from..to].to_vec());
            from = to;
        }
        if let Some(bad) = times.iter().find(|t| !t.is_finite()) {
            return Err(self.wrong(key, "finite times", bad.to_string()));
        }
        Ok(units)
    }

    fn session(&self) -> String {
        let named = |key: &str| self.dataset(key, "a name").ok()?.read_string().ok();
        named("/general/session_id")
            .or_else(|| named("/identifier"))
            .filter(|name| !name.trim().is_empty())
            .unwrap_or_else(|| "0".into())
    }
}

/// Reads an NWB file into one continuous trial.
///
/// # Errors
/// Says which part of the file, what was expected and what was found.
pub fn read_nwb(path: &Path, how: &NwbSettings) -> Result<Recording, RecordingError> {
    if let Err(reason) = std::fs::File::open(path) {
        return Err(RecordingError::Io { path: path.to_owned(), reason });
    }
    let file = Hdf5File::open_with_options(path, options()).map_err(|e| no_hdf5(path, &e))?;
    let length = std::fs::metadata(path).map_or(0, |m| m.len());
    bins(&File { path, file, length }, how)
}

/// Reads an NWB file's bytes; `path` is for messages.
///
/// # Errors
/// As [`read_nwb`].
pub fn read_nwb_from(
    bytes: &[u8],
    path: &Path,
    how: &NwbSettings,
) -> Result<Recording, RecordingError> {
    let file =
        Hdf5File::from_bytes_with_options(bytes, options()).map_err(|e| no_hdf5(path, &e))?;
    bins(&File { path, file, length: bytes.len() as u64 }, how)
}

fn options() -> OpenOptions {
    OpenOptions { max_read_bytes: READ_BYTES_MAX, ..OpenOptions::default() }
}

fn no_hdf5(path: &Path, e: &hdf5_reader::error::Error) -> RecordingError {
    RecordingError::Key {
        path: path.to_owned(),
        key: "file".into(),
        expected: "an NWB file (HDF5)".into(),
        found: e.to_string(),
    }
}

/// One continuous trial of a file.
fn bins(file: &File<'_>, how: &NwbSettings) -> Result<Recording, RecordingError> {
    let (path, length) = (file.path, file.length);
    let end = file.file.superblock().eof_address;
    if length < end {
        return Err(file.wrong("file", format!("{end} bytes"), format!("{length}: cut short")));
    }
    let bin_s = how.bin_ms.unwrap_or(BIN_MS_DEFAULT) / 1e3;
    if !(bin_s > 0.0 && bin_s <= 10.0) {
        let found = format!("{} ms", 1e3 * bin_s);
        return Err(file.wrong("bin_ms", "a width above 0 and at most 10 s", found));
    }
    let units = file.units()?;
    let labels = how.labels.as_ref().map(|l| file.intervals("--labels", l)).transpose()?;
    let tasks = how.tasks.as_ref().map(|t| file.intervals("--tasks", t)).transpose()?;
    let marks = labels.iter().chain(&tasks).flatten().flat_map(|(a, b, _)| [*a, *b]);
    let times = units.iter().flatten().copied().chain(marks);
    let (first, last) =
        times.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), t| (a.min(t), b.max(t)));
    if first > last {
        return Err(file.wrong("/units/spike_times", "at least one spike", "none"));
    }
    // Bins lie on multiples of their width: recordings of one clock share them.
    let origin = (first / bin_s).floor();
    let bins = (((last / bin_s).floor() - origin) as usize).saturating_add(1);
    if bins > BINS_MAX || bins.saturating_mul(units.len()) > COUNTS_MAX {
        let expected = format!("at most {BINS_MAX} bins and {COUNTS_MAX} counts (see --bin-ms)");
        let found = format!("{bins} bins of {} units", units.len());
        return Err(file.wrong("/units/spike_times", expected, found));
    }
    let at = |t: f64| (((t / bin_s).floor() - origin).max(0.0) as usize).min(bins - 1);
    let n = units.len();
    let mut counts = vec![0u16; bins * n];
    for (unit, times) in units.iter().enumerate() {
        for &t in times {
            let count = &mut counts[at(t) * n + unit];
            *count = (*count + 1).min(COUNT_MAX);
        }
    }
    // A bin belongs to the interval that its middle lies in.
    let mark = |intervals: &Intervals, names: &mut Vec<String>| {
        let mut marked = vec![None; bins];
        for (start, stop, value) in intervals {
            let index = names.iter().position(|n| n == value).unwrap_or_else(|| {
                names.push(value.clone());
                names.len() - 1
            });
            let bin = |t: f64| ((t / bin_s - 0.5).ceil() - origin).clamp(0.0, bins as f64) as usize;
            let (from, to) = (bin(*start), bin(*stop));
            marked[from..to.max(from)].fill(Some(index));
        }
        marked
    };
    let mut regime_names = Vec::new();
    let regime =
        labels.map_or_else(|| vec![None; bins], |intervals| mark(&intervals, &mut regime_names));
    if regime_names.len() > REGIMES_MAX {
        let found = format!("{} ({}, ...)", regime_names.len(), regime_names[..3].join(", "));
        let expected = format!("at most {REGIMES_MAX} different labels");
        return Err(file.wrong(how.labels.as_deref().unwrap_or("labels"), expected, found));
    }
    let task = tasks.map_or_else(
        || vec![0; bins],
        |intervals| {
            let marked = mark(&intervals, &mut Vec::new());
            marked.into_iter().map(|t| t.map_or(-1, |t| t as i64)).collect()
        },
    );
    let session = file.session();
    Ok(Recording {
        path: path.to_owned(),
        n_channels: n,
        bin_width_s: bin_s,
        regime_names,
        trials: vec![Trial { session, counts, task, regime, truth: DynamicsTruth::default() }],
        continuous: true,
    })
}
