//! Reading `.npz`: see docs/recordings.md for the keys; `archive.rs` writes them.

use std::collections::HashMap;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use zip::ZipArchive;

use super::keys::{Keys, check_names};
use super::npy::{Array, Values};
use super::{BINS_MAX, DynamicsTruth, Recording, RecordingError, TRUTH_KEYS, Trial, in_bins};
use crate::model::{CHANNELS_MAX, COUNT_MAX, REGIMES_MAX};

/// Most trials of a recording.
const TRIALS_MAX: usize = 1 << 20;
const KEYS: [&str; 10] = [
    "channels",
    "counts",
    "bin_width_s",
    "trial_start",
    "session",
    "task",
    "target",
    "regime",
    "regime_names",
    "continuous",
];

/// Reads a recording.
///
/// # Errors
/// Names the file and the key, with what was expected and what was found.
pub fn read(path: &Path) -> Result<Recording, RecordingError> {
    let io = |reason| RecordingError::Io { path: path.to_owned(), reason };
    if super::is_zarr(path) {
        return Err(super::zarr(path));
    }
    read_from(BufReader::new(crate::files::open(path).map_err(io)?), path)
}

/// Reads a recording, and whatever `see` makes of the file's bytes: for a file that is read once.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_seen<T>(
    path: &Path,
    see: impl FnOnce(&[u8]) -> T,
) -> Result<(Recording, T), RecordingError> {
    let io = |reason| RecordingError::Io { path: path.to_owned(), reason };
    if super::is_zarr(path) {
        return Err(super::zarr(path));
    }
    let mut bytes = Vec::new();
    crate::files::open(path).map_err(io)?.read_to_end(&mut bytes).map_err(io)?;
    let seen = see(&bytes);
    Ok((read_from(Cursor::new(bytes), path)?, seen))
}

/// Reads a recording from an open file's bytes; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn read_from(file: impl Read + Seek, path: &Path) -> Result<Recording, RecordingError> {
    let archive = |e: &dyn std::fmt::Display| RecordingError::Archive {
        path: path.to_owned(),
        found: e.to_string(),
    };
    let mut zip = ZipArchive::new(file).map_err(|e| archive(&e))?;
    let mut found: Vec<String> =
        zip.file_names().map(|n| n.trim_end_matches(".npy").to_owned()).collect();
    found.sort_unstable();
    let mut keys = Keys { path, arrays: HashMap::new(), found };
    for key in KEYS.into_iter().chain(TRUTH_KEYS.map(|(key, ..)| key)) {
        let name = format!("{key}.npy");
        if zip.index_for_name(&name).is_none() {
            continue;
        }
        let mut entry = zip.by_name(&name).map_err(|e| archive(&e))?;
        let array = Array::read(&mut entry)
            .map_err(|e| keys.wrong(key, "an array as numpy writes it", e.to_string()))?;
        keys.arrays.insert(key.to_owned(), array);
    }
    build(&keys)
}

fn build(keys: &Keys<'_>) -> Result<Recording, RecordingError> {
    const SHAPE: &str = "counts [trials, bins, channels] or [bins, channels]";
    let counts = keys.required("counts", SHAPE)?;
    let (n_channels, mut continuous) = match counts.shape.as_slice() {
        [_, n] => (*n, true),
        [_, _, n] => (*n, false),
        other => return Err(keys.wrong("counts", SHAPE, shown(other))),
    };
    if n_channels == 0 || n_channels > CHANNELS_MAX || counts.is_empty() {
        let expected = format!("at least one bin and 1 to {CHANNELS_MAX} channels");
        return Err(keys.wrong("counts", expected, shown(&counts.shape)));
    }
    let bin_width_s = bin_width(keys)?;
    let bins = counts.len() / n_channels;
    if bins > BINS_MAX {
        let expected = format!("at most {BINS_MAX} bins");
        return Err(keys.wrong("counts", expected, bins.to_string()));
    }
    let values = check_counts(keys, counts, n_channels)?;
    check_axes(keys, counts, n_channels)?;
    let sizes = trial_sizes(keys, &counts.shape)?;
    if let Some(flag) = keys.arrays.get("continuous") {
        continuous = keys.numbers("continuous", flag)?.first().is_some_and(|v| *v != 0.0);
    }
    let (trials, regime_names) = trials(keys, &sizes, &values, n_channels)?;
    Ok(Recording {
        path: keys.path.to_owned(),
        n_channels,
        channels: channel_names(keys, n_channels)?,
        bin_width_s,
        regime_names,
        trials,
        continuous,
    })
}

