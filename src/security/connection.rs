//! What a connection is doing: requests that are open, bytes that are not understood yet, and bytes that it is sent and
//! does not take.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

/// A connection's first request is whole after so long...
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// ...and between two requests there is no more than this.
pub(super) const IDLE: Duration = Duration::from_secs(300);
/// One that has done nothing for so long may lose its place to a newcomer.
const GIVES_WAY: Duration = Duration::from_secs(1);
/// A request whose answer is not taken for so long keeps its connection's place no more...
const NOT_TAKEN: Duration = Duration::from_secs(10);
/// ...and a connection that takes nothing of what is sent to it for so long is cut.
const TAKES_NOTHING: Duration = Duration::from_secs(60);
/// Bytes sent to one connection that it has not taken, at most...
const UNTAKEN_MAX: usize = 4 << 20;
/// ...and where those of all connections are more than this, the less.
const UNTAKEN_ALL_MAX: usize = 32 << 20;
const UNTAKEN_MAX_IN_NEED: usize = 64 << 10;

/// Bytes of all connections to one port that were not taken.
#[derive(Debug, Default)]
pub struct Untaken(AtomicUsize);

impl Untaken {
    /// Bytes that wait to be taken.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were taken, or will not be.
    pub fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// There is so much that each connection may leave less.
    #[must_use]
    pub fn is_much(&self) -> bool {
        self.0.load(Ordering::Relaxed) > UNTAKEN_ALL_MAX
    }
}

#[derive(Debug, Default)]
struct Request {
    /// It keeps the connection's place.
    keeps_place: bool,
    /// Since when the part of its answer that was given last is not taken, and how much that was.
    given: Option<(Instant, usize)>,
    /// Waits until more was written.
    waiting: Option<Waker>,
}

#[derive(Debug)]
struct State {
    /// Requests being answered, by number.
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    /// When the last began, ended, or was sent a part of its answer, or when the connection did.
    since: Instant,
    /// Bytes read since the last request began.
    unread: usize,
    /// Bytes given out that were not written.
    untaken: usize,
    /// Since when no answer may give more.
    full_since: Option<Instant>,
    /// Since when the other end takes nothing.
    blocked_since: Option<Instant>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number: no other has it.
    pub(super) number: u64,
    /// Its address; `None` on a Unix socket, whose file says who may come.
    pub(super) address: Option<SocketAddr>,
    state: Mutex<State>,
    given_up: AtomicBool,
    waker: AtomicWaker,
    all_untaken: Arc<Untaken>,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer(pub(super) Arc<Connection>);

impl Peer {
    /// Its address; `None` on a Unix socket, whose file says who may come.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// A request has come whole; it is being answered until what is returned is dropped. Until then no newcomer is
    /// given the connection's place, where the request `keeps_place`: one that anybody may make does not.
    #[must_use]
    pub fn request(&self, keeps_place: bool) -> OpenRequest {
        let mut state = self.0.locked();
        let number = state.next_request;
        state.next_request += 1;
        state.requests.insert(number, Request { keeps_place, ..Request::default() });
        state.since = Instant::now();
        state.unread = 0;
        OpenRequest { peer: self.clone(), number }
    }

    /// Number of the connection.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct OpenRequest {
    peer: Peer,
    number: u64,
}

impl OpenRequest {
    /// Ready when the connection may be given more bytes. That it is asked says that what was given is on its way.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.peer.0.poll_room(self.number, context)
    }

    /// The connection was given bytes to send.
    pub(super) fn given(&self, bytes: usize) {
        let connection = &self.peer.0;
        let mut state = connection.locked();
        state.untaken += bytes;
        if let Some(request) = state.requests.get_mut(&self.number) {
            request.given = Some((Instant::now(), bytes));
        }
        connection.all_untaken.add(bytes);
    }

