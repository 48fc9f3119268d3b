//! Flags that every command with recordings shares.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::checkpoint::DataFile;
use crate::recording::{Kind, Recording, SpikeSettings};
use crate::{checkpoint, recording};

/// How to take recordings.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RecordingArgs {
    /// Width of a bin in milliseconds: of spikes (default 10), else bins are summed.
    #[arg(long, value_name = "MS")]
    pub bin_ms: Option<f64>,
    /// Use only this first part of the trials (of the bins, with a single trial), e.g. 0.7.
    #[arg(long, value_name = "FRACTION", conflicts_with = "last")]
    pub first: Option<f64>,
    /// Use only this last part of the trials (of the bins, with a single trial), e.g. 0.3.
    #[arg(long, value_name = "FRACTION")]
    pub last: Option<f64>,
    /// Column of a table of intervals with the regimes' names: trials/condition of an NWB file,
    /// trials.csv/condition in a Phy folder (with start_time and stop_time).
    #[arg(long, value_name = "TABLE/COLUMN")]
    pub labels: Option<String>,
    /// The same with the tasks' names, e.g. trials/target.
    #[arg(long, value_name = "TABLE/COLUMN")]
    pub tasks: Option<String>,
    /// Groups of a Phy folder's clusters to take, e.g. good,mua [default: good; all takes all].
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    pub groups: Vec<String>,
    /// Name for the recording's session, where it holds one.
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
}

/// Sessions that are named after their files, each with its file.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<(String, PathBuf)>);

impl Names {
    /// Two files of one name in two folders are two sessions: the later is named after its folder
    /// as well.
    pub(super) fn make_distinct(&mut self, recording: &mut Recording) {
        let path = recording.path.clone();
        let own = recording::name_of(&path);
        // A recording that names its session keeps that name.
        if recording.trials.iter().any(|t| t.session != own) {
            return;
        }
        if self.0.iter().any(|(n, p)| *n == own && *p != path) {
            let folder = path.parent().and_then(Path::file_name).map(|f| f.to_string_lossy());
            let with_folder = format!("{}-{own}", folder.unwrap_or_default());
            let mut name = with_folder.clone();
            let mut number = 2;
            while self.0.iter().any(|(n, p)| *n == name && *p != path) {
                name = format!("{with_folder}-{number}");
                number += 1;
            }
            recording.trials.iter_mut().for_each(|t| t.session.clone_from(&name));
            self.0.push((name, path.clone()));
        }
        self.0.push((own, path));
    }
}

impl RecordingArgs {
    /// Reads a recording and takes the part and bins asked for.
    ///
    /// # Errors
    /// Names the file or flag, with what was expected and what was found.
    pub fn read(&self, path: &Path) -> Result<Recording> {
        self.part(recording::read_file(path, &self.spikes())?, path)
    }

    /// The same, with the file's name and hash for a model's card. An archive is read once. Others
    /// may hold far more than their spikes, and are read again for the hash.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn read_with_hash(&self, path: &Path) -> Result<(Recording, DataFile)> {
        let kind = Kind::of(path);
        if kind.has_spikes() {
            let file = checkpoint::data_file(path, &kind.files(path))?;
            return Ok((self.read(path)?, file));
        }
        let hash = |bytes: &[u8]| checkpoint::data_file_of(path, bytes);
        let (recording, file) = recording::read_seen(path, hash)?;
        Ok((self.part(recording, path)?, file))
    }

    fn spikes(&self) -> SpikeSettings {
        SpikeSettings {
            bin_ms: self.bin_ms,
            labels: self.labels.clone(),
            tasks: self.tasks.clone(),
            groups: self.groups.clone(),
        }
    }

    /// The part and bins asked for.
    fn part(&self, mut recording: Recording, path: &Path) -> Result<Recording> {
        for (flag, value) in [("--first", self.first), ("--last", self.last)] {
            if let Some(f) = value.filter(|f| !(*f > 0.0 && *f <= 1.0)) {
                bail!("{flag}: expected a fraction above 0 and at most 1, found {f}");
            }
        }
        if let Some(first) = self.first {
            recording.keep(0.0, first);
        }
        if let Some(last) = self.last {
            recording.keep(1.0 - last, 1.0);
        }
        if let Some(bin_ms) = self.bin_ms.filter(|_| !Kind::of(path).has_spikes()) {
            recording.rebin(bin_ms)?;
        }
        if let Some(name) = &self.session {
            let first = recording.trials.first().map(|t| t.session.clone());
            if recording.trials.iter().any(|t| Some(&t.session) != first.as_ref()) {
                bail!("{}: --session names one session, found several", path.display());
            }
            recording.trials.iter_mut().for_each(|t| t.session.clone_from(name));
        }
        if recording.n_bins() == 0 {
            bail!(
                "{}: expected at least one bin after --first/--last/--bin-ms, found none",
                path.display()
            );
        }
        Ok(recording)
    }

    /// Reads several.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_all(&self, paths: &[PathBuf]) -> Result<Vec<Recording>> {
        let mut taken = Names::default();
        let read = |p: &PathBuf| {
            let mut recording = self.read(p).context("cannot use this recording")?;
            if self.session.is_none() {
                taken.make_distinct(&mut recording);
            }
            Ok(recording)
        };
        paths.iter().map(read).collect()
    }
}