/// Trials of `sizes` bins each, from the counts of all of them, `[bins, channels]`; and the
/// regimes' names.
fn trials(
    keys: &Keys<'_>,
    sizes: &[usize],
    values: &[u16],
    n_channels: usize,
) -> Result<(Vec<Trial>, Vec<String>), RecordingError> {
    let texts = keys.labels("regime", sizes)?;
    let regime_names = regime_names(keys, texts.as_deref())?;
    let regime = match &texts {
        Some(texts) => Some(indices(keys, texts, &regime_names)?),
        None => keys.per_bin("regime", sizes)?,
    };
    let task = match tasks(keys, "task", sizes)? {
        Some(task) => Some(task),
        None => tasks(keys, "target", sizes)?,
    };
    let sessions = session_names(keys, sizes)?;
    let truths = truths(keys, task.as_deref(), sizes.len())?;
    let mut trials = Vec::with_capacity(sizes.len());
    let mut at = 0;
    for (i, &bins) in sizes.iter().enumerate() {
        let labels = match &regime {
            None => vec![None; bins],
            Some(r) => numbered(keys, &r[i], regime_names.len())?,
        };
        trials.push(Trial {
            session: sessions[i].clone(),
            counts: in_bins(values[at * n_channels..(at + bins) * n_channels].to_vec(), n_channels),
            task: task.as_ref().map_or_else(|| vec![0; bins], |t| t[i].clone()),
            regime: labels,
            truth: truths[i],
        });
        at += bins;
    }
    Ok((trials, regime_names))
}

/// The width of a bin, seconds.
fn bin_width(keys: &Keys<'_>) -> Result<f64, RecordingError> {
    let width = keys.required("bin_width_s", "the width of a bin in seconds")?;
    match keys.numbers("bin_width_s", width)?.as_slice() {
        [w] if *w > 0.0 && *w <= 10.0 => Ok(*w),
        other => {
            let shown: Vec<String> = other.iter().take(3).map(ToString::to_string).collect();
            let found = format!("{} of them: {}", other.len(), shown.join(", "));
            Err(keys.wrong("bin_width_s", "one number of seconds in (0, 10]", found))
        }
    }
}

/// Whether the axes can be those that are expected.
fn check_axes(keys: &Keys<'_>, counts: &Array, n_channels: usize) -> Result<(), RecordingError> {
    let bins = counts.len() / n_channels;
    // One trial of fewer bins than channels: as good as always the axes are the wrong way round.
    let one = matches!(counts.shape.as_slice(), [_, _] | [1, _, _]);
    if one && bins < n_channels && !keys.arrays.contains_key("trial_start") {
        let found = format!(
            "{}: {bins} bins of {n_channels} channels. Are the axes swapped? (`counts.T`; where it \
             is so, the key \
             'trial_start' = [0] says it)",
            shown(&counts.shape)
        );
        return Err(keys.wrong("counts", "more bins than channels in a single trial", found));
    }
    Ok(())
}

/// True dynamics of each trial, where the file holds them.
fn truths(
    keys: &Keys<'_>,
    task: Option<&[Vec<i64>]>,
    trials: usize,
) -> Result<Vec<DynamicsTruth>, RecordingError> {
    let mut truths = vec![DynamicsTruth::default(); trials];
    for (key, absent, place) in TRUTH_KEYS {
        let Some(found) = truth_per_trial(keys, key, task, trials)? else {
            continue;
        };
        for (truth, value) in truths.iter_mut().zip(found) {
            *place(truth) = (Some(value) != absent).then_some(value);
        }
    }
    Ok(truths)
}

