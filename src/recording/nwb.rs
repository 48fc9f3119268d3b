//! NWB files (Neurodata Without Borders 2): sorted units' spike times, binned, with a column of an
//! interval table as labels.

use std::path::Path;

use super::hdf5::File;
use super::spikes::{Intervals, SpikeSettings, Trains, span};
use super::{Recording, RecordingError};
use crate::model::CHANNELS_MAX;

/// Spike times that are all whole numbers, and further apart than this, are no seconds.
const WHOLE_SPAN_S: f64 = 10_000.0;
/// At least this many of them.
const WHOLE_TIMES: usize = 20;

fn intervals(file: &File<'_>, flag: &str, of: &str) -> Result<Intervals, RecordingError> {
    let Some((table, column)) = of.split_once('/') else {
        let expected = "a table and a column, e.g. trials/condition";
        return Err(file.wrong(flag, expected, format!("'{of}'")));
    };
    let group = format!("/intervals/{table}");
    let Some(found) = file.group(&group, "a table of intervals")? else {
        let all = file.group("/intervals", "tables of intervals")?;
        let known = all.and_then(|g| g.member_names().ok());
        let known =
            known.map_or_else(|| "no intervals at all".into(), |(groups, _)| groups.join(", "));
        return Err(file.wrong(&group, "a table of intervals", known));
    };
    if !file.has(&format!("{group}/{column}")) {
        let known =
            found.member_names().map_or_else(|_| "nothing".into(), |(_, names)| names.join(", "));
        return Err(file.wrong(&group, format!("a column '{column}'"), known));
    }
    let times = |name: &str| file.numbers(&format!("{group}/{name}"), "times in seconds");
    let (start, stop) = (times("start_time")?, times("stop_time")?);
    let values = file.column(&group, column)?;
    if start.len() != values.len() || stop.len() != values.len() {
        let expected = format!("{} start and stop times", values.len());
        let found = format!("{} and {}", start.len(), stop.len());
        return Err(file.wrong(&group, expected, found));
    }
    let rows = start.into_iter().zip(stop).zip(values).filter_map(|((a, b), v)| Some((a, b, v?)));
    Ok(rows.filter(|(a, b, _)| a.is_finite() && b.is_finite()).collect())
}

/// Spike times of each unit, seconds.
fn units(file: &File<'_>) -> Result<Vec<Vec<f64>>, RecordingError> {
    let key = "/units/spike_times";
    let times = file.numbers(key, "spike times of sorted units, in seconds")?;
    let ends = file.ends("/units/spike_times_index", times.len())?;
    if ends.is_empty() || ends.len() > CHANNELS_MAX {
        let expected = format!("1 to {CHANNELS_MAX} units");
        return Err(file.wrong("/units", expected, ends.len().to_string()));
    }
    if let Some(bad) = times.iter().find(|t| !t.is_finite()) {
        return Err(file.wrong(key, "finite times", bad.to_string()));
    }
    let (least, most) = span(times.iter().copied());
    let whole = times.len() >= WHOLE_TIMES && times.iter().all(|t| t.fract() == 0.0);
    if whole && most - least > WHOLE_SPAN_S {
        let found = format!(
            "whole numbers from {least} to {most}: are these samples? Divide them by the sampling \
             rate"
        );
        return Err(file.wrong(key, "spike times in seconds", found));
    }
    let mut from = 0;
    let unit = |to: usize| {
        let unit = times[from..to].to_vec();
        from = to;
        unit
    };
    Ok(ends.into_iter().map(unit).collect())
}

/// Table of electrodes, and columns in which their names are.
const ELECTRODES: &str = "/general/extracellular_ephys/electrodes";
const ELECTRODE_NAMES: [&str; 3] = ["channel_name", "electrode_name", "label"];

/// Names of the units, where the file has any: `unit_name`, else those of the electrodes where each
/// unit has its own. (Unit ids are row numbers and mean nothing in another file.)
fn unit_names(file: &File<'_>, n: usize) -> Option<Vec<String>> {
    let unread = |e: &RecordingError| tracing::warn!("units go by their order, not by names: {e}");
    let named = if file.has("/units/unit_name") {
        file.column("/units", "unit_name").inspect_err(unread).ok()?
    } else {
        let column = ELECTRODE_NAMES.iter().find(|c| file.has(&format!("{ELECTRODES}/{c}")))?;
        let names = file.column(ELECTRODES, column).inspect_err(unread).ok()?;
        let rows = file.numbers("/units/electrodes", "rows of electrodes").ok()?;
        let ends = file.ends("/units/electrodes_index", rows.len()).ok()?;
        let one_each = rows.len() == n && ends.iter().copied().eq(1..=n);
        let name = |row: &f64| names.get(*row as usize).cloned().flatten();
        if one_each { rows.iter().map(name).collect() } else { return None }
    };
    let names: Vec<String> = named.into_iter().collect::<Option<_>>()?;
    super::are_names(&names, n).then_some(names)
}

