//! How a session's thread sleeps, is woken and learns of its end.
//!
//! The ring between the port and the thread has no lock and no waiting of its own, so a wake-up
//! could get lost between the thread's last look and its sleep. It cannot: a producer rings after
//! it has pushed, and an `unpark` that comes before `park` makes that `park` return at once, so the
//! thread either finds what was pushed or does not sleep. `closed` is read before the look, so that
//! everything pushed before the close is still handled. `tests/models` tries every order with loom.

use std::sync::OnceLock;

use crate::sync::{AtomicBool, Ordering, Thread, park};

/// What a thread finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<T> {
    /// A value that was waiting.
    Found(T),
    /// Nothing yet.
    Nothing,
    /// Nothing, and nothing more will come.
    Ended,
}

/// Wakes the thread that a ring belongs to.
#[derive(Default)]
pub(crate) struct Doorbell {
    /// Known only after the thread has started; nothing is pushed before.
    thread: OnceLock<Thread>,
    closed: AtomicBool,
}

impl Doorbell {
    /// The thread that answers; nothing is put where it looks before it is known.
    pub(crate) fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Wakes the thread: something was put where it looks.
    pub(crate) fn ring(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Nothing more will be put there.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// On the thread: what `look` finds.
    pub(crate) fn answer<T>(&self, look: impl FnOnce() -> Option<T>) -> Answer<T> {
        // Read before looking: a push and a close after the look must not be taken for the end.
        let closed = self.is_closed();
        match look() {
            Some(found) => Answer::Found(found),
            None if closed => Answer::Ended,
            None => Answer::Nothing,
        }
    }

    /// On the thread, after nothing was found: sleeps until it rings. A ring since then makes it
    /// return at once: none is lost.
    pub(crate) fn sleep(&self) {
        park();
    }
}
