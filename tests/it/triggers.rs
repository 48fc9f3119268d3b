//! Closing the loop: triggers that act when armed by a token, are held back within their limits,
//! and leave a record of each; and what people note.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{ListAnnotationsRequest, Session};
use serde_json::Value;

use crate::rig::{Daemon, PATIENCE, arg, checkout, config, recording, run, skipped, spikes};
use crate::wait;

const CONTROL: &str = "control-token-0123456789";
const READ: &str = "read-token-0123456789";
/// Acts whenever it can, also behind a recording that is played fast.
const SOON: &str = "refractory_ms = 10\nlate_ms = 10000\n";
const REGIMES: [&str; 5] =
    ["stable_fixed_point", "bistable", "limit_cycle", "ring_attractor", "chaotic"];
/// What most of the tests wait for: [`switching`] has it again and again.
const WAITED: &str = "limit_cycle";

/// A limit cycle and a fixed point in turn, 30 s.
fn switching() -> Vec<Vec<u32>> {
    let once = spikes(600);
    std::iter::repeat_n(once, 5).flatten().collect()
}

/// Token files of two roles, and their tables.
fn tokens(folder: &Path) -> String {
    let mut text = String::new();
    for (name, token) in [("read", READ), ("control", CONTROL)] {
        let file = folder.join(name);
        std::fs::write(&file, token).expect("written");
        text += &format!("[[token]]\nfile = \"{}\"\nroles = [\"{name}\"]\n", arg(&file));
    }
    text
}

fn sessions(daemon: &Daemon, token: &Path, args: &[&str]) -> (bool, String, String) {
    let all = [&["sessions", "--at", &daemon.grpc, "--token-file", arg(token)], args].concat();
    run(&all)
}

/// Sends a recording over ZeroMQ and waits until `bins` in all are done.
fn play(daemon: &Daemon, token: &Path, file: &Path, first: u64, bins: u64) {
    let first = first.to_string();
    let sent = run(&[
        "replay",
        arg(file),
        "--to",
        &daemon.pull,
        "--session",
        "rig",
        "--speed",
        "20",
        "--first-sequence",
        &first,
    ]);
    assert!(sent.0, "{}", sent.2);
    let done = format!("  {bins} bins done");
    let shown = || sessions(daemon, token, &[]).1;
    wait::until(|| shown().contains(&done), shown);
}

/// What a journal says of a session.
fn records(folder: &Path) -> Vec<Value> {
    let (good, shown, error) = run(&["journal", arg(folder), "--json", "--session", "rig"]);
    assert!(good, "{error}");
    shown.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

fn triggered<'a>(records: &'a [Value], name: &str) -> Vec<&'a Value> {
    let of = |r: &'a Value| r["what"].get("triggered");
    records.iter().filter_map(of).filter(|t| t["trigger"] == name).collect()
}

/// A web server of one kind of answer; what is posted to it.
fn web(status: &'static str) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (sender, posted) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let before = head.len();
                assert!(reader.read_line(&mut head).expect("text") > 0, "cut: {head}");
                if let Some(n) = head[before..].to_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().expect("a number");
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let _ = sender.send(head + &String::from_utf8(body).expect("text"));
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        }
    });
    (port, posted)
}

fn trigger(name: &str, regime: &str, more: &str) -> String {
    format!(
        "[[session.trigger]]\nname = \"{name}\"\nwhen = \"begin\"\nregime = \"{regime}\"\n{more}\n"
    )
}

