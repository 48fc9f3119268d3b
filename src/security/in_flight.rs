//! Incomplete messages: a bound on the bytes that they claim together. Where a new one does not
//! fit, the one that has been without new bytes for longest is given up. A message that arrives at
//! once never is, so slow or endless senders only hinder each other.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Sleep;

use crate::telemetry;

/// Least room for all connections together, bytes.
const ALL_BYTES: usize = 32 << 20;
/// Least room for one connection, bytes.
const CONNECTION_BYTES: usize = 4 << 20;

/// A message makes progress when this many bytes of it come: a packet.
const GOES_ON_BYTES: usize = 1000;
/// Time for a message to become whole.
const WHOLE_AFTER: Duration = Duration::from_secs(10);

/// Signal that a message was given up.
#[derive(Debug, Default)]
struct GiveUpSignal {
    given_up: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct Entry {
    bytes: usize,
    connection: u64,
    signal: Arc<GiveUpSignal>,
}

#[derive(Debug, Default)]
struct Order {
    next: u64,
    bytes: usize,
    /// In the order in which something of them came last.
    messages: BTreeMap<u64, Entry>,
    by_connection: HashMap<u64, usize>,
}

impl Order {
    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.messages.remove(&number)?;
        self.bytes -= entry.bytes;
        if let Some(of_one) = self.by_connection.get_mut(&entry.connection) {
            *of_one -= entry.bytes;
            if *of_one == 0 {
                self.by_connection.remove(&entry.connection);
            }
        }
        Some(entry)
    }

    fn give_up(&mut self, number: u64) {
        let Some(entry) = self.remove(number) else { return };
        telemetry::message_given_up("no_room");
        entry.signal.given_up.store(true, Ordering::Release);
        entry.signal.waker.wake();
    }

    /// Something more of a message came; its number from now on.
    fn go_on(&mut self, number: u64) -> u64 {
        let Some(entry) = self.messages.remove(&number) else { return number };
        self.add(entry)
    }

    fn add(&mut self, entry: Entry) -> u64 {
        let number = self.next;
        self.next += 1;
        self.messages.insert(number, entry);
        number
    }

    fn of(&self, connection: u64) -> usize {
        self.by_connection.get(&connection).copied().unwrap_or(0)
    }
}

/// Room for messages that are not whole.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// Order and sizes of all incomplete messages of a port: which to give up is decided under the
    /// lock that admits the new one.
    held: Mutex<Order>,
    all_max: usize,
    connection_max: usize,
}

/// A message's share of the room, until dropped.
#[derive(Debug)]
pub(crate) struct Incomplete {
    room: Arc<InFlight>,
    number: u64,
    signal: Arc<GiveUpSignal>,
}

impl InFlight {
    /// Room for messages of at most `message_bytes_max`.
    #[must_use]
    pub(crate) fn new(message_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            all_max: ALL_BYTES.max(message_bytes_max.saturating_mul(4)),
            connection_max: CONNECTION_BYTES.max(message_bytes_max),
        })
    }

    fn locked(&self) -> MutexGuard<'_, Order> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a message of a connection that claims `bytes`.
    #[must_use]
    pub(crate) fn begin(self: &Arc<Self>, connection: u64, bytes: usize) -> Incomplete {
        let signal = Arc::new(GiveUpSignal::default());
        let mut held = self.locked();
        while held.of(connection) > 0 && held.of(connection) + bytes > self.connection_max {
            let oldest = held.messages.iter().find(|(_, e)| e.connection == connection);
            let Some((&oldest, _)) = oldest else { break };
            held.give_up(oldest);
        }
        while held.bytes + bytes > self.all_max
            && let Some((&oldest, _)) = held.messages.first_key_value()
        {
            held.give_up(oldest);
        }
        held.bytes += bytes;
        *held.by_connection.entry(connection).or_default() += bytes;
        let number = held.add(Entry { bytes, connection, signal: signal.clone() });
        drop(held);
        Incomplete { room: self.clone(), number, signal }
    }
}

impl Incomplete {
    /// Something more of it came.
    pub(crate) fn go_on(&mut self) {
        self.number = self.room.locked().go_on(self.number);
    }

