//! What a connection is doing: requests that are open, bytes that are not understood yet, and bytes that it is sent and
//! does not take.

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
/// Bytes sent to one connection that it has not taken, at most...
const UNTAKEN_MAX: usize = 4 << 20;
/// ...and where those of all connections are more than this, the less.
const UNTAKEN_ALL_MAX: usize = 32 << 20;
const UNTAKEN_MAX_IN_NEED: usize = 64 << 10;

/// Bytes of all connections that were not taken.
#[derive(Debug, Default)]
pub(super) struct Untaken(AtomicUsize);

#[derive(Debug)]
struct State {
    /// Requests being answered.
    open: usize,
    /// There was one.
    began: bool,
    /// Since when there is none.
    since: Instant,
    /// Bytes read since the last request began.
    unread: usize,
    /// Bytes given out that were not written.
    untaken: usize,
    /// Answers that wait until more was written.
    waiting: Vec<Waker>,
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

    /// A request has come whole; it is being answered until what is returned is dropped.
    #[must_use]
    pub fn request(&self) -> OpenRequest {
        let mut state = self.0.locked();
        state.open += 1;
        state.began = true;
        state.unread = 0;
        OpenRequest(self.clone())
    }

    /// Number of the connection.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct OpenRequest(Peer);

impl OpenRequest {
    /// Ready when the connection may be given more bytes.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.0.poll_room(context)
    }

    /// The connection was given bytes to send.
    pub(super) fn given(&self, bytes: usize) {
        let connection = &self.0.0;
        connection.locked().untaken += bytes;
        connection.all_untaken.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.0.0.locked();
        state.open -= 1;
        state.since = Instant::now();
    }
}

impl Connection {
    pub(super) fn new(address: Option<SocketAddr>, all_untaken: Arc<Untaken>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            address,
            state: Mutex::new(State {
                open: 0,
                began: false,
                since: Instant::now(),
                unread: 0,
                untaken: 0,
                waiting: Vec::new(),
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
        let (patience, reason) =
            if state.began { (IDLE, "idle") } else { (FIRST_REQUEST, "no_request") };
        if state.open > 0 {
            return Ok(now + IDLE);
        }
        let until = state.since + patience;
        if until <= now { Err(reason) } else { Ok(until) }
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
        // What frames and heads add was not given by anyone.
        let taken = bytes.min(state.untaken);
        state.untaken -= taken;
        let waiting = if taken > 0 { std::mem::take(&mut state.waiting) } else { Vec::new() };
        drop(state);
        self.all_untaken.0.fetch_sub(taken, Ordering::Relaxed);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let in_need = self.all_untaken.0.load(Ordering::Relaxed) > UNTAKEN_ALL_MAX;
        let most = if in_need { UNTAKEN_MAX_IN_NEED } else { UNTAKEN_MAX };
        let mut state = self.locked();
        if state.untaken < most {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|w| w.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Since when it has had nothing to do, where that is long enough for another to take its place.
    pub(super) fn gives_way(&self, now: Instant) -> Option<Instant> {
        let state = self.locked();
        let idle = state.open == 0 && now.saturating_duration_since(state.since) > GIVES_WAY;
        idle.then_some(state.since)
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
        self.all_untaken.0.fetch_sub(untaken, Ordering::Relaxed);
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
        let request = peer.request();
        assert!(peer.0.overdue(now + 10 * IDLE).is_ok());
        assert!(peer.0.gives_way(now + 2 * GIVES_WAY).is_none());
        drop(request);
        assert!(peer.0.overdue(Instant::now() + FIRST_REQUEST).is_ok());
        assert_eq!(peer.0.overdue(Instant::now() + IDLE), Err("idle"));
    }

    #[test]
    fn answers_wait_where_nobody_takes_them() {
        let all = Arc::default();
        let (slow, other) = (connection(&all), connection(&all));
        let mut context = Context::from_waker(Waker::noop());
        let answer = slow.request();
        answer.given(UNTAKEN_MAX);
        assert!(answer.poll_room(&mut context).is_pending());
        let others = other.request();
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
}
