//! A session's records as arrays for numpy.

use std::path::Path;

use anyhow::{Result, bail};

use super::noted::Noted;
use super::readings::READINGS;
use crate::commands::journal::{became, utc};
use crate::recording::{Archive, Column};
use crate::wire::{Annotation, Decision, Event, Triggered};

/// Whole numbers of a decision.
type Whole = (&'static str, fn(&Decision) -> i64);
const WHOLE: [Whole; 11] = [
    ("sequence", |d| d.sequence as i64),
    ("bin", |d| d.bin as i64),
    ("rig_time_ns", |d| d.rig_time_ns),
    ("receive_time_ns", |d| d.receive_time_ns),
    ("publish_time_ns", |d| d.publish_time_ns),
    ("latency_ns", |d| d.latency_ns as i64),
    ("event", |d| d.event_sequence as i64),
    ("predicted", |d| i64::from(d.predicted)),
    ("artefact", |d| i64::from(d.artefact)),
    ("silent_channels", |d| i64::from(d.silent_channels)),
    ("regime", |d| d.regime_names.iter().position(|n| *n == d.regime).map_or(-1, |i| i as i64)),
];
/// Floats of a decision; `None`: one alone.
type Floats = (&'static str, bool, fn(&Decision) -> Vec<f32>);
const FLOATS: [Floats; 9] = [
    ("posterior", true, |d| d.posterior.clone()),
    ("experts", true, |d| d.experts.iter().flat_map(|e| e.posterior.iter().copied()).collect()),
    ("embedding_mean", true, |d| d.embedding_mean.clone()),
    ("embedding_sd", true, |d| d.embedding_sd.clone()),
    ("latent", true, |d| d.latent.clone()),
    ("latent_sd", true, |d| d.latent_sd.clone()),
    ("unlabelled", false, |d| vec![d.unlabelled]),
    ("novelty", false, |d| vec![d.novelty]),
    ("log_likelihood", false, |d| vec![d.log_likelihood]),
];
/// A whole number of what a trigger did.
type WholeOfTrigger = (&'static str, fn(&Triggered) -> i64);
/// A whole number of an event.
type WholeOfEvent = (&'static str, fn(&Event) -> i64);
/// The arrays as they grow.
#[derive(Default)]
pub(super) struct Arrays {
    whole: Vec<Column>,
    floats: Vec<Column>,
    readings: Vec<Column>,
    reading_bins: Option<Column>,
    /// Real and imaginary parts of the map's eigenvalues.
    eigenvalues: Option<[Column; 2]>,
    n_eigenvalues: usize,
    /// Regime names, and the widths of `FLOATS`, as the first decision has them.
    names: Vec<String>,
    widths: Vec<usize>,
    pub(super) decisions: u64,
    pub(super) metrics: u64,
}

impl Arrays {
    pub(super) fn decision(&mut self, folder: &Path, d: &Decision) -> Result<()> {
        let floats: Vec<Vec<f32>> = FLOATS.iter().map(|(.., of)| of(d)).collect();
        let widths: Vec<usize> = floats.iter().map(Vec::len).collect();
        if self.decisions == 0 {
            self.names.clone_from(&d.regime_names);
            self.widths.clone_from(&widths);
            for (key, _) in WHOLE {
                self.whole.push(Column::i64(folder, key)?);
            }
            for ((key, many, _), width) in FLOATS.iter().zip(&widths) {
                self.floats.push(Column::f32(folder, key, many.then_some(*width))?);
            }
            for reading in &READINGS {
                for key in reading.keys() {
                    self.readings.push(Column::f32(folder, &key, None)?);
                }
            }
            self.reading_bins = Some(Column::i64(folder, "metrics_bin")?);
        }
        if d.regime_names != self.names || widths != self.widths {
            bail!(
                "expected decisions of one model, found another from {} on: export both parts, \
                 with --from and --to",
                utc(d.receive_time_ns)
            );
        }
        self.decisions += 1;
        for (column, (_, of)) in self.whole.iter_mut().zip(WHOLE) {
            column.whole(of(d))?;
        }
        for (column, row) in self.floats.iter_mut().zip(&floats) {
            column.floats(row)?;
        }
        if let (Some(metrics), Some(bins)) = (&d.metrics, &mut self.reading_bins) {
            self.metrics += 1;
            bins.whole(metrics.bin as i64)?;
            let of = &metrics.map_eigenvalues;
            if self.eigenvalues.is_none() {
                self.n_eigenvalues = of.len();
                let part = |key| Column::f32(folder, key, Some(of.len()));
                self.eigenvalues = Some([
                    part("metrics_map_eigenvalues_re")?,
                    part("metrics_map_eigenvalues_im")?,
                ]);
            }
            let mut parts: [Vec<f32>; 2] =
                [of.iter().map(|e| e.re).collect(), of.iter().map(|e| e.im).collect()];
            for (column, part) in self.eigenvalues.iter_mut().flatten().zip(&mut parts) {
                part.resize(self.n_eigenvalues, f32::NAN);
                column.floats(part)?;
            }
            let values = READINGS.iter().flat_map(|reading| reading.values(metrics));
            for (column, value) in self.readings.iter_mut().zip(values) {
                column.floats(&[value])?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self, archive: &mut Archive<'_>) -> Result<()> {
        archive.strings("regime_names", &self.names)?;
        let columns = self.whole.into_iter().chain(self.floats).chain(self.readings);
        let eigenvalues = self.eigenvalues.into_iter().flatten();
        for column in columns.chain(self.reading_bins).chain(eigenvalues) {
            column.finish(archive)?;
        }
        Ok(())
    }
}

pub(super) fn write_events(archive: &mut Archive<'_>, events: &[Event]) -> Result<()> {
    let whole: [WholeOfEvent; 8] = [
        ("event_sequence", |e| e.event_sequence as i64),
        ("event_bin", |e| e.bin as i64),
        ("event_bin_sequence", |e| e.sequence as i64),
        ("event_onset_bin", |e| e.onset_bin as i64),
        ("event_onset_low_bin", |e| e.onset_low_bin as i64),
        ("event_onset_high_bin", |e| e.onset_high_bin as i64),
        ("event_rig_time_ns", |e| e.rig_time_ns),
        ("event_decision_time_ns", |e| e.decision_time_ns),
    ];
    for (key, of) in whole {
        archive.i64(key, &events.iter().map(of).collect::<Vec<_>>())?;
    }
    let probability: Vec<f32> = events.iter().map(|e| e.probability).collect();
    archive.f32("event_probability", &[events.len()], &probability)?;
    archive.strings("event_from", &events.iter().map(|e| e.from.clone()).collect::<Vec<_>>())?;
    archive.strings("event_to", &events.iter().map(|e| e.to.clone()).collect::<Vec<_>>())?;
    Ok(())
}

/// What people noted, and what triggers did.
pub(super) fn write_acts(archive: &mut Archive<'_>, noted: &Noted) -> Result<()> {
    let annotations = &noted.annotations;
    let texts =
        |of: fn(&Annotation) -> &String| annotations.iter().map(of).cloned().collect::<Vec<_>>();
    archive.strings("annotation_text", &texts(|a| &a.text))?;
    archive.strings("annotation_source", &texts(|a| &a.source))?;
    archive.i64("annotation_bin", &annotations.iter().map(|a| a.bin as i64).collect::<Vec<_>>())?;
    let times = |of: fn(&Annotation) -> i64| annotations.iter().map(of).collect::<Vec<_>>();
    archive.i64("annotation_time_ns", &times(|a| a.time_ns))?;
    archive.i64("annotation_rig_time_ns", &times(|a| a.rig_time_ns))?;
    let triggers = &noted.triggered;
    let names: Vec<String> = triggers.iter().map(|t| t.trigger.clone()).collect();
    archive.strings("trigger_name", &names)?;
    archive.strings("trigger_outcome", &triggers.iter().map(became).collect::<Vec<_>>())?;
    let whole: [WholeOfTrigger; 4] = [
        ("trigger_bin", |t| t.bin as i64),
        ("trigger_rig_time_ns", |t| t.rig_time_ns),
        ("trigger_decision_time_ns", |t| t.decision_time_ns),
        ("trigger_latency_ns", |t| t.latency_ns as i64),
    ];
    for (key, of) in whole {
        archive.i64(key, &triggers.iter().map(of).collect::<Vec<_>>())?;
    }
    Ok(())
}
