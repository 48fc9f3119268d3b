//! Assembles a session's bins from spike events, or from parts that several publishers send, and
//! closes them by deadline when nothing comes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::assembly_settings::AssemblySettings;
use super::binner::{Binner, FEEDS_MAX, Placed};
use super::bins::{BinCounts, Bins};
use super::message;
use super::port::Port;
use super::refusal::{Accepted, Refusal, reason_name};
use super::spikes::{Event, SpikesTaken};
use crate::clock::Received;
use crate::telemetry::AssemblyMetrics;
use crate::wire::{Counts, RejectReason, Spikes};

/// Most open bins, which bounds the memory of a session: events further ahead are refused, unless
/// several in a row agree.
const OPEN_BINS_MAX: usize = 512;
/// Bin numbers from here on are nonsense, whatever the clock.
const BIN_MAX: u64 = 1 << 60;
/// Between looks at a rig that may have fallen silent, at least.
const WATCH_EVERY_MIN: Duration = Duration::from_millis(10);
/// Longest name of a publisher.
const NAME_BYTES_MAX: usize = 64;

/// Bins within which parts may be repeated; older numbers come from a publisher that restarted.
const LATE_PARTS: u64 = 100;

struct Inner {
    binner: Binner,
    /// Number of each publisher's next message.
    next_message: HashMap<String, u64>,
    /// The next bins begin another recording.
    begins: bool,
}

/// Makes the bins of one session from events or parts, and offers them to its port.
pub struct Assembly {
    port: Arc<Port>,
    settings: AssemblySettings,
    /// Most open bins.
    open_max: usize,
    /// Held for a whole message, so that its events are placed together, and while bins close.
    inner: Mutex<Inner>,
    metrics: AssemblyMetrics,
    /// Wakes the closing task when bins are open.
    stirred: Notify,
}

impl Assembly {
    /// An assembly without open bins, in front of a session's port.
    #[must_use]
    pub fn new(port: Arc<Port>, settings: AssemblySettings) -> Self {
        let shape = port.settings();
        let open = OPEN_BINS_MAX.min(shape.queue_bins);
        Self {
            metrics: AssemblyMetrics::new(&shape.session),
            inner: Mutex::new(Inner {
                binner: Binner::new(shape.n_channels, open, settings.publishers),
                next_message: HashMap::new(),
                begins: false,
            }),
            open_max: open,
            port,
            settings,
            stirred: Notify::new(),
        }
    }

