//! The offline commands, from simulated data to a model that serves.

use std::process::Command;

use regimed::internals::checkpoint;
use regimed::internals::recording;

use crate::rig::{
    Daemon, arg, binary, config, exchange, exchange_until_metrics, message, run, spikes,
};
use crate::wait;

#[test]
fn simulate_pretrain_calibrate_evaluate_replay() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let (data, model) = (path("train.npz"), path("model"));
    let (good, stdout, stderr) =
        run(&["simulate", "--out", arg(&data), "--animals", "1", "--tasks", "6", "--no-truth"]);
    assert!(good && stdout.contains("60 trials"), "{stdout}{stderr}");
    let steps = ["--steps", "60", "--batch", "24"];
    let pretrain = |out: &str, more: &[&str]| {
        let args: Vec<&str> = ["pretrain", arg(&data), "--out", out]
            .into_iter()
            .chain(steps)
            .chain(more.iter().copied())
            .collect();
        run(&args)
    };
    let (good, stdout, stderr) = pretrain(arg(&model), &[]);
    assert!(good && stdout.contains("held out: accuracy"), "{stdout}{stderr}");
    assert!(stderr.contains("s left"), "progress in plain lines: {stderr}");
    let trained = checkpoint::load(&model).expect("a model");
    let verdict = trained.provenance.held_out.as_ref().expect("scores");
    assert!(verdict.accuracy > 0.5, "chance is 0.2: {verdict:?}");
    assert_eq!(trained.provenance.data[0].file, "train.npz");
    assert!(!model.join("training.safetensors").exists());
    let [start, now] = trained.provenance.gained.expect("scores at the start and now");
    let both = |of: fn(&_) -> Option<f64>| [&start, &now].map(|s| of(s).expect("held-out streams"));
    let [before, after] = both(|s: &regimed::internals::checkpoint::DynamicsScore| s.log_loss);
    assert!(after < before, "labels were learned: {before} to {after}");
    let skill = trained.provenance.skill.as_ref().expect("forecasts");
    assert!(skill.process_variance > 0.0 && skill.motion_explained < 1.0, "{skill:?}");
    // In words, at the end and on the card.
    let card = std::fs::read_to_string(model.join("model.md")).expect("a card");
    for words in ["Changes are found after", "Training took the dynamics'", "Forecasts: 10 bins"] {
        assert!(stdout.contains(words) && card.contains(words), "'{words}' in {stdout}{card}");
    }
    assert!(stdout.contains("No recording shows a change"), "{stdout}");
    assert!(trained.model.online.known.is_some(), "enough was held out");

    // The same seed gives the same model.
    let twin = path("twin");
    assert!(pretrain(arg(&twin), &[]).0);
    let read =
        |dir: &std::path::Path| std::fs::read(dir.join("model.safetensors")).expect("weights");
    assert_eq!(read(&model), read(&twin));

    // A new session on the frozen dynamics.
    let (fresh, both) = (path("fresh.npz"), path("both"));
    let (good, _, stderr) = run(&[
        "simulate",
        "--out",
        arg(&fresh),
        "--animals",
        "1",
        "--first-animal",
        "1",
        "--tasks",
        "2",
        "--channels",
        "40",
        "--no-truth",
    ]);
    assert!(good, "{stderr}");
    let (good, stdout, stderr) = run(&[
        "calibrate",
        "--model",
        arg(&model),
        arg(&fresh),
        "--session",
        "new",
        "--out",
        arg(&both),
        "--steps",
        "36",
    ]);
    assert!(good && stdout.contains("2 sessions"), "{stdout}{stderr}");
    let calibrated = checkpoint::load(&both).expect("a model");
    assert_eq!(calibrated.model.session_names(), ["0", "new"]);
    assert_eq!(calibrated.model.readouts[1].n_channels(), 40);
    assert_eq!(calibrated.model.hypernetwork, trained.model.hypernetwork);

    let report = path("report");
    let (good, stdout, stderr) = run(&[
        "evaluate",
        arg(&data),
        "--model",
        arg(&model),
        "--report",
        arg(&report),
        "--last",
        "0.2",
    ]);
    assert!(good && stdout.contains("overall"), "{stdout}{stderr}");
    assert!(stdout.contains("forecasts  10 bins (100 ms) ahead"), "{stdout}");
    let json = std::fs::read_to_string(report.join("report.json")).expect("a report");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["overall"]["accuracy"].as_f64().expect("a number") > 0.5);
    for name in ["report.html", "report.txt", "timeline.svg", "accuracy.svg", "confusion.svg"] {
        assert!(report.join(name).metadata().expect(name).len() > 500, "{name}");
    }
    let accuracy = json["intervals"]["accuracy"].as_array().expect("an interval");
    let (low, high) = (accuracy[0].as_f64().expect("low"), accuracy[1].as_f64().expect("high"));
    let found = json["overall"]["accuracy"].as_f64().expect("a number");
    assert!(low <= found && found <= high && high - low < 0.3, "{low} {found} {high}");
    // Tables are tables, a section for each session, charts with their data, and nothing to load.
    let page = std::fs::read_to_string(report.join("report.html")).expect("a page");
    for part in ["<h2>Session 0</h2>", "<th scope=\"row\">accuracy</th>", "data-kind=\"timeline\""]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("src=") && !page.contains("<link"), "nothing is loaded");
    // Two models beside each other, on the same blocks: the same model does not differ.
    let last = ["--report", arg(&report), "--last", "0.2"];
    let two = ["evaluate", arg(&data), "--model", arg(&model), "--model", arg(&model)];
    let (good, stdout, stderr) = run(&[&two[..], &last].concat());
    assert!(good && stdout.contains("right 1 s after a change"), "{stdout}{stderr}");
    let json = std::fs::read_to_string(report.join("report.json")).expect("a report");
    let both: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(both["models"].as_array().map(Vec::len), Some(2));
    assert!(report.join("model-2/report.json").exists());
    let page = std::fs::read_to_string(report.join("report.html")).expect("a page");
    assert!(page.contains("<td>0.000 (0.000 to 0.000)</td>"), "no difference");
    let out = path("decisions.npz");
    let (good, _, stderr) = run(&[&two[..], &last, &["--decisions", arg(&out)]].concat());
    assert!(!good && stderr.contains("found several"), "{stderr}");
    let (good, _, stderr) =
        run(&["evaluate", arg(&fresh), "--model", arg(&model), "--report", arg(&report)]);
    assert!(!good && stderr.contains("expected sessions of the model (0), found '1'"), "{stderr}");
}

