//! A session's entrance: counts what is offered, places it in the session's numbering and puts it
//! into the ring.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use super::accounts::{Accounts, Totals};
use super::bins::{Bins, PortSettings};
use super::contact::Contact;
use super::doorbell::Doorbell;
use super::refusal::{Accepted, Refusal};
use super::ring::{Header, Inlet, Kind, Outlet, ring};
use super::sequence::Sequence;
use crate::clock::Received;
use crate::wire::RejectReason;

/// What offers of several sources have to share: the numbering, and the producing end of the ring.
struct Entrance {
    inlet: Inlet,
    sequence: Sequence,
}

/// The entrance of whole bins into one session.
pub struct Port {
    settings: PortSettings,
    /// Held while bins are placed and pushed, so that two sources' bins do not mix; never while a
    /// message is checked.
    entrance: Mutex<Entrance>,
    doorbell: Arc<Doorbell>,
    /// Read for every offer, without the entrance's lock.
    paused: AtomicBool,
    accounts: Accounts,
    contact: Contact,
}

impl Port {
    /// An entrance, and the outlet of its ring.
    #[must_use]
    pub fn open(settings: PortSettings) -> (Arc<Self>, Outlet) {
        let doorbell = Arc::new(Doorbell::default());
        let (inlet, outlet) = ring(&settings, doorbell.clone());
        let port = Self {
            accounts: Accounts::new(&settings.session, settings.queue_bins),
            contact: Contact::new(&settings.session),
            entrance: Mutex::new(Entrance {
                inlet,
                sequence: Sequence::new(settings.bin_width_s, settings.gap_bins_max),
            }),
            settings,
            doorbell,
            paused: AtomicBool::new(false),
        };
        (Arc::new(port), outlet)
    }

    /// Shape that offered bins must have, and the ring's bounds.
    #[must_use]
    pub fn settings(&self) -> &PortSettings {
        &self.settings
    }