    /// The port that whole bins are offered to.
    #[must_use]
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }

    fn enter(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message of spike events.
    ///
    /// # Errors
    /// When nothing of it can be taken.
    pub fn offer_spikes(
        &self,
        message: &Spikes,
        received: Received,
    ) -> Result<SpikesTaken, Refusal> {
        let n = message.time_ns.len();
        self.metrics.received.increment(n as u64);
        let result = self.spikes(message, received);
        if let Err(refusal) = &result {
            self.metrics.rejected(reason_name(refusal.reason), n as u64);
        }
        result
    }

    fn spikes(&self, message: &Spikes, received: Received) -> Result<SpikesTaken, Refusal> {
        let (times, channels) = (message.time_ns.len(), message.channel.len());
        if times != channels {
            return Err(Refusal::new(
                RejectReason::Malformed,
                format!("expected as many channels as times, found {channels} and {times}"),
            ));
        }
        self.check_open(&message.publisher)?;
        let width = self.port.width_ns();
        let newest = message.time_ns.iter().copied().max().unwrap_or(0);
        let reorder = i64::try_from(self.settings.reorder.as_nanos()).unwrap_or(i64::MAX);
        let until = match message.until_ns {
            0 => newest.saturating_sub(reorder),
            until => until,
        };
        self.port.note_contact(newest.max(message.until_ns), received);
        let mut inner = self.enter();
        let feed = self.feed(&mut inner, &message.publisher, received)?;
        inner.binner.begin_message();
        let mut taken = SpikesTaken {
            messages_lost: self.number(&mut inner, message),
            ..SpikesTaken::default()
        };
        // Which bins the lost messages were of is not known: all that they can have touched.
        if taken.messages_lost > 0 {
            let earliest = message.time_ns.iter().copied().min().unwrap_or(until).max(0);
            let from = inner.binner.complete_of(feed);
            inner.binner.spoil(from, (earliest / width) as u64);
        }
        for (&time, &channel) in message.time_ns.iter().zip(&message.channel) {
            let bin = time / width;
            if time < 0 || bin as u64 >= BIN_MAX {
                taken.refuse(RejectReason::Malformed, || {
                    format!("expected times in nanoseconds from 0, found {time}")
                });
                continue;
            }
            let event = Event { bin: bin as u64, channel: channel as usize, count: 1 };
            self.place(&mut inner, event, received, &mut taken);
        }
        inner.binner.complete(feed, (until / width).max(0) as u64);
        self.account(&taken);
        self.close_ready(&mut inner, received);
        Ok(taken)
    }

    /// Takes parts of bins that one of several publishers sends.
    ///
    /// # Errors
    /// The reason. In the accounts of events each bin of the message counts as one.
    pub fn offer(&self, message: &Counts, received: Received) -> Result<Accepted, Refusal> {
        let claimed = message::claimed(message);
        self.metrics.received.increment(claimed);
        let mut inner = self.enter();
        let result = self.parts(&mut inner, message, received);
        match &result {
            Err(r) if r.reason == RejectReason::DuplicateOrLate => {
                self.metrics.late.increment(claimed);
            }
            Err(r) => self.metrics.rejected(reason_name(r.reason), claimed),
            Ok(_) => self.metrics.binned.increment(claimed),
        }
        result
    }

    fn parts(
        &self,
        inner: &mut Inner,
        message: &Counts,
        received: Received,
    ) -> Result<Accepted, Refusal> {
        self.check_open(&message.publisher)?;
        let checked = message::check(self.port.settings(), message)?;
        let n = checked.n_bins as u64;
        let last = message.sequence.saturating_add(n - 1);
        if last >= BIN_MAX {
            return Err(Refusal::new(
                RejectReason::Malformed,
                format!("expected bins below {BIN_MAX}, found {last}"),
            ));
        }
        self.port.note_contact(self.end_ns(last), received);
        let feed = self.feed(inner, &message.publisher, received)?;
        inner.binner.begin_message();
        let channels: Vec<usize> = message.channels.iter().map(|&c| c as usize).collect();
        inner.binner.owns(feed, &channels);
        let expected = inner.binner.complete_of(feed);
        let closed = inner.binner.first().unwrap_or(0);
        if message.sequence < expected.max(closed) && last >= expected.saturating_sub(LATE_PARTS) {
            let expected = expected.max(closed);
            return Err(Refusal::new(
                RejectReason::DuplicateOrLate,
                format!("expected bin {expected} or later, found {}", message.sequence),
            ));
        }
        let mut taken = SpikesTaken::default();
        let counts = checked.counts();
        for (i, bin) in (0..checked.n_bins).zip(message.sequence..) {
            for (at, &channel) in channels.iter().enumerate() {
                let count = counts.at(i, at, channels.len());
                self.place(inner, Event { bin, channel, count }, received, &mut taken);
            }
        }
        if let Some((refusal, _)) = taken.refused.into_iter().next() {
            return Err(refusal);
        }
        if taken.late > 0 {
            return Err(Refusal::new(RejectReason::DuplicateOrLate, "expected a later bin"));
        }
        inner.binner.complete(feed, last + 1);
        self.close_ready(inner, received);
        Ok(Accepted { bins: n, missing: 0, last_sequence: last })
    }

    /// Takes events whose bins and channels a source has found; `complete`: nothing more comes from
    /// `feed` for the bins before. The accounts are kept.
    ///
    /// # Errors
    /// When the session takes nothing at the moment.
    pub fn take(
        &self,
        feed: &str,
        events: &[Event],
        complete: u64,
        received: Received,
    ) -> Result<SpikesTaken, Refusal> {
        self.metrics.received.increment(events.len() as u64);
        let mut taken = SpikesTaken::default();
        let result = self.check_open(feed).and_then(|()| {
            let mut inner = self.enter();
            let at = self.feed(&mut inner, feed, received)?;
            inner.binner.begin_message();
            for &event in events {
                if event.bin >= BIN_MAX {
                    taken.refuse(RejectReason::Malformed, || {
                        format!("expected bins below {BIN_MAX}, found {}", event.bin)
                    });
                    continue;
                }
                self.place(&mut inner, event, received, &mut taken);
            }
            inner.binner.complete(at, complete);
            self.close_ready(&mut inner, received);
            Ok(())
        });
        match result {
            Ok(()) => {
                self.account(&taken);
                Ok(taken)
            }
            Err(refusal) => {
                self.metrics.rejected(reason_name(refusal.reason), events.len() as u64);
                Err(refusal)
            }
        }
    }

    /// Counts an event that a source has refused before it could be placed.
    pub fn refused(&self, reason: RejectReason) {
        self.metrics.received.increment(1);
        self.metrics.rejected(reason_name(reason), 1);
    }

    /// Messages were lost that may have held events of these bins: they are predicted through.
    pub(crate) fn spoil(&self, from: u64, to: u64) {
        self.enter().binner.spoil(from, to);
    }

    /// The rig starts another recording: closes open bins, and the next bin starts it.
    pub fn begin(&self, received: Received) {
        let mut inner = self.enter();
        self.close_all(&mut inner, received);
        self.port.forget_clock();
        inner.next_message.clear();
        inner.begins = true;
    }

    fn check_open(&self, publisher: &str) -> Result<(), Refusal> {
        if self.port.is_paused() {
            return Err(Refusal::new(RejectReason::Paused, "the session is paused"));
        }
        if publisher.len() > NAME_BYTES_MAX {
            return Err(Refusal::new(
                RejectReason::Malformed,
                format!(
                    "expected a publisher's name of at most {NAME_BYTES_MAX} bytes, found {}",
                    publisher.len()
                ),
            ));
        }
        Ok(())
    }

    /// Notes contact with the publisher `name`, and returns its feed.
    fn feed(&self, inner: &mut Inner, name: &str, received: Received) -> Result<usize, Refusal> {
        inner.binner.feed(name, received.steady_ns().max(0) as u64).ok_or_else(|| {
            Refusal::new(
                RejectReason::Malformed,
                format!("expected at most {FEEDS_MAX} publishers, found one more"),
            )
        })
    }

    /// Messages found missing before this one of its publisher.
    fn number(&self, inner: &mut Inner, message: &Spikes) -> u64 {
        let number = message.message_number;
        if number == 0 {
            return 0;
        }
        if inner.next_message.len() > 2 * FEEDS_MAX {
            // Of publishers that were replaced.
            let Inner { next_message, binner, .. } = inner;
            next_message.retain(|name, _| binner.knows(name));
        }
        let next = inner.next_message.insert(message.publisher.clone(), number.saturating_add(1));
        // A smaller number comes from a publisher that restarted.
        let lost = next.map_or(0, |next| number.saturating_sub(next));
        self.metrics.messages_lost.increment(lost);
        lost
    }

    fn place(&self, inner: &mut Inner, event: Event, received: Received, taken: &mut SpikesTaken) {
        let n_channels = self.port.settings().n_channels;
        if event.channel >= n_channels {
            return taken.refuse(RejectReason::UnknownChannel, || {
                format!("expected channels below {n_channels}, found {}", event.channel)
            });
        }
        let mut placed = inner.binner.add(event.bin, event.channel, event.count);
        if placed == Placed::Jump && !std::mem::replace(&mut taken.jumped, true) {
            tracing::warn!(session = self.port.settings().session, "the rig's clock was set");
            self.close_all(inner, received);
            self.port.forget_clock();
            inner.begins = true;
            placed = inner.binner.add(event.bin, event.channel, event.count);
        }
        match placed {
            Placed::Taken => taken.binned += 1,
            Placed::Late => taken.late += 1,
            Placed::Ahead | Placed::Jump => taken.refuse(RejectReason::TooFarAhead, || {
                let first = inner.binner.first().unwrap_or(0);
                format!(
                    "expected bins from {first} to {}, found {}",
                    first + self.open_max as u64 - 1,
                    event.bin
                )
            }),
        }
    }

    fn account(&self, taken: &SpikesTaken) {
        self.metrics.binned.increment(taken.binned);
        self.metrics.late.increment(taken.late);
        for (refusal, n) in &taken.refused {
            self.metrics.rejected(reason_name(refusal.reason), *n);
        }
    }

    fn close_ready(&self, inner: &mut Inner, received: Received) {
        let idle = self.settings.idle.as_nanos() as u64;
        let since = (received.steady_ns().max(0) as u64).saturating_sub(idle);
        let ready = inner.binner.ready(since);
        self.close(inner, ready, received);
        self.stirred.notify_one();
    }

    fn close_all(&self, inner: &mut Inner, received: Received) {
        let end = inner.binner.end();
        self.close(inner, end, received);
        inner.binner.restart();
    }

    fn close(&self, inner: &mut Inner, until: u64, received: Received) {
        let Inner { binner, begins, .. } = inner;
        binner.close(until, |bin, counts| {
            // Bins without counts are a gap for the port.
            let Some(counts) = counts else { return };
            let rig_time_ns = self.end_ns(bin);
            let counts = BinCounts::Narrow(counts);
            let bins = Bins { sequence: bin, rig_time_ns, counts, begins: *begins };
            // A refusal is accounted for there.
            if self.port.offer(&bins, received).is_ok() {
                *begins = false;
            }
        });
    }

    /// The rig's time at a bin's end, ns.
    fn end_ns(&self, bin: u64) -> i64 {
        let bin = i64::try_from(bin).unwrap_or(i64::MAX);
        bin.saturating_add(1).saturating_mul(self.port.width_ns())
    }

    /// Closes bins at their deadline and watches for a rig that stops sending, until aborted.
    pub(crate) async fn keep_closing(&self) {
        let watch = (self.settings.idle / 4).max(WATCH_EVERY_MIN);
        loop {
            let wait = self.next_closing().unwrap_or(watch).min(watch);
            // Whatever stirs meanwhile changes when the next bin is due.
            let _ = tokio::time::timeout(wait, self.stirred.notified()).await;
            self.close_due();
            self.port.watch(self.settings.idle);
        }
    }

    /// Time until the first open bin is due; `None` where none is open.
    fn next_closing(&self) -> Option<Duration> {
        let due = self.due_ns(self.enter().binner.first()?)?;
        let left = due.saturating_sub(Received::now().steady_ns());
        Some(Duration::from_nanos(u64::try_from(left).unwrap_or(0)))
    }

    /// Our steady time by which a bin is closed.
    fn due_ns(&self, bin: u64) -> Option<i64> {
        let deadline = i64::try_from(self.settings.deadline.as_nanos()).unwrap_or(i64::MAX);
        Some(self.port.ours_ns(self.end_ns(bin))?.saturating_add(deadline))
    }

    fn close_due(&self) {
        let received = Received::now();
        let now = received.steady_ns();
        let mut inner = self.enter();
        let Some(mut until) = inner.binner.first() else { return };
        // The rig is gone: its bins are missing from here on, not silent.
        let silent = now.saturating_sub(inner.binner.last_contact_ns() as i64);
        if silent > i64::try_from(self.settings.idle.as_nanos()).unwrap_or(i64::MAX) {
            self.close_all(&mut inner, received);
            return;
        }
        let first = until;
        while until - first < self.open_max as u64
            && self.due_ns(until).is_some_and(|due| due <= now)
        {
            until += 1;
        }
        if until > first {
            self.close(&mut inner, until, received);
        }
    }
}
