//! What must not happen, and what it gets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::{Counts, RejectReason};
use zeromq::{Socket, SocketSend};

use crate::rig::{Daemon, arg, config, message, run, spikes};
use crate::wait;

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_are_named_counted_and_the_session_goes_on() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let counts = spikes(1).remove(0);
    let good = message("rig", 1, &counts);
    let with = |change: &dyn Fn(&mut Counts)| {
        let mut m = good.clone();
        change(&mut m);
        m
    };
    let table: [(Counts, RejectReason, &[&str]); 7] = [
        (with(&|m| m.session = "other".into()), RejectReason::UnknownSession, &["rig", "other"]),
        (with(&|m| m.n_channels = 95), RejectReason::ChannelCount, &["96", "95"]),
        (with(&|m| m.bin_width_s = 0.02), RejectReason::BinWidth, &["0.01", "0.02"]),
        (with(&|m| m.counts[7] = 99_999), RejectReason::BadCount, &["4096", "99999", "channel 7"]),
        (
            with(&|m| {
                m.counts.clear();
                m.float_counts = vec![f32::NAN; 96];
            }),
            RejectReason::BadCount,
            &["NaN"],
        ),
        (
            with(&|m| {
                m.counts.clear();
                m.float_counts = vec![-1.0; 96];
            }),
            RejectReason::BadCount,
            &["-1"],
        ),
        (with(&|m| m.masked_channels = vec![96]), RejectReason::Malformed, &["96"]),
    ];
    for (bad, reason, words) in table {
        let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
        let stream = futures_util::stream::iter([bad]);
        let summary = client.send_counts(stream).await.expect("accepted").into_inner();
        assert_eq!(summary.bins_accepted, 0);
        let rejection = &summary.rejections[0];
        assert_eq!(rejection.reason(), reason, "{rejection:?}");
        for word in words {
            assert!(rejection.detail.contains(word), "{rejection:?} does not name {word}");
        }
    }
    assert_eq!(daemon.metric("regimed_messages_rejected_total", "bad_count"), 3.0);
    assert_eq!(daemon.metric("regimed_messages_rejected_total", "unknown_session"), 1.0);
    still_works(&daemon, &good).await;
}

