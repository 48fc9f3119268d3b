//! Numbers for samples that have none, from their time stamps and the stream's rate.

/// A sample this many bins later than its place in the count shows that some are lost.
const LOST_BINS: f64 = 3.0;
/// By so much of each sample's deviation the phase is corrected: a sender's clock and rate need not
/// be exact.
const FOLLOW: f64 = 0.01;
/// A time stamp that goes back by this many bins is not believed alone: its sample is the next one.
const BACK_BINS: f64 = 100.0;
/// The same of one that is ahead by more than this.
const GAP_BINS_MAX: f64 = 1e6;
/// Where this many time stamps in a row agree that were not believed, the clock restarted.
const AGREE: u32 = 3;

/// The place of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) sequence: u64,
    /// Samples that seem to be lost before it.
    pub(crate) missing: u64,
    /// Whether the clock restarted, so that another recording begins.
    pub(crate) begins: bool,
}

/// Numbers samples by their time stamps, and finds how many were lost.
#[derive(Debug)]
pub(crate) struct Pace {
    width_s: f64,
    next: u64,
    /// Time at which sample `next` is expected.
    due: Option<f64>,
    /// The next sample is the first of a new connection: any whole bin of difference is a loss.
    fresh: bool,
    /// Time at which the next is due after one that was not believed, and how many were not in a
    /// row.
    strange: (f64, u32),
}

impl Pace {
    pub(crate) fn new(width_s: f64) -> Self {
        Self { width_s, next: 0, due: None, fresh: true, strange: (0.0, 0) }
    }

    /// The stream was lost and found.
    pub(crate) fn reconnected(&mut self) {
        self.fresh = true;
    }

    pub(crate) fn place(&mut self, stamp: f64) -> Placed {
        let Some(due) = self.due else {
            self.due = Some(stamp + self.width_s);
            self.next = 1;
            self.fresh = false;
            return Placed { sequence: 0, missing: 0, begins: false };
        };
        let ahead = (stamp - due) / self.width_s;
        let fresh = std::mem::take(&mut self.fresh);
        if !(-BACK_BINS..GAP_BINS_MAX).contains(&ahead) || (fresh && ahead < -1.0) {
            let (expected, run) = self.strange;
            let near = run > 0 && ((stamp - expected) / self.width_s).abs() < BACK_BINS;
            self.strange = (stamp + self.width_s, if near { run + 1 } else { 1 });
            self.next += 1;
            // Another connection may be another recording.
            let begins = (fresh && stamp.is_finite()) || self.strange.1 >= AGREE;
            if begins {
                self.strange = (0.0, 0);
            }
            self.due = Some(if begins { stamp } else { due } + self.width_s);
            return Placed { sequence: self.next - 1, missing: 0, begins };
        }
        self.strange = (0.0, 0);
        let least = if fresh { 0.5 } else { LOST_BINS };
        let missing = if ahead >= least { ahead.round() as u64 } else { 0 };
        let sequence = self.next + missing;
        self.next = sequence + 1;
        let off = ahead - missing as f64;
        self.due = Some(due + self.width_s * (missing as f64 + 1.0 + FOLLOW * off));
        Placed { sequence, missing, begins: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_and_drift_are_no_loss_and_a_gap_is() {
        let mut pace = Pace::new(0.01);
        let (mut missing, mut at) = (0, 0u64);
        for i in 0..50_000u64 {
            if (20_000..20_050).contains(&i) {
                continue;
            }
            let jitter = ((i * 7919 % 101) as f64 / 101.0 - 0.5) * 0.03;
            let placed = pace.place(100.0 + i as f64 * 0.01 * (1.0 + 1e-4) + jitter);
            missing += placed.missing;
            assert!(!placed.begins);
            at = placed.sequence;
        }
        assert!((48..=52).contains(&missing), "{missing} of 50");
        assert!(at.abs_diff(49_999) <= 2, "{at}");
    }

    #[test]
    fn a_stream_found_again_counts_what_was_missed_and_a_new_clock_begins_anew() {
        let mut pace = Pace::new(0.01);
        for i in 0..100 {
            pace.place(f64::from(i) * 0.01);
        }
        pace.reconnected();
        assert_eq!(pace.place(1.70), Placed { sequence: 170, missing: 70, begins: false });
        pace.reconnected();
        assert_eq!(pace.place(0.5), Placed { sequence: 171, missing: 0, begins: true });
        assert_eq!(pace.place(0.51), Placed { sequence: 172, missing: 0, begins: false });
        // A damaged one is the next sample and nothing else; the clock continues.
        let mut at = 173;
        for nonsense in [f64::NAN, f64::INFINITY, -1e300, 1e12] {
            assert_eq!(pace.place(nonsense), Placed { sequence: at, missing: 0, begins: false });
            let stamp = 0.5 + (at - 171 + 1) as f64 * 0.01;
            let next = Placed { sequence: at + 1, missing: 0, begins: false };
            assert_eq!(pace.place(stamp), next, "{nonsense}");
            at += 2;
        }
        // A clock that was set is followed, once.
        let begins: Vec<bool> =
            (0..20).map(|i| pace.place(5e8 + f64::from(i) * 0.01).begins).collect();
        assert_eq!(begins.iter().filter(|b| **b).count(), 1, "{begins:?}");
        assert!(begins[2]);
    }
}