/// Times in which every unit was observed, in order and disjoint, seconds; `None` where the file
/// does not hold them.
fn observed(file: &File<'_>, n_units: usize) -> Result<Option<Vec<(f64, f64)>>, RecordingError> {
    let key = "/units/obs_intervals";
    if !file.has(key) {
        return Ok(None);
    }
    let flat = file.numbers(key, "start and stop times of observation, [intervals, 2]")?;
    let pairs: Vec<(f64, f64)> = flat.chunks_exact(2).map(|p| (p[0], p[1])).collect();
    let ends = file.ends("/units/obs_intervals_index", pairs.len())?;
    if ends.len() != n_units {
        let expected = format!("intervals of {n_units} units");
        return Err(file.wrong("/units/obs_intervals_index", expected, ends.len().to_string()));
    }
    let mut from = 0;
    let mut all: Option<Vec<(f64, f64)>> = None;
    for to in ends {
        let mut own = pairs[from..to].to_vec();
        from = to;
        own.retain(|(a, b)| a < b);
        own.sort_by(|x, y| x.0.total_cmp(&y.0));
        // A unit without observation intervals counts as observed.
        if own.is_empty() {
            continue;
        }
        all = Some(match all {
            None => merged(own),
            Some(before) => common(&before, &merged(own)),
        });
    }
    if all.as_ref().is_some_and(Vec::is_empty) {
        let expected = "times in which all units were observed";
        return Err(file.wrong(key, expected, "none: leave units out that were not"));
    }
    Ok(all)
}

/// Intervals in order, those that touch as one.
fn merged(sorted: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::new();
    for (a, b) in sorted {
        match out.last_mut() {
            Some(last) if a <= last.1 => last.1 = last.1.max(b),
            _ => out.push((a, b)),
        }
    }
    out
}

/// What two lists of intervals, each in order and apart, have in common.
fn common(x: &[(f64, f64)], y: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while let (Some(a), Some(b)) = (x.get(i), y.get(j)) {
        let (from, to) = (a.0.max(b.0), a.1.min(b.1));
        if from < to {
            out.push((from, to));
        }
        if a.1 < b.1 { i += 1 } else { j += 1 }
    }
    out
}

fn session(file: &File<'_>) -> Option<String> {
    let named = |key: &str| file.text(key).filter(|name| !name.trim().is_empty());
    named("/general/session_id").or_else(|| named("/identifier"))
}

/// Reads an NWB file: one continuous trial, or one for each stretch in which all units were
/// observed.
///
/// # Errors
/// Names the part of the file, with what was expected and what was found.
pub fn read_nwb(path: &Path, how: &SpikeSettings) -> Result<Recording, RecordingError> {
    bins(&File::open(path)?, how)
}

/// Reads an NWB file's bytes; `path` is for messages.
///
/// # Errors
/// As [`read_nwb`].
pub fn read_nwb_from(
    bytes: &[u8],
    path: &Path,
    how: &SpikeSettings,
) -> Result<Recording, RecordingError> {
    bins(&File::of(bytes, path)?, how)
}

/// The trials of a file.
fn bins(file: &File<'_>, how: &SpikeSettings) -> Result<Recording, RecordingError> {
    let bin_s = how.bin_width_s(file.path)?;
    let units = units(file)?;
    let labels = how.labels.as_ref().map(|l| intervals(file, "--labels", l)).transpose()?;
    let tasks = how.tasks.as_ref().map(|t| intervals(file, "--tasks", t)).transpose()?;
    let observed = observed(file, units.len())?;
    let trains = Trains {
        path: file.path,
        key: "/units/spike_times",
        labels_key: how.labels.as_deref().unwrap_or("labels"),
        session: session(file).unwrap_or_else(|| super::name_of(file.path)),
        channels: unit_names(file, units.len()),
        units,
        labels,
        tasks,
        observed,
        begin_s: None,
    };
    trains.binned(bin_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_in_common_are_those_of_both() {
        let x = merged(vec![(0.0, 1.0), (1.0, 2.0), (3.0, 5.0)]);
        assert_eq!(x, [(0.0, 2.0), (3.0, 5.0)]);
        assert_eq!(common(&x, &[(0.5, 3.5), (4.0, 9.0)]), [(0.5, 2.0), (3.0, 3.5), (4.0, 5.0)]);
        assert_eq!(common(&x, &[(2.0, 3.0)]), []);
    }
}
