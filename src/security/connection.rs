//! What a connection is doing: requests that are open, bytes that are not understood yet, and bytes
//! that it is sent and does not take.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// Time for a connection's first whole request.
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Longest time between two requests.
pub(super) const IDLE: Duration = Duration::from_secs(300);
/// A connection that has been idle for this long may lose its place to a newcomer.
const GIVES_WAY: Duration = Duration::from_secs(1);
/// A request whose answer is not read for this long no longer keeps its connection's place.
const NOT_TAKEN: Duration = Duration::from_secs(10);
/// A connection that reads nothing for this long is cut.
const TAKES_NOTHING: Duration = Duration::from_secs(60);
/// Bytes sent to one connection that it has not taken, at most.
const UNTAKEN_MAX: usize = 4 << 20;
/// Where those of all connections are more than this, [`UNTAKEN_MAX_IN_NEED`] counts.
const UNTAKEN_ALL_MAX: usize = 32 << 20;
/// The same as [`UNTAKEN_MAX`], where all connections together leave too much.
const UNTAKEN_MAX_IN_NEED: usize = 64 << 10;

/// Bytes of all connections to one port that were not taken.
#[derive(Debug, Default)]
pub(crate) struct Untaken(AtomicUsize);

impl Untaken {
    /// Bytes that wait to be taken.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were taken, or will not be.
    pub(crate) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether there is so much that each connection may leave only [`UNTAKEN_MAX_IN_NEED`].
    #[must_use]
    pub(crate) fn is_much(&self) -> bool {
        self.0.load(Ordering::Relaxed) > UNTAKEN_ALL_MAX
    }
}

#[derive(Debug, Default)]
struct Request {
    /// It keeps the connection's place.
    keeps_place: bool,
    /// Since when no more of its answer is asked for, where something was given.
    given: Option<Instant>,
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
    /// Bytes given out that are still held.
    untaken: usize,
    /// Since when an answer that waits may give no more, and nothing moves.
    full_since: Option<Instant>,
    /// Since when the other end takes nothing.
    blocked_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Its number: no other has it.
    pub(super) number: u64,
    /// Its address; `None` on a Unix socket, whose file permissions control access.
    pub(super) address: Option<SocketAddr>,
    /// Requests and bytes of one connection; uncontended but for a newcomer that looks for a place.
    state: Mutex<State>,
    given_up: AtomicBool,
    waker: AtomicWaker,
    all_untaken: Arc<Untaken>,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer(pub(super) Arc<Connection>);

impl Peer {
    /// Its address; `None` on a Unix socket, whose file permissions control access.
    #[must_use]
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// A whole request has come; it is in progress until the returned guard is dropped. Until then
    /// no newcomer takes the connection's place, where `keeps_place` is set: requests that need no
    /// token do not set it.
    #[must_use]
    pub(crate) fn request(&self, keeps_place: bool) -> OpenRequest {
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
    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    peer: Peer,
    number: u64,
}

impl OpenRequest {
    /// Ready when more bytes may be written to the connection. A call implies that earlier bytes
    /// are on their way.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.peer.0.poll_room(self.number, context)
    }

    /// Bytes handed to the connection to send; they count until everybody has dropped them.
    pub(super) fn given(&self, bytes: Bytes) -> Bytes {
        let connection = &self.peer.0;
        let mut state = connection.locked();
        state.untaken += bytes.len();
        if let Some(request) = state.requests.get_mut(&self.number) {
            request.given = Some(Instant::now());
        }
        drop(state);
        connection.all_untaken.add(bytes.len());
        Bytes::from_owner(Given { bytes, connection: connection.clone() })
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
        let mut state = self.peer.0.locked();
        let request = state.requests.remove(&self.number);
        state.since = Instant::now();
        drop(state);
        // Its waker with it, not under the lock.
        drop(request);
    }
}

/// Bytes on their way. The layers below keep them while the other end's window is full, or drop
/// them when the call is aborted.
struct Given {
    bytes: Bytes,
    connection: Arc<Connection>,
}

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.connection.taken(self.bytes.len());
    }
}