#[test]
fn a_stopped_training_resumes_to_the_same_model() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let data = path("train.npz");
    let (good, _, stderr) = run(&[
        "simulate",
        "--out",
        arg(&data),
        "--animals",
        "1",
        "--tasks",
        "6",
        "--trials",
        "1",
        "--seconds",
        "1",
        "--no-truth",
    ]);
    assert!(good, "{stderr}");
    let (whole, parts) = (path("whole"), path("parts"));
    let args = |out: &str| {
        [
            "pretrain",
            arg(&data),
            "--out",
            out,
            "--steps",
            "40",
            "--batch",
            "8",
            "--checkpoint-every",
            "4",
        ]
        .map(str::to_owned)
    };
    let done = Command::new(binary()).args(args(arg(&whole))).output().expect("runs");
    assert!(done.status.success());
    // Stopped once it has saved a state.
    let mut child = Command::new(binary())
        .args(args(arg(&parts)))
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("runs");
    let state = parts.join("training.safetensors");
    while !state.exists() && child.try_wait().expect("waiting").is_none() {
        wait::look_again_here();
    }
    let pid = child.id().to_string();
    let _ = Command::new("kill").args(["-INT", &pid]).status();
    assert!(child.wait().expect("ends").success(), "Ctrl-C is no failure");
    checkpoint::load(&parts).expect("a usable model after Ctrl-C");
    if state.exists() {
        let mut again: Vec<String> = args(arg(&parts)).to_vec();
        again.push("--resume".into());
        let done = Command::new(binary()).args(&again).output().expect("runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        again[5] = "41".into();
        let other = Command::new(binary()).args(&again).output().expect("runs");
        assert!(!other.status.success(), "a finished training has no state to resume");
    }
    let trained = |dir| checkpoint::load(dir).expect("a model");
    let (whole, parts) = (trained(&whole), trained(&parts));
    // Which step was the best may differ where the interrupted one was validated once more; the
    // last steps' parameters may not.
    if whole.provenance.steps == parts.provenance.steps {
        assert_eq!(whole.weights_sha256, parts.weights_sha256);
    }
    assert!(
        parts.provenance.held_out.expect("scores").log_loss
            <= whole.provenance.held_out.expect("scores").log_loss + 1e-9
    );
}