/// Labels by their numbers; -1 is none.
fn numbered(
    keys: &Keys<'_>,
    numbers: &[i64],
    n_regimes: usize,
) -> Result<Vec<Option<usize>>, RecordingError> {
    let one = |&v: &i64| match usize::try_from(v) {
        Err(_) if v == -1 => Ok(None),
        Ok(v) if v < n_regimes => Ok(Some(v)),
        _ => {
            let expected = format!("-1 (unlabelled) or 0 to {}", n_regimes.max(1) - 1);
            Err(keys.wrong("regime", expected, v.to_string()))
        }
    };
    numbers.iter().map(one).collect()
}

fn check_counts(
    keys: &Keys<'_>,
    counts: &Array,
    n_channels: usize,
) -> Result<Vec<u16>, RecordingError> {
    let values = match &counts.values {
        Values::Bytes(v) => return Ok(v.iter().map(|&b| b.into()).collect()),
        Values::Numbers(v) => v,
        Values::Strings(_) => return Err(keys.wrong("counts", "numbers", "strings")),
    };
    let sane = |v: f64| (0.0..=f64::from(COUNT_MAX)).contains(&v) && v.fract() == 0.0;
    match values.iter().position(|&v| !sane(v)) {
        None => Ok(values.iter().map(|&v| v as u16).collect()),
        Some(i) => Err(keys.wrong(
            "counts",
            format!("whole counts from 0 to {COUNT_MAX}"),
            format!("{} at bin {}, channel {}", values[i], i / n_channels, i % n_channels),
        )),
    }
}

fn trial_sizes(keys: &Keys<'_>, shape: &[usize]) -> Result<Vec<usize>, RecordingError> {
    if let [trials, bins, _] = shape {
        if *trials > TRIALS_MAX {
            let expected = format!("at most {TRIALS_MAX} trials");
            return Err(keys.wrong("counts", expected, trials.to_string()));
        }
        return Ok(vec![*bins; *trials]);
    }
    let bins = shape[0];
    let Some(array) = keys.arrays.get("trial_start") else { return Ok(vec![bins]) };
    let starts = keys.numbers("trial_start", array)?;
    if starts.len() > TRIALS_MAX {
        let expected = format!("at most {TRIALS_MAX} trials");
        return Err(keys.wrong("trial_start", expected, starts.len().to_string()));
    }
    let rising = starts.windows(2).all(|w| w[0] < w[1]) && starts.iter().all(|s| s.fract() == 0.0);
    if !rising || starts.first() != Some(&0.0) || starts.last().is_none_or(|&s| s >= bins as f64) {
        let expected = format!("rising first bins from 0, all below {bins}");
        let end = |s: Option<&f64>| s.map_or("nothing".into(), ToString::to_string);
        let found = format!(
            "{} values from {} to {}",
            starts.len(),
            end(starts.first()),
            end(starts.last())
        );
        return Err(keys.wrong("trial_start", expected, found));
    }
    let mut ends: Vec<usize> = starts[1..].iter().map(|&s| s as usize).collect();
    ends.push(bins);
    Ok(starts.iter().zip(ends).map(|(&s, e)| e - s as usize).collect())
}

/// A shape, to show.
fn shown(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("shape [{}]", sizes.join(", "))
}

