//! What a journal says of a session beside its decisions.

use crate::wire::{Annotation, Event, Triggered};

/// Events, notes, and what triggers did.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Width of a bin, seconds; 0: not known.
    pub(super) bin_width_s: f64,
    /// The model's identity, the last where there were several.
    pub(super) model: String,
    pub(super) events: Vec<Event>,
    pub(super) annotations: Vec<Annotation>,
    pub(super) triggered: Vec<Triggered>,
    /// When the session ended, ns since the Unix epoch.
    pub(super) stopped_ns: Vec<i64>,
}
