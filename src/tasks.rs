//! Tasks of the runtime, all of one type: a future behind a pointer. For each type of its own the
//! compiler writes again all that the runtime does with a task, which was 7 % of this crate's
//! code; a call through a pointer for each poll is nothing beside it.

use std::pin::Pin;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// As `tokio::spawn`.
pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let task: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(task);
    tokio::spawn(task)
}

/// As `Runtime::block_on`.
pub(crate) fn block_on<T>(runtime: &Runtime, task: impl Future<Output = T>) -> T {
    let task: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(task);
    runtime.block_on(task)
}
