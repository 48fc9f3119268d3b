//! A rig's sample counter in terms of bins. A tick far from the counter is not believed alone: its
//! packet may be damaged. Where the next ones agree with it, the counter was set or restarted.

/// Bins by which a counter may be ahead of its newest tick, and seconds besides for each second
/// that nothing came.
const AHEAD_BINS: f64 = 512.0;
const AHEAD_PER_SILENT: f64 = 1.5;
/// A tick that is behind by no more than this, plus what may be reordered, is late.
const BEHIND_BINS: f64 = 100.0;
const BEHIND_S: f64 = 2.0;
/// Ticks in a row, near each other but far from the newest, after which the counter was set. They
/// come at two times at least: what came together may have gone wrong together.
const AGREE: u32 = 3;

/// Where a tick belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is in this bin.
    In(u64),
    /// It cannot be, or is not believed yet.
    Stray,
    /// The counter was set or restarted: this bin starts another recording.
    Restarted(u64),
}

/// A counter at its rate, and the newest tick that was believed.
#[derive(Debug, Clone)]
pub(crate) struct Ticks {
    rate_hz: f64,
    per_bin: f64,
    reorder: i64,
    /// The newest tick that was believed, and our steady time of it, ns.
    newest: Option<(i64, i64)>,
    /// The last that was not, how many in a row, and our steady time of the first of these.
    strange: (i64, u32, i64),
}

impl Ticks {
    /// At `rate_hz`; events may come `reorder_ms` after later ones.
    pub(crate) fn new(rate_hz: f64, bin_width_s: f64, reorder_ms: f64) -> Self {
        let reorder = (rate_hz * reorder_ms * 1e-3) as i64;
        let per_bin = rate_hz * bin_width_s;
        Self { rate_hz, per_bin, reorder, newest: None, strange: (0, 0, 0) }
    }

    /// Ticks a second.
    pub(crate) fn rate_hz(&self) -> f64 {
        self.rate_hz
    }

    /// The bin of a tick; `None` for one that cannot be.
    pub(crate) fn bin(&self, tick: i64) -> Option<u64> {
        let tick = u64::try_from(tick).ok()?;
        // Clocks of nanoseconds since 1970 are beyond what 53 bits hold.
        let whole = self.per_bin.round();
        if whole >= 1.0 && (self.per_bin - whole).abs() < 1e-9 * whole {
            return Some(tick / whole as u64);
        }
        Some((tick as f64 / self.per_bin) as u64)
    }

    /// A tick came in at `now_ns` of our steady clock.
    pub(crate) fn place(&mut self, tick: i64, now_ns: i64) -> Place {
        let Some(bin) = self.bin(tick) else { return Place::Stray };
        let Some((newest, newest_ns)) = self.newest else {
            self.newest = Some((tick, now_ns));
            return Place::In(bin);
        };
        let away = tick.saturating_sub(newest) as f64;
        let silent_s = now_ns.saturating_sub(newest_ns).max(0) as f64 * 1e-9;
        let ahead = AHEAD_BINS * self.per_bin + AHEAD_PER_SILENT * silent_s * self.rate_hz;
        let behind = (BEHIND_BINS * self.per_bin).max(BEHIND_S * self.rate_hz);
        if (-behind - self.reorder as f64..=ahead).contains(&away) {
            self.strange = (0, 0, 0);
            self.newest = Some((newest.max(tick), now_ns));
            return Place::In(bin);
        }
        let (last, run, since_ns) = self.strange;
        let near = run > 0 && (tick.saturating_sub(last) as f64).abs() <= AHEAD_BINS * self.per_bin;
        self.strange = if near { (tick, run + 1, since_ns) } else { (tick, 1, now_ns) };
        if self.strange.1 < AGREE || self.strange.2 == now_ns {
            return Place::Stray;
        }
        self.restart();
        self.newest = Some((tick, now_ns));
        Place::Restarted(bin)
    }

    /// The newest tick that was believed.
    pub(crate) fn newest(&self) -> Option<i64> {
        self.newest.map(|n| n.0)
    }

    /// The bin of the newest tick.
    pub(crate) fn newest_bin(&self) -> u64 {
        self.newest().and_then(|t| self.bin(t)).unwrap_or(0)
    }

    /// The counter restarts.
    pub(crate) fn restart(&mut self) {
        self.newest = None;
        self.strange = (0, 0, 0);
    }

    /// First bin of which something may still come.
    pub(crate) fn complete(&self) -> u64 {
        let newest = self.newest().unwrap_or(0);
        self.bin(newest.saturating_sub(self.reorder).max(0)).unwrap_or(0)
    }

    /// A tick's time, ns.
    pub(crate) fn ns(&self, tick: i64) -> i64 {
        let whole = self.rate_hz.round();
        if (self.rate_hz - whole).abs() < 1e-9 * whole {
            // Exact: a float would be off by hundreds of nanoseconds for a clock that began
            // in 1970.
            let ns = i128::from(tick) * 1_000_000_000 / (whole as i128).max(1);
            return i64::try_from(ns).unwrap_or(i64::MAX);
        }
        (tick as f64 / self.rate_hz * 1e9) as i64
    }

