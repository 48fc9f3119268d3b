//! What recognises the model's own regimes in animals that nobody labelled.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::super::progress::{Interrupt, Progress};
use super::super::recordings::{Names, RecordingArgs};
use crate::checkpoint;
use crate::teacher::REGIME_NAMES;
use crate::training::OwnLessons;

/// Parts of the progress.
const PARTS: usize = 100;

/// Learns it from all recordings and writes it beside the model, where they suffice; says what
/// came of it.
///
/// # Errors
/// Recordings that cannot be read again, files that cannot be written.
pub(super) fn learn(
    (data, how): (&[PathBuf], &RecordingArgs),
    regimes: &[String],
    out: &Path,
    interrupt: &Interrupt,
) -> Result<()> {
    let builtin = REGIME_NAMES.iter().all(|name| regimes.iter().any(|r| r == name));
    if builtin && regimes.len() == REGIME_NAMES.len() {
        // The built-in one knows them.
        return Ok(());
    }
    let mut lessons = OwnLessons::default();
    let mut names = Names::default();
    let mut reading = Progress::new("minutes", data.len(), 0);
    for (i, path) in data.iter().enumerate() {
        let mut recording = how.read(path).context("cannot use this recording")?;
        if how.session.is_none() {
            names.make_distinct(&mut recording);
        }
        lessons.add(&recording);
        reading.at(i + 1, || format!("{} bins", recording.n_bins()));
        if interrupt.raised() {
            reading.finish();
            println!("stopped: new animals need labels, their regimes were not learned");
            return Ok(());
        }
    }
    reading.finish();
    let mut progress = Progress::new("recogniser", PARTS, 0);
    let learned = lessons.learn(|done| {
        progress.at((PARTS as f64 * done).min(PARTS as f64) as usize, || "regimes".into());
        !interrupt.raised()
    });
    progress.finish();
    let text = match &learned {
        Ok(recogniser) => {
            checkpoint::save_recogniser(out, Some(recogniser))
                .context("cannot write what recognises the regimes")?;
            let found = recogniser.judged().map(|j| j.to_string()).unwrap_or_default();
            format!("the regimes are recognised in new animals without labels: {found}")
        }
        Err(why) => format!("new animals need labels, their regimes are not recognised: {why}"),
    };
    println!("{text}");
    Ok(())
}
