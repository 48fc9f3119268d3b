//! Announces a session's events, each when the journal has it.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::journal::{Journal, Ticket};
use crate::publish::zeromq::{Publisher, Topics};
use crate::publish::{SessionBus, Update};
use crate::wire::Event;

/// An event, and its place in the journal where there is one.
pub(super) type Numbered = (Event, Option<Ticket>);

/// Whom an event is told.
#[derive(Clone)]
pub(super) struct Announcer {
    pub(super) bus: Arc<SessionBus>,
    pub(super) topics: Topics,
    pub(super) publisher: Option<Arc<Publisher>>,
    pub(super) journal: Option<Arc<Journal>>,
}

impl Announcer {
    /// Announces in order whatever comes, until nothing more does. What waits is what the journal holds: that is
    /// bounded there.
    pub(super) async fn run(self, mut events: mpsc::UnboundedReceiver<Numbered>) {
        while let Some((event, ticket)) = events.recv().await {
            self.announce(event, ticket).await;
        }
    }

    async fn announce(&self, mut event: Event, ticket: Option<Ticket>) {
        if let (Some(journal), Some(ticket)) = (&self.journal, ticket) {
            event.not_durable = !journal.announceable(ticket).await;
        }
        tracing::info!(
            session = event.session,
            event = event.event_sequence,
            bin = event.bin,
            from = event.from,
            to = event.to,
            probability = event.probability,
            "regime"
        );
        let update = Arc::new(Update::Event(event));
        self.bus.announce(&update);
        if let Some(publisher) = &self.publisher {
            publisher.publish(&self.topics, &update).await;
        }
    }
}
