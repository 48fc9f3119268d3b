//! How the daemon's threads run.

use std::time::Duration;

use toml::de::DeValue;

use super::section::{Section, set};
use crate::platform::Placement;

/// Threads for I/O at least, where nobody says how many: while one takes a long message apart,
/// others carry short ones.
const IO_THREADS: usize = 4;
/// Longest look for the next bin, us: the session's end and another model wait for it.
const SPIN_US_MAX: usize = 10_000;

/// How the daemon's threads run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuntimeConfig {
    /// Threads for I/O.
    pub(crate) io_threads: usize,
    /// Where threads of sessions and of I/O run.
    pub(crate) placement: Placement,
    /// How long a session's thread looks for the next bin before it sleeps.
    pub(crate) spin: Duration,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            io_threads: cores.max(IO_THREADS),
            placement: Placement::default(),
            spin: Duration::ZERO,
        }
    }
}

pub(super) fn runtime(s: &mut Section<'_, '_>) -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    set(&mut config.io_threads, s.whole("io_threads", 1, 1024));
    let priority: Option<usize> = s.whole("priority", 0, 99);
    config.placement.priority = priority.unwrap_or(0) as u8;
    let spin_us: Option<usize> = s.whole("spin_us", 0, SPIN_US_MAX);
    config.spin = Duration::from_micros(spin_us.unwrap_or(0) as u64);
    if config.placement.priority > 0 && !config.spin.is_zero() {
        let problem = "expected none beside runtime.priority: a thread that neither sleeps nor \
                       gives way leaves others on its core no turn";
        s.fault(s.span.clone(), "spin_us", problem);
    }
    if let Some(value) = s.value("cores") {
        let expected = "an array of cores, counted from 0";
        let DeValue::Array(list) = value.get_ref() else {
            s.wrong(value, "cores", expected);
            return config;
        };
        for item in list {
            let core = match item.get_ref() {
                DeValue::Integer(i) => i.as_str().parse().ok(),
                _ => None,
            };
            match core.filter(|c| *c < Placement::CORES_MAX) {
                Some(core) => config.placement.cores.push(core),
                None => s.wrong(item, "cores", expected),
            }
        }
    }
    config
}
