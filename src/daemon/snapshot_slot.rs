//! Where a session's thread leaves its state without waiting, for the task that writes it to disk.

use crate::inference::Tape;
use crate::regime::Engine;
use crate::sync::{Mutex, PoisonError};

struct Slot {
    tape: Tape,
    sequence: u64,
    fingerprint: String,
    /// Stored since it was taken last.
    fresh: bool,
}

/// A state as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Fingerprint of model, readout and rule.
    pub(super) fingerprint: String,
    /// The newest bin's number, as the rig sent it.
    pub(super) sequence: u64,
    pub(super) words: Vec<u32>,
}

/// One state, the newest.
pub(super) struct SnapshotSlot {
    /// The session's thread uses `try_lock`: while the newest state is being fetched it keeps its
    /// own and tries with the next bin.
    held: Mutex<Slot>,
    /// Between two states, bins.
    every: u64,
}

impl SnapshotSlot {
    /// With room for an engine's state.
    pub(super) fn new(engine: &mut Engine, every: u64) -> Self {
        let mut tape = Tape::default();
        engine.state(&mut tape);
        // Room for a SHA-256, so that writing one allocates nothing.
        let held = Slot { tape, sequence: 0, fingerprint: "0".repeat(64), fresh: false };
        Self { held: Mutex::new(held), every: every.max(1) }
    }

    /// Between two bins: takes the state down where it is time. Never blocks: where the place is
    /// being read, the next bin does it. Allocates only for the first state of a larger model that
    /// took over.
    pub(super) fn store(
        &self,
        engine: &mut Engine,
        sequence: u64,
        since: &mut u64,
        changed: bool,
        fingerprint: &str,
    ) {
        *since += 1;
        if changed {
            *since = self.every;
        }
        if *since < self.every {
            return;
        }
        let Ok(mut held) = self.held.try_lock() else { return };
        *since = 0;
        held.tape.begin();
        engine.state(&mut held.tape);
        held.sequence = sequence;
        held.fingerprint.clear();
        held.fingerprint.push_str(fingerprint);
        held.fresh = true;
    }

    /// The newest state, where one was left since the last time.
    pub(super) fn take(&self) -> Option<Found> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut held.fresh).then(|| Found {
            fingerprint: held.fingerprint.clone(),
            sequence: held.sequence,
            words: held.tape.words().to_vec(),
        })
    }
}
