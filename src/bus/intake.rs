//! Every session's entrance, by name: messages to their sessions, refusals counted and logged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::handle::SessionHandle;
use super::registry::{NameError, Registry, Stranger};
use crate::clock::Received;
use crate::intake::{Accepted, Refusal, SpikesTaken, offer, reason_name};
use crate::telemetry;
use crate::telemetry::Throttle;
use crate::wire::{Counts, RejectReason, Spikes};

fn is_unknown<T>(result: &Result<T, Refusal>) -> bool {
    matches!(result, Err(refusal) if refusal.reason == RejectReason::UnknownSession)
}

/// Finds the session that a message is for, and offers the message to its port.
pub struct Intake {
    registry: Arc<Registry>,
    /// Bounds the log lines of refusals: one peer could otherwise fill the log. Locked for a
    /// refusal only.
    throttle: Mutex<Throttle>,
}

impl Intake {
    /// Finds sessions in a registry.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, throttle: Mutex::default() }
    }

    fn find(&self, session: &str) -> Result<Arc<SessionHandle>, Refusal> {
        let unknown = |e: NameError| Refusal::new(RejectReason::UnknownSession, e.to_string());
        self.registry.find(session).map_err(unknown)
    }

    /// Another stream of a session's counts starts, possibly with its own numbering.
    pub(crate) fn stream_begins(&self, session: &str) {
        if let Some(session) = self.registry.session(session) {
            session.port.stream_begins();
        }
    }

    /// Hands counts to their session; counts and logs a refusal.
    ///
    /// # Errors
    /// The refusal, for the sender.
    pub fn offer(&self, message: &Counts) -> Result<Accepted, Refusal> {
        let received = Received::now();
        let result = self.find(&message.session).and_then(|session| {
            let result = if message.channels.is_empty() {
                offer(&session.port, message, received)
            } else {
                session.assembly.offer(message, received)
            };
            session.port.count_message(result.is_ok());
            result
        });
        if is_unknown(&result) {
            self.registry.heard_stranger(Stranger {
                session: message.session.clone(),
                channels: message.n_channels as usize,
                bin_width_s: Some(message.bin_width_s),
            });
        }
        self.noted(&message.session, result)
    }

    /// Hands spike events to their session; counts and logs a refusal.
    ///
    /// # Errors
    /// The refusal of a whole message, for the sender.
    pub fn offer_spikes(&self, message: &Spikes) -> Result<SpikesTaken, Refusal> {
        let received = Received::now();
        let result = self.find(&message.session).and_then(|session| {
            let result = session.assembly.offer_spikes(message, received);
            session.port.count_message(result.is_ok());
            result
        });
        if is_unknown(&result) {
            self.registry.heard_stranger(Stranger {
                session: message.session.clone(),
                channels: message.channel.iter().max().map_or(0, |c| *c as usize + 1),
                bin_width_s: None,
            });
        }
        if let Ok(taken) = &result {
            taken.refused.iter().for_each(|(refusal, _)| self.note(&message.session, refusal));
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
