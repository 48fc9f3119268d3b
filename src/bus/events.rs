//! A session's regime changes: numbered, announced, and held for subscribers that resume.
//!
//! Numbers have no gaps: one task numbers all events of a session in the order of their decisions,
//! and the announcer announces them in that order. An event is stored before its number becomes the
//! newest, so a subscriber that has seen a number always finds its event.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::journal::{Journal, Ticket, new_id};
use crate::wire::Event;

/// Events read from the journal at once: a whole file of it is gone through for them.
const JOURNAL_EVENTS_AT_ONCE: usize = 4096;
/// Most events read at once for one subscriber.
const EVENTS_AT_ONCE: usize = 256;

/// Why events cannot be resumed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// Events in between are gone.
    #[error(
        "expected to resume after event {oldest_resumable} or later, found {asked}: older events \
         are no longer held"
    )]
    NotRetained {
        /// Oldest number after which nothing would be skipped.
        oldest_resumable: u64,
        /// Number asked for.
        asked: u64,
    },
    /// There was no such event.
    #[error(
        "expected to resume after event {newest} at most, the newest there is, found {asked}: \
         numbers are of one \
         daemon's journal (or, without one, of one run)"
    )]
    NotYet {
        /// Number of the newest event.
        newest: u64,
        /// Number asked for.
        asked: u64,
    },
}

impl EventsError {
    /// The nearest number after which events can be had.
    #[must_use]
    pub fn nearest(&self) -> u64 {
        match self {
            Self::NotRetained { oldest_resumable, .. } => *oldest_resumable,
            Self::NotYet { newest, .. } => *newest,
        }
    }
}

/// A numbered event, with its place in the journal where there is one.
pub struct Numbered {
    pub event: Event,
    ticket: Option<Ticket>,
}

/// One session's events.
pub struct EventLog {
    session: String,
    /// The newest of those that were announced.
    kept: Mutex<VecDeque<Event>>,
    kept_max: usize,
    /// Number of the newest event that was announced.
    newest: watch::Sender<u64>,
    /// Where events are kept, beyond those in memory.
    journal: Option<Arc<Journal>>,
    /// Number of the newest event where there is no journal.
    numbered: AtomicU64,
}

