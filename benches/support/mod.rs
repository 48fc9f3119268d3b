//! What the benches of the daemon share: one in a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
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
        Self::start_by(folder, config, Command::new(env!("CARGO_BIN_EXE_regimed")))
    }

    /// The same, by a command to which its arguments are added.
    pub(crate) fn start_by(folder: &Path, config: &str, mut command: Command) -> Self {
        let file = folder.join("c.toml");
        std::fs::write(&file, config).expect("written");
        let mut child = command
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

/// Resident memory of a process, MiB.
#[allow(dead_code)] // not every bench asks
pub(crate) fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |k| k / 1024.0)
}

/// An HTTP GET: headers and body.
#[allow(dead_code)] // not every bench asks
pub(crate) fn get(http: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(http).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    text
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