    /// The last bytes were given.
    pub(super) fn ended(&self) {
        if let Some(request) = self.peer.0.locked().requests.get_mut(&self.number) {
            request.given = None;
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let connection = &self.peer.0;
        let mut state = connection.locked();
        let request = state.requests.remove(&self.number);
        state.since = Instant::now();
        // An answer that was broken off: what was not taken of it never will be.
        if let Some((_, bytes)) = request.and_then(|r| r.given) {
            let dropped = bytes.min(state.untaken);
            state.untaken -= dropped;
            connection.all_untaken.remove(dropped);
        }
    }
}

impl Connection {
    pub(super) fn new(address: Option<SocketAddr>, all_untaken: Arc<Untaken>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            address,
            state: Mutex::new(State {
                requests: BTreeMap::new(),
                next_request: 0,
                since: Instant::now(),
                unread: 0,
                untaken: 0,
                full_since: None,
                blocked_since: None,
            }),
            given_up: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            all_untaken,
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it has outstayed at `now`, or when that is to be asked again.
    pub(super) fn overdue(&self, now: Instant) -> Result<Instant, &'static str> {
        let state = self.locked();
        let stuck = [state.full_since, state.blocked_since].into_iter().flatten().min();
        if stuck.is_some_and(|since| since + TAKES_NOTHING <= now) {
            return Err("takes_nothing");
        }
        // It may take nothing from the next moment on.
        let look = now + TAKES_NOTHING;
        if !state.requests.is_empty() {
            return Ok(look);
        }
        let began = state.next_request > 0;
        let (patience, reason) = if began { (IDLE, "idle") } else { (FIRST_REQUEST, "no_request") };
        let until = state.since + patience;
        if until <= now { Err(reason) } else { Ok(until.min(look)) }
    }

    /// Bytes were read; how many there are now of which no request was made.
    pub(super) fn read(&self, bytes: usize) -> usize {
        let mut state = self.locked();
        state.unread += bytes;
        state.unread
    }

