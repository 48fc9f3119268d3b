//! Another engine for a session that runs: made and warmed elsewhere, taken over between two bins.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::regime::Engine;

/// The place where one waits.
#[derive(Default)]
pub(super) struct Handoff {
    waiting: AtomicBool,
    engine: Mutex<Option<Engine>>,
}

impl Handoff {
    /// Offers an engine. What the thread had before is dropped with the next offer, or with this.
    pub(super) fn offer(&self, engine: Engine) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine);
        self.waiting.store(true, Ordering::Release);
    }

    /// Between two bins: takes what waits in place of `current`, whose label stays in force; true where
    /// something did. Never blocks, never frees: the engine before is left in the place.
    pub(super) fn take(&self, current: &mut Engine) -> bool {
        if !self.waiting.load(Ordering::Acquire) {
            return false;
        }
        let Ok(mut place) = self.engine.try_lock() else { return false };
        let Some(next) = place.as_mut() else { return false };
        next.succeed(current);
        std::mem::swap(next, current);
        self.waiting.store(false, Ordering::Release);
        true
    }
}
