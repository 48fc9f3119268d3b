//! The one registry of sessions: every lookup by name goes through it.
//!
//! A name is reserved from the request of a start until the end of the stop, so that no two of
//! these meet. The lock is held only to look at the names; reading files, fitting and waiting
//! happen without it.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::conditions::Conditions;
use super::handle::SessionHandle;
use crate::sync::locked;
use crate::telemetry;

/// Most sessions that start at once: each may hold a thread while it reads its files.
const STARTING_MAX: usize = 8;

/// Why a name cannot be taken, or a session not be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The daemon ends.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// A session has the name.
    #[error("expected a name that no session has, found '{name}'{doing}")]
    Taken {
        name: String,
        /// The operation that is in progress, as a clause.
        doing: &'static str,
    },
    /// There are as many sessions as may be.
    #[error("expected at most {most} sessions (limits.sessions_max), found one more")]
    TooMany {
        /// Sessions that may be.
        most: usize,
    },
    /// As many as may be are being started.
    #[error(
        "expected at most {STARTING_MAX} sessions that are being started, found one more: try again"
    )]
    TooManyStarting,
    /// No session has the name.
    #[error("expected one of the sessions {known}, found '{name}'")]
    Unknown {
        name: String,
        /// Names of the sessions that exist.
        known: String,
    },
    /// The session is being started or stopped.
    #[error("'{name}' is being {doing}")]
    Busy {
        name: String,
        /// The operation that is in progress.
        doing: &'static str,
    },
}

/// A name that is taken.
enum State {
    /// Being started: not visible yet.
    Starting,
    Running(Arc<SessionHandle>),
    /// It is being stopped, and still found by readers.
    Ending(Arc<SessionHandle>),
    /// Stopped: not visible any more; its name is about to be free.
    Ended,
    /// The daemon ends: it was stopped, and is found by readers until the process ends.
    Last(Arc<SessionHandle>),
}

impl State {
    fn found(&self) -> Option<&Arc<SessionHandle>> {
        match self {
            Self::Running(session) | Self::Ending(session) | Self::Last(session) => Some(session),
            Self::Starting | Self::Ended => None,
        }
    }
}

#[derive(Default)]
struct Names {
    /// In the order in which the sessions began.
    taken: Vec<(String, State)>,
    /// The daemon ends: nothing starts any more.
    closed: bool,
}

impl Names {
    fn at(&mut self, name: &str) -> Option<&mut State> {
        self.taken.iter_mut().find(|(n, _)| n == name).map(|(_, state)| state)
    }

    fn free(&mut self, name: &str) {
        self.taken.retain(|(n, _)| n != name);
    }
}

/// The one registry of sessions: which run, which start, which end.
pub struct Registry {
    /// Read for every message, written when a session starts or stops. A guard is never held over a
    /// wait: handles are cloned out.
    names: RwLock<Names>,
    /// Counts sessions that began.
    begun: watch::Sender<u64>,
    /// Turns true when streams are to end.
    closing: watch::Receiver<bool>,
    /// Current conditions of the daemon and its sessions.
    pub conditions: Conditions,
    /// The newest message for a session that is not here, and when it came.
    stranger: Mutex<Option<(Stranger, Instant)>>,
}

/// What somebody sends to a session that is not here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stranger {
    /// The session's name.
    pub(crate) session: String,
    /// Channels of its bins, or the highest of its events' so far.
    pub(crate) channels: usize,
    /// Width of its bins, seconds; `None`: it sends events.
    pub(crate) bin_width_s: Option<f64>,
}

/// A reserved name. Dropping it before the session runs frees the name.
pub struct Reservation<'a> {
    registry: &'a Registry,
    name: String,
    /// The session has series of metrics, which go with it.
    has_series: bool,
    runs: bool,
}

impl Reservation<'_> {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Metrics may be counted under the name: to be called before the first is.
    pub(crate) fn begin_series(&mut self) {
        telemetry::session_begins(&self.name);
        self.has_series = true;
    }

    /// From here on the session is found.
    ///
    /// # Errors
    /// When the daemon ends: the session is to be stopped again.
    pub fn run(mut self, session: &Arc<SessionHandle>) -> Result<(), NameError> {
        let mut names = self.registry.write();
        if names.closed {
            return Err(NameError::ShuttingDown);
        }
        self.registry.conditions.watch(&self.name);
        names.free(&self.name);
        names.taken.push((self.name.clone(), State::Running(session.clone())));
        telemetry::session_state(&self.name, "running");
        drop(names);
        self.registry.begun.send_modify(|n| *n += 1);
        self.runs = true;
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.runs {
            return;
        }
        if self.has_series {
            telemetry::session_ends(&self.name);
        }
        self.registry.write().free(&self.name);
    }
}