    /// Bytes were written to the other end.
    pub(super) fn written(&self, bytes: usize) {
        let mut state = self.locked();
        state.blocked_since = None;
        // What frames and heads add was not given by anyone.
        let taken = bytes.min(state.untaken);
        let mut waiting = Vec::new();
        if taken > 0 {
            state.untaken -= taken;
            state.since = Instant::now();
            waiting.extend(state.requests.values_mut().filter_map(|r| r.waiting.take()));
        }
        drop(state);
        self.all_untaken.remove(taken);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The other end takes nothing now.
    pub(super) fn blocked(&self) {
        self.locked().blocked_since.get_or_insert_with(Instant::now);
    }

    fn poll_room(&self, request: u64, context: &mut Context<'_>) -> Poll<()> {
        let most = if self.all_untaken.is_much() { UNTAKEN_MAX_IN_NEED } else { UNTAKEN_MAX };
        let mut state = self.locked();
        let has_room = state.untaken < most;
        if let Some(request) = state.requests.get_mut(&request) {
            if has_room {
                request.given = None;
            } else {
                request.waiting = Some(context.waker().clone());
            }
        }
        if has_room {
            state.full_since = None;
            return Poll::Ready(());
        }
        state.full_since.get_or_insert_with(Instant::now);
        Poll::Pending
    }

    /// Since when it has had nothing to do, where that is long enough for another to take its place. Requests whose
    /// answers are not taken are nothing to do.
    pub(super) fn gives_way(&self, now: Instant) -> Option<Instant> {
        let state = self.locked();
        let keeps = |r: &Request| {
            let given =
                r.given.is_some_and(|(at, _)| now.saturating_duration_since(at) > NOT_TAKEN);
            r.keeps_place && !given
        };
        let stuck = [state.full_since, state.blocked_since].into_iter().flatten().min();
        let stuck = stuck.is_some_and(|since| now.saturating_duration_since(since) > NOT_TAKEN);
        if !stuck && state.requests.values().any(keeps) {
            return None;
        }
        (now.saturating_duration_since(state.since) > GIVES_WAY).then_some(state.since)
    }

    /// It is to end: its place is another's.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready when it is to end.
    pub(super) fn poll_given_up(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.given_up.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let untaken = self.locked().untaken;
        self.all_untaken.remove(untaken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(all: &Arc<Untaken>) -> Peer {
        Peer(Arc::new(Connection::new(None, all.clone())))
    }

    #[test]
    fn a_connection_without_a_request_is_overdue_and_one_with_a_request_is_not() {
        let peer = connection(&Arc::default());
        let now = Instant::now();
        assert!(peer.0.overdue(now).is_ok());
        assert_eq!(peer.0.overdue(now + FIRST_REQUEST), Err("no_request"));
        assert!(peer.0.gives_way(now + 2 * GIVES_WAY).is_some());
        let request = peer.request(true);
        assert!(peer.0.overdue(now + 10 * IDLE).is_ok());
        assert!(peer.0.gives_way(now + 2 * GIVES_WAY).is_none());
        drop(request);
        // A request that anybody may make ends nothing, and keeps no place.
        let request = peer.request(false);
        assert!(peer.0.overdue(now + 10 * IDLE).is_ok());
        assert!(peer.0.gives_way(now + 3 * GIVES_WAY).is_some());
        drop(request);
        assert!(peer.0.overdue(Instant::now() + FIRST_REQUEST).is_ok());
        assert_eq!(peer.0.overdue(Instant::now() + IDLE), Err("idle"));
    }

    #[test]
    fn answers_wait_where_nobody_takes_them() {
        let all = Arc::default();
        let (slow, other) = (connection(&all), connection(&all));
        let mut context = Context::from_waker(Waker::noop());
        let answer = slow.request(true);
        answer.given(UNTAKEN_MAX);
        assert!(answer.poll_room(&mut context).is_pending());
        let others = other.request(true);
        others.given(1000);
        assert!(others.poll_room(&mut context).is_ready());
        // Frames add a little to what is written.
        slow.0.written(UNTAKEN_MAX / 2);
        assert!(answer.poll_room(&mut context).is_ready());
        slow.0.written(2 * UNTAKEN_MAX);
        other.0.written(2000);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
        // Where all of them together take nothing, each gets less.
        answer.given(UNTAKEN_MAX_IN_NEED);
        assert!(answer.poll_room(&mut context).is_ready());
        others.given(UNTAKEN_ALL_MAX);
        assert!(answer.poll_room(&mut context).is_pending());
        drop((others, other));
        assert!(answer.poll_room(&mut context).is_ready());
    }

    #[test]
    fn whoever_takes_nothing_keeps_no_place_and_is_cut_at_last() {
        let peer = connection(&Arc::default());
        let mut context = Context::from_waker(Waker::noop());
        let soon = || Instant::now() + NOT_TAKEN + GIVES_WAY;
        let late = || Instant::now() + TAKES_NOTHING + GIVES_WAY;
        // A part of an answer that stays where it is, and an answer that waits for nothing but its own making.
        let request = peer.request(true);
        request.given(1000);
        assert!(peer.0.gives_way(Instant::now() + 2 * GIVES_WAY).is_none());
        assert!(peer.0.gives_way(soon()).is_some() && peer.0.overdue(late()).is_ok());
        assert!(request.poll_room(&mut context).is_ready());
        assert!(peer.0.gives_way(soon()).is_none());
        // Bytes that are not written: one is enough to go on.
        peer.0.blocked();
        assert!(peer.0.gives_way(soon()).is_some());
        assert_eq!(peer.0.overdue(late()), Err("takes_nothing"));
        peer.0.written(1);
        assert!(peer.0.gives_way(soon()).is_none() && peer.0.overdue(late()).is_ok());
        // Answers that may give nothing more.
        request.given(UNTAKEN_MAX);
        let other = peer.request(true);
        assert!(other.poll_room(&mut context).is_pending());
        assert!(peer.0.gives_way(soon()).is_some());
        assert_eq!(peer.0.overdue(late()), Err("takes_nothing"));
        // What is broken off will not be taken, and is not waited for.
        drop(request);
        assert!(other.poll_room(&mut context).is_ready());
        assert!(peer.0.overdue(late()).is_ok());
        // An answer that was given whole is on its way still.
        other.given(UNTAKEN_MAX);
        other.ended();
        drop(other);
        assert_eq!(peer.0.locked().untaken, UNTAKEN_MAX + 999);
    }
}