    /// What became of its bins.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.accounts.totals(self.enter().inlet.waiting())
    }

    /// Bins for which there is room.
    #[must_use]
    pub fn room(&self) -> usize {
        self.enter().inlet.room()
    }

    /// While paused, everything is refused and counted.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// True while paused.
    #[must_use]
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// A message of the rig's came in; with its time, where that is known (0: it is not).
    pub fn note_contact(&self, rig_time_ns: i64, received: Received) {
        self.contact.note(rig_time_ns, received);
    }

    /// Declares the rig stalled after `idle` without contact.
    pub fn watch(&self, idle: Duration) {
        // What a paused session is sent is refused unheard.
        if !self.is_paused() {
            self.contact.watch(idle);
        }
    }

    /// True while a rig that was connected sends nothing.
    #[must_use]
    pub(crate) fn is_stalled(&self) -> bool {
        self.contact.is_stalled()
    }

    /// The rig's clock was set, as is known without asking it.
    pub(crate) fn forget_clock(&self) {
        self.contact.clock().begin();
    }

    /// Our time minus the rig's, s, at the least delay; seconds that this grows by per second; and
    /// how often the rig's clock was found set.
    #[must_use]
    pub fn clock(&self) -> (Option<f64>, Option<f64>, u64) {
        let clock = self.contact.clock();
        (clock.offset_ns().map(|ns| ns as f64 * 1e-9), clock.drift(), clock.jumps())
    }

    /// Our steady time at a time of the rig's, ns.
    #[must_use]
    pub(crate) fn ours_ns(&self, rig_time_ns: i64) -> Option<i64> {
        self.contact.clock().offset_ns().map(|offset| rig_time_ns.saturating_add(offset))
    }

    /// Width of a bin, ns.
    #[must_use]
    pub(crate) fn width_ns(&self) -> i64 {
        self.settings.width_ns()
    }

    /// The thread to wake when something waits.
    pub fn set_thread(&self, thread: Thread) {
        self.doorbell.set_thread(thread);
    }

    /// Nothing more is taken; the thread ends when it has done what waits.
    pub fn close(&self) {
        // Under the lock of offers: none is accepted after the thread may have seen the end.
        let _entrance = self.enter();
        self.doorbell.close();
    }

    /// True once closed.
    #[must_use]
    pub(crate) fn is_closed(&self) -> bool {
        self.doorbell.is_closed()
    }

    /// Wakes the session's thread.
    pub(crate) fn wake(&self) {
        self.doorbell.ring();
    }

    fn enter(&self) -> MutexGuard<'_, Entrance> {
        self.entrance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts bins into the ring that their source has checked.
    ///
    /// # Errors
    /// When they are late, or there is no room.
    pub fn offer(&self, bins: &Bins<'_>, received: Received) -> Result<Accepted, Refusal> {
        let n = (bins.counts.n_values() / self.settings.n_channels) as u64;
        self.counted(n, || self.enqueue(bins, received))
    }

    /// Another stream of messages begins, whose numbering may be its own: its first is believed
    /// however far ahead it is.
    pub(crate) fn stream_begins(&self) {
        self.enter().sequence.stream_begins();
    }

    /// Counts a bin that a source has refused before it could be offered.
    pub(crate) fn refuse(&self, reason: RejectReason) {
        let _ = self.counted(1, || Err(Refusal::new(reason, "")));
    }

    /// Counts a message that was for the session.
    pub(crate) fn count_message(&self, accepted: bool) {
        self.accounts.message(accepted);
    }

    /// Accounts for `n` bins, whatever becomes of them.
    pub(super) fn counted(
        &self,
        n: u64,
        offer: impl FnOnce() -> Result<Accepted, Refusal>,
    ) -> Result<Accepted, Refusal> {
        self.accounts.received(n);
        // Received is counted before anything is decided, so that every bin is in the accounts.
        let result = if self.is_paused() {
            Err(Refusal::new(RejectReason::Paused, "the session is paused"))
        } else {
            offer()
        };
        if let Err(refusal) = &result {
            self.accounts.refused(refusal, n);
        }
        result
    }

    /// Places checked bins in the numbering and pushes them; the caller counts their receipt.
    pub(super) fn enqueue(
        &self,
        offered: &Bins<'_>,
        received: Received,
    ) -> Result<Accepted, Refusal> {
        let n = offered.counts.n_values() / self.settings.n_channels;
        let first = offered.sequence;
        let last = first.saturating_add(n as u64).saturating_sub(1);
        let mut entrance = self.enter();
        if self.is_closed() {
            return Err(Refusal::new(RejectReason::Overload, "the session is ending"));
        }
        let Entrance { inlet, sequence } = &mut *entrance;
        // All or nothing: a message that does not fit as a whole leaves numbering and ring as they
        // were, so that it can be sent again.
        let place = sequence.place((first, last), offered.begins, received)?;
        let bins = n - place.skip;
        if !inlet.has_room(bins, place.before.is_some()) {
            return Err(Refusal::new(
                RejectReason::Overload,
                format!(
                    "expected room for {bins} bins, found {} bins waiting of at most {}",
                    inlet.waiting(),
                    self.settings.queue_bins
                ),
            ));
        }
        let mut header = Header {
            kind: Kind::Bin,
            sequence: sequence.expected().unwrap_or(first),
            rig_time_ns: offered.rig_time_ns,
            received,
        };
        let mut missing = 0;
        if let Some(kind) = place.before {
            match kind {
                Kind::Missing(gap) => missing = u64::from(gap),
                _ => self.accounts.started(),
            }
            inlet.push(Header { kind, ..header });
        }
        let step_ns = self.width_ns();
        for i in place.skip..n {
            header.sequence = first + i as u64;
            header.rig_time_ns = match offered.rig_time_ns {
                0 => 0,
                t => t.saturating_add(step_ns.saturating_mul(i as i64)),
            };
            inlet.push_bin(header, &offered.counts, i);
        }
        sequence.taken(last, received);
        // Under the lock, so that totals never show a bin that waits and was not accepted.
        self.accounts.taken(bins as u64, place.skip as u64, missing);
        drop(entrance);
        self.wake();
        Ok(Accepted { bins: bins as u64, missing, last_sequence: last })
    }
}

