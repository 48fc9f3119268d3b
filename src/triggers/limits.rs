//! How often a trigger may act: by both clocks, and over restarts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The daily limit's day, ns.
pub(crate) const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;

/// What a trigger has used up.
#[derive(Debug)]
pub(super) struct Limits {
    refractory: Duration,
    daily_max: usize,
    last: Option<Instant>,
    /// Acts of the last 24 hours, ns since the Unix epoch, oldest first; as long as it may get.
    acts: VecDeque<i64>,
}

impl Limits {
    /// Of a trigger that acted at these times before, oldest first.
    pub(super) fn new(refractory: Duration, daily_max: usize, before: &[i64]) -> Self {
        let mut acts = VecDeque::with_capacity(daily_max);
        acts.extend(before.iter().skip(before.len().saturating_sub(daily_max)));
        Self { refractory, daily_max, last: None, acts }
    }

    /// Whether its refractory time is over.
    pub(super) fn is_rested(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.refractory)
    }

    /// Whether it has acts left today. Those that a clock set back puts into the future count.
    pub(super) fn has_left(&mut self, wall_ns: i64) -> bool {
        while self.acts.front().is_some_and(|&t| wall_ns.saturating_sub(t) >= DAY_NS) {
            self.acts.pop_front();
        }
        self.acts.len() < self.daily_max
    }

    /// It rests from now on.
    pub(super) fn rest(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// It acts; room for that is there where [`Self::has_left`] said so.
    pub(super) fn act(&mut self, wall_ns: i64) {
        self.acts.push_back(wall_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_the_last_24_hours_and_goes_on_over_a_restart() {
        let hour = 3600 * 1_000_000_000;
        let mut limits = Limits::new(Duration::ZERO, 3, &[hour, 2 * hour]);
        assert!(limits.has_left(10 * hour));
        limits.act(10 * hour);
        assert!(!limits.has_left(24 * hour));
        assert!(limits.has_left(25 * hour), "the first is a day ago");
        // More than may be were found: none is left.
        assert!(!Limits::new(Duration::ZERO, 1, &[1, 2, 3]).has_left(4));
        // A clock set back does not give acts back.
        let mut back = Limits::new(Duration::ZERO, 1, &[10 * hour]);
        assert!(!back.has_left(hour));
    }

    #[test]
    fn it_rests_by_the_steady_clock() {
        let mut limits = Limits::new(Duration::from_millis(500), 9, &[]);
        let now = Instant::now();
        assert!(limits.is_rested(now));
        limits.rest(now);
        assert!(!limits.is_rested(now + Duration::from_millis(499)));
        assert!(limits.is_rested(now + Duration::from_millis(500)));
    }
}
