//! The first minutes: a configuration for the rig that is there, and whether everything is in
//! place.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::peer::{Rig, python, two_ports};
use crate::redis::Redis;
use crate::rig::{Daemon, arg, binary, config, recording, run, spikes};
use crate::wait;

/// A program that sends again and again: it ends when nobody is there, or when it is done.
struct Sender(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Sender {
    fn start(args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let sends = Arc::new(AtomicBool::new(true));
        let goes_on = sends.clone();
        let sending = std::thread::spawn(move || {
            while goes_on.load(Ordering::Relaxed) {
                let mut child = Command::new(binary())
                    .args(&args)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("it runs");
                while goes_on.load(Ordering::Relaxed)
                    && child.try_wait().expect("waiting").is_none()
                {
                    wait::look_again_here();
                }
                let _ = child.kill();
                let _ = child.wait();
            }
        });
        Self(sends, Some(sending))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
        let _ = self.1.take().map(JoinHandle::join);
    }
}

fn init(folder: &Path, args: &[&str]) -> (bool, String, String) {
    let out = folder.join("regimed.toml");
    run(&[&["init", "--out", arg(&out), "--force"], args].concat())
}

fn written(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("regimed.toml")).expect("written")
}

/// Puts the ports of a written configuration where the system wants them.
fn on_free_ports(folder: &Path) {
    let text = written(folder);
    let free = ["7733", "7734", "7735", "9464"]
        .iter()
        .fold(text, |text, port| text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0"));
    std::fs::write(folder.join("regimed.toml"), free).expect("written");
}

fn doctor(folder: &Path, seconds: &str) -> (bool, String, String) {
    let file = folder.join("regimed.toml");
    run(&["doctor", "--config", arg(&file), "--for", seconds])
}

#[test]
fn a_recording_becomes_a_session_that_is_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(800));
    let args = ["--rig", "replay", "--at", arg(&file), "--journal", "/tmp"];
    let (good, _, said) = init(folder.path(), &args);
    assert!(good && said.contains("96 channels"), "{said}");
    let text = written(folder.path());
    assert!(text.contains("channels = 96") && text.contains("calibrate_s = 60"), "{text}");
    on_free_ports(folder.path());
    let (good, shown, error) = doctor(folder.path(), "1s");
    assert!(good && shown.contains(" 0 failures"), "{shown}{error}");
    assert!(shown.contains("rig                   ") || shown.contains(" rig "), "{shown}");
    assert!(shown.contains("spikes a second and channel"), "{shown}");
    // A file that is there is not replaced unasked.
    let out = folder.path().join("regimed.toml");
    let (good, _, error) =
        run(&["init", "--rig", "replay", "--at", arg(&file), "--out", arg(&out)]);
    assert!(!good && error.contains("--force"), "{error}");
}

#[test]
fn a_rig_that_comes_is_known_by_what_it_sends() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(800));
    let port = two_ports();
    let at = format!("tcp://127.0.0.1:{port}");
    let _sender = Sender::start(&["replay", arg(&file), "--to", &at, "--session", "left-m1"]);
    let (good, _, said) = init(folder.path(), &["--rig", "zeromq", "--at", &at, "--for", "3s"]);
    assert!(good, "{said}");
    let text = written(folder.path());
    for part in
        ["name = \"left-m1\"", "channels = 96", "bin_ms = 10\n", &format!("127.0.0.1:{port}")]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let other = text
        .replace("127.0.0.1:7733", "127.0.0.1:0")
        .replace("127.0.0.1:7735", "127.0.0.1:0")
        .replace("127.0.0.1:9464", "127.0.0.1:0");
    std::fs::write(folder.path().join("regimed.toml"), &other).expect("written");
    let (good, shown, error) = doctor(folder.path(), "3s");
    assert!(good && shown.contains("96 channels, bins of 10 ms"), "{shown}{error}");
    // Of another shape than the model's: a failure, with the cure.
    std::fs::write(
        folder.path().join("regimed.toml"),
        other.replace("channels = 96", "channels = 64"),
    )
    .expect("written");
    let (good, shown, _) = doctor(folder.path(), "3s");
    assert!(!good && shown.contains("64 channels in bins of 10 ms are the model's"), "{shown}");
}

#[test]
fn silence_is_said_and_its_cure() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = two_ports();
    let at = format!("127.0.0.1:{port}");
    let silent = ["--rig", "intan", "--at", &at, "--for", "1s"];
    let (good, _, error) = init(folder.path(), &silent);
    assert!(!good && error.contains("nothing answers") && error.contains("--channels"), "{error}");
    let (good, _, error) = init(folder.path(), &[&silent[..], &["--channels", "32"]].concat());
    assert!(good, "{error}");
    on_free_ports(folder.path());
    let (good, shown, error) = doctor(folder.path(), "1s");
    assert!(!good && shown.contains("FAIL  rig rig"), "{shown}");
    assert!(shown.contains("start the rig") && error.contains("1 failures"), "{shown}{error}");
    // Without a terminal nobody can be asked.
    let child = Command::new(binary())
        .args(["init", "--out", "x.toml"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert!(String::from_utf8_lossy(&child.stderr).contains("expected --rig"), "{child:?}");
}

#[test]
fn a_daemon_that_runs_is_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(&config("", &["rig"]));
    let address = daemon.grpc.trim_start_matches("http://").to_owned();
    let text = config("", &["rig"]).replacen("127.0.0.1:0", &address, 1);
    std::fs::write(folder.path().join("regimed.toml"), text).expect("written");
    let (good, shown, error) = doctor(folder.path(), "1s");
    assert!(good && shown.contains("one runs here, with 1 sessions"), "{shown}{error}");
    assert!(shown.contains("nothing came yet"), "{shown}");
    // Another program at the port is no daemon.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("bound").to_string();
    let text =
        config("", &["rig"]).replacen("pull = \"127.0.0.1:0\"", &format!("pull = \"{taken}\""), 1);
    std::fs::write(folder.path().join("regimed.toml"), text).expect("written");
    let (good, shown, _) = doctor(folder.path(), "1s");
    assert!(!good && shown.contains("FAIL  zeromq.pull"), "{shown}");
}

