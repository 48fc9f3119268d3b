//! Current conditions (what is wrong now): named, counted, logged and kept in the journal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::journal::Journal;
use crate::wire::Fault;
use crate::wire::journal_record::What;
use crate::{clock, telemetry};

/// Something that can be wrong; docs/operations.md has the cure of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The rig was connected and sends nothing.
    SourceStalled,
    /// Bins come faster than they are processed.
    FallingBehind,
    /// Hypotheses of the filter became non-finite, and were restarted.
    FilterDegenerate,
    /// The dynamics have long been none that the model knows.
    ModelMismatch,
    /// Bins wait and none is processed.
    SessionStuck,
    /// The journal's disk cannot be written.
    JournalFailing,
    /// Records of the journal were found damaged at the start.
    JournalDamaged,
    /// The wall clock was set.
    ClockJumped,
    /// A file with tokens or certificates cannot be read.
    CredentialsUnreadable,
    /// Counts exceed the range in which the model distinguishes them.
    CountsBeyondModel,
}

impl Condition {
    /// Every condition.
    pub const ALL: [Self; 10] = [
        Self::SourceStalled,
        Self::FallingBehind,
        Self::FilterDegenerate,
        Self::ModelMismatch,
        Self::SessionStuck,
        Self::JournalFailing,
        Self::JournalDamaged,
        Self::ClockJumped,
        Self::CredentialsUnreadable,
        Self::CountsBeyondModel,
    ];

    /// Its name in metrics, messages and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceStalled => "source_stalled",
            Self::FallingBehind => "falling_behind",
            Self::FilterDegenerate => "filter_degenerate",
            Self::ModelMismatch => "model_mismatch",
            Self::SessionStuck => "session_stuck",
            Self::JournalFailing => "journal_failing",
            Self::JournalDamaged => "journal_damaged",
            Self::ClockJumped => "clock_jumped",
            Self::CredentialsUnreadable => "credentials_unreadable",
            Self::CountsBeyondModel => "counts_beyond_model",
        }
    }

    /// What to do, in a line.
    #[must_use]
    pub fn cure(self) -> &'static str {
        match self {
            Self::SourceStalled => "see whether the rig records and sends",
            Self::FallingBehind => "wider bins, fewer sessions, or a faster machine",
            Self::FilterDegenerate => {
                "look at the counts: units, bin width, dead or duplicated channels"
            }
            Self::ModelMismatch => "calibrate the session, or train with such dynamics",
            Self::SessionStuck => "restart the daemon, and report it",
            Self::JournalFailing => {
                "free space on, or remount, the journal's disk: events wait and are kept then"
            }
            Self::JournalDamaged => "regimed journal names what is lost; look after the disk",
            Self::CountsBeyondModel => {
                "look at the counts and the bin width; train a model on recordings with such counts"
            }
            Self::CredentialsUnreadable => {
                "mend the file: until then those that it held before stay in force"
            }
            Self::ClockJumped => "let the machine's clock be slewed, not set, while it records",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holding {
    /// The condition that holds.
    pub condition: Condition,
    /// Session name; empty for the daemon.
    pub session: String,
    /// Expected and found.
    pub detail: String,
    /// Since when, ns since the Unix epoch.
    pub since_ns: i64,
}

/// The conditions of all sessions and of the daemon that hold at present.
#[derive(Default)]
pub struct Conditions {
    /// Ordered, so that `/health` lists them alike each time. Setting a condition is rare and
    /// short, so one lock serves all sessions.
    holding: Mutex<BTreeMap<(String, Condition), Holding>>,
    journal: Option<Arc<Journal>>,
}

impl Conditions {
    /// No condition holds yet.
    #[must_use]
    pub fn new(journal: Option<Arc<Journal>>) -> Self {
        let conditions = Self { holding: Mutex::default(), journal };
        conditions.watch("");
        conditions
    }

    /// Registers a session (or, with an empty name, the daemon) as without conditions.
    pub fn watch(&self, session: &str) {
        for condition in Condition::ALL {
            telemetry::condition(session, condition.name(), false);
        }
    }

    /// Sets or clears a condition of a session (or, with an empty name, of the daemon); `found` is
    /// what was expected and found.
    pub fn set(&self, session: &str, condition: Condition, found: Option<String>) {
        let mut holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (session.to_owned(), condition);
        let holds = found.is_some();
        if holding.contains_key(&key) == holds {
            return;
        }
        let name = condition.name();
        let detail = found.unwrap_or_default();
        if holds {
            let since_ns = clock::wall_ns();
            let session = session.to_owned();
            let detail = detail.clone();
            holding.insert(key, Holding { condition, session, detail, since_ns });
        } else {
            holding.remove(&key);
        }
        drop(holding);
        telemetry::condition(session, name, holds);
        if holds {
            tracing::warn!(session, condition = name, cure = condition.cure(), "{detail}");
        } else {
            tracing::info!(session, condition = name, "well again");
        }
        if let Some(journal) = &self.journal {
            let fault = Fault { condition: name.into(), detail, cleared: !holds };
            journal.add(session, What::Fault(fault));
        }
    }

    /// A session has ended: nothing is wrong with it any more.
    pub fn forget(&self, session: &str) {
        for condition in Condition::ALL {
            self.set(session, condition, None);
        }
    }

    /// The conditions that hold at present, by session.
    #[must_use]
    pub(crate) fn holding(&self) -> Vec<Holding> {
        let holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        holding.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_holds_from_when_it_is_found_until_it_is_not() {
        let conditions = Conditions::new(None);
        conditions.set("rig", Condition::SourceStalled, Some("nothing".into()));
        let first = conditions.holding();
        conditions.set("rig", Condition::SourceStalled, Some("still nothing".into()));
        assert_eq!(conditions.holding(), first, "it is reported once");
        assert_eq!(first[0].session, "rig");
        conditions.set("", Condition::ClockJumped, Some("set".into()));
        assert_eq!(conditions.holding().len(), 2);
        conditions.forget("rig");
        let left: Vec<_> = conditions.holding().into_iter().map(|h| h.condition).collect();
        assert_eq!(left, [Condition::ClockJumped]);
    }
}
