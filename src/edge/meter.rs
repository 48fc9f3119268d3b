//! Readings of a stream of counts, one a second.

use std::sync::Arc;

use super::estimator::{EdgeReading, Estimator};
use super::window::Window;

/// Time between two readings, seconds.
const READ_EVERY_S: f64 = 1.0;

/// Takes a session's bins as they come.
pub struct EdgeMeter {
    estimator: Arc<Estimator>,
    window: Window,
    /// Bins between two readings, and since the last.
    every: usize,
    since: usize,
}

impl EdgeMeter {
    /// For bins of `channels` channels, the newest `seconds` of them; `None` where bins are too
    /// wide to read anything of.
    #[must_use]
    pub fn new(
        estimator: Arc<Estimator>,
        channels: usize,
        bin_width_s: f64,
        seconds: f64,
    ) -> Option<Self> {
        let window = Window::new(channels, bin_width_s, seconds)?;
        let every = ((READ_EVERY_S / bin_width_s).round() as usize).max(1);
        Some(Self { estimator, window, every, since: 0 })
    }

    /// A bin of counts.
    pub fn push(&mut self, counts: &[f32]) {
        self.window.push(counts);
        self.since += 1;
    }

    /// Bins are missing here.
    pub(crate) fn gap(&mut self) {
        self.window.gap();
    }

    /// A reading, where a second has passed since the last one and there is enough.
    pub fn due(&mut self) -> Option<EdgeReading> {
        if self.since < self.every {
            return None;
        }
        self.since = 0;
        self.newest()
    }

    /// What the window tells now, where it is long enough.
    #[must_use]
    pub fn newest(&self) -> Option<EdgeReading> {
        self.estimator.read(&self.window)
    }
}
