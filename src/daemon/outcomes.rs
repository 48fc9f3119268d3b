//! Outcomes on their way from a session's thread to its publishing task: a ring that loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use ringbuf::HeapRb;
use ringbuf::traits::{Consumer, Observer, Producer, Split};

/// Interval of retries while the ring is full.
const LOOK_EVERY: Duration = Duration::from_micros(500);

#[derive(Default)]
struct Link {
    /// Wakes the publishing task without a lock that anybody holds for long.
    waker: AtomicWaker,
    finished: AtomicBool,
}

/// The sending end, for the session's thread. When it is dropped, nothing more comes.
pub(super) struct Sending<T> {
    ring: <HeapRb<T> as Split>::Prod,
    link: Arc<Link>,
}

/// The receiving end, for the publishing task.
pub(super) struct Fetching<T> {
    ring: <HeapRb<T> as Split>::Cons,
    link: Arc<Link>,
}

pub(super) fn ring<T>(room: usize) -> (Sending<T>, Fetching<T>) {
    let (prod, cons) = HeapRb::new(room).split();
    let link = Arc::new(Link::default());
    (Sending { ring: prod, link: link.clone() }, Fetching { ring: cons, link })
}

impl<T> Sending<T> {
    /// Sends a value. Waits while the ring is full: bins then wait in the session's own ring, whose
    /// overflow is counted. Without a receiver the value is dropped.
    pub(super) fn send(&mut self, mut value: T) {
        while let Err(back) = self.ring.try_push(value) {
            if !self.ring.read_is_held() {
                return;
            }
            self.link.waker.wake();
            value = back;
            // Not a yield: under a real-time policy that would leave the task no processor.
            std::thread::sleep(LOOK_EVERY);
        }
        self.link.waker.wake();
    }
}

impl<T> Drop for Sending<T> {
    fn drop(&mut self) {
        self.link.finished.store(true, Ordering::SeqCst);
        self.link.waker.wake();
    }
}

impl<T> Fetching<T> {
    /// The next; `None` once all that was sent is fetched and nothing more comes.
    pub(super) async fn next(&mut self) -> Option<T> {
        std::future::poll_fn(|context| {
            if let Some(value) = self.ring.try_pop() {
                return Poll::Ready(Some(value));
            }
            self.link.waker.register(context.waker());
            // A value that came between the look and the registration has woken nobody: look again,
            // and read `finished` before that last look.
            let finished = self.link.finished.load(Ordering::SeqCst);
            match self.ring.try_pop() {
                Some(value) => Poll::Ready(Some(value)),
                None if finished => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_waited_for_and_hears_all() {
        let (mut sending, mut fetching) = ring(4);
        let thread = std::thread::spawn(move || (0..200).for_each(|i| sending.send(i)));
        let mut received = Vec::new();
        while let Some(value) = fetching.next().await {
            received.push(value);
            if value % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert_eq!(received, (0..200).collect::<Vec<_>>());
        thread.join().expect("it ends");
    }

    #[test]
    fn a_reader_that_has_gone_is_not_waited_for() {
        let (mut sending, fetching) = ring(2);
        drop(fetching);
        (0..5).for_each(|i| sending.send(i));
    }
}
