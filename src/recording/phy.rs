//! Folders of Phy and Kilosort: `spike_times.npy` in samples, `spike_clusters.npy`, the clusters'
//! groups as tables, and `params.py` for the sampling rate.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::npy::{Array, Values};
use super::spikes::{Intervals, SpikeSettings, Trains};
use super::{NAMES_TOLD, Recording, RecordingError};
use crate::files;
use crate::model::CHANNELS_MAX;

/// Spike times of a folder, samples.
const TIMES: &str = "spike_times.npy";
/// The cluster of each spike; templates before anybody has curated.
const CLUSTERS: [&str; 2] = ["spike_clusters.npy", "spike_templates.npy"];
/// Tables with the clusters' groups, the better first, and the columns that have them.
const GROUPS: [(&str, &[&str]); 3] = [
    ("cluster_group.tsv", &["group"]),
    ("cluster_info.tsv", &["group", "KSLabel"]),
    ("cluster_KSLabel.tsv", &["KSLabel"]),
];
/// Phy's parameters, among them the sampling rate.
const PARAMETERS: &str = "params.py";
/// The group that is taken where none is named.
const GOOD: &str = "good";
/// Longest table, bytes.
const TABLE_BYTES_MAX: u64 = 256 << 20;

/// Whether a path is such a folder.
#[must_use]
pub(crate) fn is_phy(path: &Path) -> bool {
    path.join(TIMES).is_file()
}

/// The files of such a folder that a recording is made of, those that are there.
#[must_use]
pub(crate) fn phy_files(folder: &Path) -> Vec<PathBuf> {
    let groups = GROUPS.iter().map(|g| g.0);
    let names = std::iter::once(TIMES).chain(CLUSTERS).chain(groups).chain([PARAMETERS]);
    names.map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

fn array(path: &Path) -> Result<Vec<f64>, RecordingError> {
    let io = |reason| RecordingError::Io { path: path.to_owned(), reason };
    let mut reader = BufReader::new(files::open(path).map_err(io)?);
    let array = Array::read(&mut reader).map_err(io)?;
    let flat = array.shape.iter().filter(|&&n| n != 1).count() <= 1;
    match array.values {
        Values::Numbers(values) if flat => Ok(values),
        Values::Bytes(values) if flat => Ok(values.into_iter().map(f64::from).collect()),
        _ => {
            let found = format!("shape {:?}", array.shape);
            Err(RecordingError::key(path, "array", "numbers of one dimension", found))
        }
    }
}

fn text(path: &Path) -> Result<String, RecordingError> {
    let io = |reason| RecordingError::Io { path: path.to_owned(), reason };
    files::read_text(path, TABLE_BYTES_MAX).map_err(io)
}

/// A table's rows, each with its cells by their columns' names: tabs between them, or commas.
fn rows(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines().filter(|l| !l.trim().is_empty());
    let Some(head) = lines.next() else { return Vec::new() };
    let between = if head.contains('\t') { '\t' } else { ',' };
    let cells = |line: &str| -> Vec<String> {
        line.split(between).map(|c| c.trim().trim_matches('"').to_owned()).collect()
    };
    let head = cells(head);
    lines.map(|line| head.iter().cloned().zip(cells(line)).collect()).collect()
}

/// The group of each cluster that has one.
fn groups(folder: &Path) -> Result<BTreeMap<i64, String>, RecordingError> {
    let mut groups = BTreeMap::new();
    // From the worse to the better: later ones replace.
    for (file, columns) in GROUPS.iter().rev() {
        let path = folder.join(file);
        if !path.is_file() {
            continue;
        }
        for row in rows(&text(&path)?) {
            let cell = |name: &str| row.get(name).filter(|c| !c.is_empty());
            let id = cell("cluster_id").or_else(|| cell("id")).and_then(|c| c.parse().ok());
            let group = columns.iter().find_map(|c| cell(c));
            if let (Some(id), Some(group)) = (id, group) {
                groups.insert(id, group.clone());
            }
        }
    }
    Ok(groups)
}

/// Samples a second, by `params.py`.
fn sample_rate_hz(folder: &Path) -> Result<f64, RecordingError> {
    let path = folder.join(PARAMETERS);
    let wrong = |found: String| {
        let expected = "a line such as sample_rate = 30000.0";
        RecordingError::key(&path, "sample_rate", expected, found)
    };
    if !path.is_file() {
        return Err(wrong("no such file".into()));
    }
    let text = text(&path)?;
    let line = text.lines().find_map(|l| {
        let (key, value) = l.split_once('=')?;
        (key.trim() == "sample_rate").then(|| value.split('#').next().unwrap_or("").trim())
    });
    let Some(value) = line else { return Err(wrong("none".into())) };
    match value.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(wrong(value.into())),
    }
}

