//! Peers in Python: interpreters that have what they need, and rigs that are driven line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::rig::{Daemon, checkout, skipped};

/// An interpreter that can import all of these; says so where there is none. `REGIMED_PYTHON` names
/// it.
pub(crate) fn python(test: &str, modules: &[&str]) -> Option<String> {
    let name = std::env::var("REGIMED_PYTHON").unwrap_or_else(|_| "python3".into());
    let import = format!("import {}", modules.join(", "));
    let found = Command::new(&name).args(["-c", &import]).output();
    match found {
        Ok(out) if out.status.success() => Some(name),
        _ => {
            skipped(test, &format!("{name} with {} is not here", modules.join(", ")));
            None
        }
    }
}

/// A rig of `tests/interop/rigs.py`.
pub(crate) struct Rig {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Rig {
    /// Starts one.
    pub(crate) fn start(python: &str, kind: &str, with: &Value) -> Self {
        Self::start_with(python, kind, &[], with)
    }

    /// Starts one with these in its environment.
    pub(crate) fn start_with(
        python: &str,
        kind: &str,
        environment: &[(&str, &str)],
        with: &Value,
    ) -> Self {
        let mut child = Command::new(python)
            .envs(environment.iter().copied())
            .arg(checkout("tests/interop/rigs.py"))
            .arg(kind)
            .env("PYTHONPATH", checkout("tests/interop"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut rig = Self { child, commands, answers };
        rig.ask("start", with);
        rig
    }

    /// Has it do something.
    pub(crate) fn tell(&mut self, what: &str, with: &Value) {
        let mut command = with.clone();
        command["do"] = json!(what);
        writeln!(self.commands, "{command}").expect("the rig lives");
    }

    /// What it answers; empty where it has ended.
    pub(crate) fn listen(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("text");
        line
    }

    /// Has it do something; its answer.
    pub(crate) fn ask(&mut self, what: &str, with: &Value) -> Value {
        self.tell(what, with);
        let line = self.listen();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{what} {with}: no answer"))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills the rig and begins it anew, then the daemon: each time, what the rig plays (`play`: half a
/// second or more) comes in and is accounted for.
pub(crate) async fn either_side_restarts(
    daemon: Daemon,
    config: &str,
    rig: Rig,
    begin: impl FnOnce() -> Rig,
    play: &Value,
) {
    drop(rig);
    daemon.wait_rig_lost("rig");
    let mut rig = begin();
    rig.ask("wait_daemon", &json!({}));
    let before = daemon.metric("regimed_bins_total", "rig");
    rig.ask("play", play);
    daemon.wait_metric("regimed_bins_total", "rig", before + 40.0);
    assert!(daemon.metric("regimed_source_connections_total", "rig") >= 2.0);
    daemon.check_accounts("rig").await;
    daemon.kill();
    let daemon = Daemon::start(config);
    rig.ask("wait_daemon", &json!({}));
    rig.ask("play", play);
    daemon.wait_metric("regimed_bins_total", "rig", 40.0);
    daemon.check_accounts("rig").await;
}

/// A port that was free a moment ago, with the next one.
pub(crate) fn two_ports() -> u16 {
    for _ in 0..100 {
        let first = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = first.local_addr().expect("bound").port();
        if port < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two ports in a row are free");
}