impl EventLog {
    /// Numbers continue from the journal's.
    pub(super) fn new(session: &str, kept_max: usize, journal: Option<Arc<Journal>>) -> Self {
        let newest = journal.as_ref().map_or(0, |journal| journal.newest_event(session));
        Self {
            session: session.to_owned(),
            kept: Mutex::default(),
            kept_max,
            newest: watch::Sender::new(newest),
            journal,
            numbered: AtomicU64::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers an event and hands it to the journal, where there is one. `None` where the journal
    /// takes no more: the number is not used then, and the journal's metrics count the event as
    /// dropped. Only the session's publishing task calls this.
    pub fn number(&self, mut event: Event) -> Option<Numbered> {
        let Some(journal) = &self.journal else {
            event.event_sequence = self.numbered.fetch_add(1, Ordering::Relaxed) + 1;
            return Some(Numbered { event, ticket: None });
        };
        let ticket = journal.add_event(&mut event)?;
        Some(Numbered { event, ticket: Some(ticket) })
    }

    /// The event, once the journal has kept it or has failed to (`not_durable`).
    pub(crate) async fn durable(&self, numbered: Numbered) -> Event {
        let Numbered { mut event, ticket } = numbered;
        if let (Some(journal), Some(ticket)) = (&self.journal, ticket) {
            event.not_durable = !journal.announceable(ticket).await;
        }
        event
    }

    /// Announces an event: from here on it is found.
    pub(super) fn announce(&self, event: &Event) {
        let mut kept = self.kept();
        if kept.len() == self.kept_max {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Under the lock: a reader that finds this event must also find its number announced.
        self.newest.send_replace(event.event_sequence);
    }

    /// Wakes waiting subscribers: the session may have ended.
    pub(super) fn wake(&self) {
        self.newest.send_modify(|_| {});
    }

    /// Number of the newest event.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The newest event's number, as it changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Number of subscribers that wait for events.
    pub(super) fn waiting(&self) -> usize {
        self.newest.receiver_count()
    }

    /// Identity of the numbering: the journal's, or without one this run's.
    #[must_use]
    pub fn numbering(&self) -> &str {
        static RUN: LazyLock<String> = LazyLock::new(new_id);
        self.journal.as_ref().map_or(RUN.as_str(), |journal| journal.id())
    }

    /// Events that were announced, after a number (0: all that are held), in order and without a
    /// gap; the next when these are dealt with.
    ///
    /// # Errors
    /// When events in between are no longer held, or the number was never given.
    pub async fn after(&self, number: u64) -> Result<Vec<Event>, EventsError> {
        let newest = self.newest();
        if number > newest {
            return Err(EventsError::NotYet { newest, asked: number });
        }
        let from_memory = self.in_memory(number);
        let Some(journal) = &self.journal else { return from_memory };
        if number != 0 && from_memory.is_ok() {
            return from_memory;
        }
        let (journal, name) = (journal.clone(), self.session.clone());
        let read = move || journal.events_after(&name, number, JOURNAL_EVENTS_AT_ONCE);
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(mut events)) => {
                // Excludes events that are in the journal but not announced yet.
                events.retain(|e| e.event_sequence <= newest);
                Ok(events)
            }
            Ok(Err(gone)) => {
                let oldest_resumable = gone.oldest_resumable;
                Err(EventsError::NotRetained { oldest_resumable, asked: number })
            }
            // The reader was cancelled: the daemon ends.
            Err(_) => Ok(Vec::new()),
        }
    }

    fn in_memory(&self, number: u64) -> Result<Vec<Event>, EventsError> {
        let kept = self.kept();
        let oldest_resumable = match kept.front() {
            Some(first) => first.event_sequence - 1,
            None => self.newest(),
        };
        // Zero asks for all that are held.
        if number != 0 && number < oldest_resumable {
            return Err(EventsError::NotRetained { oldest_resumable, asked: number });
        }
        let from = (number.max(oldest_resumable) - oldest_resumable) as usize;
        Ok(kept.iter().skip(from).take(EVENTS_AT_ONCE).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> EventLog {
        EventLog::new("rig", 3, None)
    }

    #[tokio::test]
    async fn events_resume_without_a_gap_or_say_so() {
        let log = log();
        assert_eq!(log.after(0).await, Ok(Vec::new()));
        for event_sequence in 1..=5 {
            let event = Event { event_sequence, ..Event::default() };
            log.announce(&event);
        }
        let numbers = async |after| {
            let events = log.after(after).await;
            events.map(|e| e.iter().map(|e| e.event_sequence).collect::<Vec<_>>())
        };
        assert_eq!(numbers(0).await, Ok(vec![3, 4, 5]));
        assert_eq!(numbers(2).await, Ok(vec![3, 4, 5]));
        assert_eq!(numbers(4).await, Ok(vec![5]));
        assert_eq!(numbers(5).await, Ok(vec![]));
        assert_eq!(
            numbers(1).await,
            Err(EventsError::NotRetained { oldest_resumable: 2, asked: 1 })
        );
        assert_eq!(numbers(6).await, Err(EventsError::NotYet { newest: 5, asked: 6 }));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn subscribers_that_come_and_go_hear_each_event_once_and_in_order() {
        const EVENTS: u64 = 3000;
        let folder = tempfile::tempdir().expect("a folder");
        let settings = crate::journal::Settings {
            name: "journal",
            folder: folder.path().to_owned(),
            // The order of things is what counts here, not the disk.
            sync: crate::journal::Sync::Interval(std::time::Duration::from_secs(60)),
            when_disk_fails: crate::journal::WhenDiskFails::Hold,
            bytes_max: 64 << 20,
            age_max_s: 1e6,
        };
        let (journal, _) = Journal::open(settings).expect("a journal");
        let journal = Arc::new(journal);
        // So few in memory that who is behind must read the journal.
        let log = Arc::new(EventLog::new("rig", 16, Some(journal.clone())));
        let readers: Vec<_> = (0..8u64)
            .map(|i| {
                let log = log.clone();
                tokio::spawn(async move {
                    let (mut after, mut received, mut newest) = (0, Vec::new(), log.watch());
                    while after < EVENTS {
                        newest.borrow_and_update();
                        let events = log.after(after).await.expect("held");
                        let none = events.is_empty();
                        // Some are cut off in the middle of what they were sent.
                        let taken = if i % 2 == 0 { events.len().min(5) } else { events.len() };
                        for event in events.into_iter().take(taken) {
                            after = event.event_sequence;
                            received.push(after);
                        }
                        if none {
                            assert!(newest.changed().await.is_ok());
                        } else if after % (i + 3) == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                    received
                })
            })
            .collect();
        for _ in 0..EVENTS {
            let event = Event { session: "rig".into(), ..Event::default() };
            let event = log.durable(log.number(event).expect("taken")).await;
            assert!(!event.not_durable);
            log.announce(&event);
        }
        for received in readers {
            let received = received.await.expect("heard");
            assert_eq!(received, (1..=EVENTS).collect::<Vec<_>>());
        }
    }
}