/// Different texts in the order in which they come.
fn different(texts: &[Vec<Option<String>>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for text in texts.iter().flatten().flatten() {
        if !names.contains(text) {
            names.push(text.clone());
            if names.len() > REGIMES_MAX {
                break;
            }
        }
    }
    names
}

/// Labels as indices of their names; -1 is unlabelled.
fn indices(
    keys: &Keys<'_>,
    texts: &[Vec<Option<String>>],
    names: &[String],
) -> Result<Vec<Vec<i64>>, RecordingError> {
    let index = |text: &Option<String>| match text {
        None => Ok(-1),
        Some(text) => names.iter().position(|n| n == text).map(|i| i as i64).ok_or_else(|| {
            let expected = format!("one of regime_names ({})", names.join(", "));
            keys.wrong("regime", expected, format!("'{text}'"))
        }),
    };
    texts.iter().map(|bins| bins.iter().map(index).collect()).collect()
}

/// Tasks per bin: whole numbers, or texts, numbered in the order in which they come.
fn tasks(
    keys: &Keys<'_>,
    key: &str,
    sizes: &[usize],
) -> Result<Option<Vec<Vec<i64>>>, RecordingError> {
    let Some(texts) = keys.labels(key, sizes)? else { return keys.per_bin(key, sizes) };
    let mut numbers: HashMap<String, i64> = HashMap::new();
    let mut number = |text: &Option<String>| {
        let next = numbers.len() as i64;
        text.as_ref().map_or(-1, |t| *numbers.entry(t.clone()).or_insert(next))
    };
    Ok(Some(texts.iter().map(|bins| bins.iter().map(&mut number).collect()).collect()))
}

/// Names of the channels, where there are any.
fn channel_names(keys: &Keys<'_>, n: usize) -> Result<Option<Vec<String>>, RecordingError> {
    let Some(array) = keys.arrays.get("channels") else { return Ok(None) };
    let names: Vec<String> = match &array.values {
        Values::Strings(s) => s.clone(),
        _ => keys.numbers("channels", array)?.iter().map(ToString::to_string).collect(),
    };
    if super::are_names(&names, n) {
        return Ok(Some(names));
    }
    let found = format!("{} of them, or some empty, too long or twice", names.len());
    Err(keys.wrong("channels", format!("{n} names, each once"), found))
}

fn regime_names(
    keys: &Keys<'_>,
    texts: Option<&[Vec<Option<String>>]>,
) -> Result<Vec<String>, RecordingError> {
    let names = match keys.arrays.get("regime_names") {
        // Labels that are texts name themselves.
        None if texts.is_some() => different(texts.unwrap_or_default()),
        None if keys.arrays.contains_key("regime") => {
            return Err(keys.wrong("regime_names", "one name per regime", keys.keys_found()));
        }
        None => vec![],
        Some(array) => match &array.values {
            Values::Strings(s) => s.clone(),
            _ => return Err(keys.wrong("regime_names", "strings", "numbers")),
        },
    };
    if names.len() > REGIMES_MAX {
        let expected = format!("at most {REGIMES_MAX} names");
        return Err(keys.wrong("regime_names", expected, names.len().to_string()));
    }
    check_names(keys, "regime_names", &names)?;
    Ok(names)
}

/// Session names: strings as they are, numbers as their digits; the file's name where it has none.
fn session_names(keys: &Keys<'_>, sizes: &[usize]) -> Result<Vec<String>, RecordingError> {
    let Some(array) = keys.arrays.get("session") else {
        return Ok(vec![super::name_of(keys.path); sizes.len()]);
    };
    let names: Vec<String> = match &array.values {
        Values::Strings(s) => s.clone(),
        _ => keys.numbers("session", array)?.iter().map(ToString::to_string).collect(),
    };
    check_names(keys, "session", &names)?;
    if names.len() != sizes.len() && names.len() != 1 {
        let found = format!("{} values", names.len());
        return Err(keys.wrong("session", format!("one per trial ({})", sizes.len()), found));
    }
    Ok((0..sizes.len()).map(|i| names[if names.len() == 1 { 0 } else { i }].clone()).collect())
}

/// Truth given per trial, or per task (indexed by each trial's task).
fn truth_per_trial(
    keys: &Keys<'_>,
    key: &str,
    task: Option<&[Vec<i64>]>,
    n_trials: usize,
) -> Result<Option<Vec<f64>>, RecordingError> {
    let Some(array) = keys.arrays.get(key) else { return Ok(None) };
    let values = keys.numbers(key, array)?;
    if values.len() == n_trials {
        return Ok(Some(values));
    }
    let by_task: Option<Vec<f64>> = task.and_then(|tasks| {
        tasks
            .iter()
            .map(|t| usize::try_from(*t.first()?).ok().and_then(|i| values.get(i).copied()))
            .collect()
    });
    by_task.map(Some).ok_or_else(|| {
        let expected = format!("one value per trial ({n_trials}) or one for each task number");
        keys.wrong(key, expected, format!("{} values", values.len()))
    })
}