/// A rig of `tests/interop/rigs.py` that plays until it is dropped.
struct Playing(Option<JoinHandle<()>>);

impl Playing {
    /// A rig that has a port of its own waits for whoever listens.
    fn start(mut rig: Rig, waits: bool, file: &Path) -> Self {
        let file = arg(file).to_owned();
        Self(Some(std::thread::spawn(move || {
            if waits {
                rig.ask("wait_daemon", &json!({}));
            }
            // A reader that has gone ends some of them: the answer does not matter.
            rig.tell("play", &json!({ "file": file, "bins": 900, "speed": 1 }));
            rig.listen();
        })))
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        let _ = self.0.take().map(JoinHandle::join);
    }
}

/// A rig as an interpreter starts it.
fn plain(python: &str, kind: &str, with: &Value) -> Rig {
    Rig::start(python, &kind.replace('-', "_"), with)
}

/// What a rig sends is heard and written down, and found well.
pub(crate) fn heard(kind: &str, at: &str, begin: impl Fn() -> Rig, expected: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(900));
    let waits = ["open-ephys", "intan"].contains(&kind);
    let playing = Playing::start(begin(), waits, &file);
    let (good, _, said) = init(folder.path(), &["--rig", kind, "--at", at, "--for", "3s"]);
    assert!(good, "{kind}: {said}");
    drop(playing);
    let text = written(folder.path());
    for part in expected {
        assert!(text.contains(part), "{kind}: {part}: {text}");
    }
    on_free_ports(folder.path());
    let playing = Playing::start(begin(), waits, &file);
    let (good, shown, error) = doctor(folder.path(), "4s");
    assert!(good, "{kind}: {shown}{error}");
    assert!(shown.contains("ours less the rig's"), "{kind}: {shown}");
    drop(playing);
}

#[test]
fn an_open_ephys_gui_and_an_rhx_are_heard() {
    let Some(python) = python("init::rigs", &["numpy", "zmq"]) else { return };
    let port = two_ports();
    let at = format!("tcp://127.0.0.1:{port}");
    let names = ["sample_rate_hz = 30000", "electrodes = [", "channels = 96"];
    let with = json!({ "port": port });
    heard("open-ephys", &at, || plain(&python, "open-ephys", &with), &names);
    let port = two_ports();
    let at = format!("127.0.0.1:{port}");
    let with = json!({ "port": port });
    heard("intan", &at, || plain(&python, "intan", &with), &["\"A-000\"", "channels = 96"]);
}

#[test]
fn a_blackrock_processor_is_heard() {
    let Some(python) = python("init::blackrock", &["numpy"]) else { return };
    let port = two_ports();
    let at = format!("127.0.0.1:{port}");
    let with = json!({ "port": port });
    let expected = [&format!("listen = \"{at}\"")[..], "channels = 96"];
    heard("blackrock", &at, || plain(&python, "blackrock", &with), &expected);
}

#[test]
fn a_brand_graph_is_heard() {
    let Some(python) = python("init::brand", &["numpy", "redis"]) else { return };
    let Some(server) = Redis::start("init::brand") else { return };
    let with = json!({ "url": server.url() });
    let expected = [&format!("redis = \"{}\"", server.url())[..], "channels = 96"];
    heard("brand", &server.url(), || plain(&python, "brand", &with), &expected);
}

#[test]
fn a_program_that_sends_over_grpc_is_heard() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = recording(folder.path(), &spikes(800));
    let at = format!("127.0.0.1:{}", two_ports());
    let to = format!("http://{at}");
    let _sender = Sender::start(&["replay", arg(&file), "--to", &to, "--session", "left-m1"]);
    let (good, _, said) = init(folder.path(), &["--rig", "grpc", "--at", &at, "--for", "3s"]);
    assert!(good, "{said}");
    let text = written(folder.path());
    for part in ["name = \"left-m1\"", "channels = 96", "bin_ms = 10\n", &at] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let free = ["7734", "7735", "9464"]
        .iter()
        .fold(text, |text, port| text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0"));
    std::fs::write(folder.path().join("regimed.toml"), free).expect("written");
    let (good, shown, error) = doctor(folder.path(), "3s");
    assert!(good && shown.contains("96 channels, bins of 10 ms"), "{shown}{error}");
}
