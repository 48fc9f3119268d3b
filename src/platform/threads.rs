//! Which threads run first, and where.

use std::io;

use tokio::sync::oneshot;

/// Lets every other thread of the machine run before this one: one that decides or publishes takes
/// its core at once, and not when its slice has ended.
pub(crate) fn give_way() {
    // Elsewhere it would be the whole process.
    #[cfg(target_os = "linux")]
    {
        use std::sync::Once;

        use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        if let Err(e) = set(ThreadPriority::Min, idle) {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                tracing::warn!("threads that can wait give way by their nice value alone: {e}");
            });
            if let Err(e) = rustix::process::nice(10) {
                tracing::debug!("a thread keeps its priority: {e}");
            }
        }
    }
}

/// Does something that can wait on a thread of its own that gives way; what it gave, or an error
/// where it ended without.
///
/// # Errors
/// No thread can be started.
pub(crate) fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, found) = oneshot::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        give_way();
        // Nobody may wait for it any more.
        let _ = done.send(work());
    })?;
    Ok(found)
}

#[cfg(target_os = "linux")]
fn set(
    priority: thread_priority::ThreadPriority,
    policy: thread_priority::ThreadSchedulePolicy,
) -> io::Result<()> {
    let thread = thread_priority::thread_native_id();
    match thread_priority::set_thread_priority_and_policy(thread, priority, policy) {
        Ok(()) => Ok(()),
        Err(thread_priority::Error::OS(code)) => Err(io::Error::from_raw_os_error(code)),
        Err(e) => Err(io::Error::other(format!("{e:?}"))),
    }
}

/// Where the threads that decide and publish run, and before whom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Placement {
    /// Cores, counted from 0; none: any.
    pub(crate) cores: Vec<usize>,
    /// Real-time priority (round robin) from 1 to 99; 0: as any thread.
    pub(crate) priority: u8,
}

impl Placement {
    /// Most cores that can be named.
    pub(crate) const CORES_MAX: usize = 1024;

    /// Places this thread.
    ///
    /// # Errors
    /// The system's: a core that is not there, a priority that is not allowed. What could be done
    /// is done.
    pub(crate) fn take(&self) -> io::Result<()> {
        let placed = if self.cores.is_empty() { Ok(()) } else { run_on(&self.cores) };
        if self.priority > 0 {
            raise(self.priority)?;
        }
        placed
    }

    /// Takes from this thread what it inherited of one that was placed.
    pub(crate) fn leave(&self) {
        if *self == Self::default() {
            return;
        }
        let all: Vec<usize> = (0..Self::CORES_MAX).collect();
        let freed = run_on(&all).and_then(|()| if self.priority > 0 { lower() } else { Ok(()) });
        if let Err(e) = freed {
            tracing::debug!("a thread stays where those are that decide: {e}");
        }
    }
}

#[cfg(target_os = "linux")]
fn run_on(cores: &[usize]) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().filter(|&&c| c < Placement::CORES_MAX).for_each(|&c| set.set(c));
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[cfg(target_os = "linux")]
fn raise(priority: u8) -> io::Result<()> {
    use thread_priority::{RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

    let value = priority.try_into().map_err(io::Error::other)?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    set(ThreadPriority::Crossplatform(value), policy)
}

#[cfg(target_os = "linux")]
fn lower() -> io::Result<()> {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

    let value = 50u8.try_into().map_err(io::Error::other)?;
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    set(ThreadPriority::Crossplatform(value), policy)
}

#[cfg(not(target_os = "linux"))]
fn run_on(_: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn raise(_: u8) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn lower() -> io::Result<()> {
    Ok(())
}
