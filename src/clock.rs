//! The clocks of this machine. Only the edges read them: what decides is given its time as data.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub(crate) use crate::platform::monotonic_ns;

/// The wall clock, nanoseconds since the Unix epoch.
#[must_use]
pub(crate) fn wall_ns() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX)
}

/// [`monotonic_ns`], by which BRAND's nodes stamp, in seconds: what LSL calls `local_clock()`.
#[cfg(feature = "lsl")]
#[must_use]
pub(crate) fn monotonic_s() -> f64 {
    monotonic_ns() as f64 * 1e-9
}

/// When a message came in, on two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Monotonic, for latencies.
    pub instant: Instant,
    /// Nanoseconds since the Unix epoch, to show.
    pub wall_ns: i64,
}

/// Where the steady clock began, and what the wall's showed then.
static STEADY: LazyLock<(Instant, i64)> = LazyLock::new(|| (Instant::now(), wall_ns()));

impl Received {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        Self { instant: Instant::now(), wall_ns: wall_ns() }
    }

    /// Nanoseconds since the Unix epoch on a clock that is never set while the program runs.
    #[must_use]
    pub(crate) fn steady_ns(&self) -> i64 {
        let (began, wall) = *STEADY;
        let since = self.instant.saturating_duration_since(began).as_nanos();
        wall.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }
}
