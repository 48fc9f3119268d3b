//! Delivery of a session's updates to its subscribers: all of them, or every n-th decision. A crowd
//! of subscribers is served in turns, because waking all at once would delay everything else.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics::Gauge;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::telemetry;
use crate::telemetry::Counted;
use crate::wire::{Decision, Encoded, Event};

/// Updates that wait for one subscriber before it loses the oldest.
pub(crate) const WAITING: usize = 4096;
/// The same where only every n-th decision is wanted.
const WAITING_THINNED: usize = 1024;
/// Feeds of one session. Who wants yet another number is served from one of these, and skips the
/// rest.
const FEEDS_MAX: usize = 8;

/// More subscribers to one session are a crowd.
const CROWD: usize = 32;
/// In a crowd, each subscriber waits this long for every other one.
const TURN: Duration = Duration::from_micros(100);

/// An update, shared by all subscribers.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all are decisions, and each is shared, not moved
pub enum Update {
    /// A bin's decision. Where the label changed, it names its event.
    Decision(Encoded<Decision>),
    /// An event, once it may be announced: behind its decision.
    Event(Encoded<Event>),
}

impl Update {
    /// The decision, where it is one.
    #[must_use]
    pub fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Decision(decision) => Some(decision),
            Self::Event(_) => None,
        }
    }

    /// The decision on the wire, where it is one; encoded once for all subscribers.
    #[must_use]
    pub(crate) fn decision_bytes(&self) -> Option<Bytes> {
        match self {
            Self::Decision(decision) => Some(decision.bytes()),
            Self::Event(_) => None,
        }
    }

    /// Whether a subscriber to every `every`-th decision gets it; every change is delivered.
    fn is_wanted(&self, every: u64) -> bool {
        self.decision().is_none_or(|d| d.bin.is_multiple_of(every) || d.event_sequence != 0)
    }
}

/// A place in the crowd: its members are served one by one, in the order in which they joined.
pub(crate) struct Turn {
    number: u32,
    began: bool,
    _counted: Counted,
}

impl Turn {
    fn new(newest: &AtomicU32, counted: Counted) -> Self {
        let number = newest.fetch_add(1, Ordering::Relaxed);
        Self { number, began: false, _counted: counted }
    }

    /// Its place in the round of a crowd; zero without a crowd.
    pub(crate) fn place(&self, crowd: usize) -> Duration {
        let crowd = u32::try_from(crowd).unwrap_or(u32::MAX);
        if crowd as usize > CROWD { TURN * (self.number % crowd) } else { Duration::ZERO }
    }

    /// Time until its next turn; `None` where there is no crowd.
    fn next(&mut self, crowd: usize) -> Option<Duration> {
        if crowd <= CROWD {
            return None;
        }
        if self.began {
            return Some(TURN * u32::try_from(crowd).unwrap_or(u32::MAX));
        }
        self.began = true;
        Some(self.place(crowd))
    }
}

struct Feed {
    every: u64,
    updates: broadcast::Sender<Arc<Update>>,
}

impl Feed {
    fn new(every: u64) -> Self {
        let waiting = if every == 1 { WAITING } else { WAITING_THINNED };
        Self { every, updates: broadcast::Sender::new(waiting) }
    }
}

/// One session's subscribers.
pub(crate) struct Feeds {
    session: String,
    /// The first is of every decision; none once the session has ended.
    feeds: Mutex<Vec<Feed>>,
    /// Hands out places in the crowd; a place that wraps around is only a place.
    turns: AtomicU32,
    subscribers: Gauge,
}

