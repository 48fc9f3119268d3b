//! Work on several things at once.

/// `of` each item, in order, the items shared out to threads.
///
/// # Errors
/// The first error of an item.
pub(super) fn on_each<T: Send, R: Send, E: Send>(
    items: &mut [T],
    threads: usize,
    of: impl Fn(&mut T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let of = &of;
        let workers: Vec<_> = items
            .chunks_mut(share)
            .map(|part| scope.spawn(move || part.iter_mut().map(of).collect::<Result<Vec<_>, E>>()))
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            // A panic there has ended the program already.
            all.extend(worker.join().unwrap_or_else(|_| Ok(Vec::new()))?);
        }
        Ok(all)
    })
}
