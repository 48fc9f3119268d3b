//! Spike events to bins. Bin `b` holds events from `b` to `b + 1` bin widths on the rig's clock, so
//! that its number is its time. Pure: no clock, no I/O.
//!
//! Events of several publishers arrive interleaved and late, so a bin cannot close when the next
//! one starts. Each feed carries a watermark instead: the first bin that it has not completed. A
//! bin closes when the lowest watermark of the feeds that are present has passed it, or at its
//! deadline, which bounds the wait for a feed that has stopped. An event behind the closed bins is
//! late. One far ahead may be a damaged packet or a clock that was set: only a run of events that
//! agree, from more than one message, makes the second be believed.

use std::collections::VecDeque;

use super::bins::MASKED;
use crate::model::COUNT_MAX;

/// Feeds of one session at most.
pub(crate) const FEEDS_MAX: usize = 64;
/// A feed without a message for this long gives its place to another.
const GONE_NS: u64 = 10_000_000_000;
/// Events in a row, near each other but far from the open bins, after which the rig's clock is
/// taken to have been set.
const JUMP_RUN: u32 = 20;
/// Bins behind the open ones up to which an event is late and no sign of a clock that was set.
const LATE_BINS: u64 = 100;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is counted.
    Taken,
    /// Its bin is closed.
    Late,
    /// Its bin is further ahead than bins are kept open.
    Ahead,
    /// The rig's clock was set: close everything, [`Binner::restart`], add it again.
    Jump,
}

/// One who feeds a session.
#[derive(Debug)]
struct Feed {
    name: String,
    /// First bin that this feed has not completed.
    complete: u64,
    /// Time of its last message, ns.
    last_contact_ns: u64,
    /// Channels that only this feed reports; without its report of a bin they are masked.
    owns: Vec<usize>,
}

#[derive(Debug)]
struct OpenBin {
    counts: Vec<u16>,
    /// Events of it were lost.
    spoiled: bool,
}

/// Bins of one session that are still open.
#[derive(Debug)]
pub(crate) struct Binner {
    n_channels: usize,
    open_max: u64,
    first: Option<u64>,
    open: VecDeque<OpenBin>,
    spare: Vec<OpenBin>,
    /// Channels reported for a bin, while it closes.
    covered: Vec<bool>,
    feeds: Vec<Feed>,
    /// Feeds without which no bin is complete.
    expected: usize,
    /// The last event far from the open bins, and how many in a row were near it.
    stray: (u64, u32),
    /// Whether such a run may be believed now: it began in a message before.
    believes: bool,
}

impl Binner {
    /// For `n_channels` channels, with at most `open_max` bins open, fed by at least `expected`.
    #[must_use]
    pub(crate) fn new(n_channels: usize, open_max: usize, expected: usize) -> Self {
        Self {
            n_channels,
            open_max: open_max.max(2) as u64,
            first: None,
            open: VecDeque::new(),
            spare: Vec::new(),
            covered: vec![false; n_channels],
            feeds: Vec::new(),
            expected,
            stray: (0, 0),
            believes: true,
        }
    }

    /// The events that follow are of one message: by itself it moves no clock, however many they
    /// are.
    pub(crate) fn begin_message(&mut self) {
        self.believes = self.stray.1 > 0;
    }

    /// A feed's number; `None` where there are too many.
    pub(crate) fn feed(&mut self, name: &str, now_ns: u64) -> Option<usize> {
        let at = match self.feeds.iter().position(|f| f.name == name) {
            Some(at) => at,
            None => {
                let name = name.to_owned();
                let feed = Feed { name, complete: 0, last_contact_ns: now_ns, owns: Vec::new() };
                let gone = |f: &Feed| now_ns.saturating_sub(f.last_contact_ns) > GONE_NS;
                if self.feeds.len() < FEEDS_MAX {
                    self.feeds.push(feed);
                    self.feeds.len() - 1
                } else {
                    let at = self.feeds.iter().position(gone)?;
                    self.feeds[at] = feed;
                    at
                }
            }
        };
        self.feeds[at].last_contact_ns = now_ns;
        Some(at)
    }