/// Intervals of a table in the folder, `trials.csv/condition`: its columns `start_time` and
/// `stop_time` are in seconds of the recording, as NWB names them.
fn intervals(folder: &Path, flag: &str, of: &str) -> Result<Intervals, RecordingError> {
    let Some((table, column)) = of.rsplit_once('/') else {
        let expected = "a table of the folder and a column, e.g. trials.csv/condition";
        return Err(RecordingError::key(folder, flag, expected, format!("'{of}'")));
    };
    let path = folder.join(table);
    let rows = rows(&text(&path)?);
    let known = |row: &BTreeMap<String, String>| row.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut all = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let cell = |name: &str| {
            row.get(name).ok_or_else(|| {
                let expected = format!("a column '{name}' in each row");
                let found = format!("{} in row {}", known(row), i + 1);
                RecordingError::key(&path, name, expected, found)
            })
        };
        let time = |name: &str| {
            let text = cell(name)?;
            text.parse::<f64>().ok().filter(|t| t.is_finite()).ok_or_else(|| {
                let found = format!("'{text}' in row {}", i + 1);
                RecordingError::key(&path, name, "times in seconds", found)
            })
        };
        let value = cell(column)?;
        if !value.is_empty() {
            all.push((time("start_time")?, time("stop_time")?, value.clone()));
        }
    }
    Ok(all)
}

/// Reads a folder of Phy or Kilosort: one continuous trial from time 0. Clusters of the groups
/// asked for are channels, named by their numbers, the smallest first.
///
/// # Errors
/// Names the file, with what was expected and what was found.
pub(crate) fn read_phy(folder: &Path, how: &SpikeSettings) -> Result<Recording, RecordingError> {
    let bin_s = how.bin_width_s(folder)?;
    let rate = sample_rate_hz(folder)?;
    let samples = array(&folder.join(TIMES))?;
    let clusters_file = folder.join(CLUSTERS[0]);
    let clusters_file =
        if clusters_file.is_file() { clusters_file } else { folder.join(CLUSTERS[1]) };
    let clusters = array(&clusters_file)?;
    if clusters.len() != samples.len() {
        let expected = format!("{} clusters as there are spikes", samples.len());
        let found = clusters.len().to_string();
        return Err(RecordingError::key(&clusters_file, "array", expected, found));
    }
    let numbers = taken(folder, &clusters, &how.groups)?;
    let place: BTreeMap<i64, usize> = numbers.iter().copied().zip(0..).collect();
    let mut units = vec![Vec::new(); numbers.len()];
    for (&sample, &cluster) in samples.iter().zip(&clusters) {
        if !(sample >= 0.0 && sample.is_finite()) {
            let found = sample.to_string();
            return Err(RecordingError::key(&folder.join(TIMES), "array", "samples from 0", found));
        }
        if let Some(&unit) = place.get(&(cluster as i64)) {
            units[unit].push(sample / rate);
        }
    }
    let labels = how.labels.as_ref().map(|l| intervals(folder, "--labels", l)).transpose()?;
    let tasks = how.tasks.as_ref().map(|t| intervals(folder, "--tasks", t)).transpose()?;
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = absolute.file_name().map(|n| n.to_string_lossy().into_owned());
    let trains = Trains {
        path: folder,
        key: TIMES,
        labels_key: how.labels.as_deref().unwrap_or("labels"),
        session: name.filter(|n| !n.is_empty()).unwrap_or_else(|| "0".into()),
        channels: Some(numbers.iter().map(ToString::to_string).collect()),
        units,
        labels,
        tasks,
        observed: None,
        begin_s: Some(0.0),
    };
    trains.binned(bin_s)
}

