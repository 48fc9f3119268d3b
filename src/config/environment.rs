//! Environment variables; only the command line and the log's level are read elsewhere.

use std::time::Duration;

/// How the system supervises this process: sd_notify(3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Supervision {
    /// Socket of the supervisor's notifications.
    pub notify_socket: Option<String>,
    /// The supervisor restarts a daemon that has not notified for this time.
    pub watchdog: Option<Duration>,
}

impl Supervision {
    #[must_use]
    pub(crate) fn from_environment() -> Self {
        let of = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        // Meant for another process of the unit.
        let for_us = of("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = of("WATCHDOG_USEC").filter(|_| for_us).and_then(|us| us.parse().ok());
        Self { notify_socket: of("NOTIFY_SOCKET"), watchdog: watchdog.map(Duration::from_micros) }
    }
}
