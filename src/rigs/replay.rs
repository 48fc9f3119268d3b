//! A recording as a rig, with its own clock: at its speed, faster, or as fast as the session takes
//! it; once or in a loop; from any position.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bus::Seek;
use crate::clock::Received;
use crate::intake::{BinCounts, Bins, LossAccounting, Port, Status};
use crate::model::{nearly_equal, values};
use crate::recording;
use crate::recording::{Recording, RecordingError, SpikeSettings, Trial};

/// Interval of retries where there is no room or nothing to do.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Slowest that a recording is played, times its own speed.
pub(crate) const SPEED_MIN: f64 = 0.001;

/// What to replay, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The recording: `.npz`, `.nwb`, or a folder of Phy.
    pub file: PathBuf,
    /// Times its own speed; 0: as fast as the session takes it.
    pub speed: f64,
    /// From the start again at its end.
    pub repeat: bool,
    /// Where it begins, seconds.
    pub start_s: f64,
}

impl Settings {
    /// Once, from the start, at its own speed.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self { file, speed: 1.0, repeat: false, start_s: 0.0 }
    }
}

/// Reads a recording in bins of `bin_width_s`; spikes are binned so.
///
/// # Errors
/// Names the fault of the file.
pub(crate) fn load(file: &Path, bin_width_s: f64) -> Result<Recording, RecordingError> {
    let bin_ms = bin_width_s * 1e3;
    let how = SpikeSettings { bin_ms: Some(bin_ms), ..SpikeSettings::default() };
    let mut recording = recording::read_file(file, &how)?;
    if !nearly_equal(recording.bin_width_s, bin_width_s) {
        recording.rebin(bin_ms)?;
    }
    Ok(recording)
}

/// Connection state of the recording.
#[must_use]
pub(crate) fn status(session: &str, settings: &Settings) -> Status {
    let what = format!("replay {}", settings.file.display());
    Status::new(session, what, LossAccounting::None)
}

/// A recording that is played to a session.
pub(crate) struct Player {
    /// The recording, in the session's bins and channels.
    pub recording: Recording,
    /// How it is replayed.
    pub settings: Settings,
    /// The session's entrance.
    pub port: Arc<Port>,
    /// Who seeks.
    pub seek: Arc<Seek>,
    /// Its connection state.
    pub status: Arc<Status>,
}

impl Player {
    /// Plays to the end, and waits there for a seek.
    pub(crate) async fn run(self) {
        let streams = self.recording.streams();
        let total: usize = streams.iter().map(Trial::n_bins).sum();
        let width = self.recording.bin_width_s;
        let mut at = self.bin_of(self.settings.start_s, total);
        let mut begins = true;
        let mut sequence = 0;
        let mut due = tokio::time::Instant::now();
        self.status.connected(true);
        loop {
            if let Some(position) = self.seek.take() {
                at = self.bin_of(position, total);
                (begins, due) = (true, tokio::time::Instant::now());
                self.status.connected(true);
            }
            if at >= total {
                if self.settings.repeat && total > 0 {
                    (at, begins) = (0, true);
                } else {
                    self.status.connected(false);
                    self.seek.asked().await;
                    continue;
                }
            }
            if self.port.is_paused() {
                tokio::time::sleep(10 * LOOK_EVERY).await;
                due = tokio::time::Instant::now();
                continue;
            }
            if self.settings.speed > 0.0 {
                due += Duration::from_secs_f64(width / self.settings.speed);
                tokio::time::sleep_until(due).await;
            } else if self.port.room() == 0 {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            if self.port.is_closed() {
                return;
            }
            let (stream, bin) = place(&streams, at);
            let n = self.recording.n_channels;
            let bins = Bins {
                sequence,
                rig_time_ns: ((at + 1) as f64 * width * 1e9) as i64,
                counts: BinCounts::Narrow(&values(&stream.counts)[bin * n..(bin + 1) * n]),
                begins: begins || bin == 0,
            };
            // At a given speed the session may be overrun: counted at its port.
            let _ = self.port.offer(&bins, Received::now());
            self.status.metrics.taken.increment(1);
            (begins, at, sequence) = (false, at + 1, sequence + 1);
            if self.settings.speed == 0.0 && at.is_multiple_of(64) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn bin_of(&self, position_s: f64, total: usize) -> usize {
        ((position_s / self.recording.bin_width_s).round().max(0.0) as usize).min(total)
    }
}

/// Stream and bin in it of a bin of the whole.
fn place(streams: &[Trial], at: usize) -> (&Trial, usize) {
    let mut left = at;
    for stream in streams {
        if left < stream.n_bins() {
            return (stream, left);
        }
        left -= stream.n_bins();
    }
    unreachable!("bin {at} of a recording that is shorter")
}
