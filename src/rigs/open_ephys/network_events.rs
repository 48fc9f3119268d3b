//! Regime changes marked in an Open Ephys recording: a TTL pulse through the GUI's Network Events
//! plugin.

use std::sync::Arc;
use std::time::Duration;

use super::heartbeat::RequestError;
use super::{NetworkEvents, Request};
use crate::bus::{NewestEvent, SessionHandle};

/// A request fails after this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Marks every change from now on until the session ends.
pub(crate) async fn run(session: Arc<SessionHandle>, settings: NetworkEvents) {
    let mut newest = NewestEvent::of(&session);
    let mut request = Request::new(settings.endpoint.clone(), PATIENCE);
    let line = settings.line;
    let mut failing = false;
    let mut marked = newest.seen();
    while !session.is_ended() && newest.changed().await {
        let number = newest.seen();
        if number == marked {
            // No change: the session has ended.
            return;
        }
        marked = number;
        let mut result = request.ask(format!("TTL Line={line} State=1")).await;
        if result.is_ok() {
            tokio::time::sleep(settings.pulse).await;
            result = request.ask(format!("TTL Line={line} State=0")).await;
        }
        let result = result.and_then(|reply| {
            let handled = reply.starts_with("TTLHandled");
            if handled { Ok(()) } else { Err(RequestError::Unexpected(reply)) }
        });
        // Logged once, until it works again.
        match (result, failing) {
            (Err(e), false) => {
                let endpoint = &settings.endpoint;
                tracing::warn!(
                    endpoint,
                    event = number,
                    "Network Events: a change was not marked: {e}"
                );
                failing = true;
            }
            (Ok(()), true) => {
                tracing::info!("Network Events: changes are marked again");
                failing = false;
            }
            _ => {}
        }
    }
}
