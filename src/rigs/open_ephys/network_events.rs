//! Regime changes marked in an Open Ephys recording: a TTL pulse through the GUI's Network Events
//! plugin.

use std::sync::Arc;
use std::time::Duration;

use super::heartbeat::RequestError;
use super::{NetworkEvents, Request};
use crate::bus::{NewestEvent, SessionHandle};

/// A request fails after this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sets a TTL line.
///
/// # Errors
/// No reply, or another than that it was done.
pub(crate) async fn set(
    request: &mut Request,
    line: usize,
    high: bool,
) -> Result<(), RequestError> {
    let reply = request.ask(format!("TTL Line={line} State={}", u8::from(high))).await?;
    let handled = reply.starts_with("TTLHandled");
    if handled { Ok(()) } else { Err(RequestError::Unexpected(reply)) }
}

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
        let mut result = set(&mut request, line, true).await;
        if result.is_ok() {
            tokio::time::sleep(settings.pulse).await;
            result = set(&mut request, line, false).await;
        }
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
