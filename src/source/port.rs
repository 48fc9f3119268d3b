//! A session's entrance: sequence accounting, and the ring to its thread.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ringbuf::HeapRb;
use ringbuf::traits::{Consumer, Observer, Producer, Split};

use super::clock::Clock;
use super::doorbell::{Answer, Doorbell};
use super::message;
use crate::telemetry::{IntakeMetrics, wall_ns};
use crate::wire::{Counts, RejectReason};

/// In the ring of counts: a channel that carries no information in this bin.
pub const MASKED: u16 = u16::MAX;
/// Late messages in a row, numbered without a gap among themselves, after which the rig is taken to
/// have begun its numbering anew.
const LATE_RUN_RESTART: u32 = 20;

/// Bins flow where some were taken no longer ago than this.
const FLOWING: Duration = Duration::from_secs(1);
/// Numbers that are ahead by no more than this beyond the time that passed are believed at once.
const AHEAD_BELIEVED: Duration = Duration::from_secs(60);

/// What waits for a session thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A bin, whose counts are next in the ring of counts.
    Bin,
    /// So many bins that never came.
    Missing(u32),
    /// Another recording begins with the next bin.
    Start,
}

/// A bin's header.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// What it heads.
    pub kind: Kind,
    /// The rig's number of the (first) bin.
    pub sequence: u64,
    /// The rig's clock, ns.
    pub rig_time_ns: i64,
    /// When the message came in.
    pub received: Received,
}

/// When a message came in, on two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Monotonic, for latencies.
    pub instant: Instant,
    /// Nanoseconds since the Unix epoch, for people.
    pub wall_ns: i64,
}

/// Where the steady clock began, and what the wall's showed then.
static STEADY: LazyLock<(Instant, i64)> = LazyLock::new(|| (Instant::now(), wall_ns()));

impl Received {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self { instant: Instant::now(), wall_ns: wall_ns() }
    }

    /// Nanoseconds since the Unix epoch on a clock that nobody sets while the program runs.
    #[must_use]
    pub fn steady_ns(&self) -> i64 {
        let (began, wall) = *STEADY;
        let since = self.instant.saturating_duration_since(began).as_nanos();
        wall.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

/// A message that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Bins taken.
    pub bins: u64,
    /// Bins found missing before them.
    pub missing: u64,
    /// Sequence number of the last bin taken.
    pub last_sequence: u64,
}

/// A message that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: RejectReason,
    /// What was expected and what was found.
    pub detail: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Name of a reason as metrics carry it.
pub(crate) fn reason_name(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::Unspecified => "unspecified",
        RejectReason::UnknownSession => "unknown_session",
        RejectReason::ChannelCount => "channel_count",
        RejectReason::BinWidth => "bin_width",
        RejectReason::BadCount => "bad_count",
        RejectReason::Malformed => "malformed",
        RejectReason::DuplicateOrLate => "duplicate_or_late",
        RejectReason::Overload => "overload",
        RejectReason::Paused => "paused",
        RejectReason::UnknownChannel => "unknown_channel",
        RejectReason::TooFarAhead => "too_far_ahead",
    }
}

/// A session's shape and limits.
#[derive(Debug, Clone, PartialEq)]
pub struct PortSettings {
    /// Name.
    pub session: String,
    /// Channels per bin.
    pub n_channels: usize,
    /// Bin width, seconds.
    pub bin_width_s: f64,
    /// Bins that wait at most.
    pub queue_bins: usize,
    /// Longest gap predicted through.
    pub gap_bins_max: usize,
}

type Producing<T> = <HeapRb<T> as Split>::Prod;
type Consuming<T> = <HeapRb<T> as Split>::Cons;

/// The end of the ring that a session thread holds.
pub struct Outlet {
    headers: Consuming<Header>,
    counts: Consuming<u16>,
    /// The entrance.
    pub port: Arc<Port>,
}

