//! Where the proof's students come from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::checkpoint;
use crate::checkpoint::{Checkpoint, DataFile, Provenance, sha256_hex};
use crate::commands::progress::{Interrupt, Progress};
use crate::recording::Recording;
use crate::training::{Dataset, Pretraining, TrainingSettings};

/// Folder of the students in the report's.
const MODELS: &str = "models";
/// File in a student's folder that says how it was trained.
const SETTINGS_FILE: &str = "settings.txt";

/// One part of the report.
pub(super) struct Section {
    pub(super) title: &'static str,
    /// Explanation of the section.
    pub(super) words: String,
    pub(super) table: String,
    pub(super) plots: Vec<(String, String)>,
    pub(super) numbers: Value,
}

/// Where students come from.
pub(super) struct School {
    pub(super) dir: PathBuf,
    pub(super) seed: u64,
    pub(super) steps: usize,
    pub(super) interrupt: Interrupt,
}

/// A student, and what a step of its training cost, seconds; `None` where it was trained before.
pub(super) struct Student {
    pub(super) checkpoint: Checkpoint,
    pub(super) step_s: Option<f64>,
}

impl School {
    /// Pretrains a student on a recording with a share of the steps, or takes the one that an
    /// earlier run left.
    pub(super) fn student(
        &self,
        name: &str,
        recording: &Recording,
        share: f64,
        settings: TrainingSettings,
    ) -> Result<Student> {
        let steps = ((self.steps as f64 * share).round() as usize).max(1);
        let settings = TrainingSettings { steps, seed: self.seed, ..settings };
        let data =
            vec![DataFile { file: recording.path.display().to_string(), sha256: hash(recording) }];
        let dir = self.dir.join(MODELS).join(name);
        // The number of threads makes no difference to a student.
        let how = format!("{:?}\n", TrainingSettings { threads: 0, ..settings });
        let settings_file = dir.join(SETTINGS_FILE);
        if let Ok(checkpoint) = checkpoint::load(&dir) {
            let same = std::fs::read_to_string(&settings_file).is_ok_and(|found| found == how);
            if same && checkpoint.provenance.data == data {
                eprintln!("student '{name}': from {}", dir.display());
                return Ok(Student { checkpoint, step_s: None });
            }
        }
        eprintln!("student '{name}': rank {}, {} units", settings.dims.rank, settings.dims.units);
        let dataset = Arc::new(Dataset::for_pretraining(std::slice::from_ref(recording))?);
        let mut training = Pretraining::alone(dataset, settings)?;
        let mut progress = Progress::new("pretrain", steps, 0);
        let (mut kept, mut step_s) = (None, 0.0);
        while !training.is_complete() {
            let began = Instant::now();
            let report = training.step()?;
            step_s += began.elapsed().as_secs_f64() / steps as f64;
            let done = training.trainer().steps_done();
            progress.at(done, || {
                format!("{name}: one step {:.5}, forecast {:.5}", report.one_step, report.forecast)
            });
            if self.interrupt.raised() {
                let models = self.dir.join(MODELS);
                bail!("stopped; finished students are kept in {}", models.display());
            }
            let validation = training.validate_if_due(false)?;
            kept = validation.and_then(|v| v.better).map(|found| (found, done)).or(kept);
        }
        progress.finish();
        let (found, learned) = kept.context("expected a step at least, found none")?;
        let mut provenance = Provenance::of_this_program(self.seed, steps, data);
        provenance.held_out = found.held_out;
        provenance.held_out_by_session = found.by_session;
        eprintln!("student '{name}': as it was after step {learned}");
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        checkpoint::save(&dir, &found.model, &provenance)?;
        std::fs::write(&settings_file, how)
            .with_context(|| format!("cannot write {}", settings_file.display()))?;
        Ok(Student { checkpoint: checkpoint::load(&dir)?, step_s: Some(step_s) })
    }
}

fn hash(recording: &Recording) -> String {
    let bytes: Vec<u8> =
        recording.trials.iter().flat_map(|t| &t.counts).flat_map(|c| c.to_le_bytes()).collect();
    sha256_hex(&bytes)
}
