//! The primitives under what threads hand to each other without waiting: `tests/models` puts loom's
//! in their place and tries every order of events.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Mutex, PoisonError};
pub(crate) use std::thread::{Thread, park};
