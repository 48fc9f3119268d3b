//! Places a message's bins in the numbering of their session.
//!
//! The rig numbers its bins. A gap is made of missing bins, or begins another recording where it is
//! too long to predict through; what came before is a duplicate or late, unless a run of such
//! numbers shows that the rig numbers from the start again; a number far ahead is believed once the
//! next message agrees.

use std::time::{Duration, Instant};

use super::refusal::Refusal;
use super::ring::Kind;
use crate::clock::Received;
use crate::wire::RejectReason;

/// Late messages in a row, numbered without a gap among themselves, after which the rig is taken to
/// number its bins from the start again.
pub(super) const LATE_RUN_RESTART: u32 = 20;
/// Bins flow where some were taken no longer ago than this.
pub(super) const FLOWING: Duration = Duration::from_secs(1);
/// Numbers that are ahead by no more than this beyond the time that passed are believed at once.
const AHEAD_BELIEVED: Duration = Duration::from_secs(60);

/// The numbering of one session.
#[derive(Debug)]
pub(super) struct Sequence {
    bin_width_s: f64,
    /// Longest gap predicted through, bins.
    gap_bins_max: usize,
    /// Number of the next bin.
    expected: Option<u64>,
    /// Number that would continue the run of late messages, and the run's length.
    late_run: (u64, u32),
    /// Number that would continue a message so far ahead that it was not believed.
    doubted: Option<u64>,
    /// When bins were taken last.
    taken: Option<Instant>,
}

/// What to do with a message's bins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// This many of them are duplicates.
    pub(super) skip: usize,
    /// What precedes the others in the ring.
    pub(super) before: Option<Kind>,
}

impl Sequence {
    pub(super) fn new(bin_width_s: f64, gap_bins_max: usize) -> Self {
        Self {
            bin_width_s,
            gap_bins_max,
            expected: None,
            late_run: (0, 0),
            doubted: None,
            taken: None,
        }
    }

    /// Number of the next bin, where one is expected.
    pub(super) fn expected(&self) -> Option<u64> {
        self.expected
    }

    /// Another stream of messages begins, whose numbering may be its own: its first is believed
    /// however far ahead it is.
    pub(super) fn stream_begins(&mut self) {
        self.taken = None;
    }

    /// Places bins `first` to `last`; `begins`: with them begins another recording.
    pub(super) fn place(
        &mut self,
        (first, last): (u64, u64),
        begins: bool,
        received: Received,
    ) -> Result<Place, Refusal> {
        // A source that announces another recording, or the session's first message.
        if begins {
            return Ok(Place { skip: 0, before: Some(Kind::Start) });
        }
        let Some(expected) = self.expected else {
            return Ok(Place { skip: 0, before: Some(Kind::First) });
        };
        if last < expected {
            return self.late(expected, first, last);
        }
        // Overlaps what was taken: a sender that repeats itself after a lost reply.
        if first <= expected {
            return Ok(Place { skip: (expected - first) as usize, before: None });
        }
        let gap = first - expected;
        if self.is_doubted(first, gap, received) {
            self.doubted = Some(last.saturating_add(1));
            return Err(Refusal::new(
                RejectReason::TooFarAhead,
                format!(
                    "expected sequence {expected} or a little later, found {first}; where the next \
                     one goes on from \
                     there, it is believed"
                ),
            ));
        }
        // A short gap keeps the fit; after a long one the state is worth nothing.
        let through = usize::try_from(gap).is_ok_and(|gap| gap <= self.gap_bins_max);
        let before = if through { Kind::Missing(gap as u32) } else { Kind::Start };
        Ok(Place { skip: 0, before: Some(before) })
    }

    fn late(&mut self, expected: u64, first: u64, last: u64) -> Result<Place, Refusal> {
        // A single late message is a straggler. Several that continue each other come from a sender
        // that has started again and counts from its own beginning.
        let (next, run) = self.late_run;
        let run = if next == first { run + 1 } else { 1 };
        self.late_run = (last + 1, run);
        if run < LATE_RUN_RESTART {
            return Err(Refusal::new(
                RejectReason::DuplicateOrLate,
                format!("expected sequence {expected} or later, found {first} to {last}"),
            ));
        }
        Ok(Place { skip: 0, before: Some(Kind::Start) })
    }

    /// Whether a number is further ahead than the time that passed explains, while bins flow: one
    /// message gone wrong must not end a recording. A numbering that was set is followed with the
    /// next message.
    fn is_doubted(&self, first: u64, gap: u64, received: Received) -> bool {
        let Some(taken) = self.taken else { return false };
        let passed = received.instant.saturating_duration_since(taken);
        let ahead_s = gap as f64 * self.bin_width_s;
        passed < FLOWING
            && gap > self.gap_bins_max as u64
            && ahead_s > (passed + AHEAD_BELIEVED).as_secs_f64()
            && self.doubted != Some(first)
    }

    /// Bins up to `last` were taken.
    pub(super) fn taken(&mut self, last: u64, received: Received) {
        self.expected = Some(last + 1);
        self.late_run = (0, 0);
        (self.doubted, self.taken) = (None, Some(received.instant));
    }
}