impl Outlet {
    /// The next header; for [`Kind::Bin`] fills `counts [n_channels]`. Never blocks or allocates.
    pub fn pop(&mut self, counts: &mut [u16]) -> Option<Header> {
        let header = self.headers.try_pop()?;
        if header.kind == Kind::Bin {
            let n = self.counts.pop_slice(counts);
            debug_assert_eq!(n, counts.len(), "counts are pushed before their header");
        }
        Some(header)
    }

    /// The next header, or that none waits, or none will come any more.
    pub fn next(&mut self, counts: &mut [u16]) -> Answer<Header> {
        let port = self.port.clone();
        port.doorbell.answer(|| self.pop(counts))
    }

    /// Sleeps until something waits.
    pub fn sleep(&self) {
        self.port.doorbell.sleep();
    }

    /// Headers that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.headers.occupied_len()
    }
}

struct Entrance {
    headers: Producing<Header>,
    counts: Producing<u16>,
    expected: Option<u64>,
    /// Number that would continue the run of late messages, and the run's length.
    late_run: (u64, u32),
    /// Number that would continue a message so far ahead that it was not believed.
    doubted: Option<u64>,
    /// When bins were taken last.
    taken: Option<Instant>,
    /// Counts of the message that is checked.
    flat: Vec<u16>,
}

/// Consecutive bins that were checked.
#[derive(Debug, Clone, Copy)]
pub struct Bins<'a> {
    /// Number of the first.
    pub sequence: u64,
    /// The rig's clock at the end of the first, ns; 0: unknown.
    pub rig_time_ns: i64,
    /// `[n_bins, n_channels]`, [`MASKED`] or at most [`crate::inference::COUNT_MAX`].
    pub counts: &'a [u16],
    /// Another recording begins with them, whatever their number.
    pub begins: bool,
}

/// What became of a session's bins so far. `received = accepted + late + rejected`; of the accepted ones, those
/// that do not wait any more were processed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bins in messages for the session.
    pub received: u64,
    /// Bins taken.
    pub accepted: u64,
    /// Bins that never came and were predicted through; not among the received ones.
    pub missing: u64,
    /// Bins that came twice or too late.
    pub late: u64,
    /// Bins refused, for want of room or for any other reason.
    pub rejected: u64,
    /// Of these, for want of room alone.
    pub overloaded: u64,
    /// Bins that wait for the session's thread.
    pub waiting: u64,
}

#[derive(Default)]
struct Tally {
    received: AtomicU64,
    accepted: AtomicU64,
    missing: AtomicU64,
    late: AtomicU64,
    rejected: AtomicU64,
    overloaded: AtomicU64,
}

/// One session's entrance.
pub struct Port {
    settings: PortSettings,
    entrance: Mutex<Entrance>,
    doorbell: Doorbell,
    paused: AtomicBool,
    metrics: IntakeMetrics,
    tally: Tally,
    clock: Mutex<Clock>,
    /// Steady time at which the rig was heard last, ns; 0: never.
    heard_ns: AtomicI64,
    stalled: AtomicBool,
}