/// Clusters of the groups asked for, in order.
fn taken(folder: &Path, clusters: &[f64], asked: &[String]) -> Result<Vec<i64>, RecordingError> {
    let groups = groups(folder)?;
    let asked: Vec<&str> =
        if asked.is_empty() { vec![GOOD] } else { asked.iter().map(String::as_str).collect() };
    let all: BTreeSet<i64> = clusters.iter().map(|&c| c as i64).collect();
    let wanted = |n: &i64| {
        asked.contains(&"all") || groups.get(n).is_some_and(|g| asked.contains(&g.as_str()))
    };
    let taken: Vec<i64> = all.iter().copied().filter(wanted).collect();
    if taken.is_empty() || taken.len() > CHANNELS_MAX {
        let expected = format!(
            "1 to {CHANNELS_MAX} clusters of the group {} (--groups; 'all' takes every one)",
            asked.join(" or ")
        );
        let known: BTreeSet<&str> = groups.values().map(String::as_str).collect();
        let known: Vec<&str> = known.into_iter().take(NAMES_TOLD).collect();
        let found = match (taken.len(), known.is_empty()) {
            (0, true) => "no table of groups".to_owned(),
            (0, false) => format!("clusters of {} alone", known.join(", ")),
            (n, _) => n.to_string(),
        };
        return Err(RecordingError::key(folder, "clusters", expected, found));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::npy;

    fn write(folder: &Path, files: &[(&str, &str)], times: &[i64], clusters: &[i64]) {
        let put = |name: &str, values: &[i64]| {
            let mut file = std::fs::File::create(folder.join(name)).expect("made");
            npy::write_i64(&mut file, &[values.len()], values).expect("written");
        };
        put(TIMES, times);
        put(CLUSTERS[0], clusters);
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("written");
        }
    }

    #[test]
    fn good_clusters_are_channels_from_time_0_and_a_table_labels_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let info = "cluster_id\tKSLabel\tgroup\n7\tgood\tgood\n2\tgood\t\n9\tmua\tnoise\n";
        let trials = "start_time,stop_time,condition\n0.00,0.02,rest\n0.02,0.05,move\n";
        let files = [
            ("params.py", "dat_path = 'x'\nsample_rate = 1000. # Hz\n"),
            ("cluster_info.tsv", info),
            ("trials.csv", trials),
        ];
        write(folder.path(), &files, &[12, 13, 31, 44], &[7, 9, 2, 7]);
        assert!(is_phy(folder.path()) && phy_files(folder.path()).len() == 4);
        let how = SpikeSettings {
            labels: Some("trials.csv/condition".into()),
            ..SpikeSettings::default()
        };
        let found = read_phy(folder.path(), &how).expect("read");
        assert_eq!(found.channels, Some(vec!["2".to_owned(), "7".to_owned()]));
        let trial = &found.trials[0];
        assert_eq!(
            crate::model::values(&trial.counts),
            [0, 0, 0, 1, 0, 0, 1, 0, 0, 1],
            "bins of 10 ms: cluster 2, cluster 7"
        );
        assert_eq!(trial.regime, [Some(0), Some(0), Some(1), Some(1), Some(1)]);
        let all = SpikeSettings { groups: vec!["all".into()], ..SpikeSettings::default() };
        assert_eq!(read_phy(folder.path(), &all).expect("read").n_channels, 3);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &[], &[1, 2], &[1, 2]);
        let error = |how: &SpikeSettings| {
            read_phy(folder.path(), how).expect_err("must refuse").to_string()
        };
        let plain = SpikeSettings::default();
        assert!(error(&plain).contains("params.py"), "{}", error(&plain));
        std::fs::write(folder.path().join("params.py"), "sample_rate = 30000\n").expect("written");
        assert!(error(&plain).contains("no table of groups"), "{}", error(&plain));
        let tsv = folder.path().join("cluster_group.tsv");
        std::fs::write(&tsv, "cluster_id\tgroup\n1\tmua\n").expect("written");
        assert!(error(&plain).contains("clusters of mua alone"), "{}", error(&plain));
        std::fs::write(&tsv, "cluster_id\tgroup\n1\tgood\n").expect("written");
        let table = SpikeSettings { labels: Some("t.csv/x".into()), ..SpikeSettings::default() };
        assert!(error(&table).contains("t.csv"), "{}", error(&table));
        std::fs::write(folder.path().join("t.csv"), "start_time,x\n1,a\n").expect("written");
        assert!(error(&table).contains("'stop_time'"), "{}", error(&table));
    }
}
