//! Announces a session's events, each when the journal has it.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::api::zeromq::publisher::{Publisher, Topics};
use crate::bus::{Numbered, SessionHandle, Update};
use crate::wire::Encoded;

/// Announces one session's events.
#[derive(Clone)]
pub(super) struct Announcer {
    pub(super) session: Arc<SessionHandle>,
    pub(super) topics: Topics,
    pub(super) publisher: Option<Arc<Publisher>>,
}

impl Announcer {
    /// Announces in order whatever comes, until nothing more does. What waits is what the journal
    /// holds: that is bounded there.
    pub(super) async fn run(self, mut events: mpsc::UnboundedReceiver<Numbered>) {
        while let Some(numbered) = events.recv().await {
            let event = self.session.events.durable(numbered).await;
            tracing::info!(
                session = event.session,
                event = event.event_sequence,
                bin = event.bin,
                from = event.from,
                to = event.to,
                probability = event.probability,
                "regime"
            );
            let update = Arc::new(Update::Event(Encoded::new(event)));
            self.session.announce(&update);
            if let Some(publisher) = &self.publisher {
                publisher.publish(&self.topics, &update).await;
            }
        }
    }
}
