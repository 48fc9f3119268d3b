//! Work on several things at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// `of` each item, in order; a thread that is done with one takes the next, until there is an
/// error.
///
/// # Errors
/// The error of the first item that has one.
pub(super) fn on_each<T: Send, R: Send, E: Send>(
    items: &mut [T],
    threads: usize,
    of: impl Fn(&mut T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = threads.clamp(1, items.len().max(1));
    let next = Mutex::new(items.iter_mut().enumerate());
    let failed = AtomicBool::new(false);
    let work = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            // A panic elsewhere has ended the program already.
            let item = next.lock().ok().and_then(|mut items| items.next());
            let Some((i, item)) = item else { break };
            let result = of(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((i, result));
        }
        done
    };
    let mut all = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        all.extend(others.into_iter().flat_map(|other| other.join().unwrap_or_default()));
        all
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Two pieces of work, at once where there are `threads` for it.
pub(super) fn both<A, B: Send>(
    threads: usize,
    one: impl FnOnce() -> A,
    other: impl FnOnce() -> B + Send,
) -> (A, Option<B>) {
    if threads < 2 {
        return (one(), Some(other()));
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        // A panic there has ended the program already.
        (one(), other.join().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_nothing_is_begun_behind_an_error() {
        let mut items: Vec<usize> = (0..40).collect();
        for threads in [0, 1, 3, 100] {
            let doubled = on_each(&mut items, threads, |i| Ok::<_, ()>(2 * *i));
            assert_eq!(doubled, Ok((0..40).map(|i| 2 * i).collect()));
        }
        let begun = Mutex::new(0);
        let failed = on_each(&mut items, 2, |i| {
            *begun.lock().expect("no panic") += 1;
            if *i >= 3 { Err(*i) } else { Ok(()) }
        });
        assert_eq!(failed, Err(3));
        assert!(*begun.lock().expect("no panic") < 10);
    }
}
