//! A rig's sample counter in terms of bins.

/// Numbers beyond are nonsense.
const TICK_MAX: i64 = 1 << 60;

/// A counter at its rate, and how far it was heard of.
#[derive(Debug, Clone)]
pub(super) struct Ticks {
    rate_hz: f64,
    per_bin: f64,
    reorder: i64,
    /// The newest tick that was heard of.
    newest: i64,
}

impl Ticks {
    /// At `rate_hz`; events may come `reorder_ms` after later ones.
    pub(super) fn new(rate_hz: f64, bin_width_s: f64, reorder_ms: f64) -> Self {
        let reorder = (rate_hz * reorder_ms * 1e-3) as i64;
        Self { rate_hz, per_bin: rate_hz * bin_width_s, reorder, newest: 0 }
    }

    /// Ticks a second.
    pub(super) fn rate_hz(&self) -> f64 {
        self.rate_hz
    }

    /// The bin of a tick; `None` for one that cannot be.
    pub(super) fn bin(&self, tick: i64) -> Option<u64> {
        (0..TICK_MAX).contains(&tick).then(|| (tick as f64 / self.per_bin) as u64)
    }

    /// The bin of the newest tick.
    pub(super) fn newest_bin(&self) -> u64 {
        self.bin(self.newest).unwrap_or(0)
    }

    /// The counter has come to `tick`: true where that is news.
    pub(super) fn advance(&mut self, tick: i64) -> bool {
        let news = tick > self.newest && tick < TICK_MAX;
        if news {
            self.newest = tick;
        }
        news
    }

    /// The counter begins anew.
    pub(super) fn restart(&mut self) {
        self.newest = 0;
    }

    /// First bin of which something may still come.
    pub(super) fn complete(&self) -> u64 {
        self.bin((self.newest - self.reorder).max(0)).unwrap_or(0)
    }

    /// A tick's time, ns.
    pub(super) fn ns(&self, tick: i64) -> i64 {
        (tick as f64 / self.rate_hz * 1e9) as i64
    }
}
