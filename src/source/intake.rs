//! Every session's entrance, by name: messages to their sessions, refusals counted and logged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::assembly::{Assembly, SpikesTaken};
use super::port::{Accepted, Port, Received, Refusal, reason_name};
use super::status::Status;
use crate::publish::Bus;
use crate::telemetry::{self, Throttle};
use crate::wire::{Counts, RejectReason, Spikes};

/// One session's entrance: bins at its port, events and parts of bins at its assembly.
#[derive(Clone)]
pub struct Entry {
    /// Whole bins.
    pub port: Arc<Port>,
    /// Spike events, and bins of which several publishers send parts.
    pub assembly: Arc<Assembly>,
    /// The rig that the daemon goes to, where it does.
    pub source: Option<Arc<Status>>,
}

/// All sessions' entrances.
pub struct Intake {
    bus: Arc<Bus>,
    throttle: Mutex<Throttle>,
}

impl Intake {
    /// Of the sessions that are on a bus.
    #[must_use]
    pub fn new(bus: Arc<Bus>) -> Self {
        Self { bus, throttle: Mutex::default() }
    }

    fn find(&self, session: &str) -> Result<Entry, Refusal> {
        let refusal = |detail| Refusal::new(RejectReason::UnknownSession, detail);
        let found = self.bus.find(session).map_err(refusal)?;
        found.entry().cloned().ok_or_else(|| refusal(format!("'{session}' has not begun yet")))
    }

    /// Another stream of a session's counts begins, whose numbering may be its own.
    pub fn stream_begins(&self, session: &str) {
        if let Ok(entry) = self.find(session) {
            entry.port.stream_begins();
        }
    }

    /// Hands counts to their session; counts and logs a refusal.
    ///
    /// # Errors
    /// The refusal, for the sender.
    pub fn offer(&self, message: &Counts) -> Result<Accepted, Refusal> {
        let received = Received::now();
        let result = self.find(&message.session).and_then(|entry| {
            let result = if message.channels.is_empty() {
                entry.port.offer(message, received)
            } else {
                entry.assembly.offer(message, received)
            };
            entry.port.count_message(result.is_ok());
            result
        });
        self.noted(&message.session, result)
    }

    /// Hands spike events to their session; counts and logs a refusal.
    ///
    /// # Errors
    /// The refusal of a whole message, for the sender.
    pub fn offer_spikes(&self, message: &Spikes) -> Result<SpikesTaken, Refusal> {
        let received = Received::now();
        let result = self.find(&message.session).and_then(|entry| {
            let result = entry.assembly.offer_spikes(message, received);
            entry.port.count_message(result.is_ok());
            result
        });
        if let Ok(SpikesTaken { refused: Some(refusal), .. }) = &result {
            self.note(&message.session, refusal);
        }
        self.noted(&message.session, result)
    }

    fn noted<T>(&self, session: &str, result: Result<T, Refusal>) -> Result<T, Refusal> {
        result.inspect_err(|refusal| {
            let known = refusal.reason != RejectReason::UnknownSession;
            self.note(if known { session } else { "" }, refusal);
        })
    }

    /// Counts and logs, at a limited rate, a message that was refused or not even understood.
    pub fn note(&self, session: &str, refusal: &Refusal) {
        let reason = reason_name(refusal.reason);
        telemetry::rejected(session, reason);
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held_back) = throttle.pass(Instant::now()) {
            tracing::warn!(session, reason, detail = refusal.detail, held_back, "message rejected");
        }
    }
}
