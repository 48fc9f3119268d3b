//! A progress bar on a terminal, plain lines otherwise; and Ctrl-C as a flag.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::platform::Signals;

use indicatif::{ProgressBar, ProgressStyle};

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of a long job.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    name: &'static str,
    total: usize,
    started_at: usize,
    started: Instant,
    last_line: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(name: &'static str, total: usize, started_at: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{prefix} {bar:30} {pos}/{len} {elapsed_precise} left {eta_precise} {msg}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total as u64).with_style(style).with_prefix(name);
            bar.set_position(started_at as u64);
            bar.reset_eta();
            bar
        });
        Self { bar, name, total, started_at, started: Instant::now(), last_line: None }
    }

    /// `message` is asked for only when it is shown.
    pub(crate) fn at(&mut self, done: usize, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(message());
            return;
        }
        let due = self.last_line.is_none_or(|t| t.elapsed() >= LINE_EVERY) || done == self.total;
        if due {
            self.last_line = Some(Instant::now());
            let elapsed = self.started.elapsed().as_secs_f64();
            let here = done.saturating_sub(self.started_at).max(1) as f64;
            let left = elapsed / here * self.total.saturating_sub(done) as f64;
            eprintln!(
                "{} {done}/{} {elapsed:.0} s, {left:.0} s left, {}",
                self.name,
                self.total,
                message()
            );
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// True from the first Ctrl-C (or SIGTERM) on; a second one ends the program at once.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to watch for Ctrl-C, on its own thread.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let raised = flag.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(mut signals) = Signals::new() else { return };
                loop {
                    signals.end().await;
                    if raised.swap(true, Ordering::SeqCst) {
                        std::process::exit(130);
                    }
                    eprintln!("stopping after this step (again to stop at once)");
                }
            });
        });
        Ok(Self(flag))
    }

    pub(crate) fn raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
