//! When bins that are put together close.

use std::time::Duration;

/// When bins close.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AssemblySettings {
    /// A bin closes at most this long after its end, by the rig's clock with the least transport
    /// delay seen.
    pub deadline: Duration,
    /// Events may come this long after later ones of the same publisher.
    pub reorder: Duration,
    /// A rig that sends nothing for this long is taken to be gone: its bins are missing, not
    /// silent.
    pub idle: Duration,
    /// Number of publishers that every bin waits for until its deadline; further ones are waited
    /// for after their first message.
    pub publishers: usize,
}

impl AssemblySettings {
    /// Default deadline, ms.
    pub const DEADLINE_MS: f64 = 50.0;
    /// Default reorder time, ms.
    pub const REORDER_MS: f64 = 0.0;
    /// Default idle time, ms.
    pub const IDLE_MS: f64 = 1000.0;
}

impl Default for AssemblySettings {
    fn default() -> Self {
        let ms = |ms: f64| Duration::from_secs_f64(ms * 1e-3);
        Self {
            deadline: ms(Self::DEADLINE_MS),
            reorder: ms(Self::REORDER_MS),
            idle: ms(Self::IDLE_MS),
            publishers: 1,
        }
    }
}
