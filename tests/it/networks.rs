//! A rig on another machine: two hosts that see each other over a network alone, as network
//! namespaces. The rig's host has no other way to the daemon, and the daemon none to the rig.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::peer::{Rig, python};
use crate::rig::{Daemon, arg, binary, config, recording, skipped, spikes};
use crate::security::{authority, certificate_for};
use crate::wait;

/// The rig's host, and the wire to it.
struct Host {
    name: String,
    wire: String,
    /// Addresses of the daemon's end and of the rig's.
    here: String,
    there: String,
}

fn ip(args: &str) -> bool {
    let out = Command::new("ip").args(args.split_whitespace()).output();
    out.is_ok_and(|out| out.status.success())
}

impl Host {
    /// `None`, and said, where this user may not make one.
    fn new(test: &str) -> Option<Self> {
        let pid = std::process::id();
        // A network of its own for each run, among those for examples (RFC 5737 is too small).
        let net = format!("10.{}.{}", 100 + pid % 100, pid / 100 % 250);
        let host = Self {
            name: format!("rig{pid}"),
            wire: format!("w{pid}"),
            here: format!("{net}.1"),
            there: format!("{net}.2"),
        };
        let Self { name, wire, here, there } = &host;
        let steps = [
            format!("netns add {name}"),
            format!("link add {wire} type veth peer name {wire}r"),
            format!("link set {wire}r netns {name}"),
            format!("addr add {here}/24 dev {wire}"),
            format!("link set {wire} up"),
            format!("-n {name} addr add {there}/24 dev {wire}r"),
            format!("-n {name} link set {wire}r up"),
            format!("-n {name} link set lo up"),
        ];
        if !steps.iter().all(|step| ip(step)) {
            skipped(test, "network namespaces cannot be made here (ip netns, as root)");
            return None;
        }
        Some(host)
    }

    /// Runs the binary on the rig's host: success, standard output, standard error.
    fn run(&self, args: &[&str]) -> (bool, String, String) {
        let out = Command::new("ip")
            .args(["netns", "exec", &self.name, binary()])
            .args(args)
            .output()
            .expect("it runs");
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (out.status.success(), text(&out.stdout), text(&out.stderr))
    }

    /// A program that runs another on the rig's host.
    fn runner(&self, folder: &Path, program: &str) -> String {
        let file = folder.join("there");
        let text = format!("#!/bin/sh\nexec ip netns exec {} {program} \"$@\"\n", self.name);
        std::fs::write(&file, text).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("made executable");
        arg(&file).to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.name));
        ip(&format!("link del {}", self.wire));
    }
}

#[test]
fn a_rig_on_another_host_sends_over_tls_and_is_listened_to() {
    let Some(host) = Host::new("networks::another_host") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("written");
        file
    };
    let ca = authority();
    let (cert, key) = certificate_for(&ca, &[&host.here]);
    let (cert, key) = (put("cert.pem", &cert), put("key.pem", &key));
    let (ca, token) = (put("ca.pem", &ca.pem()), put("token", "a-token-of-enough-characters\n"));
    let electrodes: Vec<String> = (1..=96).map(|i| format!("\"Electrode {i}\"")).collect();
    let port = 5556;
    let text =
        config("", &["grpc"]).replacen("127.0.0.1:0", &format!("{}:0", host.here), 1).replacen(
            "[http]",
            &format!(
                "[tls]\ncert = \"{}\"\nkey = \"{}\"\n[[token]]\nfile = \"{}\"\nroles = [\"read\", \
                 \"ingest\", \"control\"]\n[http]",
                arg(&cert),
                arg(&key),
                arg(&token)
            ),
            1,
        ) + &format!(
            "\n[[session]]\nname = \"zmq\"\nmodel = \"builtin\"\nreadout = \"0\"\n\
             [session.events]\ndeadline_ms = 5000\n[session.open_ephys]\nendpoint = \
             \"tcp://{}:{port}\"\nsample_rate_hz = 30000\nelectrodes = [{}]\n",
            host.there,
            electrodes.join(", ")
        );
    let daemon = Daemon::start(&text);
    let at = daemon.grpc.replace("http://", "https://");
    let file = recording(folder.path(), &spikes(300));
    // The rig's host sends, with a token, to the daemon whose certificate it knows.
    let access = ["--ca", arg(&ca), "--token-file", arg(&token)];
    let send = ["replay", arg(&file), "--to", &at, "--session", "grpc", "--speed", "20"];
    let (good, said, error) = host.run(&[&send[..], &access].concat());
    assert!(good, "{said}{error}");
    let listed = || host.run(&[&["sessions", "--at", &at][..], &access].concat()).1;
    wait::until(|| listed().contains("300 received = 300 accepted"), listed);
    // Without the token, or over plain text, nobody comes in; and loopback is another host's.
    let (good, _, error) = host.run(&["sessions", "--at", &at, "--ca", arg(&ca)]);
    assert!(!good && error.contains("Bearer TOKEN"), "{error}");
    let (good, _, _) = host.run(&["sessions", "--at", &daemon.grpc]);
    assert!(!good);
    let loopback = at.replace(&host.here, "127.0.0.1");
    let (good, _, _) = host.run(&[&["sessions", "--at", &loopback][..], &access].concat());
    assert!(!good);
    // The daemon goes to a rig whose protocol has no TLS.
    let Some(python) = python("networks::open_ephys", &["zmq", "numpy"]) else { return };
    let there = host.runner(folder.path(), &python);
    let environment = [("RIG_HOST", host.there.as_str())];
    let mut rig = Rig::start_with(&there, "open_ephys", &environment, &json!({ "port": port }));
    rig.ask("wait_daemon", &json!({}));
    rig.ask("play", &json!({ "file": arg(&file), "speed": 4, "silent_tail": 10 }));
    let zmq = || listed().split("zmq (").nth(1).unwrap_or_default().to_owned();
    wait::until(|| zmq().contains("(connected") && !zmq().contains("bins     0 "), listed);
    // Written by the command that is run beside the daemon: the rig is listened to over the wire.
    let out = folder.path().join("written.toml");
    let endpoint = format!("tcp://{}:{port}", host.there);
    let init = ["init", "--rig", "open-ephys", "--at", &endpoint, "--for", "2s"];
    let playing = std::thread::scope(|scope| {
        let rig = &mut rig;
        let file = arg(&file);
        scope.spawn(move || rig.ask("play", &json!({ "file": file, "silent_tail": 10 })));
        crate::rig::run(&[&init[..], &["--out", arg(&out)]].concat())
    });
    assert!(playing.0, "{}", playing.2);
    let text = std::fs::read_to_string(&out).expect("written");
    assert!(text.contains(&endpoint) && text.contains("Electrode 1"), "{text}");
}
