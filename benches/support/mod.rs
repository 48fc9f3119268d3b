//! What the benches of the daemon share: one in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running daemon; ends when dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    ready: String,
}

impl Daemon {
    /// Starts one with a configuration written to `folder`, and waits until it is ready.
    pub(crate) fn start(folder: &Path, config: &str) -> Self {
        let file = folder.join("c.toml");
        std::fs::write(&file, config).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_regimed"))
            .args(["serve", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let ready =
            lines.by_ref().map_while(Result::ok).find(|l| l.contains(" ready ")).expect("ready");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, ready }
    }

    /// Where it listens: `key` as in its line that says it is ready.
    pub(crate) fn address(&self, key: &str) -> String {
        let from = self.ready.find(&format!("{key}=\"")).expect(key) + key.len() + 2;
        self.ready[from..].split('"').next().expect("an address").to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