impl Port {
    /// An entrance and its outlet.
    #[must_use]
    pub fn open(settings: PortSettings) -> Outlet {
        // Two headers more than bins: a gap and a start may come before a bin.
        let (headers, headers_out) = HeapRb::new(settings.queue_bins + 2).split();
        let (counts, counts_out) = HeapRb::new(settings.queue_bins * settings.n_channels).split();
        let port = Self {
            metrics: IntakeMetrics::new(&settings.session, settings.queue_bins),
            settings,
            entrance: Mutex::new(Entrance {
                headers,
                counts,
                expected: None,
                late_run: (0, 0),
                doubted: None,
                taken: None,
                flat: Vec::new(),
            }),
            doorbell: Doorbell::default(),
            paused: AtomicBool::new(false),
            tally: Tally::default(),
            clock: Mutex::default(),
            heard_ns: AtomicI64::new(0),
            stalled: AtomicBool::new(false),
        };
        Outlet { headers: headers_out, counts: counts_out, port: Arc::new(port) }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &PortSettings {
        &self.settings
    }

    /// What became of its bins.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Totals {
            received: of(&self.tally.received),
            accepted: of(&self.tally.accepted),
            missing: of(&self.tally.missing),
            late: of(&self.tally.late),
            rejected: of(&self.tally.rejected),
            overloaded: of(&self.tally.overloaded),
            waiting: self.enter().headers.occupied_len() as u64,
        }
    }

    /// Bins for which there is room.
    #[must_use]
    pub fn room(&self) -> usize {
        self.enter().headers.vacant_len().saturating_sub(2)
    }

    /// While paused, everything is refused and counted.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// True while paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// A message of the rig's came in; with its time, where that is known (0: it is not).
    pub fn heard(&self, rig_time_ns: i64, received: Received) {
        self.heard_ns.store(received.steady_ns(), Ordering::Relaxed);
        if self.stalled.swap(false, Ordering::Relaxed) {
            self.metrics.stalled.set(0.0);
            tracing::info!(session = self.settings.session, "the rig is heard again");
        }
        if rig_time_ns == 0 {
            return;
        }
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let observed = clock.observe(rig_time_ns, received.steady_ns());
        let offset = clock.offset_ns().map(|ns| ns as f64 * 1e-9);
        self.metrics.clock(offset, clock.drift(), observed.jumped, observed.delay_ns as f64 * 1e-9);
    }

    /// Where the rig was heard before, but not for `idle` now, it is said to be stalled: what is lost at the end of
    /// a stream leaves no gap that anyone could see.
    pub fn watch(&self, idle: Duration) {
        let heard = self.heard_ns.load(Ordering::Relaxed);
        let silent = Received::now().steady_ns().saturating_sub(heard);
        // What a paused session is sent is refused unheard.
        let stalled = heard != 0
            && !self.is_paused()
            && silent > i64::try_from(idle.as_nanos()).unwrap_or(i64::MAX);
        if stalled && !self.stalled.swap(true, Ordering::Relaxed) {
            self.metrics.stalled.set(1.0);
            tracing::warn!(session = self.settings.session, "nothing comes from the rig any more");
        }
    }

    /// True while nothing comes from a rig that was heard.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// The rig's clock began anew, as is known without asking it.
    pub fn forget_clock(&self) {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).begin();
    }

    /// Our time minus the rig's, s, at the least delay; seconds that this grows by per second; and how often the
    /// rig's clock was found set.
    #[must_use]
    pub fn clock(&self) -> (Option<f64>, Option<f64>, u64) {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        (clock.offset_ns().map(|ns| ns as f64 * 1e-9), clock.drift(), clock.jumps())
    }

    /// Our steady time at a time of the rig's, ns.
    #[must_use]
    pub fn ours_ns(&self, rig_time_ns: i64) -> Option<i64> {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.offset_ns().map(|offset| rig_time_ns.saturating_add(offset))
    }

    /// Width of a bin, ns.
    #[must_use]
    pub fn width_ns(&self) -> i64 {
        (self.settings.bin_width_s * 1e9).round().max(1.0) as i64
    }

    /// The thread to wake when something waits.
    pub fn set_thread(&self, thread: Thread) {
        self.doorbell.set_thread(thread);
    }

    /// Nothing more is taken; the thread ends when it has done what waits.
    pub fn close(&self) {
        self.doorbell.close();
    }

    /// True once closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.doorbell.is_closed()
    }

    /// Wakes the session's thread.
    pub fn wake(&self) {
        self.doorbell.ring();
    }

    fn enter(&self) -> MutexGuard<'_, Entrance> {
        self.entrance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a message and puts its bins into the ring.
    ///
    /// # Errors
    /// Says why not, naming both numbers. The session goes on either way.
    pub fn offer(&self, message: &Counts, received: Received) -> Result<Accepted, Refusal> {
        let claimed = message::claimed(message);
        self.counted(claimed, || {
            let mut entrance = self.enter();
            let mut flat = std::mem::take(&mut entrance.flat);
            let result = message::check(&self.settings, message, &mut flat).and_then(|n| {
                let (sequence, rig_time_ns) = (message.sequence, message.rig_time_ns);
                let bins = Bins { sequence, rig_time_ns, counts: &flat, begins: false };
                let result = self.enqueue(&mut entrance, &bins, received);
                if result.is_ok() {
                    let last = self.width_ns().saturating_mul(n as i64 - 1);
                    let end = if rig_time_ns == 0 { 0 } else { rig_time_ns.saturating_add(last) };
                    self.heard(end, received);
                }
                result
            });
            entrance.flat = flat;
            result
        })
    }

    /// Puts bins into the ring whose counts a source has checked.
    ///
    /// # Errors
    /// When they are late, or there is no room.
    pub fn offer_bins(&self, bins: &Bins<'_>, received: Received) -> Result<Accepted, Refusal> {
        let n = (bins.counts.len() / self.settings.n_channels) as u64;
        self.counted(n, || self.enqueue(&mut self.enter(), bins, received))
    }

    /// Another stream of messages begins, whose numbering may be its own: its first is believed.
    pub fn stream_begins(&self) {
        self.enter().taken = None;
    }

    /// Counts a bin that a source has refused before it could be offered.
    pub fn refuse(&self, reason: RejectReason) {
        let _ = self.counted(1, || Err(Refusal::new(reason, "")));
    }

    /// Counts a message that was for the session.
    pub(super) fn count_message(&self, accepted: bool) {
        let IntakeMetrics { messages, messages_rejected, .. } = &self.metrics;
        (if accepted { messages } else { messages_rejected }).increment(1);
    }

    /// Accounts for `n` bins, whatever becomes of them.
    fn counted(
        &self,
        n: u64,
        offer: impl FnOnce() -> Result<Accepted, Refusal>,
    ) -> Result<Accepted, Refusal> {
        self.metrics.received.increment(n);
        self.tally.received.fetch_add(n, Ordering::Relaxed);
        let result = if self.is_closed() {
            Err(Refusal::new(RejectReason::Overload, "the session is ending"))
        } else if self.is_paused() {
            Err(Refusal::new(RejectReason::Paused, "the session is paused"))
        } else {
            offer()
        };
        match &result {
            Ok(_) => {}
            Err(r) if r.reason == RejectReason::DuplicateOrLate => {
                self.metrics.late.increment(n);
                self.tally.late.fetch_add(n, Ordering::Relaxed);
            }
            Err(r) => {
                self.metrics.rejected(reason_name(r.reason), n);
                self.tally.rejected.fetch_add(n, Ordering::Relaxed);
                if r.reason == RejectReason::Overload {
                    self.tally.overloaded.fetch_add(n, Ordering::Relaxed);
                }
            }
        }
        result
    }

    /// Whether a number is further ahead than the time that passed explains, while bins flow: one message gone wrong
    /// must not end a recording. A numbering that was begun anew goes on from there with the next message.
    fn is_doubted(&self, entrance: &Entrance, first: u64, gap: u64, received: Received) -> bool {
        let Some(taken) = entrance.taken else { return false };
        let passed = received.instant.saturating_duration_since(taken);
        let ahead_s = gap as f64 * self.settings.bin_width_s;
        passed < FLOWING
            && gap > self.settings.gap_bins_max as u64
            && ahead_s > (passed + AHEAD_BELIEVED).as_secs_f64()
            && entrance.doubted != Some(first)
    }

    fn enqueue(
        &self,
        entrance: &mut Entrance,
        offered: &Bins<'_>,
        received: Received,
    ) -> Result<Accepted, Refusal> {
        let n = offered.counts.len() / self.settings.n_channels;
        let first = offered.sequence;
        let last = first.saturating_add(n as u64).saturating_sub(1);
        let mut skip = 0usize;
        let mut before = None;
        match entrance.expected {
            None => before = Some(Kind::Start),
            Some(_) if offered.begins => before = Some(Kind::Start),
            Some(expected) if last < expected => {
                let (next, run) = entrance.late_run;
                let run = if next == first { run + 1 } else { 1 };
                entrance.late_run = (last + 1, run);
                if run < LATE_RUN_RESTART {
                    return Err(Refusal::new(
                        RejectReason::DuplicateOrLate,
                        format!("expected sequence {expected} or later, found {first} to {last}"),
                    ));
                }
                before = Some(Kind::Start);
            }
            Some(expected) if first < expected => skip = (expected - first) as usize,
            Some(expected) if first > expected => {
                let gap = first - expected;
                if self.is_doubted(entrance, first, gap, received) {
                    entrance.doubted = Some(last.saturating_add(1));
                    return Err(Refusal::new(
                        RejectReason::TooFarAhead,
                        format!(
                            "expected sequence {expected} or a little later, found {first}; where the next one \
                             goes on from there, it is believed"
                        ),
                    ));
                }
                let through = usize::try_from(gap).is_ok_and(|g| g <= self.settings.gap_bins_max);
                before = Some(if through { Kind::Missing(gap as u32) } else { Kind::Start });
            }
            Some(_) => {}
        }
        let bins = n - skip;
        let room = entrance.headers.vacant_len() >= bins + usize::from(before.is_some())
            && entrance.counts.vacant_len() >= bins * self.settings.n_channels;
        if !room {
            return Err(Refusal::new(
                RejectReason::Overload,
                format!(
                    "expected room for {bins} bins, found {} bins waiting of at most {}",
                    entrance.headers.occupied_len(),
                    self.settings.queue_bins
                ),
            ));
        }
        let mut header = Header {
            kind: Kind::Bin,
            sequence: entrance.expected.unwrap_or(first),
            rig_time_ns: offered.rig_time_ns,
            received,
        };
        let mut missing = 0;
        if let Some(kind) = before {
            if let Kind::Missing(gap) = kind {
                missing = u64::from(gap);
                self.metrics.missing.increment(missing);
            } else {
                self.metrics.starts.increment(1);
            }
            let _ = entrance.headers.try_push(Header { kind, ..header });
        }
        let step_ns = self.width_ns();
        let width = self.settings.n_channels;
        let Entrance { headers, counts, .. } = entrance;
        for (i, bin) in offered.counts.chunks_exact(width).enumerate().skip(skip) {
            header.sequence = first + i as u64;
            header.rig_time_ns = match offered.rig_time_ns {
                0 => 0,
                t => t.saturating_add(step_ns.saturating_mul(i as i64)),
            };
            counts.push_slice(bin);
            let _ = headers.try_push(header);
        }
        entrance.expected = Some(last + 1);
        entrance.late_run = (0, 0);
        (entrance.doubted, entrance.taken) = (None, Some(received.instant));
        self.metrics.late.increment(skip as u64);
        self.metrics.bins.increment(bins as u64);
        self.tally.late.fetch_add(skip as u64, Ordering::Relaxed);
        self.tally.accepted.fetch_add(bins as u64, Ordering::Relaxed);
        self.tally.missing.fetch_add(missing, Ordering::Relaxed);
        self.wake();
        Ok(Accepted { bins: bins as u64, missing, last_sequence: last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::COUNT_MAX;

    fn outlet() -> Outlet {
        Port::open(PortSettings {
            session: "rig".into(),
            n_channels: 2,
            bin_width_s: 0.01,
            queue_bins: 64,
            gap_bins_max: 5,
        })
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

    fn reason(outlet: &Outlet, message: &Counts) -> RejectReason {
        outlet.port.offer(message, Received::now()).expect_err("refused").reason
    }

    #[test]
    fn gaps_are_marked_duplicates_dropped_and_overlaps_cut() {
        let mut outlet = outlet();
        let offer = |m: &Counts| outlet.port.offer(m, Received::now());
        assert_eq!(offer(&message(10, 2)), Ok(Accepted { bins: 2, missing: 0, last_sequence: 11 }));
        assert_eq!(offer(&message(15, 1)), Ok(Accepted { bins: 1, missing: 3, last_sequence: 15 }));
        assert_eq!(offer(&message(15, 3)), Ok(Accepted { bins: 2, missing: 0, last_sequence: 17 }));
        assert!(offer(&message(12, 1)).is_err());
        // Longer than the longest gap: another recording.
        assert_eq!(offer(&message(30, 1)), Ok(Accepted { bins: 1, missing: 0, last_sequence: 30 }));
        let expected = [
            (Kind::Start, 10),
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
    fn numbering_begun_anew_is_believed_after_a_run() {
        let mut outlet = outlet();
        outlet.port.offer(&message(1000, 1), Received::now()).expect("taken");
        for i in 0..u64::from(LATE_RUN_RESTART) - 1 {
            assert_eq!(reason(&outlet, &message(i, 1)), RejectReason::DuplicateOrLate);
        }
        let first_taken = u64::from(LATE_RUN_RESTART) - 1;
        outlet.port.offer(&message(first_taken, 1), Received::now()).expect("taken");
        assert_eq!(kinds(&mut outlet)[2..], [(Kind::Start, 1001), (Kind::Bin, first_taken)]);
    }

    #[test]
    fn one_number_gone_wrong_is_refused_and_a_numbering_begun_anew_is_followed() {
        let mut outlet = outlet();
        for i in 0..10 {
            outlet.port.offer(&message(i, 1), Received::now()).expect("taken");
        }
        assert_eq!(reason(&outlet, &message(1 << 59, 1)), RejectReason::TooFarAhead);
        assert_eq!(reason(&outlet, &message(1 << 58, 1)), RejectReason::TooFarAhead);
        for i in 10..20 {
            outlet.port.offer(&message(i, 1), Received::now()).expect("taken");
        }
        // Nothing else has changed: one recording, no gap.
        let seen = kinds(&mut outlet);
        assert_eq!(seen.len(), 21);
        assert!(seen[1..].iter().all(|(kind, _)| *kind == Kind::Bin), "{seen:?}");
        assert_eq!(reason(&outlet, &message(1 << 50, 1)), RejectReason::TooFarAhead);
        let next = (1 << 50) + 1;
        outlet.port.offer(&message(next, 1), Received::now()).expect("taken");
        assert_eq!(kinds(&mut outlet), [(Kind::Start, 20), (Kind::Bin, next)]);
        let later = Received { instant: Instant::now() + 2 * FLOWING, ..Received::now() };
        outlet.port.offer(&message(1 << 55, 1), later).expect("a stream that begins anew");
    }

    #[test]
    fn every_bad_message_is_refused_and_the_session_goes_on() {
        let mut outlet = outlet();
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
            (with(|m| m.counts[1] = COUNT_MAX + 1), RejectReason::BadCount),
            (with(|m| m.counts.clear()), RejectReason::Malformed),
            (with(|m| m.float_counts = vec![1.0, 1.0]), RejectReason::Malformed),
            (with(|m| m.masked_channels = vec![2]), RejectReason::Malformed),
            (with(|m| m.sequence = u64::MAX), RejectReason::Malformed),
            (message(1, 65), RejectReason::Overload),
        ] {
            assert_eq!(reason(&outlet, &bad), expected, "{bad:?}");
        }
        for bad in [f32::NAN, f32::INFINITY, -1.0, 5000.0] {
            let mut m = message(1, 1);
            m.counts.clear();
            m.float_counts = vec![0.0, bad];
            assert_eq!(reason(&outlet, &m), RejectReason::BadCount);
        }
        outlet.port.offer(&message(1, 60), Received::now()).expect("taken");
        assert_eq!(reason(&outlet, &message(61, 10)), RejectReason::Overload);
        assert_eq!(kinds(&mut outlet).len(), 61);
        // What was dropped is a gap of the next message.
        let taken = outlet.port.offer(&message(63, 1), Received::now()).expect("taken");
        assert_eq!(taken.missing, 2);
    }

    #[test]
    fn masked_channels_and_float_counts_arrive() {
        let mut outlet = outlet();
        let mut m = message(1, 2);
        m.counts.clear();
        m.float_counts = vec![1.4, 2.6, 3.0, 4.0];
        m.masked_channels = vec![0];
        outlet.port.offer(&m, Received::now()).expect("taken");
        let mut counts = [0; 2];
        outlet.pop(&mut counts);
        outlet.pop(&mut counts);
        assert_eq!(counts, [MASKED, 3]);
        outlet.pop(&mut counts);
        assert_eq!(counts, [MASKED, 4]);
    }
}