impl State {
    /// Since when nothing moves that should.
    fn stuck_since(&self) -> Option<Instant> {
        let waits = self.requests.values().any(|r| r.waiting.is_some());
        let full = self.full_since.filter(|_| waits);
        [full, self.blocked_since].into_iter().flatten().min()
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

    /// `Err`: why the connection must be cut at `now`; `Ok`: when to ask next.
    pub(super) fn overdue(&self, now: Instant) -> Result<Instant, &'static str> {
        let state = self.locked();
        if state.stuck_since().is_some_and(|since| since + TAKES_NOTHING <= now) {
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

    /// Bytes were read; `bytes` is the number that belongs to no request yet.
    pub(super) fn read(&self, bytes: usize) -> usize {
        let mut state = self.locked();
        state.unread += bytes;
        state.unread
    }

    /// Bytes were written to the other end.
    pub(super) fn written(&self, bytes: usize) {
        let mut state = self.locked();
        state.blocked_since = None;
        if bytes > 0 && state.untaken > 0 {
            let now = Instant::now();
            state.full_since = state.full_since.map(|_| now);
            // An answer that was given whole is still on its way.
            if state.requests.is_empty() {
                state.since = now;
            }
        }
    }

    /// Bytes that were given are held no longer.
    fn taken(&self, bytes: usize) {
        let mut state = self.locked();
        state.untaken -= bytes;
        let waiting = state.requests.values_mut().filter_map(|r| r.waiting.take());
        let waiting: Vec<Waker> = waiting.collect();
        state.full_since = None;
        drop(state);
        self.all_untaken.remove(bytes);
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

    /// Since when the connection has been idle, where that is long enough for another to take its
    /// place. A request whose answer is not read counts as idle.
    pub(super) fn gives_way(&self, now: Instant) -> Option<Instant> {
        let state = self.locked();
        let keeps = |r: &Request| {
            let given = r.given.is_some_and(|at| now.saturating_duration_since(at) > NOT_TAKEN);
            r.keeps_place && !given
        };
        let stuck = state
            .stuck_since()
            .is_some_and(|since| now.saturating_duration_since(since) > NOT_TAKEN);
        if !stuck && state.requests.values().any(keeps) {
            return None;
        }
        (now.saturating_duration_since(state.since) > GIVES_WAY).then_some(state.since)
    }

    /// Ends the connection, because its place was given to another.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready when the connection is to end.
    pub(super) fn poll_given_up(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.given_up.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
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
        // A request that needs no token keeps no place.
        let request = peer.request(false);
        assert!(peer.0.overdue(now + 10 * IDLE).is_ok());
        assert!(peer.0.gives_way(now + 3 * GIVES_WAY).is_some());
        drop(request);
        assert!(peer.0.overdue(Instant::now() + FIRST_REQUEST).is_ok());
        assert_eq!(peer.0.overdue(Instant::now() + IDLE), Err("idle"));
    }

    /// Notes that it was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn bytes(n: usize) -> Bytes {
        Bytes::from(vec![0; n])
    }

    #[test]
    fn answers_wait_where_nobody_takes_them() {
        let all = Arc::default();
        let (slow, other) = (connection(&all), connection(&all));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let answer = slow.request(true);
        let mut held = answer.given(bytes(UNTAKEN_MAX));
        assert!(answer.poll_room(&mut context).is_pending());
        let others = other.request(true);
        let small = others.given(bytes(1000));
        assert!(others.poll_room(&mut context).is_ready());
        // A part of them is not the whole.
        drop(held.split_to(UNTAKEN_MAX / 2));
        assert!(answer.poll_room(&mut context).is_pending());
        // Dropping the bytes wakes those that wait for room.
        drop(held);
        assert!(woken.0.load(Ordering::Relaxed) && answer.poll_room(&mut context).is_ready());
        drop(small);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
        // Where all of them together take nothing, each gets less.
        let held = answer.given(bytes(UNTAKEN_MAX_IN_NEED));
        assert!(answer.poll_room(&mut context).is_ready());
        let much = others.given(bytes(UNTAKEN_ALL_MAX));
        assert!(answer.poll_room(&mut context).is_pending());
        drop(much);
        assert!(answer.poll_room(&mut context).is_ready());
        // The connection ends before what it was given goes.
        drop((answer, slow));
        drop(held);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn whoever_takes_nothing_keeps_no_place_and_is_cut_at_last() {
        let peer = connection(&Arc::default());
        let mut context = Context::from_waker(Waker::noop());
        let soon = || Instant::now() + NOT_TAKEN + GIVES_WAY;
        let late = || Instant::now() + TAKES_NOTHING + GIVES_WAY;
        // A part of an answer that stays where it is, and an answer that waits for nothing but its
        // own making.
        let request = peer.request(true);
        let first = request.given(bytes(1000));
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
        let second = request.given(bytes(UNTAKEN_MAX));
        let other = peer.request(true);
        assert!(other.poll_room(&mut context).is_pending());
        assert!(peer.0.gives_way(soon()).is_some());
        assert_eq!(peer.0.overdue(late()), Err("takes_nothing"));
        // One that is not asked for any more holds nothing against the others.
        drop(other);
        let rare = peer.request(true);
        assert!(peer.0.overdue(late()).is_ok());
        // An aborted answer is not waited for.
        assert!(rare.poll_room(&mut context).is_pending());
        drop((request, second));
        assert!(rare.poll_room(&mut context).is_ready());
        assert!(peer.0.overdue(late()).is_ok() && peer.0.gives_way(soon()).is_none());
        drop((rare, first));
        assert_eq!(peer.0.locked().untaken, 0);
    }
}
