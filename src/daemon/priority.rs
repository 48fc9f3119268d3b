//! Priority of threads that can wait.

/// Lowers this thread's priority, so that threads that decide and publish run first.
pub(super) fn give_way() {
    // Elsewhere it would be the whole process.
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::nice(10) {
        tracing::debug!("a thread keeps its priority: {e}");
    }
}
