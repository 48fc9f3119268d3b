//! The log: lines go through a bounded queue to a thread that writes them to standard error. Its
//! reader may be gone, slow or out of space: no working thread waits for that, and lost lines are
//! counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait at most; beyond, the newest are lost.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Longer lines are cut.
const LINE_BYTES_MAX: usize = 16 << 10;
/// At its end the program waits this long for its last lines.
const LAST_LINES: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines lost since the last that was written.
    lost: u64,
    /// The thread is writing a line.
    busy: bool,
}

/// Lines on their way to the writing thread.
#[derive(Clone, Default)]
struct Queue(Arc<(Mutex<Waiting>, Condvar)>);

static LOG: OnceLock<Queue> = OnceLock::new();

impl Queue {
    fn locked(&self) -> MutexGuard<'_, Waiting> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.locked();
        if waiting.bytes + line.len() > WAITING_BYTES_MAX {
            waiting.lost += 1;
            drop(waiting);
            super::log_lines_lost(1);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_vec());
        drop(waiting);
        self.0.1.notify_all();
    }

    /// Writes lines as they come. A writer that fails costs the lines that it fails on.
    fn write(&self, mut to: impl Write) {
        loop {
            let mut waiting = self.locked();
            waiting.busy = false;
            // Wakes a drain.
            self.0.1.notify_all();
            while waiting.lines.is_empty() {
                waiting = self.0.1.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(line) = waiting.lines.pop_front() else { continue };
            waiting.bytes -= line.len();
            waiting.busy = true;
            let lost = std::mem::take(&mut waiting.lost);
            drop(waiting);
            let written = to.write_all(&line).and_then(|()| {
                if lost > 0 {
                    writeln!(to, " WARN {lost} lines of the log were lost")
                } else {
                    Ok(())
                }
            });
            if written.and_then(|()| to.flush()).is_err() {
                self.locked().lost += lost + 1;
                super::log_lines_lost(1);
            }
        }
    }

    /// Waits until everything is written, for at most `patience`.
    fn drain(&self, patience: Duration) {
        let waiting = self.locked();
        let going = |w: &mut Waiting| w.busy || !w.lines.is_empty();
        let _ = self.0.1.wait_timeout_while(waiting, patience, going);
    }
}

/// A line that is being formatted.
struct Line {
    queue: Queue,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LINE_BYTES_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.text.len() >= LINE_BYTES_MAX {
            self.text.truncate(LINE_BYTES_MAX - 4);
            self.text.extend_from_slice(b"...\n");
        }
        self.queue.push(&self.text);
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { queue: self.clone(), text: Vec::with_capacity(256) }
    }
}

/// Starts a queue and the thread that writes it to standard error.
fn queue() -> Queue {
    let queue = Queue::default();
    let writing = queue.clone();
    let thread = std::thread::Builder::new().name("log".into());
    if thread.spawn(move || writing.write(io::stderr())).is_err() {
        // Without a writer's thread, lines count as lost; other parts will report the machine's
        // want of threads.
        super::log_lines_lost(0);
    }
    queue
}

/// Logs to standard error; `REGIMED_LOG` chooses levels (default `info`).
///
/// # Errors
/// A `REGIMED_LOG` that chooses nothing that is known.
pub(crate) fn log_to_stderr() -> Result<()> {
    let filter = match std::env::var("REGIMED_LOG") {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| {
            format!(
                "REGIMED_LOG: expected levels such as 'info' or 'regimed::rigs=debug,info', \
                 found '{text}'"
            )
        })?,
        Err(std::env::VarError::NotPresent) => EnvFilter::new("info"),
        Err(std::env::VarError::NotUnicode(_)) => {
            anyhow::bail!(
                "REGIMED_LOG: expected levels such as 'info', found bytes that are no \
                           text"
            )
        }
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LOG.get_or_init(queue).clone())
        .with_target(false)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .finish();
    // A second daemon in one process keeps the first one's log. Not `try_init`, by which records of
    // other crates would come along: a line for every stranger's broken handshake.
    let _ = tracing::subscriber::set_global_default(log);
    Ok(())
}

/// Writes a last line to standard error, after the log's lines; waits for only a bounded time.
pub fn last_word(text: &str) {
    let queue = LOG.get_or_init(queue);
    queue.push(format!("{text}\n").as_bytes());
    queue.drain(LAST_LINES);
}

/// Waits, but not for long, until the log's lines are written.
pub fn drain_log() {
    if let Some(queue) = LOG.get() {
        queue.drain(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Instant;

    /// A writer that waits until it is let go, then fails for a while.
    struct Stuck {
        entered: mpsc::Sender<()>,
        go: mpsc::Receiver<()>,
        fails: usize,
        written: Arc<Mutex<Vec<u8>>>,
        waited: bool,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !std::mem::replace(&mut self.waited, true) {
                let _ = self.entered.send(());
                let _ = self.go.recv();
            }
            if self.fails > 0 {
                self.fails -= 1;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.written.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_stuck_or_gone_costs_lines_and_no_time() {
        let queue = Queue::default();
        let (sender, go) = mpsc::channel();
        let (entered, has_entered) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let stuck = Stuck { entered, go, fails: 2, written: written.clone(), waited: false };
        let writing = queue.clone();
        std::thread::spawn(move || writing.write(stuck));
        let line = vec![b'x'; 1000];
        // It is stuck before there is much: what it takes along, with the number lost so far, is
        // then known.
        let _ = queue.make_writer().write_all(&line);
        has_entered.recv().expect("it writes");
        let began = Instant::now();
        for _ in 0..5000 {
            let _ = queue.make_writer().write_all(&line);
        }
        assert!(queue.locked().bytes <= WAITING_BYTES_MAX);
        assert!(queue.locked().lost >= 3900, "{}", queue.locked().lost);
        queue.drain(Duration::from_millis(10));
        assert!(began.elapsed() < Duration::from_secs(5));
        sender.send(()).expect("it waits");
        queue.drain(Duration::from_secs(10));
        let text = String::from_utf8(written.lock().expect("no panic").clone()).expect("text");
        assert!(text.contains("lines of the log were lost"));
        assert_eq!(queue.locked().lost, 0);
        // A line without an end is cut.
        let _ = queue.make_writer().write_all(&vec![b'y'; 10 * LINE_BYTES_MAX]);
        queue.drain(Duration::from_secs(10));
        let n = written.lock().expect("no panic").iter().filter(|b| **b == b'y').count();
        assert_eq!(n, LINE_BYTES_MAX - 4);
    }
}