/// The session takes a bin.
async fn still_works(daemon: &Daemon, good: &Counts) {
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let summary = client.send_counts(futures_util::stream::iter([good.clone()])).await;
    assert_eq!(summary.expect("accepted").into_inner().bins_accepted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_every_port_is_survived() {
    let daemon = Daemon::start(&config("[limits]\nmessage_bytes_max = 65536\n", &["rig"]));
    let mut push = zeromq::PushSocket::new();
    push.connect(&daemon.pull).await.expect("connected");
    for garbage in [vec![0xff; 100], vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![8]] {
        push.send(bytes::Bytes::from(garbage).into()).await.expect("sent");
    }
    let whole = prost::Message::encode_to_vec(&message("rig", 1, &spikes(1)[0]));
    push.send(bytes::Bytes::from(whole[..whole.len() / 2].to_vec()).into()).await.expect("sent");
    daemon.wait_metric("regimed_messages_rejected_total", "malformed", 4.0);

    // Raw bytes: no ZMTP, ZMTP with an absurd frame, a half greeting; HTTP/2 that is none.
    let port = |endpoint: &str| endpoint.rsplit('/').next().expect("an address").to_owned();
    let mut greeting = vec![0u8; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    let mut absurd = greeting.clone();
    absurd.extend([2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut command = greeting.clone();
    command.extend([4, 30, 200]);
    command.extend([b'x'; 29]);
    let mut ready = greeting.clone();
    ready.extend([4, 12, 5]);
    ready.extend(b"READY");
    ready.extend([11, 0xff, 0xff, 0xff, 0xff, 0xff]);
    for address in
        [port(&daemon.pull), port(&daemon.publish), port(&daemon.grpc), daemon.http.clone()]
    {
        for bytes in
            [&b"GET / nonsense\r\n\r\n"[..], &greeting[..30], &absurd, &command, &ready, &[0; 4096]]
        {
            let mut stream = TcpStream::connect(&address).expect("the port is open");
            // The daemon may close at any byte.
            let _ = stream.write_all(bytes);
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_millis(200)));
            let _ = stream.read(&mut [0; 256]);
        }
    }
    assert!(daemon.metric("regimed_connections_cut_total", "oversized_frame") >= 2.0);
    assert!(daemon.metric("regimed_connections_cut_total", "not_zmtp_3") >= 2.0);

    // A message over the limit is an error of its own stream, on gRPC and on ZeroMQ.
    let mut huge = message("rig", 1, &spikes(1)[0]);
    huge.counts = vec![300; 96 * 1000];
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let status = client.send_counts(futures_util::stream::iter([huge.clone()])).await;
    assert_eq!(status.expect_err("too large").code(), tonic::Code::OutOfRange);
    daemon.wait_metric("regimed_messages_rejected_total", "malformed", 5.0);
    let mut other = zeromq::PushSocket::new();
    other.connect(&daemon.pull).await.expect("connected");
    let _ = other.send(bytes::Bytes::from(prost::Message::encode_to_vec(&huge)).into()).await;
    daemon.wait_metric("regimed_connections_cut_total", "oversized_frame", 3.0);

    still_works(&daemon, &message("rig", 1, &spikes(1)[0])).await;
    push.send(
        bytes::Bytes::from(prost::Message::encode_to_vec(&message("rig", 2, &spikes(1)[0]))).into(),
    )
    .await
    .expect("sent");
    daemon.wait_metric("regimed_bins_total", "rig", 2.0);
}

#[test]
fn a_bad_config_tells_every_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "[grpc]\nlisten = 3\ncolour = 1\n[[session]]\nname = \"a\"\n")
        .expect("written");
    let (good, _, stderr) = run(&["serve", "--config", arg(&file)]);
    assert!(!good);
    for words in ["line 2: grpc.listen", "line 3: grpc.colour", "line 4: session[0].model"] {
        assert!(stderr.contains(words), "{stderr}");
    }
    let (good, _, stderr) = run(&["serve", "--config", arg(&folder.path().join("none.toml"))]);
    assert!(!good && stderr.contains("none.toml"), "{stderr}");
}

#[test]
fn a_model_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.toml");
    let session = |more: &str| {
        format!("[[session]]\nname = \"rig\"\nmodel = \"builtin\"\nreadout = \"0\"\n{more}\n")
    };
    for (text, words) in [
        (session("channels = 64"), ["96", "64"]),
        (session("bin_ms = 200"), ["1 to 100 ms", "200"]),
        (session("").replace("\"0\"", "\"9\""), ["0, 1, 2", "'9'"]),
        (session("").replace("builtin", "nowhere"), ["nowhere", "model.json"]),
    ] {
        std::fs::write(&file, text).expect("written");
        let (good, _, stderr) = run(&["serve", "--config", arg(&file)]);
        assert!(!good);
        for word in words {
            assert!(stderr.contains(word), "'{word}' is not in: {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    std::fs::write(&file, session("channels = 96\nbin_ms = 10")).expect("written");
    let (good, stdout, stderr) = run(&["serve", "--check", "--config", arg(&file)]);
    assert!(good && stdout.contains("good"), "{stdout}{stderr}");
}

#[test]
fn a_missing_file_is_named_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (none, out) = (folder.path().join("none.npz"), folder.path().join("out"));
    for command in [
        vec!["pretrain", arg(&none), "--out", arg(&out)],
        vec!["evaluate", arg(&none), "--model", "builtin", "--report", arg(&out)],
        vec!["replay", arg(&none)],
        vec!["calibrate", arg(&none), "--model", arg(&none), "--session", "x"],
    ] {
        let (good, _, stderr) = run(&command);
        assert!(!good && stderr.contains("none.npz"), "{command:?}: {stderr}");
        let reasons = stderr.matches("o such file").count();
        assert_eq!((stderr.lines().count(), reasons), (1, 1), "{command:?}: {stderr}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.toml");
    let text = config("", &["rig"]);
    for key in ["[grpc]\nlisten", "[http]\nlisten", "[zeromq]\npull"] {
        let there = format!("{key} = \"127.0.0.1:0\"");
        assert!(text.contains(&there));
        std::fs::write(&file, text.replace(&there, &format!("{key} = \"{address}\"")))
            .expect("written");
        let (good, _, stderr) = run(&["serve", "--config", arg(&file)]);
        assert!(!good && stderr.contains(&address), "{stderr}");
        assert_eq!(stderr.lines().filter(|l| l.starts_with("regimed:")).count(), 1, "{stderr}");
    }
}

#[test]
fn a_damaged_model_is_refused_with_what_was_expected() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("created");
    let source = crate::rig::checkout("models/default");
    let read = |name: &str| std::fs::read(source.join(name)).expect("the default model");
    let (card, weights) = (read("model.json"), read("model.safetensors"));
    let refused = |card: &[u8], weights: &[u8]| {
        let result = regimed::internals::checkpoint::from_bytes(&model, card, weights);
        result.expect_err("refused").to_string()
    };
    let text = String::from_utf8(card.clone()).expect("text");
    let mut flipped = weights.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    assert!(refused(&card, &flipped).contains("SHA-256: expected"));
    let other = text.replace("\"format_version\": 3", "\"format_version\": 9");
    assert!(
        refused(other.as_bytes(), &weights)
            .contains("expected regimed-model 2 to 4, found regimed-model 9")
    );
    let other = text.replacen("\"rank\": 8", "\"rank\": 7", 1);
    assert!(refused(other.as_bytes(), &weights).contains("shape"));
    let other = text.replacen("\"n_channels\": 96", "\"n_channels\": 95", 1);
    let error = refused(other.as_bytes(), &weights);
    assert!(error.contains("[95, 8]") && error.contains("[96, 8]"), "{error}");
    let rates = "\"hazard_per_bin\": [";
    let at = text.find(rates).expect("hazard rates") + rates.len();
    let end = at + text[at..].find(',').expect("a first rate");
    let other = format!("{} 5.0{}", &text[..at], &text[end..]);
    assert!(refused(other.as_bytes(), &weights).contains("hazard_per_bin row 0"));
    let online = |more: &str| text.replacen("\"online\": {", &format!("\"online\": {{{more}"), 1);
    let other = online("\"onset_levels\": [0.99, 0.5, 0.95],");
    assert!(refused(other.as_bytes(), &weights).contains("onset_levels: expected three"));
    assert!(refused(b"{", &weights).contains("model card"));
    regimed::internals::checkpoint::from_bytes(&model, &card, &weights)
        .expect("the undamaged one loads");
    // Models made before had exponents learned from simulated truth.
    let before = text.replacen('{', "{\"metric_head\": {\"regimes\": [null]},", 1);
    regimed::internals::checkpoint::from_bytes(&model, before.as_bytes(), &weights)
        .expect("an older one loads");
}

#[test]
fn what_is_too_little_or_not_the_same_is_said_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let (few, model) = (place("few.npz"), place("model"));
    let made = |out: &std::path::Path, tasks: &str, seconds: &str| {
        let (good, _, stderr) = run(&[
            "simulate",
            "--out",
            arg(out),
            "--animals",
            "1",
            "--tasks",
            tasks,
            "--trials",
            "2",
            "--seconds",
            seconds,
            "--channels",
            "8",
            "--no-truth",
        ]);
        assert!(good, "{stderr}");
    };
    made(&few, "1", "0.05");
    let (good, _, stderr) = run(&["pretrain", arg(&few), "--out", arg(&model)]);
    assert!(!good && stderr.contains("at least 100 bins to learn from, found"), "{stderr}");
    let some = place("some.npz");
    made(&some, "3", "0.5");
    let quick = [
        "pretrain",
        arg(&some),
        "--units",
        "16",
        "--rank",
        "2",
        "--embedding",
        "2",
        "--out",
        arg(&model),
    ];
    let (good, _, stderr) =
        run(&[&quick[..], &["--steps", "6", "--checkpoint-every", "3"]].concat());
    assert!(good && stderr.contains("s to learn from; expect little"), "{stderr}");
    // An interrupted training goes on with its own settings alone: what differs is named.
    let state = model.join("training.safetensors");
    let mut child = std::process::Command::new(crate::rig::binary())
        .args([&quick[..], &["--steps", "100000", "--checkpoint-every", "1"]].concat())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it runs");
    let began = std::time::Instant::now();
    while !state.exists() {
        assert!(began.elapsed() < crate::rig::PATIENCE, "no state");
        wait::look_again_here();
    }
    child.kill().expect("killed");
    let _ = child.wait();
    let other = ["--steps", "100000", "--batch", "7", "--resume"];
    let (good, _, stderr) = run(&[&quick[..], &other[..]].concat());
    assert!(!good && stderr.contains("found --batch 7, it was begun with --batch 96"), "{stderr}");
    assert!(!stderr.contains("--seed") && !stderr.contains("Dimensions"), "{stderr}");
    // The model in the binary can be calibrated, to another place.
    let calibrate = ["calibrate", arg(&some), "--model", "builtin", "--session", "new"];
    let (good, _, stderr) = run(&calibrate);
    assert!(!good && stderr.contains("--out"), "{stderr}");
    let out = place("calibrated");
    let (good, _, stderr) = run(&[&calibrate[..], &["--out", arg(&out), "--steps", "3"]].concat());
    assert!(good && out.join("model.json").exists(), "{stderr}");
    // A file that is not there has no line.
    let (good, _, stderr) = run(&["serve", "--config", arg(&place("none.toml"))]);
    assert!(!good && stderr.contains("cannot be read") && !stderr.contains("line 0"), "{stderr}");
}