    /// Ready once the message is given up.
    pub(crate) fn poll_given_up(&self, context: &mut Context<'_>) -> Poll<()> {
        self.signal.waker.register(context.waker());
        if self.signal.given_up.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The message of a stream that is not whole: its room, and when it must be.
#[derive(Debug)]
pub(crate) struct Account {
    room: Arc<InFlight>,
    connection: u64,
    /// Number and claim of the incomplete message, where there is one.
    held: Option<(u64, usize, Incomplete)>,
    /// Bytes since the last progress.
    came: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Account {
    /// For a connection's stream, before its first byte.
    #[must_use]
    pub(crate) fn new(room: Arc<InFlight>, connection: u64) -> Self {
        Self { room, connection, held: None, came: 0, deadline: None }
    }

    /// Position in the stream, after `came` more bytes: number and claimed bytes of the incomplete
    /// message.
    pub(crate) fn set(&mut self, incomplete: Option<(u64, usize)>, came: usize) {
        let Some((number, bytes)) = incomplete else {
            (self.held, self.deadline) = (None, None);
            return;
        };
        let same = self.held.as_ref().is_some_and(|h| h.0 == number);
        if let Some((_, claimed, message)) = &mut self.held
            && same
            && *claimed == bytes
        {
            self.came += came;
            if self.came >= GOES_ON_BYTES {
                self.came = 0;
                message.go_on();
            }
            return;
        }
        if !same {
            self.deadline = Some(Box::pin(tokio::time::sleep(WHOLE_AFTER)));
        }
        self.came = 0;
        // The room of the one before is free before more is asked for.
        self.held = None;
        self.held = Some((number, bytes, self.room.begin(self.connection, bytes)));
    }

    /// Ready, with the reason, once the message is given up.
    pub(crate) fn poll_given_up(&mut self, context: &mut Context<'_>) -> Poll<GivenUp> {
        if let Some((_, _, message)) = &self.held
            && message.poll_given_up(context).is_ready()
        {
            return Poll::Ready(GivenUp::NoRoom);
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        self.deadline = None;
        telemetry::message_given_up("not_whole");
        Poll::Ready(GivenUp::NotWhole)
    }
}

/// Reason for giving a message up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GivenUp {
    /// Others that began later needed its room.
    #[error("expected messages that come whole, found too many that do not: this one is given up")]
    NoRoom,
    /// It took too long.
    #[error(
        "expected a message that is whole {} s after it began, found a part of it",
        WHOLE_AFTER.as_secs()
    )]
    NotWhole,
}

impl Drop for Incomplete {
    fn drop(&mut self) {
        self.room.locked().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_given_up(message: &Incomplete) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        message.poll_given_up(&mut context).is_ready()
    }

    #[test]
    fn the_one_that_stands_still_longest_gives_way_and_what_is_whole_gives_its_room_back() {
        let room = InFlight::new(1 << 20);
        let mib = 1 << 20;
        let mut slow: Vec<_> = (0..32).map(|c| room.begin(c, mib)).collect();
        assert!(!slow.iter().any(is_given_up));
        // One more than fits: the first is given up.
        let healthy = room.begin(100, 1000);
        assert!(is_given_up(&slow[0]) && !is_given_up(&slow[1]) && !is_given_up(&healthy));
        drop(healthy);
        slow.remove(5);
        let next = room.begin(100, mib);
        assert!(!slow[1..].iter().any(is_given_up) && !is_given_up(&next));
        // Of which something came, does not give way yet.
        slow[1].go_on();
        let more = [101, 102].map(|c| room.begin(c, mib));
        assert!(!is_given_up(&slow[1]) && is_given_up(&slow[2]));
        drop((slow.remove(2), more));
        // One connection's own are bounded apart.
        let own: Vec<_> = (0..6).map(|_| room.begin(200, mib)).collect();
        assert_eq!(own.iter().filter(|m| is_given_up(m)).count(), 2);
        assert!(is_given_up(&own[0]) && is_given_up(&own[1]));
        drop((slow, own, next));
        assert_eq!(room.locked().bytes, 0);
        assert!(room.locked().by_connection.is_empty());
        // A single one that is larger than all the room alone.
        let huge = room.begin(1, 1 << 30);
        assert!(!is_given_up(&huge));
    }
}
