//! Work on several things at once.

use std::sync::Mutex;

/// `of` each item, in order; a thread that is done with one takes the next.
///
/// # Errors
/// The first error of an item.
pub(super) fn on_each<T: Send, R: Send, E: Send>(
    items: &mut [T],
    threads: usize,
    of: impl Fn(&mut T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = threads.clamp(1, items.len().max(1));
    let next = Mutex::new(items.iter_mut().enumerate());
    let work = || {
        let mut done = Vec::new();
        loop {
            // A panic elsewhere has ended the program already.
            let item = next.lock().ok().and_then(|mut items| items.next());
            let Some((i, item)) = item else { return done };
            done.push((i, of(item)));
        }
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

/// Two pieces of work at once.
pub(super) fn both<A, B: Send>(
    one: impl FnOnce() -> A,
    other: impl FnOnce() -> B + Send,
) -> (A, Option<B>) {
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        // A panic there has ended the program already.
        (one(), other.join().ok())
    })
}