#[test]
fn every_change_that_is_waited_for_acts_once_it_is_armed_by_a_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("journal");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let udp =
        format!("[session.trigger.udp]\naddress = \"{}\"", socket.local_addr().expect("bound"));
    let (good, posted) = web("204 No Content");
    let (bad, _refused) = web("503 Service Unavailable");
    let mut text = config(
        &(tokens(folder.path()) + &format!("[journal]\nfolder = \"{}\"\n", arg(&journal))),
        &["rig"],
    );
    for regime in REGIMES {
        text += &trigger(regime, regime, &format!("{SOON}{udp}"));
    }
    for (name, port) in [("posts", good), ("refused", bad)] {
        let more = format!("{SOON}[session.trigger.http]\nurl = \"http://127.0.0.1:{port}/x\"");
        text += &trigger(name, WAITED, &more);
    }
    // Held back: there is one act a day, and it rests for longer than the recording lasts.
    text += &trigger(
        "rests",
        WAITED,
        &format!("refractory_ms = 3600000\nlate_ms = 10000\n{udp}\nmessage = \"rest\""),
    );
    text += &trigger("once", WAITED, &format!("{SOON}daily_max = 1\ndry_run = true\n{udp}"));
    let [read, control] = ["read", "control"].map(|n| folder.path().join(n));
    let file = recording(folder.path(), &switching());
    let mut daemon = Daemon::start(&text);
    play(&daemon, &control, &file, 0, 3000);
    let (armed, _, error) = sessions(&daemon, &read, &["arm", "rig"]);
    assert!(!armed && error.contains("role"), "{error}");
    let (armed, shown, error) = sessions(&daemon, &control, &["arm", "rig"]);
    assert!(armed && shown.contains("limit_cycle (armed)"), "{shown}{error}");
    play(&daemon, &control, &file, 3000, 6000);
    let (noted, shown, _) = sessions(&daemon, &control, &["note", "rig", "juice on"]);
    assert!(noted && shown.contains("noted at bin 5999"), "{shown}");
    assert!(sessions(&daemon, &control, &["disarm", "rig"]).0);
    play(&daemon, &control, &file, 6000, 9000);
    assert!(daemon.terminate().success(), "{}", daemon.log());

    let found = records(&journal);
    let armed: Vec<bool> =
        found.iter().filter_map(|r| r["what"]["triggers_armed"]["armed"].as_bool()).collect();
    assert_eq!(armed, [true, false]);
    let begins = |from: u64, to: u64| -> Vec<(u64, String)> {
        let event = |r: &Value| {
            let e = r["what"].get("event")?;
            let bin = e["bin"].as_u64()?;
            (from..to).contains(&bin).then(|| (bin, e["to"].as_str().unwrap_or("").to_owned()))
        };
        found.iter().filter_map(event).filter(|e| REGIMES.contains(&e.1.as_str())).collect()
    };
    let expected = begins(3000, 6000);
    assert!(expected.len() >= 5, "{expected:?}");
    let waited = expected.iter().filter(|e| e.1 == WAITED).count();
    assert!(waited >= 2, "{expected:?}");
    // Sent and recorded: as many as there were changes while it was armed, and at those bins.
    let mut acted: Vec<(u64, String)> = Vec::new();
    for regime in REGIMES {
        for t in triggered(&found, regime) {
            assert_eq!(t["outcome"], "sent");
            assert!(t["latency_ns"].as_u64().is_some_and(|ns| ns > 0));
            acted.push((t["bin"].as_u64().expect("a bin"), regime.to_owned()));
        }
    }
    acted.sort();
    assert_eq!(acted, expected);
    let mut buffer = [0; 2000];
    let mut heard = Vec::new();
    let mut rests = 0;
    while heard.len() < expected.len() || rests < 1 {
        let n = socket.recv(&mut buffer).expect("a datagram");
        if &buffer[..n] == b"rest" {
            rests += 1;
            continue;
        }
        let said: Value = serde_json::from_slice(&buffer[..n]).expect("JSON");
        assert_eq!(said["session"], "rig");
        assert!(said["probability"].as_f64().is_some_and(|p| p > 0.0));
        heard.push((
            said["bin"].as_u64().expect("a bin"),
            said["trigger"].as_str().expect("a name").to_owned(),
        ));
    }
    assert_eq!(heard, expected, "in the order of their bins");
    let outcomes = |name: &str| -> Vec<String> {
        let of = triggered(&found, name);
        of.iter().map(|t| t["outcome"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(outcomes("posts"), vec!["sent"; waited]);
    assert_eq!(posted.try_iter().count(), waited);
    assert_eq!(outcomes("refused"), vec!["failed"; waited]);
    let why = triggered(&found, "refused")[0]["detail"].as_str().expect("text");
    assert!(why.contains("found 503"), "{why}");
    let held = |first: &str, then: &str| {
        let mut all = vec![then.to_owned(); waited];
        first.clone_into(&mut all[0]);
        all
    };
    assert_eq!(outcomes("rests"), held("sent", "refractory"));
    assert_eq!(outcomes("once"), held("dry_run", "daily_limit"));
    let note = found.iter().find_map(|r| r["what"].get("annotation")).expect("a note");
    assert_eq!((note["text"].as_str(), note["bin"].as_u64()), (Some("juice on"), Some(5999)));

    // What was used up today is used up after a restart as well, and nothing is armed.
    let mut daemon = Daemon::start(&text);
    assert!(!sessions(&daemon, &control, &[]).1.contains("(armed"));
    assert!(sessions(&daemon, &control, &["arm", "rig"]).0);
    play(&daemon, &control, &file, 20_000, 3000);
    assert!(daemon.terminate().success());
    let found = records(&journal);
    let again = triggered(&found, "once").split_off(waited);
    assert!(!again.is_empty() && again.iter().all(|t| t["outcome"] == "daily_limit"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_disarms_and_a_probability_repeats_while_it_lasts() {
    let folder = tempfile::tempdir().expect("a folder");
    // A dry run asks for no token.
    let mut text = config("", &["rig"]);
    let often = "probability = 0.5\nrepeat = true\nrefractory_ms = 50\nlate_ms = 10000\n\
                 daily_max = 100000\ndry_run = true\n\
                 [session.trigger.udp]\naddress = \"127.0.0.1:9\"";
    for regime in REGIMES {
        text += &trigger(regime, regime, often).replace("\"begin\"", "\"above\"");
    }
    let daemon = Daemon::start(&text);
    let token = folder.path().join("none");
    std::fs::write(&token, "no-token-is-asked-for").expect("written");
    assert!(sessions(&daemon, &token, &["arm", "rig"]).0);
    let file = recording(folder.path(), &switching());
    play(&daemon, &token, &file, 0, 3000);
    let count = |s: &Session| s.triggers.iter().map(|t| t.count).sum::<u64>();
    let session = daemon.session("rig").await;
    // 20 s at twenty times their speed are a second, in which each 50 ms may act.
    assert!(session.triggers_armed && count(&session) >= 5, "{session:?}");
    assert_eq!(daemon.metric("regimed_triggers_armed", "rig"), 1.0);
    wait::until(
        || daemon.metric("regimed_triggers_total", "outcome=\"dry_run\"") >= 1.0,
        || daemon.log(),
    );

    // A model without a trigger's regime is refused; another model disarms.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("made");
    for name in ["model.json", "model.safetensors"] {
        std::fs::copy(checkout("models/default").join(name), other.join(name)).expect("copied");
    }
    let card = std::fs::read_to_string(other.join("model.json")).expect("text");
    std::fs::write(other.join("model.json"), card.replace("\"limit_cycle\"", "\"rhythm\""))
        .expect("written");
    let swap = |model: &str| {
        sessions(&daemon, &token, &["swap", "rig", "--model", model, "--warm-up", "0.01"])
    };
    let (good, _, error) = swap(arg(&other));
    assert!(!good && error.contains("regime 'limit_cycle' of trigger 'limit_cycle'"), "{error}");
    assert!(daemon.session("rig").await.triggers_armed);
    assert!(swap("builtin").0);
    assert!(!daemon.session("rig").await.triggers_armed);

    // Notes are listed, and have a length.
    let (good, ..) = sessions(&daemon, &token, &["note", "rig", "a probe was moved"]);
    assert!(good);
    let (good, _, error) = sessions(&daemon, &token, &["note", "rig", " "]);
    assert!(!good && error.contains("expected 1 to 1000 bytes"), "{error}");
    let mut client = RegimesClient::connect(daemon.grpc.clone()).await.expect("connected");
    let request = ListAnnotationsRequest { session: "rig".into() };
    let listed = client.list_annotations(request).await.expect("listed").into_inner().annotations;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].text.as_str(), listed[0].source.as_str()),
        ("a probe was moved", "command")
    );
    assert_eq!(listed[0].bin, 2999);
}

/// A serial line's other end.
const PTY: &str = "import os, pty, sys, tty\nm, s = pty.openpty()\ntty.setraw(s)\n\
                   print(os.ttyname(s), flush=True)\nwhile True:\n    \
                   sys.stdout.write(os.read(m, 100).decode())\n    sys.stdout.flush()\n";

#[test]
fn a_serial_line_hears_of_it() {
    let python = std::env::var("REGIMED_PYTHON").unwrap_or_else(|_| "python3".into());
    let child = Command::new(&python).args(["-c", PTY]).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        return skipped("triggers::serial", &format!("{python} is not here"));
    };
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let device = lines.next().expect("a line").expect("text");
    let folder = tempfile::tempdir().expect("a folder");
    let serial = format!(
        "{SOON}[session.trigger.serial]\ndevice = \"{device}\"\n\
         message = \"S1\""
    );
    let mut text = config(&tokens(folder.path()), &["rig"]);
    text += &trigger("stimulate", WAITED, &serial);
    let daemon = Daemon::start(&text);
    let control = folder.path().join("control");
    assert!(sessions(&daemon, &control, &["arm", "rig"]).0);
    let file = recording(folder.path(), &switching());
    play(&daemon, &control, &file, 0, 3000);
    let (sender, heard) = mpsc::channel();
    std::thread::spawn(move || sender.send(lines.next()));
    let line = heard.recv_timeout(PATIENCE);
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(line.expect("in time").expect("a line").expect("text"), "S1");
}

#[test]
fn what_cannot_be_triggered_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.toml");
    let udp = "[session.trigger.udp]\naddress = \"127.0.0.1:9000\"";
    let check = |triggers: &str| {
        std::fs::write(&file, config("", &["rig"]) + triggers).expect("written");
        let (good, _, error) = run(&["serve", "--check", "--config", arg(&file)]);
        assert!(!good, "{triggers}");
        error
    };
    for (triggers, expected) in [
        (trigger("t", "chaotic", udp), "a [[token]] with the role control"),
        (trigger("t", "sleep", udp), "expected a regime of the model (stable_fixed_point"),
        (trigger("t", "chaotic", ""), "expected one of the tables udp, serial"),
        (trigger("t", "chaotic", &format!("probability = 0.5\n{udp}")), "\"above\" alone"),
        (
            trigger("t", "unknown", udp).replace("\"begin\"", "\"above\"\nprobability = 0.9"),
            "found \"unknown\"",
        ),
        (trigger("t", "chaotic", &format!("refractory_ms = 1\n{udp}")), "at least 10 ms"),
        (trigger("t", "chaotic", udp) + &trigger("t", "chaotic", udp), "found \"t\" twice"),
        (trigger("t", "chaotic", "[session.trigger.http]\nurl = \"https://x/y\""), "http://HOST"),
        (trigger("t", "chaotic", "[session.trigger.udp]\naddress = \"here\""), "found \"here\""),
    ] {
        let error = check(&triggers);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
