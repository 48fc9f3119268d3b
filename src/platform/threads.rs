//! Which threads run first, and where.

use std::io;

use tokio::sync::oneshot;

/// Leaves ten times its share to any other thread of the machine, for work of seconds. Where all
/// cores are busy it goes on by a tenth of one: less would be never.
pub(crate) fn give_way() {
    // Elsewhere it would be the whole process.
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::nice(10) {
        tracing::debug!("a thread keeps its priority: {e}");
    }
}

/// Lets every other thread of the machine run before this one: one that decides or publishes takes
/// its core at once, and not when its slice has ended. Where all cores are busy, a millisecond of
/// work may wait for a tenth of a second, and work of seconds for ever.
fn give_way_entirely() {
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
            give_way();
        }
    }
}

/// Does something short that can wait on a thread of its own that gives way; what it gave, or an
/// error where it ended without.
///
/// # Errors
/// No thread can be started.
pub(crate) fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, found) = oneshot::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        go_home();
        give_way_entirely();
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
        go_home();
        if self.priority > 0
            && let Err(e) = lower()
        {
            tracing::debug!("a thread keeps the priority of those that decide: {e}");
        }
    }
}

/// Where threads may run of which nothing is said.
#[cfg(target_os = "linux")]
static HOME: std::sync::OnceLock<rustix::thread::CpuSet> = std::sync::OnceLock::new();

/// Notes where this thread may run, before any is placed: a thread inherits its maker's cores.
pub(crate) fn note_home() {
    #[cfg(target_os = "linux")]
    if let Ok(cores) = rustix::thread::sched_getaffinity(None) {
        let _ = HOME.set(cores);
    }
}

/// Back to where threads may run of which nothing is said.
fn go_home() {
    #[cfg(target_os = "linux")]
    if let Some(home) = HOME.get()
        && let Err(e) = rustix::thread::sched_setaffinity(None, home)
    {
        tracing::debug!("a thread stays where those are that decide: {e}");
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

    // The crate's scale from 0 to 99: this is a nice value of 0.
    let value = 48u8.try_into().map_err(io::Error::other)?;
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::sched_getaffinity;
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy,
    };

    use super::*;

    fn is(policy: NormalThreadSchedulePolicy) -> bool {
        thread_schedule_policy().expect("a policy") == ThreadSchedulePolicy::Normal(policy)
    }

    #[test]
    fn what_is_done_aside_is_idle_and_what_leaves_is_where_it_was() {
        note_home();
        let home = sched_getaffinity(None).expect("cores");
        let first = (0..Placement::CORES_MAX).find(|&c| home.is_set(c)).expect("a core");
        let placement = Placement { cores: vec![first], priority: 0 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                placement.take().expect("placed");
                assert_eq!(sched_getaffinity(None).expect("cores").count(), 1);
                // It inherits the one core, but for what is done aside.
                let done = aside("aside", || {
                    (is(NormalThreadSchedulePolicy::Idle), sched_getaffinity(None))
                });
                let (idle, cores) = done.expect("started").blocking_recv().expect("done");
                assert!(idle && cores.expect("cores") == home);
                assert!(is(NormalThreadSchedulePolicy::Other));
                lower().expect("as any thread");
                assert!(is(NormalThreadSchedulePolicy::Other));
                let nice = rustix::process::getpriority_process(None).expect("a nice value");
                assert_eq!(nice, 0);
                placement.leave();
                assert!(sched_getaffinity(None).expect("cores") == home);
                // Work of seconds gets a turn, however busy the machine is.
                give_way();
                assert!(is(NormalThreadSchedulePolicy::Other));
                let nice = rustix::process::getpriority_process(None).expect("a nice value");
                assert_eq!(nice, 10);
            });
        });
    }
}
