//! Threads whose work can wait.

/// What this thread does can wait: where cores are short, those that decide and tell go first.
pub(super) fn give_way() {
    // Elsewhere it would be the whole process.
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::nice(10) {
        tracing::debug!("a thread keeps its priority: {e}");
    }
}
