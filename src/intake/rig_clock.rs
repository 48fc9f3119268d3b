//! The rig's clock against ours: offset, drift and transport delay from pairs of a rig's time and
//! the time at which a message with it came in. A message can be delayed, never early: the smallest
//! difference seen in a while is the offset with the least delay there is (the minimum filter of
//! NTP, RFC 5905 section 10). Time is an argument; nothing here reads a clock.

use std::collections::VecDeque;

/// Length of a window of which the smallest difference is kept.
const WINDOW_NS: i64 = 2_000_000_000;
/// Windows kept for the drift: four minutes.
const WINDOWS: usize = 120;
/// Newest windows whose smallest difference is the offset.
const NEWEST: usize = 5;
/// Windows needed before a drift is reported.
const DRIFT_WINDOWS_MIN: usize = 10;
/// A difference this far from the offset is no delay, where [`JUMP_RUN`] in a row agree on it.
const JUMP_NS: i64 = 500_000_000;
/// Differences in a row that agree among themselves to within [`AGREE_NS`] when a clock was set; a
/// backlog that is worked off comes nearer with every message.
const JUMP_RUN: u32 = 20;
/// The same for a rig's clock that jumped ahead, which no delay explains.
const JUMP_AHEAD_RUN: u32 = 3;
const AGREE_NS: i64 = 50_000_000;

/// Result of one pair of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Observed {
    /// Transport delay beyond the least one of late, ns, from 0.
    pub delay_ns: i64,
    /// The rig's clock was set or restarted, and is followed from here.
    pub jumped: bool,
}

/// Estimates of one rig's clock.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Middle of a window on our clock, and the smallest `ours - rig's` in it, ns.
    windows: VecDeque<(i64, i64)>,
    /// Begin of the window that is filled, and its smallest difference.
    filling: Option<(i64, i64)>,
    /// Difference at which a run of strange ones began, and its length.
    strange: (i64, u32),
    jumps: u64,
}

impl Clock {
    /// Our time minus the rig's with the least transport delay of late, ns.
    #[must_use]
    pub(super) fn offset_ns(&self) -> Option<i64> {
        let newest = self.windows.iter().rev().take(NEWEST).map(|w| w.1);
        newest.chain(self.filling.map(|f| f.1)).min()
    }

    /// Seconds that the offset grows per second of ours (positive: the rig's clock is slow).
    #[must_use]
    pub(super) fn drift(&self) -> Option<f64> {
        if self.windows.len() < DRIFT_WINDOWS_MIN {
            return None;
        }
        let (t0, d0) = self.windows[0];
        let n = self.windows.len() as f64;
        let points = || self.windows.iter().map(|&(t, d)| ((t - t0) as f64, (d - d0) as f64));
        let (sum_t, sum_d) = points().fold((0.0, 0.0), |(a, b), (t, d)| (a + t, b + d));
        let (mean_t, mean_d) = (sum_t / n, sum_d / n);
        let (cross, square) = points().fold((0.0, 0.0), |(a, b), (t, d)| {
            (a + (t - mean_t) * (d - mean_d), b + (t - mean_t).powi(2))
        });
        (square > 0.0).then(|| cross / square)
    }

    /// Number of times that the rig's clock was found set or restarted.
    #[must_use]
    pub(super) fn jumps(&self) -> u64 {
        self.jumps
    }

    /// The clock restarted: forgets what was measured of it.
    pub(super) fn begin(&mut self) {
        *self = Self { jumps: self.jumps, ..Self::default() };
    }

    /// A message with the rig's time came in.
    pub(super) fn observe(&mut self, rig_ns: i64, ours_ns: i64) -> Observed {
        let difference = ours_ns.saturating_sub(rig_ns);
        let mut jumped = false;
        if let Some(offset) = self.offset_ns() {
            let away = difference.saturating_sub(offset);
            if away.saturating_abs() > JUMP_NS {
                let (began, run) = self.strange;
                let agrees = difference.saturating_sub(began).saturating_abs() <= AGREE_NS;
                self.strange = if run > 0 && agrees { (began, run + 1) } else { (difference, 1) };
                let enough = if away < 0 { JUMP_AHEAD_RUN } else { JUMP_RUN };
                if self.strange.1 < enough {
                    return Observed { delay_ns: away.max(0), jumped };
                }
                *self = Self { jumps: self.jumps + 1, ..Self::default() };
                jumped = true;
            } else {
                self.strange = (0, 0);
            }
        }
        match &mut self.filling {
            Some((began, least)) if ours_ns - *began < WINDOW_NS => {
                *least = (*least).min(difference);
            }
            full => {
                if let Some((began, least)) = full.replace((ours_ns, difference)) {
                    if self.windows.len() == WINDOWS {
                        self.windows.pop_front();
                    }
                    self.windows.push_back((began + WINDOW_NS / 2, least));
                }
            }
        }
        let offset = self.offset_ns().unwrap_or(difference);
        Observed { delay_ns: difference.saturating_sub(offset).max(0), jumped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    /// Bins of 10 ms, delays from 1 to 9 ms, a rig whose second is `drift` seconds too long.
    fn run(
        clock: &mut Clock,
        bins: std::ops::Range<i64>,
        drift: f64,
        offset: i64,
    ) -> Vec<Observed> {
        bins.map(|i| {
            let rig = i * 10 * MS;
            let delay = MS + (i * 7919 % 97) * 8 * MS / 97;
            let ours = offset + rig + (rig as f64 * drift) as i64 + delay;
            clock.observe(rig, ours)
        })
        .collect()
    }

    #[test]
    fn offset_drift_and_delay_are_found() {
        let mut clock = Clock::default();
        let seen = run(&mut clock, 0..6000, 50e-6, 12_345 * MS);
        let offset = clock.offset_ns().expect("an offset");
        // A minute at 50 ppm is 3 ms.
        let expected = 12_345 * MS + MS + 3 * MS;
        assert!((offset - expected).abs() < MS, "{offset} for {expected}");
        let drift = clock.drift().expect("a drift");
        assert!((drift - 50e-6).abs() < 3e-6, "{drift}");
        assert!(seen[500..].iter().all(|o| (0..10 * MS).contains(&o.delay_ns) && !o.jumped));
    }

    #[test]
    fn a_clock_that_is_set_is_followed_and_a_backlog_is_not() {
        for by in [-3_600_000 * MS, 3_600_000 * MS] {
            let mut clock = Clock::default();
            run(&mut clock, 0..500, 0.0, 0);
            let seen = run(&mut clock, 500..600, 0.0, by);
            assert_eq!(seen.iter().filter(|o| o.jumped).count(), 1, "{by}");
            assert!((clock.offset_ns().expect("an offset") - by).abs() < 2 * MS, "{by}");
            assert_eq!(clock.jumps(), 1);
        }
        let mut clock = Clock::default();
        run(&mut clock, 0..500, 0.0, 0);
        // Two seconds held back, then all at once.
        let ours = 700 * 10 * MS;
        for i in 500..700 {
            let seen = clock.observe(i * 10 * MS, ours + (i - 500) * MS / 10);
            assert!(!seen.jumped && seen.delay_ns >= 0);
        }
        assert_eq!(clock.jumps(), 0);
    }

    #[test]
    fn extreme_times_are_taken_without_overflow() {
        let mut clock = Clock::default();
        for rig in [0, i64::MAX, i64::MIN, 1, i64::MAX, 5] {
            clock.observe(rig, 7);
            clock.observe(rig, 9);
        }
        assert!(clock.offset_ns().is_some());
    }
}