impl Feeds {
    /// Feeds that nobody is subscribed to yet.
    pub(crate) fn new(session: &str) -> Self {
        Self {
            session: session.to_owned(),
            feeds: Mutex::new(vec![Feed::new(1)]),
            turns: AtomicU32::new(0),
            subscribers: telemetry::subscribers(session),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Feed>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more comes: subscribers get what waits, and then the end.
    pub(crate) fn end(&self) {
        self.locked().clear();
    }

    /// Gives it to those that want it.
    pub(crate) fn publish(&self, update: &Arc<Update>) {
        let mut feeds = self.locked();
        feeds.retain(|feed| feed.every == 1 || feed.updates.receiver_count() > 0);
        for feed in feeds.iter().filter(|feed| update.is_wanted(feed.every)) {
            // Fails when there is no subscriber.
            let _ = feed.updates.send(update.clone());
        }
    }

    /// Events and every `every`-th decision from now on (0 counts as 1).
    pub(crate) fn subscribe(self: &Arc<Self>, every: u64) -> Subscription {
        let every = every.max(1);
        let mut feeds = self.locked();
        let is_new = !feeds.is_empty() && feeds.iter().all(|feed| feed.every != every);
        if is_new && feeds.len() < FEEDS_MAX {
            feeds.push(Feed::new(every));
        }
        let serves = |feed: &&Feed| every.is_multiple_of(feed.every);
        let updates = match feeds.iter().filter(serves).max_by_key(|feed| feed.every) {
            Some(feed) => feed.updates.subscribe(),
            // A sender that is dropped at once: the end comes first.
            None => broadcast::Sender::new(1).subscribe(),
        };
        drop(feeds);
        Subscription { updates, every, turn: self.turn(), feeds: self.clone(), lost: 0 }
    }

    /// A place for one more in a crowd.
    pub(crate) fn turn(&self) -> Turn {
        Turn::new(&self.turns, Counted::new(&self.subscribers))
    }

    fn crowd(&self) -> usize {
        self.locked().iter().map(|feed| feed.updates.receiver_count()).sum()
    }
}

/// One subscriber to one session.
pub struct Subscription {
    updates: broadcast::Receiver<Arc<Update>>,
    every: u64,
    turn: Turn,
    feeds: Arc<Feeds>,
    lost: u64,
}

impl Subscription {
    /// The next update; `None` when the session has ended. Safe to cancel.
    pub async fn next(&mut self) -> Option<Arc<Update>> {
        loop {
            match self.updates.recv().await {
                Ok(update) if update.is_wanted(self.every) => return Some(update),
                Ok(_) => {}
                Err(RecvError::Lagged(n)) => self.lose(n),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next update, as [`Self::next`]. In a crowd each subscriber wakes once per round, which
    /// is longer the larger the crowd, and takes everything that waits: waking a thousand for every
    /// bin would starve everything else.
    pub(crate) async fn next_in_turn(&mut self) -> Option<Arc<Update>> {
        loop {
            match self.looked() {
                Ok(update) => return Some(update),
                Err(TryRecvError::Closed) => return None,
                Err(_) => {}
            }
            match self.turn.next(self.feeds.crowd()) {
                None => return self.next().await,
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// The next update, where one waits.
    pub(crate) fn try_next(&mut self) -> Option<Arc<Update>> {
        self.looked().ok()
    }

    fn looked(&mut self) -> Result<Arc<Update>, TryRecvError> {
        loop {
            match self.updates.try_recv() {
                Ok(update) if update.is_wanted(self.every) => return Ok(update),
                Ok(_) => {}
                Err(TryRecvError::Lagged(n)) => self.lose(n),
                Err(none) => return Err(none),
            }
        }
    }

    fn lose(&mut self, n: u64) {
        self.lost += n;
        telemetry::lost_by_subscriber(&self.feeds.session, n);
    }

    /// Updates lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feeds() -> Arc<Feeds> {
        Arc::new(Feeds::new("rig"))
    }

    fn decided(bin: u64, event_sequence: u64) -> Arc<Update> {
        let decision = Decision { bin, event_sequence, ..Decision::default() };
        Arc::new(Update::Decision(Encoded::new(decision)))
    }

    fn bins(subscription: &mut Subscription) -> Vec<u64> {
        let next = || subscription.try_next().and_then(|u| u.decision().map(|d| d.bin));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_hears_every_nth_and_all_changes_however_many_ns_there_are() {
        let feeds = feeds();
        let everys: Vec<u64> = (0..40).collect();
        let mut subscriptions: Vec<_> = everys.iter().map(|&n| feeds.subscribe(n)).collect();
        assert_eq!(feeds.locked().len(), FEEDS_MAX);
        for bin in 1..=200 {
            feeds.publish(&decided(bin, u64::from(bin == 71)));
        }
        for (every, subscription) in everys.iter().zip(&mut subscriptions) {
            let wanted = |bin: &u64| bin.is_multiple_of(every.max(&1).to_owned()) || *bin == 71;
            assert_eq!(bins(subscription), (1..=200).filter(wanted).collect::<Vec<_>>(), "{every}");
        }
        // Removes a feed without subscribers.
        drop(subscriptions);
        feeds.publish(&decided(0, 0));
        assert_eq!(feeds.locked().len(), 1);
        feeds.end();
        assert!(feeds.locked().is_empty());
    }

    #[tokio::test]
    async fn what_waits_is_heard_before_the_end_and_nothing_after_it() {
        let feeds = feeds();
        let mut early = feeds.subscribe(1);
        feeds.publish(&decided(3, 0));
        feeds.end();
        let mut late = feeds.subscribe(7);
        assert!(early.next().await.is_some());
        assert!(early.next().await.is_none() && late.next().await.is_none());
        assert!(late.next_in_turn().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_subscriber_loses_the_oldest_and_is_told() {
        let feeds = feeds();
        let mut slow = feeds.subscribe(1);
        for bin in 0..WAITING as u64 + 7 {
            feeds.publish(&decided(bin, 0));
        }
        assert!(slow.next().await.is_some());
        assert_eq!(slow.lost(), 7);
    }

    #[tokio::test]
    async fn a_crowd_takes_turns_and_hears_all_the_same() {
        let feeds = feeds();
        let mut crowd: Vec<_> = (0..1000).map(|_| feeds.subscribe(1)).collect();
        for bin in 0..10 {
            feeds.publish(&decided(bin, 0));
        }
        let last = &mut crowd[999];
        for bin in 0..10 {
            let update = last.next_in_turn().await.expect("an update");
            assert_eq!(update.decision().map(|d| d.bin), Some(bin));
        }
        // Now it is up to date, and waits its turn.
        let began = std::time::Instant::now();
        let publishing = feeds.clone();
        tokio::spawn(async move { publishing.publish(&decided(10, 0)) });
        let update = last.next_in_turn().await.expect("an update");
        assert_eq!(update.decision().map(|d| d.bin), Some(10));
        assert!(began.elapsed() >= TURN * 999, "{:?}", began.elapsed());
        // All have places of their own in the round.
        let places =
            crowd.iter().map(|s| s.turn.place(1000)).collect::<std::collections::HashSet<_>>();
        assert_eq!(places.len(), 1000);
        assert!(crowd[31].turn.place(CROWD).is_zero());
    }
}
