//! Arrays of a file by key, checked as they are taken.

use std::collections::HashMap;
use std::path::Path;

use super::RecordingError;
use super::hdf5::labelled;
use super::npy::{Array, Values};

/// Keys that a message lists at most.
const KEYS_SHOWN: usize = 20;
/// Longest name of a session or regime, bytes.
const NAME_BYTES_MAX: usize = 256;

/// Labels of each trial's bins.
pub(super) type Labels = Vec<Vec<Option<String>>>;

/// A file's arrays by key.
pub(super) struct Keys<'a> {
    pub(super) path: &'a Path,
    pub(super) arrays: HashMap<String, Array>,
    /// Keys of the file, known or not.
    pub(super) found: Vec<String>,
}

impl Keys<'_> {
    pub(super) fn wrong(
        &self,
        key: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> RecordingError {
        RecordingError::key(self.path, key, expected, found)
    }

    pub(super) fn required(&self, key: &str, expected: &str) -> Result<&Array, RecordingError> {
        self.arrays.get(key).ok_or_else(|| self.wrong(key, expected, self.keys_found()))
    }

    /// The file's keys, to show.
    pub(super) fn keys_found(&self) -> String {
        match self.found.as_slice() {
            [] => "no such key, and no other".into(),
            found => {
                let shown: Vec<&str> = found.iter().take(KEYS_SHOWN).map(String::as_str).collect();
                let more = if found.len() > KEYS_SHOWN { ", ..." } else { "" };
                format!("no such key (the file has {}{more})", shown.join(", "))
            }
        }
    }

    /// Numbers of a key, all finite.
    pub(super) fn numbers(&self, key: &str, array: &Array) -> Result<Vec<f64>, RecordingError> {
        let numbers = match &array.values {
            Values::Bytes(v) => v.iter().map(|&b| f64::from(b)).collect(),
            Values::Numbers(v) => v.clone(),
            Values::Strings(_) => return Err(self.wrong(key, "numbers", "strings")),
        };
        match numbers.iter().position(|v| !v.is_finite()) {
            None => Ok(numbers),
            Some(i) => {
                Err(self.wrong(key, "finite numbers", format!("{} at index {i}", numbers[i])))
            }
        }
    }

    /// A label per trial or per bin as text; `None` is unlabelled.
    pub(super) fn labels(
        &self,
        key: &str,
        sizes: &[usize],
    ) -> Result<Option<Labels>, RecordingError> {
        let Some(array) = self.arrays.get(key) else { return Ok(None) };
        let Values::Strings(texts) = &array.values else { return Ok(None) };
        check_names(self, key, texts)?;
        let texts: Vec<Option<String>> = texts.iter().cloned().map(labelled).collect();
        self.spread(key, &texts, sizes).map(Some)
    }

    /// One whole number per trial or per bin (or one for all), spread over the bins of each trial.
    pub(super) fn per_bin(
        &self,
        key: &str,
        sizes: &[usize],
    ) -> Result<Option<Vec<Vec<i64>>>, RecordingError> {
        let Some(array) = self.arrays.get(key) else { return Ok(None) };
        let mut values = match &array.values {
            Values::Numbers(v) => v.clone(),
            _ => self.numbers(key, array)?,
        };
        // Not a number is no label.
        values.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = -1.0);
        if let Some(v) = values.iter().find(|v| v.fract() != 0.0 || !v.is_finite()) {
            return Err(self.wrong(key, "whole numbers", v.to_string()));
        }
        let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
        self.spread(key, &values, sizes).map(Some)
    }

    fn spread<T: Clone>(
        &self,
        key: &str,
        values: &[T],
        sizes: &[usize],
    ) -> Result<Vec<Vec<T>>, RecordingError> {
        let bins: usize = sizes.iter().sum();
        if values.len() == bins && (bins != sizes.len() || sizes.iter().all(|&s| s == 1)) {
            let mut at = 0;
            return Ok(sizes
                .iter()
                .map(|&n| {
                    at += n;
                    values[at - n..at].to_vec()
                })
                .collect());
        }
        if values.len() == sizes.len() || values.len() == 1 {
            let pick = |i: usize| values[if values.len() == 1 { 0 } else { i }].clone();
            return Ok(sizes.iter().enumerate().map(|(i, &n)| vec![pick(i); n]).collect());
        }
        Err(self.wrong(
            key,
            format!("one value per trial ({}) or per bin ({bins})", sizes.len()),
            format!("{} values", values.len()),
        ))
    }
}

pub(super) fn check_names(
    keys: &Keys<'_>,
    key: &str,
    names: &[String],
) -> Result<(), RecordingError> {
    match names.iter().find(|n| n.len() > NAME_BYTES_MAX) {
        None => Ok(()),
        Some(long) => {
            let expected = format!("names of at most {NAME_BYTES_MAX} bytes");
            Err(keys.wrong(key, expected, format!("one of {}", long.len())))
        }
    }
}