impl Registry {
    /// Without sessions; streams end when `closing` turns true.
    #[must_use]
    pub fn new(closing: watch::Receiver<bool>, conditions: Conditions) -> Self {
        Self {
            names: RwLock::default(),
            begun: watch::Sender::new(0),
            closing,
            conditions,
            stranger: Mutex::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has sent something for a session that is not here.
    pub(super) fn heard_stranger(&self, newest: Stranger) {
        let mut stranger = locked(&self.stranger);
        match &mut *stranger {
            // Events show their channels one by one.
            Some((known, at)) if known.session == newest.session => {
                *at = Instant::now();
                known.channels = known.channels.max(newest.channels);
                known.bin_width_s = newest.bin_width_s.or(known.bin_width_s);
            }
            _ => *stranger = Some((newest, Instant::now())),
        }
    }

    /// The newest of what was sent to sessions that are not here, where that was within a time.
    pub(crate) fn stranger(&self, within: Duration) -> Option<Stranger> {
        let stranger = locked(&self.stranger);
        stranger.as_ref().filter(|(_, at)| at.elapsed() <= within).map(|(who, _)| who.clone())
    }

    /// Takes a name for a session that is to start, of at most `sessions_max`.
    ///
    /// # Errors
    /// When another session has it, or there are too many.
    pub fn reserve(&self, name: &str, sessions_max: usize) -> Result<Reservation<'_>, NameError> {
        let mut names = self.write();
        if names.closed {
            return Err(NameError::ShuttingDown);
        }
        if let Some(state) = names.at(name) {
            let doing = match state {
                State::Running(_) => "",
                State::Starting => ", which is being started",
                State::Ending(_) | State::Ended | State::Last(_) => ", which is being stopped",
            };
            return Err(NameError::Taken { name: name.to_owned(), doing });
        }
        if names.taken.len() >= sessions_max {
            return Err(NameError::TooMany { most: sessions_max });
        }
        let starting = names.taken.iter().filter(|(_, state)| matches!(state, State::Starting));
        if starting.count() >= STARTING_MAX {
            return Err(NameError::TooManyStarting);
        }
        names.taken.push((name.to_owned(), State::Starting));
        drop(names);
        Ok(Reservation { registry: self, name: name.to_owned(), has_series: false, runs: false })
    }

    /// Sessions that run, or are being stopped, in the order in which they began.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<SessionHandle>> {
        self.read().taken.iter().filter_map(|(_, state)| state.found().cloned()).collect()
    }

    /// A session by name, running or being stopped.
    #[must_use]
    pub fn session(&self, name: &str) -> Option<Arc<SessionHandle>> {
        let names = self.read();
        let (_, state) = names.taken.iter().find(|(n, _)| n == name)?;
        state.found().cloned()
    }

    /// As [`Self::session`], for a caller that named it.
    ///
    /// # Errors
    /// Names the sessions that exist.
    pub fn find(&self, name: &str) -> Result<Arc<SessionHandle>, NameError> {
        self.session(name).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> NameError {
        let sessions = self.sessions();
        let known: Vec<&str> = sessions.iter().map(|s| s.name()).collect();
        // Whatever a stranger sends as a name is not given back whole.
        NameError::Unknown { name: name.chars().take(64).collect(), known: known.join(", ") }
    }

    /// A session by name, to change it; refused while another operation starts or stops it.
    ///
    /// # Errors
    /// The operation that is in progress; or which sessions exist.
    pub fn running(&self, name: &str) -> Result<Arc<SessionHandle>, NameError> {
        let busy = |doing| NameError::Busy { name: name.to_owned(), doing };
        let found = self.write().at(name).map(|state| match state {
            State::Running(session) => Ok(session.clone()),
            State::Starting => Err(busy("started")),
            State::Ending(_) | State::Ended | State::Last(_) => Err(busy("stopped")),
        });
        found.unwrap_or_else(|| Err(self.unknown(name)))
    }

    /// Claims a session for stopping: no other operation can change it from here on.
    ///
    /// # Errors
    /// The operation that is in progress; or which sessions exist.
    pub fn end(&self, name: &str) -> Result<Ending<'_>, NameError> {
        let session = self.running(name)?;
        let mut names = self.write();
        match names.at(name) {
            Some(state @ State::Running(_))
                if state.found().is_some_and(|s| Arc::ptr_eq(s, &session)) =>
            {
                *state = State::Ending(session.clone());
            }
            _ => return Err(NameError::Busy { name: name.to_owned(), doing: "stopped" }),
        }
        drop(names);
        Ok(Ending { registry: self, session })
    }

    /// The daemon ends: no session starts any more, and those that ran are the caller's to stop.
    #[must_use]
    pub fn close(&self) -> Vec<Ending<'_>> {
        let mut names = self.write();
        names.closed = true;
        let mut ending = Vec::new();
        for (_, state) in &mut names.taken {
            if let State::Running(session) = state {
                let session = session.clone();
                *state = State::Ending(session.clone());
                ending.push(Ending { registry: self, session });
            }
        }
        ending
    }

    /// Names of sessions that are being started, and of those that are being stopped.
    #[must_use]
    pub(crate) fn unfinished(&self) -> [Vec<String>; 2] {
        let names = self.read();
        let of = |is: fn(&State) -> bool| -> Vec<String> {
            names
                .taken
                .iter()
                .filter(|(_, state)| is(state))
                .map(|(name, _)| name.clone())
                .collect()
        };
        [
            of(|state| matches!(state, State::Starting)),
            of(|state| matches!(state, State::Ending(_) | State::Ended)),
        ]
    }

    /// Signals each session that starts.
    #[must_use]
    pub fn begun(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    /// Resolves when streams are to end.
    pub async fn closed(&self) {
        let mut closing = self.closing.clone();
        // Fails when the daemon is gone.
        let _ = closing.wait_for(|c| *c).await;
    }
}

/// A session that is being stopped. Its name stays taken until [`Self::free`].
pub struct Ending<'a> {
    registry: &'a Registry,
    pub session: Arc<SessionHandle>,
}

impl Ending<'_> {
    fn set(&self, to: State) {
        if let Some(state) = self.registry.write().at(self.session.name()) {
            *state = to;
        }
    }

    /// Hides the session from lookups, then clears its conditions. In this order: the supervisor
    /// sets conditions of visible sessions only.
    pub(crate) fn hide(&self) {
        self.set(State::Ended);
        self.registry.conditions.forget(self.session.name());
    }

    /// The stop is complete: the name is free.
    pub fn free(self) {
        self.registry.write().free(self.session.name());
    }

    /// The stop is complete and the daemon ends: readers find the session until the process ends.
    pub fn keep(self) {
        let last = State::Last(self.session.clone());
        self.set(last);
    }
}