    /// A tick of which 32 bits were sent: the one nearest to the counter.
    pub(crate) fn unwrapped(&self, sent: u32) -> i64 {
        let Some(newest) = self.newest() else { return i64::from(sent) };
        // The difference between two counters that wrap, with its sign.
        let away = sent.wrapping_sub(newest as u32) as i32;
        let tick = newest + i64::from(away);
        if tick < 0 { tick + (1 << 32) } else { tick }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: f64 = 30_000.0;

    fn ticks() -> Ticks {
        Ticks::new(RATE, 0.01, 10.0)
    }

    #[test]
    fn one_tick_gone_wrong_changes_nothing() {
        let mut t = ticks();
        for i in 0..1000i64 {
            let at = 1_000_000 + i * 30;
            assert!(matches!(t.place(at, i * 1_000_000), Place::In(_)));
            if i % 100 == 50 {
                for wrong in [1 << 59, i64::MAX, -1, i64::MIN, 0] {
                    assert_eq!(t.place(wrong, i * 1_000_000), Place::Stray, "{wrong}");
                    assert_eq!(t.newest(), Some(at));
                    // Another in between: they are not in a row.
                    assert!(matches!(t.place(at, i * 1_000_000), Place::In(_)));
                }
            }
        }
    }

    #[test]
    fn a_counter_that_began_anew_is_followed_at_once_and_once() {
        for from in [0i64, 500, 1 << 40] {
            let mut t = ticks();
            for i in 0..100_000i64 {
                t.place(3_000_000 + i * 300, i * 10_000_000);
            }
            let places: Vec<Place> =
                (0..200).map(|i| t.place(from + i * 300, (100_000 + i) * 10_000_000)).collect();
            let restarts = places.iter().filter(|h| matches!(h, Place::Restarted(_))).count();
            assert_eq!(restarts, 1, "{from}: {:?}", &places[..5]);
            assert!(places[3..].iter().all(|h| matches!(h, Place::In(_))), "{from}");
            assert_eq!(t.newest(), Some(from + 199 * 300));
        }
    }

    #[test]
    fn what_came_in_one_message_sets_no_counter() {
        let mut t = ticks();
        for message in 0..100i64 {
            let now = message * 10_000_000;
            // Any number of ticks that agree with each other, in one damaged message.
            let wrong: Vec<Place> = (0..20).map(|i| t.place((1 << 50) + i, now)).collect();
            assert!(message == 0 || wrong.iter().all(|h| *h == Place::Stray), "{message}");
            if message == 0 {
                t.restart();
            }
            assert!(matches!(t.place(message * 300, now), Place::In(_)));
        }
        // The next message agrees.
        t.place(1 << 50, 2_000_000_000);
        t.place(1 << 50, 2_000_000_000);
        t.place(1 << 50, 2_000_000_000);
        assert!(matches!(t.place(1 << 50, 2_010_000_000), Place::Restarted(_)));
    }

    #[test]
    fn silence_is_no_restart() {
        let mut t = ticks();
        t.place(1000, 0);
        // Ten minutes without a spike.
        let later = 1000 + 600 * 30_000;
        assert!(matches!(t.place(later, 600_000_000_000), Place::In(_)));
    }

    #[test]
    fn nanoseconds_since_1970_are_ticks() {
        let mut t = Ticks::new(1e9, 0.01, 0.0);
        let now = 1_795_000_000_123_456_789i64;
        assert_eq!(t.place(now, 0), Place::In(now as u64 / 10_000_000));
        assert_eq!(t.ns(now), now);
        assert_eq!(t.place(now + 10_000_000, 10), Place::In(now as u64 / 10_000_000 + 1));
    }

    #[test]
    fn thirty_two_bits_are_unwrapped_and_a_wrong_one_leaves_no_trace() {
        let mut t = ticks();
        let mut at = (1i64 << 32) - 3000;
        for i in 0..1000i64 {
            let sent = at as u32;
            assert_eq!(t.unwrapped(sent), if i == 0 { i64::from(sent) } else { at });
            t.place(t.unwrapped(sent), i * 1_000_000);
            let wrong = t.unwrapped(sent.wrapping_add(2_000_000_000));
            assert_eq!(t.place(wrong, i * 1_000_000), Place::Stray);
            at += 30;
        }
        assert!(t.newest().expect("some") > 1 << 32);
    }

    proptest! {
        #[test]
        fn bins_are_those_of_whole_numbers(tick in 0i64..i64::MAX) {
            prop_assert_eq!(ticks().bin(tick), Some(tick as u64 / 300));
        }

        #[test]
        fn any_ticks_are_taken(values in proptest::collection::vec(any::<i64>(), 1..60)) {
            let mut t = ticks();
            for (i, &tick) in values.iter().enumerate() {
                t.place(tick, i as i64);
                prop_assert!(t.newest_bin() >= t.complete());
                let _ = t.unwrapped(tick as u32);
            }
        }
    }
}
