//! What is held of a session's triggers: whether they are armed, and how often each has acted.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::regime::Label;
use crate::telemetry;
use crate::wire;

/// Whether a trigger can wait for this with a model that has these regimes.
pub(crate) fn can_wait_for(regime: &str, names: &[String]) -> bool {
    regime == Label::UNKNOWN || names.iter().any(|name| name == regime)
}

/// One trigger as everybody may know it.
#[derive(Debug)]
pub(crate) struct TriggerState {
    /// Its name.
    pub name: String,
    /// When it acts, in words.
    pub when: String,
    /// Where it goes, in words.
    pub target: String,
    /// The regime that it waits for.
    pub regime: String,
    /// It only says that it would have acted.
    pub dry_run: bool,
    count: AtomicU64,
    last_ns: AtomicI64,
}

impl TriggerState {
    /// One that has not acted yet.
    #[must_use]
    pub(crate) fn new(
        name: String,
        when: String,
        target: String,
        regime: String,
        dry_run: bool,
    ) -> Self {
        let (count, last_ns) = (AtomicU64::new(0), AtomicI64::new(0));
        Self { name, when, target, regime, dry_run, count, last_ns }
    }

    /// It acted at `wall_ns`, or would have.
    pub(crate) fn acted(&self, wall_ns: i64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.last_ns.store(wall_ns, Ordering::Relaxed);
    }

    fn describe(&self) -> wire::Trigger {
        wire::Trigger {
            name: self.name.clone(),
            when: self.when.clone(),
            target: self.target.clone(),
            dry_run: self.dry_run,
            count: self.count.load(Ordering::Relaxed),
            last_ns: self.last_ns.load(Ordering::Relaxed),
        }
    }
}

/// A session's triggers. They begin disarmed.
#[derive(Debug, Default)]
pub(crate) struct Triggers {
    /// Read by the session's thread before every bin.
    armed: AtomicBool,
    /// In the order of the configuration.
    pub each: Vec<TriggerState>,
}

impl Triggers {
    /// Triggers that are not armed.
    #[must_use]
    pub(crate) fn new(each: Vec<TriggerState>) -> Self {
        Self { armed: AtomicBool::new(false), each }
    }

    /// Whether they act.
    #[must_use]
    pub(crate) fn are_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Arms or disarms them; true where that changed something.
    pub(crate) fn arm(&self, session: &str, armed: bool) -> bool {
        let before = self.armed.swap(armed, Ordering::AcqRel);
        if !self.each.is_empty() {
            telemetry::triggers_armed(session, armed);
        }
        before != armed
    }

    pub(crate) fn describe(&self) -> Vec<wire::Trigger> {
        self.each.iter().map(TriggerState::describe).collect()
    }
}