#[cfg(test)]
mod tests {
    use super::super::message;
    use super::super::sequence::{FLOWING, LATE_RUN_RESTART};
    use super::*;
    use crate::intake::MASKED;
    use crate::model::COUNT_MAX;
    use crate::wire::Counts;
    use std::time::Instant;

    fn open() -> (Arc<Port>, Outlet) {
        Port::open(PortSettings {
            session: "rig".into(),
            n_channels: 2,
            bin_width_s: 0.01,
            queue_bins: 64,
            gap_bins_max: 5,
        })
    }

    fn offer(port: &Port, message: &Counts) -> Result<Accepted, Refusal> {
        message::offer(port, message, Received::now())
    }

    fn message(sequence: u64, bins: usize) -> Counts {
        Counts {
            session: "rig".into(),
            sequence,
            n_channels: 2,
            bin_width_s: 0.01,
            counts: (0..2 * bins as u32).collect(),
            ..Counts::default()
        }
    }

    fn kinds(outlet: &mut Outlet) -> Vec<(Kind, u64)> {
        let mut counts = [0; 2];
        std::iter::from_fn(|| outlet.pop(&mut counts)).map(|h| (h.kind, h.sequence)).collect()
    }

    fn reason(port: &Port, message: &Counts) -> RejectReason {
        offer(port, message).expect_err("refused").reason
    }

    #[test]
    fn gaps_are_marked_duplicates_dropped_and_overlaps_cut() {
        let (port, mut outlet) = open();
        let offer = |m: &Counts| offer(&port, m);
        assert_eq!(offer(&message(10, 2)), Ok(Accepted { bins: 2, missing: 0, last_sequence: 11 }));
        assert_eq!(offer(&message(15, 1)), Ok(Accepted { bins: 1, missing: 3, last_sequence: 15 }));
        assert_eq!(offer(&message(15, 3)), Ok(Accepted { bins: 2, missing: 0, last_sequence: 17 }));
        assert!(offer(&message(12, 1)).is_err());
        // Longer than the longest gap: another recording.
        assert_eq!(offer(&message(30, 1)), Ok(Accepted { bins: 1, missing: 0, last_sequence: 30 }));
        let expected = [
            (Kind::First, 10),
            (Kind::Bin, 10),
            (Kind::Bin, 11),
            (Kind::Missing(3), 12),
            (Kind::Bin, 15),
            (Kind::Bin, 16),
            (Kind::Bin, 17),
            (Kind::Start, 18),
            (Kind::Bin, 30),
        ];
        assert_eq!(kinds(&mut outlet), expected);
    }

    #[test]
    fn what_waits_is_counted_in_bins_whatever_comes_before_them() {
        let (port, mut outlet) = open();
        for i in 0..64 {
            offer(&port, &message(3 * i, 1)).expect("a bin behind a gap is one bin");
        }
        assert_eq!((port.totals().waiting, port.room()), (64, 0));
        assert_eq!(reason(&port, &message(192, 1)), RejectReason::Overload);
        assert_eq!(kinds(&mut outlet).len(), 128);
        assert_eq!((port.totals().waiting, port.room()), (0, 64));
        port.close();
        assert_eq!(reason(&port, &message(192, 1)), RejectReason::Overload);
        assert_eq!(port.totals().accepted, 64);
    }

    #[test]
    fn numbering_begun_anew_is_believed_after_a_run() {
        let (port, mut outlet) = open();
        offer(&port, &message(1000, 1)).expect("taken");
        for i in 0..u64::from(LATE_RUN_RESTART) - 1 {
            assert_eq!(reason(&port, &message(i, 1)), RejectReason::DuplicateOrLate);
        }
        let first_taken = u64::from(LATE_RUN_RESTART) - 1;
        offer(&port, &message(first_taken, 1)).expect("taken");
        assert_eq!(kinds(&mut outlet)[2..], [(Kind::Start, 1001), (Kind::Bin, first_taken)]);
    }

