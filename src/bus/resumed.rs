//! A subscriber to a session's events, with its position.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::events::EventsError;
use super::handle::SessionHandle;
use super::registry::Registry;
use super::subscription::Turn;
use crate::wire::Event;

/// One that waits for a session's events.
pub(crate) struct NewestEvent {
    session: Arc<SessionHandle>,
    newest: watch::Receiver<u64>,
    turn: Turn,
}

impl NewestEvent {
    /// Of a session; those that came before are not seen yet.
    #[must_use]
    pub(crate) fn of(session: &Arc<SessionHandle>) -> Self {
        Self { newest: session.events.watch(), turn: session.turn(), session: session.clone() }
    }

    /// Number of the newest event; from here on only newer ones count as a change.
    pub(crate) fn seen(&mut self) -> u64 {
        *self.newest.borrow_and_update()
    }

    /// Resolves when there are newer events, or the session has ended; in a crowd a little later
    /// for each subscriber, so that not all are served at once. False when the session is gone.
    pub(crate) async fn changed(&mut self) -> bool {
        let changed = self.newest.changed().await.is_ok();
        let place = self.turn.place(self.session.events.waiting());
        if !place.is_zero() {
            tokio::time::sleep(place).await;
        }
        changed
    }
}

/// Events after a number, then live, each once and in order.
pub(crate) struct Resumed {
    newest: NewestEvent,
    session: Arc<SessionHandle>,
    registry: Arc<Registry>,
    /// Number of the last event sent.
    after: u64,
    /// Those that come next.
    events: VecDeque<Event>,
}

impl Resumed {
    /// After event `after`; 0 for all that are held.
    ///
    /// # Errors
    /// When events in between are no longer held, or the number was never given.
    pub(crate) async fn after(
        registry: &Arc<Registry>,
        session: Arc<SessionHandle>,
        after: u64,
    ) -> Result<Self, EventsError> {
        let events = session.events.after(after).await?.into();
        let newest = NewestEvent::of(&session);
        Ok(Self { newest, session, registry: registry.clone(), after, events })
    }

    /// The next event; `None` when the session has ended, or the daemon ends. Safe to cancel.
    ///
    /// # Errors
    /// When it is no longer held.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, EventsError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.after = event.event_sequence;
                return Ok(Some(event));
            }
            self.newest.seen();
            let ended = self.session.is_ended();
            self.events = self.session.events.after(self.after).await?.into();
            if !self.events.is_empty() {
                continue;
            }
            if ended {
                return Ok(None);
            }
            tokio::select! {
                there = self.newest.changed() => if !there { return Ok(None) },
                () = self.registry.closed() => return Ok(None),
            }
        }
    }
}
