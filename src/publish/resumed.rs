//! A subscriber to events, and where it stands.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bus::{Bus, EventsError, NewestEvent, SessionBus};
use crate::wire::Event;

/// Events after a number, then live, each once and in order.
pub(super) struct Resumed {
    newest: NewestEvent,
    session: Arc<SessionBus>,
    bus: Arc<Bus>,
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
    pub(super) async fn after(
        bus: &Arc<Bus>,
        session: Arc<SessionBus>,
        after: u64,
    ) -> Result<Self, EventsError> {
        let events = session.events_after(after).await?.into();
        Ok(Self { newest: session.newest_event(), session, bus: bus.clone(), after, events })
    }

    /// The next event; `None` when the session has ended, or the daemon ends. Safe to cancel.
    ///
    /// # Errors
    /// When it is no longer held.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, EventsError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.after = event.event_sequence;
                return Ok(Some(event));
            }
            self.newest.seen();
            let ended = self.session.is_ended();
            self.events = self.session.events_after(self.after).await?.into();
            if !self.events.is_empty() {
                continue;
            }
            if ended {
                return Ok(None);
            }
            tokio::select! {
                there = self.newest.changed(&self.session) => if !there { return Ok(None) },
                () = self.bus.closed() => return Ok(None),
            }
        }
    }
}