    #[test]
    fn one_number_gone_wrong_is_refused_and_a_numbering_begun_anew_is_followed() {
        let (port, mut outlet) = open();
        for i in 0..10 {
            offer(&port, &message(i, 1)).expect("taken");
        }
        assert_eq!(reason(&port, &message(1 << 59, 1)), RejectReason::TooFarAhead);
        assert_eq!(reason(&port, &message(1 << 58, 1)), RejectReason::TooFarAhead);
        for i in 10..20 {
            offer(&port, &message(i, 1)).expect("taken");
        }
        // Nothing else has changed: one recording, no gap.
        let seen = kinds(&mut outlet);
        assert_eq!(seen.len(), 21);
        assert!(seen[1..].iter().all(|(kind, _)| *kind == Kind::Bin), "{seen:?}");
        assert_eq!(reason(&port, &message(1 << 50, 1)), RejectReason::TooFarAhead);
        let next = (1 << 50) + 1;
        offer(&port, &message(next, 1)).expect("taken");
        assert_eq!(kinds(&mut outlet), [(Kind::Start, 20), (Kind::Bin, next)]);
        let later = Received { instant: Instant::now() + 2 * FLOWING, ..Received::now() };
        message::offer(&port, &message(1 << 55, 1), later).expect("a stream that restarts");
    }

    #[test]
    fn every_bad_message_is_refused_and_the_session_goes_on() {
        let (port, mut outlet) = open();
        let with = |change: fn(&mut Counts)| {
            let mut m = message(1, 1);
            change(&mut m);
            m
        };
        for (bad, expected) in [
            (with(|m| m.n_channels = 3), RejectReason::ChannelCount),
            (with(|m| m.counts.push(1)), RejectReason::ChannelCount),
            (with(|m| m.bin_width_s = 0.02), RejectReason::BinWidth),
            (with(|m| m.bin_width_s = f64::NAN), RejectReason::BinWidth),
            (with(|m| m.counts[1] = u32::from(COUNT_MAX) + 1), RejectReason::BadCount),
            (with(|m| m.counts.clear()), RejectReason::Malformed),
            (with(|m| m.float_counts = vec![1.0, 1.0]), RejectReason::Malformed),
            (with(|m| m.masked_channels = vec![2]), RejectReason::Malformed),
            (with(|m| m.sequence = u64::MAX), RejectReason::Malformed),
            (message(1, 65), RejectReason::Overload),
        ] {
            assert_eq!(reason(&port, &bad), expected, "{bad:?}");
        }
        for bad in [f32::NAN, f32::INFINITY, -1.0, 5000.0] {
            let mut m = message(1, 1);
            m.counts.clear();
            m.float_counts = vec![0.0, bad];
            assert_eq!(reason(&port, &m), RejectReason::BadCount);
        }
        offer(&port, &message(1, 60)).expect("taken");
        assert_eq!(reason(&port, &message(61, 10)), RejectReason::Overload);
        assert_eq!(kinds(&mut outlet).len(), 61);
        // The dropped bins are a gap before the next message.
        let taken = offer(&port, &message(63, 1)).expect("taken");
        assert_eq!(taken.missing, 2);
    }

    #[test]
    fn masked_channels_and_float_counts_arrive() {
        let (port, mut outlet) = open();
        let mut m = message(1, 2);
        m.counts.clear();
        m.float_counts = vec![1.4, 2.6, 3.0, 4.0];
        m.masked_channels = vec![0];
        offer(&port, &m).expect("taken");
        let mut counts = [0; 2];
        outlet.pop(&mut counts);
        outlet.pop(&mut counts);
        assert_eq!(counts, [MASKED, 3]);
        outlet.pop(&mut counts);
        assert_eq!(counts, [MASKED, 4]);
    }
}
