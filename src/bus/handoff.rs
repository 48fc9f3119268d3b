//! Hand-over of another engine to a running session: it is made and warmed up elsewhere, and taken
//! over between two bins.
//!
//! The session's thread owns its engine without a lock, so nobody else can replace it. A successor
//! waits here instead, and the thread takes it when it looks between two bins: an atomic flag,
//! which costs nothing while nobody offers, then `try_lock`, which never makes the thread wait: if
//! the offering side holds the lock at that moment, the next bin will do. Taking swaps the two
//! engines, so that the former one is freed by the next offer, on a thread that may spend the time.
//! `tests/models` tries every order of these steps with loom.

use crate::regime::Engine;
use crate::sync::{AtomicBool, Mutex, Ordering, PoisonError};

/// An engine that takes over from the current one, with what belongs to it.
pub(crate) struct Successor {
    pub(crate) engine: Engine,
    /// Fingerprint of model, readout and rule.
    pub(crate) fingerprint: String,
    /// Where it is of another model: how many the session had before it, and its regime for each of
    /// the former model's.
    pub(crate) swap: Option<(u32, Vec<Option<usize>>)>,
}

/// The place where a [`Successor`] waits for the session's thread.
#[derive(Default)]
pub(crate) struct Handoff {
    /// Looked at before every bin, so that a bin without an offer costs one load and no lock.
    waiting: AtomicBool,
    /// Holds the offer, and after it was taken the former engine, which the next offer frees.
    successor: Mutex<Option<Successor>>,
}

impl Handoff {
    /// Offers one. What the thread had before is dropped with the next offer, or with this.
    pub(crate) fn offer(&self, successor: Successor) {
        let mut place = self.successor.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(successor);
        // Set while the lock is held. A thread that takes the offer in between would otherwise see
        // the flag again and find its own former engine.
        self.waiting.store(true, Ordering::Release);
        drop(place);
    }

    /// Withdraws the offer; false where the session has taken it already.
    pub(crate) fn withdraw(&self) -> bool {
        let mut place = self.successor.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = self.waiting.swap(false, Ordering::AcqRel);
        if waits {
            *place = None;
        }
        waits
    }

    /// True until the offer is taken.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Between two bins: puts the waiting engine in place of `current`, whose label stays in force;
    /// true where one was waiting. Sets `swaps` to the number of models before. Never blocks and
    /// never frees: the former engine stays in the slot.
    pub(crate) fn take(
        &self,
        current: &mut Engine,
        swaps: &mut u32,
        fingerprint: &mut String,
    ) -> bool {
        if !self.waiting.load(Ordering::Acquire) {
            return false;
        }
        let Ok(mut place) = self.successor.try_lock() else { return false };
        let Some(next) = place.as_mut() else { return false };
        let regimes = next.swap.as_ref().map(|s| s.1.as_slice());
        next.engine.succeed(current, regimes);
        std::mem::swap(&mut next.engine, current);
        std::mem::swap(&mut next.fingerprint, fingerprint);
        if let Some((number, _)) = next.swap {
            *swaps = number;
        }
        self.waiting.store(false, Ordering::Release);
        true
    }
}