#[test]
fn replay_scores_the_live_decisions() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("live.npz");
    let (good, _, stderr) = run(&[
        "simulate",
        "--out",
        arg(&data),
        "--animals",
        "1",
        "--first-task",
        "2000",
        "--tasks",
        "20",
        "--switch-every",
        "2",
        "--seconds",
        "8",
    ]);
    assert!(good, "{stderr}");
    let daemon = Daemon::start(&config("", &["rig"]));
    for (speed, to) in [("8", daemon.pull.clone()), ("8", daemon.grpc.clone())] {
        let csv = dir.path().join("live.csv");
        let (good, stdout, stderr) = run(&[
            "replay",
            arg(&data),
            "--to",
            &to,
            "--session",
            "rig",
            "--speed",
            speed,
            "--score",
            &daemon.grpc,
            "--save",
            arg(&csv),
        ]);
        assert!(good && stdout.contains("800 sent, 800 decided"), "{stdout}{stderr}");
        let text = std::fs::read_to_string(&csv).expect("a file");
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split(',').collect()).collect();
        assert_eq!(rows.len(), 800);
        let right = rows.iter().filter(|r| r[2] == r[3]).count();
        assert!(right > 400, "{right} of 800 right: {stdout}");
    }
    let (good, stdout, _) = run(&["watch", &daemon.grpc, "--for", "100ms", "--plain"]);
    assert!(good && stdout.contains("regimed watch"), "{stdout}");
    let recording = recording::read(&data).expect("reads");
    assert!(recording.continuous && recording.trials.len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_tells_scripts_of_every_session_and_leaves_when_nobody_reads() {
    let daemon = Daemon::start(&config("", &["a", "b"]));
    let watching = |more: &[&str]| {
        let mut child = std::process::Command::new(binary())
            .args(["watch", &daemon.grpc, "--json", "--for", "20s"])
            .args(more)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = std::io::BufReader::new(child.stdout.take().expect("piped"));
        (child, lines)
    };
    let (mut all, mut all_lines) = watching(&[]);
    let (mut events, mut events_lines) = watching(&["--events-only", "--session", "a"]);
    // Both listen.
    daemon.wait_metric("regimed_subscribers", "session=\"a\"", 4.0);
    daemon.wait_metric("regimed_subscribers", "session=\"b\"", 2.0);
    for session in ["a", "b"] {
        let bins = spikes(400);
        let messages: Vec<_> =
            bins.iter().zip(0..).map(|(bin, s)| message(session, s, bin)).collect();
        let (decisions, stderr) = exchange(&daemon, futures_util::stream::iter(messages)).await;
        assert_eq!((decisions.len(), stderr.len() >= 2), (400, true));
    }
    type Lines = std::io::BufReader<std::process::ChildStdout>;
    let read = |lines: &mut Lines, n: usize| {
        let parsed = std::io::BufRead::lines(lines)
            .map(|l| serde_json::from_str::<serde_json::Value>(&l.expect("text")).expect("JSON"));
        parsed.take(n).collect::<Vec<_>>()
    };
    let received = read(&mut all_lines, 804);
    for session in ["a", "b"] {
        let of = |kind: &str, number: &str| -> Vec<u64> {
            let of = received.iter().map(|h| &h[kind]).filter(|h| h["session"] == session);
            of.map(|h| h[number].as_u64().expect("a number")).collect()
        };
        assert_eq!(of("decision", "bin"), (0..400).collect::<Vec<_>>());
        assert_eq!(of("event", "event_sequence"), [1, 2]);
    }
    let more = spikes(400);
    let mut rest = more.iter().zip(400..).map(|(bin, s)| message("a", s, bin));
    let decision = exchange_until_metrics(&daemon, &mut rest).await;
    let received = std::iter::from_fn(|| read(&mut all_lines, 1).pop());
    let mut decisions = received.filter(|h| h["decision"].is_object());
    let same =
        decisions.find(|h| h["decision"]["bin"] == decision.bin).expect("it is shown as well");
    let signature = &same["decision"]["metrics"]["signature"];
    assert!(signature.as_str().is_some_and(|s| s.starts_with("SIGNATURE_")), "{same}");
    let received = read(&mut events_lines, 2);
    assert!(received.iter().all(|h| h["event"]["session"] == "a"), "{received:?}");
    // Nobody reads any more: the next line ends it, and without a complaint.
    drop((all_lines, events_lines));
    let rest: Vec<_> = rest.collect();
    exchange(&daemon, futures_util::stream::iter(rest)).await;
    assert!(all.wait().expect("it ends").success());
    assert!(events.wait().expect("it ends").success());
    let (good, _, stderr) = run(&["watch", &daemon.grpc, "--session", "c"]);
    assert!(!good && stderr.contains("expected one of the sessions a, b, found 'c'"), "{stderr}");
}

#[test]
fn a_reader_that_has_gone_is_no_bug() {
    let file = crate::rig::checkout("deploy/regimed.toml");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // Before it starts: one that is quick would have written already.
    drop(reader);
    let out = std::process::Command::new(binary())
        .args(["serve", "--check", "--config", arg(&file)])
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output()
        .expect("it ends");
    assert_eq!((out.status.code(), out.stderr.as_slice()), (Some(141), &b""[..]));
}

#[test]
fn demo_runs_the_whole_system_and_sums_up() {
    let (good, stdout, stderr) = run(&["demo", "--for", "4s", "--plain"]);
    assert!(good, "{stdout}{stderr}");
    for words in [
        "gRPC http://127.0.0.1:",
        "ZeroMQ in tcp://",
        "live page",
        "accuracy",
        "changes",
        "latency",
    ] {
        assert!(stdout.contains(words), "'{words}' is not in: {stdout}");
    }
    let decided =
        stdout.split(" decided").next().and_then(|s| s.rsplit(' ').next()?.parse::<u32>().ok());
    assert!(decided.is_some_and(|n| n > 300), "{stdout}");
}

#[test]
fn commands_say_what_was_expected() {
    for (args, words) in [
        (vec!["watch", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (vec!["watch", "ftp://x"], "ftp"),
        (
            vec![
                "simulate",
                "--out",
                "/nowhere/x.npz",
                "--tasks",
                "1",
                "--no-truth",
                "--seconds",
                "0.1",
            ],
            "/nowhere/x.npz",
        ),
        (vec!["simulate", "--out", "x.npz", "--channels", "1000"], "--channels"),
        (vec!["evaluate", "none.npz", "--model", "nowhere", "--report", "r"], "nowhere"),
        (vec!["pretrain", "none.npz", "--out", "m"], "none.npz"),
    ] {
        let (good, _, stderr) = run(&args);
        assert!(
            !good && stderr.contains(words) && !stderr.contains("panicked"),
            "{args:?}: {stderr}"
        );
    }
    let (good, stdout, _) = run(&["--help"]);
    assert!(good);
    for command in
        ["demo", "serve", "simulate", "pretrain", "calibrate", "evaluate", "replay", "watch"]
    {
        assert!(stdout.contains(command), "{stdout}");
    }
}

#[test]
fn sessions_of_different_channel_counts_are_learned_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let channels = [("0", "24"), ("1", "96")];
    for (animal, n) in channels {
        let out = path(&format!("{animal}.npz"));
        let flags = ["--tasks", "6", "--animals", "1", "--seconds", "1", "--no-truth"];
        let args = ["simulate", "--out", arg(&out), "--first-animal", animal, "--channels", n];
        let (good, _, stderr) = run(&[&args[..], &flags[..]].concat());
        assert!(good, "{stderr}");
    }
    let model = path("model");
    let (good, stdout, stderr) = run(&[
        "pretrain",
        arg(&path("0.npz")),
        arg(&path("1.npz")),
        "--out",
        arg(&model),
        "--steps",
        "40",
        "--batch",
        "24",
    ]);
    assert!(good, "{stdout}{stderr}");
    let trained = checkpoint::load(&model).expect("a model");
    let found: Vec<String> = (trained.model.readouts.iter())
        .map(|r| format!("{} {}", r.session, r.n_channels()))
        .collect();
    assert_eq!(found, ["0 24", "1 96"]);
    let of_each = &trained.provenance.held_out_by_session;
    assert!(of_each.iter().all(|(_, v)| v.accuracy > 0.4), "chance is 0.2: {of_each:?}");
    // The counts were kept in a file while training; nothing is left of it.
    let left: Vec<_> = std::fs::read_dir(&model)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|n| n.starts_with(".counts"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_proof_on_teachers_writes_one_report() {
    let dir = tempfile::tempdir().expect("a folder");
    let report = dir.path().join("report");
    let flags = ["--quick", "--steps", "4", "--model", "builtin", "--report"];
    let (good, stdout, stderr) =
        run(&[&["evaluate", "--student-teacher"], &flags[..], &[arg(&report)]].concat());
    assert!(good, "{stdout}{stderr}");
    let text = |name: &str| std::fs::read_to_string(report.join(name)).expect(name);
    let page = text("report.html");
    let plots = ["few-shot", "eigenvalues", "hopf-frequency", "rank", "regimes-exponents"];
    assert!(page.matches("<svg").count() >= plots.len() + 5);
    for name in plots {
        assert!(page.contains(&text(&format!("{name}.svg"))), "{name} is in the page");
    }
    // Readable without a network: the only address is the name of SVG's format.
    let addresses = page.matches("http").count();
    assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
    let numbers: serde_json::Value = serde_json::from_str(&text("report.json")).expect("numbers");
    let sections = numbers["sections"].as_object().expect("sections");
    assert_eq!(sections.len(), 3);
    let planar = &sections["Hopf and Duffing families"];
    let teacher = planar["forecast_r2_teacher"][0].as_f64().expect("a number");
    let shots = planar["forecast_r2"].as_array().expect("rows");
    assert_eq!(shots.len(), 3, "0 and 1 trials of known animals, 1 of a new one");
    let smoothed = planar["rate_r2_smoothed"][0].as_f64().expect("a number");
    assert!(teacher > 0.5 && smoothed > 0.3, "{planar}");
    let known = &sections["Regimes, exponents, frequencies"]["known_animals"]["overall"];
    assert!(known["accuracy"].as_f64().expect("a number") > 0.9, "{known}");
    for student in ["planar", "low-rank-6-of-64", "low-rank-16-of-16"] {
        checkpoint::load(&report.join("models").join(student)).expect(student);
    }
    let (good, _, stderr) = run(&["evaluate", "--report", arg(&report)]);
    assert!(!good && stderr.contains("--model") && stderr.contains("DATA"), "{stderr}");
    let (good, _, stderr) = run(&["evaluate", "x.npz", "--student-teacher", "--report", "r"]);
    assert!(!good && stderr.contains("--student-teacher"), "{stderr}");
}
