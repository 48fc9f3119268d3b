//! Whether a trigger's condition is met with a bin: no clock, no I/O.

use super::settings::When;

/// What a bin shows of a trigger's regime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// It is in force, or probable enough.
    On,
    /// It is not.
    Off,
    /// Nothing to be believed: the session is not calibrated.
    Nothing,
}

/// A trigger's condition over time.
#[derive(Debug)]
pub(super) struct Condition {
    when: When,
    /// Bins after the first for which it must hold.
    hold_bins: u64,
    repeat: bool,
    /// Consecutive bins that count towards it.
    run: u64,
    /// Met in this run already.
    met: bool,
    /// The regime was on ([`When::End`]).
    was_on: bool,
}

impl Condition {
    pub(super) fn new(when: When, hold_s: f64, repeat: bool, bin_width_s: f64) -> Self {
        // A hold that is a whole number of bins is that many, whatever rounding says.
        let hold_bins = (hold_s / bin_width_s - 1e-9).ceil().max(0.0) as u64;
        Self { when, hold_bins, repeat, run: 0, met: false, was_on: false }
    }

    /// Takes a bin; whether the condition is met with it. One that was not `seen` (it never came)
    /// goes on with what was before, and meets nothing. `free`: it may act now; one that repeats
    /// waits until it may.
    pub(super) fn take(&mut self, level: Level, seen: bool, free: bool) -> bool {
        let counts = match (self.when, level) {
            (_, Level::Nothing) => {
                (self.run, self.met, self.was_on) = (0, false, false);
                return false;
            }
            (When::End, Level::On) => {
                self.was_on = true;
                false
            }
            (When::End, Level::Off) => self.was_on,
            (_, level) => level == Level::On,
        };
        if !counts {
            (self.run, self.met) = (0, false);
            return false;
        }
        self.run += 1;
        let ready = self.run > self.hold_bins && seen;
        let met = ready && if self.met { self.repeat && free } else { free || !self.repeat };
        if met {
            self.met = true;
            // An end is over once it was told.
            self.was_on &= self.when != When::End;
        }
        met
    }

    /// While disarmed, what goes on has had its chance.
    pub(super) fn pass(&mut self, level: Level, seen: bool) {
        self.take(level, seen, true);
        self.met = self.run > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Nothing, Off, On};

    /// Bins with which the condition is met, every act allowed.
    fn met(mut condition: Condition, levels: &[Level]) -> Vec<usize> {
        let take = |(i, &l): (usize, &Level)| condition.take(l, true, true).then_some(i);
        levels.iter().enumerate().filter_map(take).collect()
    }

    #[test]
    fn begins_ends_and_thresholds_are_met_once_each() {
        let levels = [Off, On, On, On, Off, On, Off, Off];
        let of = |when, hold_s| met(Condition::new(when, hold_s, false, 0.01), &levels);
        assert_eq!(of(When::Begin, 0.0), [1, 5]);
        assert_eq!(of(When::Above(0.9), 0.02), [3], "the second run is too short");
        assert_eq!(of(When::End, 0.0), [4, 6]);
        assert_eq!(of(When::End, 0.01), [7], "the first end did not last");
        // 30 ms of 10 ms bins are three, though 0.03 / 0.01 is a little less or more.
        assert_eq!(of(When::Begin, 0.03), [0usize; 0]);
    }

    #[test]
    fn a_repeated_one_waits_for_its_turn_within_the_run() {
        let mut condition = Condition::new(When::Above(0.5), 0.0, true, 0.01);
        let free = [true, false, false, true, true];
        let met: Vec<bool> = free.iter().map(|&f| condition.take(On, true, f)).collect();
        assert_eq!(met, [true, false, false, true, true]);
        // One that does not repeat is met though it may not act: that is told.
        let mut once = Condition::new(When::Begin, 0.0, false, 0.01);
        assert!(once.take(On, true, false) && !once.take(On, true, true));
    }

    #[test]
    fn missing_bins_and_what_is_not_believed_meet_nothing() {
        let mut condition = Condition::new(When::Begin, 0.01, false, 0.01);
        assert!(!condition.take(On, true, true));
        assert!(!condition.take(On, false, true), "held, but it never came");
        assert!(condition.take(On, true, true));
        // Trust that is lost in a run is no end, and begins it anew.
        let mut end = Condition::new(When::End, 0.0, false, 0.01);
        assert!(!end.take(On, true, true) && !end.take(Nothing, true, true));
        assert!(!end.take(Off, true, true));
    }

    #[test]
    fn what_began_before_it_was_armed_has_had_its_chance() {
        let mut condition = Condition::new(When::Begin, 0.0, false, 0.01);
        condition.pass(On, true);
        assert!(!condition.take(On, true, true));
        assert!(!condition.take(Off, true, true) && condition.take(On, true, true));
        // An end after arming counts, whenever it began.
        let mut end = Condition::new(When::End, 0.0, false, 0.01);
        end.pass(On, true);
        assert!(end.take(Off, true, true));
    }
}
