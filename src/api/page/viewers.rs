//! Viewers of the live page: frames are made only while somebody views, and only for the sessions
//! that are viewed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::bus::Registry;
use crate::sync::locked;

/// Frames that wait for a slow viewer; it is shown the newest ones.
const WAITING: usize = 8;

/// What a new viewer is sent.
pub(super) struct Viewing {
    /// All sessions in a line each.
    pub(super) overview: broadcast::Receiver<Bytes>,
    /// Frames of the one session that it shows.
    pub(super) frames: broadcast::Receiver<Bytes>,
    /// There was no viewer before: the caller starts the task that makes frames.
    pub(super) is_first: bool,
}

/// All that viewers share.
pub(crate) struct Page {
    pub(super) registry: Arc<Registry>,
    /// All sessions in a line each.
    pub(super) overview: broadcast::Sender<Bytes>,
    /// Frames of the sessions that somebody looks at, by session name.
    frames: Mutex<HashMap<String, broadcast::Sender<Bytes>>>,
    /// Whether frames are made. Locked while viewers are counted or added, so that exactly one task
    /// makes frames and none is left out between its last look and its end.
    busy: Mutex<bool>,
}

impl Page {
    /// A page that nobody looks at yet.
    #[must_use]
    pub(crate) fn new(registry: Arc<Registry>) -> Arc<Self> {
        let overview = broadcast::Sender::new(WAITING);
        Arc::new(Self { registry, overview, frames: Mutex::default(), busy: Mutex::default() })
    }

    /// Whether there is a viewer; the task that makes frames ends on `false`.
    pub(super) fn is_looked_at(&self) -> bool {
        let mut busy = locked(&self.busy);
        *busy = self.overview.receiver_count() > 0;
        *busy
    }

    /// Nobody makes frames: the next viewer is the first again.
    pub(super) fn give_up(&self) {
        *locked(&self.busy) = false;
    }

    /// Subscribers to a session's frames, where there are any.
    pub(super) fn viewers_of(&self, session: &str) -> Option<broadcast::Sender<Bytes>> {
        let mut frames = locked(&self.frames);
        frames.retain(|_, viewers| viewers.receiver_count() > 0);
        frames.get(session).cloned()
    }

    /// A viewer of the overview and of one session.
    pub(super) fn view(&self, session: &str) -> Viewing {
        let mut busy = locked(&self.busy);
        let overview = self.overview.subscribe();
        let frames = locked(&self.frames)
            .entry(session.to_owned())
            .or_insert_with(|| broadcast::Sender::new(WAITING))
            .subscribe();
        let is_first = !std::mem::replace(&mut *busy, true);
        Viewing { overview, frames, is_first }
    }
}
