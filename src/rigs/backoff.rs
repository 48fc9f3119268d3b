//! Waits between attempts to connect to a rig.

use std::time::Duration;

/// Waits between attempts to connect: twice as long each time, up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    wait: Duration,
}

impl Backoff {
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(2);

    /// The shortest wait comes first.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { wait: Self::LEAST }
    }

    /// Waits; the next wait is longer.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(Self::MOST);
    }

    /// Success: the next wait is the shortest.
    pub(crate) fn reset(&mut self) {
        self.wait = Self::LEAST;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}
