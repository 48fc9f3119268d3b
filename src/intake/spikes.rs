//! Spike events, and what became of them.

use super::refusal::Refusal;
use crate::wire::RejectReason;

/// What became of a message of spike events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpikesTaken {
    /// Events counted into bins.
    pub binned: u64,
    /// Events whose bins had closed.
    pub late: u64,
    /// Events refused.
    pub rejected: u64,
    /// Messages found missing before this one.
    pub messages_lost: u64,
    /// The first refusal for each reason, and how many events were refused for it.
    pub refused: Vec<(Refusal, u64)>,
    /// The rig's clock was found set: once in a message, so that what a message costs is bounded by
    /// its length.
    pub(super) jumped: bool,
}

/// An event in terms of bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub bin: u64,
    pub channel: usize,
    /// Number of spikes; [`super::MASKED`]: the channel has no information in this bin.
    pub count: u16,
}

impl SpikesTaken {
    pub(super) fn refuse(&mut self, reason: RejectReason, detail: impl FnOnce() -> String) {
        self.rejected += 1;
        match self.refused.iter_mut().find(|(refusal, _)| refusal.reason == reason) {
            Some((_, n)) => *n += 1,
            None => self.refused.push((Refusal::new(reason, detail()), 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_events_are_counted_by_their_own_reasons() {
        let mut taken = SpikesTaken::default();
        for reason in [RejectReason::Malformed, RejectReason::UnknownChannel] {
            taken.refuse(reason, String::new);
            taken.refuse(RejectReason::UnknownChannel, String::new);
        }
        let counted: Vec<_> = taken.refused.iter().map(|(r, n)| (r.reason, *n)).collect();
        assert_eq!(counted, [(RejectReason::Malformed, 1), (RejectReason::UnknownChannel, 3)]);
        assert_eq!(taken.rejected, 4);
    }
}