    /// Whether one of its feeds has this name.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.feeds.iter().any(|f| f.name == name)
    }

    /// Declares that only `feed` reports these channels.
    pub(crate) fn owns(&mut self, feed: usize, channels: &[usize]) {
        if self.feeds[feed].owns != channels {
            channels.clone_into(&mut self.feeds[feed].owns);
        }
    }

    /// First bin that `feed` has not completed.
    #[must_use]
    pub(crate) fn complete_of(&self, feed: usize) -> u64 {
        self.feeds[feed].complete
    }

    /// The first open bin.
    #[must_use]
    pub(crate) fn first(&self) -> Option<u64> {
        self.first
    }

    /// Adds events of a channel, or [`MASKED`] for a channel without information in this bin.
    pub(crate) fn add(&mut self, bin: u64, channel: usize, count: u16) -> Placed {
        let first = *self.first.get_or_insert(bin);
        if bin < first || bin - first >= self.open_max {
            if bin < first && first - bin <= LATE_BINS {
                return Placed::Late;
            }
            let (last, run) = self.stray;
            let near = run > 0 && bin.abs_diff(last) < self.open_max;
            self.stray = (bin, if near { run + 1 } else { 1 });
            return match (self.stray.1 >= JUMP_RUN && self.believes, bin < first) {
                (true, _) => Placed::Jump,
                (false, true) => Placed::Late,
                (false, false) => Placed::Ahead,
            };
        }
        self.stray = (0, 0);
        let place = &mut self.reach(bin - first).counts[channel];
        *place = match (*place, count) {
            (MASKED, _) | (_, MASKED) => MASKED,
            (before, more) => before.saturating_add(more).min(COUNT_MAX),
        };
        Placed::Taken
    }

    fn reach(&mut self, at: u64) -> &mut OpenBin {
        let n = self.n_channels;
        while self.open.len() as u64 <= at {
            let bin =
                self.spare.pop().unwrap_or_else(|| OpenBin { counts: vec![0; n], spoiled: false });
            self.open.push_back(bin);
        }
        &mut self.open[at as usize]
    }

    /// Events were lost that may have been in these bins.
    pub(crate) fn spoil(&mut self, from: u64, to: u64) {
        let Some(first) = self.first else { return };
        let end = to.min(first + self.open_max - 1);
        for bin in from.max(first)..=end {
            self.reach(bin - first).spoiled = true;
        }
    }

    /// `feed` has reported everything before `bin`.
    pub(crate) fn complete(&mut self, feed: usize, bin: u64) {
        let Some(first) = self.first else { return };
        // A word from far ahead is as little believed as an event from there.
        if bin <= first.saturating_add(self.open_max) {
            let complete = &mut self.feeds[feed].complete;
            *complete = (*complete).max(bin);
        }
    }

    /// First bin that some feed, with a message since `since_ns`, has not completed.
    #[must_use]
    pub(crate) fn ready(&self, since_ns: u64) -> u64 {
        if self.feeds.len() < self.expected {
            return 0;
        }
        let present = self.feeds.iter().filter(|f| f.last_contact_ns >= since_ns);
        present.map(|f| f.complete).min().unwrap_or(0)
    }

    /// Time of the last message of any feed, ns.
    #[must_use]
    pub(crate) fn last_contact_ns(&self) -> u64 {
        self.feeds.iter().map(|f| f.last_contact_ns).max().unwrap_or(0)
    }

    /// Closes the bins before `until`: number and counts `[n_channels]`, `None` where events were
    /// lost.
    pub(crate) fn close(&mut self, until: u64, mut emit: impl FnMut(u64, Option<&[u16]>)) {
        let Some(first) = self.first else { return };
        for bin in first..until.min(first.saturating_add(self.open_max)) {
            self.reach(0);
            let Some(mut done) = self.open.pop_front() else { return };
            if self.feeds.iter().any(|f| !f.owns.is_empty()) {
                // Channels that no feed has reported are masked.
                let complete = self.feeds.iter().filter(|f| f.complete > bin);
                self.covered.fill(false);
                complete.flat_map(|f| &f.owns).for_each(|&channel| self.covered[channel] = true);
                let places = done.counts.iter_mut().zip(&self.covered);
                places.filter(|(_, covered)| !**covered).for_each(|(c, _)| *c = MASKED);
            }
            emit(bin, (!done.spoiled).then_some(done.counts.as_slice()));
            done.counts.fill(0);
            done.spoiled = false;
            self.spare.push(done);
            self.first = Some(bin + 1);
        }
    }

    /// End of the last bin with anything in it.
    #[must_use]
    pub(crate) fn end(&self) -> u64 {
        self.first.unwrap_or(0) + self.open.len() as u64
    }

    /// Continues with the next bin that comes, whichever it is.
    pub(crate) fn restart(&mut self) {
        while let Some(mut bin) = self.open.pop_front() {
            bin.counts.fill(0);
            bin.spoiled = false;
            self.spare.push(bin);
        }
        self.first = None;
        self.stray = (0, 0);
        for feed in &mut self.feeds {
            feed.complete = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn closed(binner: &mut Binner, until: u64) -> Vec<(u64, Option<Vec<u16>>)> {
        let mut out = Vec::new();
        binner.close(until, |bin, counts| out.push((bin, counts.map(<[u16]>::to_vec))));
        out
    }

    #[test]
    fn bins_close_when_every_feed_has_passed_them() {
        let mut b = Binner::new(2, 16, 2);
        let (left, right) = (b.feed("left", 0).expect("room"), b.feed("right", 0).expect("room"));
        for (bin, channel) in [(10, 0), (10, 1), (11, 1), (13, 0), (10, 0)] {
            assert_eq!(b.add(bin, channel, 1), Placed::Taken);
        }
        b.complete(left, 13);
        assert_eq!(b.ready(0), 0);
        b.complete(right, 11);
        assert_eq!(b.ready(0), 11);
        assert_eq!(closed(&mut b, 11), [(10, Some(vec![2, 1]))]);
        assert_eq!(b.add(10, 0, 1), Placed::Late);
        // A feed that has stopped is not waited for.
        b.feed("left", 5);
        assert_eq!(b.ready(3), 13);
        assert_eq!(closed(&mut b, 13), [(11, Some(vec![0, 1])), (12, Some(vec![0, 0]))]);
        b.spoil(13, 14);
        assert_eq!(closed(&mut b, 16), [(13, None), (14, None), (15, Some(vec![0, 0]))]);
    }

    #[test]
    fn channels_of_a_feed_that_said_nothing_are_masked() {
        let mut b = Binner::new(3, 16, 1);
        let (left, right) = (b.feed("left", 0).expect("room"), b.feed("right", 0).expect("room"));
        b.owns(left, &[0]);
        b.owns(right, &[1, 2]);
        b.add(5, 0, 3);
        b.complete(left, 6);
        assert_eq!(closed(&mut b, 6), [(5, Some(vec![3, MASKED, MASKED]))]);
    }

    #[test]
    fn a_stray_time_is_not_believed_and_a_run_of_them_is() {
        let mut b = Binner::new(1, 100, 1);
        assert_eq!(b.add(1000, 0, 1), Placed::Taken);
        assert_eq!(b.add(u64::MAX, 0, 1), Placed::Ahead);
        assert_eq!(b.add(0, 0, 1), Placed::Late);
        for i in 0..u64::from(JUMP_RUN) - 1 {
            assert_eq!(b.add(50_000 + i, 0, 1), Placed::Ahead, "{i}");
        }
        assert_eq!(b.add(50_019, 0, 1), Placed::Jump);
        b.restart();
        assert_eq!(b.add(50_019, 0, 1), Placed::Taken);
        // Lateness within reason is never a jump.
        for _ in 0..100 {
            assert_eq!(b.add(50_000, 0, 1), Placed::Late);
        }
    }

    #[test]
    fn one_message_moves_no_clock_however_many_events_it_has() {
        let mut b = Binner::new(1, 100, 1);
        b.begin_message();
        assert_eq!(b.add(1000, 0, 1), Placed::Taken);
        b.begin_message();
        for i in 0..1000 {
            assert_eq!(b.add((1 << 59) + i % 3, 0, 1), Placed::Ahead);
        }
        b.begin_message();
        assert_eq!(b.add(1001, 0, 1), Placed::Taken, "nothing else has changed");
        // Where the next one agrees, it is believed at once.
        b.begin_message();
        for _ in 0..30 {
            assert_eq!(b.add(90_000, 0, 1), Placed::Ahead);
        }
        b.begin_message();
        assert_eq!(b.add(90_001, 0, 1), Placed::Jump);
    }

    proptest! {
        #[test]
        fn every_event_is_in_a_bin_or_accounted_for(
            events in proptest::collection::vec((0u64..400, 0usize..3, any::<bool>()), 1..500),
        ) {
            let mut b = Binner::new(3, 32, 1);
            let feed = b.feed("", 0).expect("room");
            let (mut taken, mut counted, mut next) = (0u64, 0u64, None);
            let mut count = |b: &mut Binner, until: u64| {
                b.close(until, |bin, counts| {
                    assert!(next.is_none_or(|n| n == bin), "bin {bin} after {next:?}");
                    next = Some(bin + 1);
                    counted += counts.map_or(0, |c| c.iter().map(|&c| u64::from(c)).sum());
                });
            };
            for (bin, channel, pass) in events {
                match b.add(bin, channel, 1) {
                    Placed::Taken => taken += 1,
                    Placed::Jump => break,
                    Placed::Late | Placed::Ahead => {}
                }
                if pass {
                    b.complete(feed, bin);
                    let ready = b.ready(0);
                    count(&mut b, ready);
                }
            }
            let end = b.end();
            count(&mut b, end);
            prop_assert_eq!(taken, counted);
        }
    }
}
