//! The primitives under what threads hand to each other without waiting: `tests/models` puts loom's
//! in their place and tries every order of events.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Mutex, PoisonError};
pub(crate) use std::thread::{Thread, park};

/// Locks. A panic ends the process (docs/decisions/0002), so a poisoned lock is one of a test.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
