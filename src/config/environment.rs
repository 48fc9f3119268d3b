//! What the environment says: the one place that reads it beside the command line and the log's
//! level.

use std::time::Duration;

/// How the system supervises this process: sd_notify(3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Supervision {
    /// Where it wants to be told.
    pub notify_socket: Option<String>,
    /// It restarts what has told nothing for so long.
    pub watchdog: Option<Duration>,
}

impl Supervision {
    /// As the environment has it.
    #[must_use]
    pub(crate) fn from_environment() -> Self {
        let of = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        // Meant for another process of the unit.
        let for_us = of("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = of("WATCHDOG_USEC").filter(|_| for_us).and_then(|us| us.parse().ok());
        Self { notify_socket: of("NOTIFY_SOCKET"), watchdog: watchdog.map(Duration::from_micros) }
    }
}
