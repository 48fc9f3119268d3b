//! Peers in another language: numpy, grpcio, pyzmq. `REGIMED_PYTHON` names an interpreter that has
//! them (`.ci/run` makes one); without, each test says that it could not be done.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use regimed::internals::recording::{SpikeSettings, read_nwb};

use crate::peer::{python, two_ports};
use crate::rig::{
    Daemon, PATIENCE, arg, binary, checkout, config, exchange, message, skipped, spikes,
};
use crate::wait;

fn run(python: &str, script: &str, args: &[&str]) {
    let out = Command::new(python)
        .arg(checkout("tests/interop").join(script))
        .args(args)
        .output()
        .expect("python runs");
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{script}: {text}");
}

#[test]
fn grpcio_sends_counts_and_receives_decisions_and_events() {
    let Some(python) = python("interop::grpcio", &["grpc", "grpc_tools.protoc", "numpy"]) else {
        return;
    };
    let daemon = Daemon::start(&config("", &["rig"]));
    run(
        &python,
        "grpc_client.py",
        &[daemon.grpc.trim_start_matches("http://"), arg(&checkout("proto"))],
    );
    daemon.wait_metric("regimed_bins_total", "rig", 600.0);
}

#[test]
fn pyzmq_sends_counts_and_receives_decisions_and_events() {
    let Some(python) = python("interop::pyzmq", &["zmq", "grpc_tools.protoc", "numpy"]) else {
        return;
    };
    let daemon = Daemon::start(&config("", &["rig"]));
    run(&python, "zmq_client.py", &[&daemon.pull, &daemon.publish, arg(&checkout("proto"))]);
    assert_eq!(daemon.metric("regimed_messages_rejected_total", "malformed"), 1.0);
}

#[test]
fn the_daemon_subscribes_to_a_publishing_pyzmq_rig() {
    let Some(python) = python("interop::pyzmq_pub", &["zmq", "grpc_tools.protoc", "numpy"]) else {
        return;
    };
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let text = config("", &["rig"])
        .replace("[zeromq]\n", &format!("[zeromq]\nsubscribe = [\"tcp://{port}\"]\n"));
    let daemon = Daemon::start(&text);
    run(
        &python,
        "zmq_publisher.py",
        &[&format!("tcp://{port}"), arg(&checkout("proto")), &daemon.http],
    );
    assert!(daemon.metric("regimed_bins_total", "rig") >= 100.0);
}

#[test]
fn numpy_writes_what_we_read_and_reads_what_we_write() {
    let Some(python) = python("interop::numpy", &["numpy"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    run(&python, "numpy_files.py", &["write", arg(dir.path())]);
    let mut n = 0;
    for entry in std::fs::read_dir(dir.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let read = regimed::internals::recording::read(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((read.trials.len(), read.n_channels), (4, 5), "{}", path.display());
        let expected: Vec<u16> = (0..30).map(|i| (i * 7 % 11) as u16).collect();
        assert_eq!(read.trials[0].counts.flatten().to_vec(), expected, "{}", path.display());
        assert_eq!(read.regime_names, ["ruhig", "größer"]);
        assert_eq!(read.trials[3].regime[0], Some(1));
        regimed::internals::recording::write(&read, &path).expect("written");
        n += 1;
    }
    assert!(n >= 12, "{n} files");
    run(&python, "numpy_files.py", &["check", arg(dir.path())]);
}

#[test]
fn files_as_people_have_them_are_read_or_refused_with_the_reason() {
    let Some(python) = python("interop::h5py", &["h5py", "numpy"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    run(&python, "h5_files.py", &[arg(dir.path())]);
    let file = |name: &str| dir.path().join(format!("{name}.nwb"));
    let labelled = |column: &str| {
        let labels = Some(format!("trials/{column}"));
        let read = read_nwb(&file("plain"), &SpikeSettings { labels, ..SpikeSettings::default() });
        let read = read.expect(column);
        // Of each ten seconds, as the middle of each trial has it.
        let at = |i: usize| read.trials[0].regime[i * 1000 + 500];
        let names = (0..6).map(|i| at(i).map(|r| read.regime_names[r].clone()));
        names.map(Option::unwrap_or_default).collect::<Vec<_>>()
    };
    // NaN, nothing and "n/a" are no labels; rows of a ragged column have what is theirs; numbers
    // have names.
    assert_eq!(labelled("condition"), ["a", "b", "", "", "a", "b"]);
    assert_eq!(labelled("number"), ["1", "2", "", "1", "2", "1"]);
    assert_eq!(labelled("tags"), ["x+y", "", "x", "", "z", ""]);
    assert_eq!(labelled("side"), ["left", "right", "right", "left", "right", "left"]);
    assert_eq!(labelled("level"), ["low", "high", "low", "low", "high", "high"]);
    let plain = read_nwb(&file("plain"), &SpikeSettings::default()).expect("reads");
    let names = plain.channels.expect("names");
    assert_eq!(names, ["u1", "u2", "u3", "u4"]);
    assert_eq!(plain.trials[0].session, "plain", "as the file is named");
    // What was not observed is not there.
    let seen = read_nwb(&file("observed"), &SpikeSettings::default()).expect("reads");
    let bins: Vec<usize> =
        seen.trials.iter().map(regimed::internals::recording::Trial::n_bins).collect();
    assert_eq!((bins, seen.continuous), (vec![500, 1000, 2000], false));
    // A spike at an edge is in the bin that it begins: in each bin one.
    let edges = read_nwb(&file("edges"), &SpikeSettings::default()).expect("reads");
    let bins = edges.trials[0].counts.rows().into_iter();
    assert!(bins.map(|b| b.iter().sum::<u16>()).eq(std::iter::repeat_n(1, 1200)));
    for (name, parts) in [
        ("samples", ["are these samples", "sampling rate"]),
        ("linked", ["'other.nwb'", "export"]),
        ("virtual", ["virtual dataset", "h5repack"]),
    ] {
        let error = read_nwb(&file(name), &SpikeSettings::default()).expect_err(name).to_string();
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    }
    let labels = Some("trials/huge".to_owned());
    let error = read_nwb(&file("texts"), &SpikeSettings { labels, ..SpikeSettings::default() });
    let error = error.map(|_| ()).expect_err("too much").to_string();
    assert!(error.contains("trials/huge") && error.contains("bytes of text"), "{error}");
    let zarr = dir.path().join("store.nwb.zarr");
    std::fs::create_dir(&zarr).expect("made");
    std::fs::write(zarr.join(".zgroup"), "{}").expect("written");
    let (good, _, stderr) = crate::rig::run(&["inspect", arg(&zarr)]);
    assert!(!good && stderr.contains("Zarr") && !stderr.contains("model.json"), "{stderr}");
}

#[test]
fn pynwb_writes_what_we_read() {
    let Some(python) = python("interop::pynwb", &["pynwb", "numpy"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    run(&python, "pynwb_files.py", &[arg(dir.path())]);
    let file = dir.path().join("a.nwb");
    let how = SpikeSettings {
        bin_ms: Some(20.0),
        labels: Some("trials/condition".into()),
        tasks: Some("trials/target".into()),
        ..SpikeSettings::default()
    };
    let read = read_nwb(&file, &how).expect("reads");
    let expected =
        regimed::internals::recording::read(&dir.path().join("expected.npz")).expect("reads");
    assert_eq!(read.regime_names, expected.regime_names);
    assert_eq!((read.n_channels, read.bin_width_s), (5, 0.02));
    assert_eq!(read.trials[0], expected.trials[0]);
    // A column of truth values names regimes too.
    let how = SpikeSettings { labels: Some("trials/rewarded".into()), ..how };
    assert_eq!(read_nwb(&file, &how).expect("reads").regime_names, ["false", "true"]);
    // Faults say what there is.
    for (labels, parts) in [
        ("nothing/condition", vec!["/intervals/nothing", "trials"]),
        ("trials/colour", vec!["colour", "condition", "target"]),
        ("trials", vec!["a table and a column", "'trials'"]),
    ] {
        let how = SpikeSettings { labels: Some(labels.into()), ..SpikeSettings::default() };
        let error = read_nwb(&file, &how).expect_err(labels).to_string();
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    }
    // What was cut short is refused, not read.
    let bytes = std::fs::read(&file).expect("bytes");
    for part in [0, 100, bytes.len() / 2] {
        std::fs::write(&file, &bytes[..part]).expect("written");
        assert!(read_nwb(&file, &SpikeSettings::default()).is_err(), "{part} bytes");
    }
}

#[test]
fn what_spike_sorters_and_analysis_packages_leave_is_read() {
    let needed = ["regimed", "numpy", "neo", "pynapple", "spikeinterface", "scipy", "h5py"];
    let Some(python) = python("interop::sorted_spikes", &needed) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    run(&python, "sorted_spikes.py", &[arg(dir.path())]);
    let read = |name: &str| {
        let path = dir.path().join(format!("{name}.npz"));
        regimed::internals::recording::read(&path).unwrap_or_else(|e| panic!("{e}"))
    };
    for (name, channels, bins, trials) in [
        ("phy", 4, 4000, 1),
        ("spikeinterface", 4, 4000, 1),
        ("neo", 2, 4000, 1),
        ("pynapple", 4, 3000, 2),
        ("mat", 4, 4000, 1),
    ] {
        let found = read(name);
        assert_eq!((found.n_channels, found.n_bins()), (channels, bins), "{name}");
        assert_eq!(found.trials.len(), trials, "{name}");
        assert_eq!(found.channels.as_ref().map(Vec::len), Some(channels), "{name}");
    }
    // The commands read the folder itself.
    let (good, shown, error) =
        crate::rig::run(&["inspect", arg(&dir.path().join("sorted")), "--groups", "all"]);
    assert!(good && shown.contains("session    'sorted'"), "{shown}{error}");
    let phy = read("phy");
    assert_eq!(phy.regime_names, ["rest", "reach"]);
    assert_eq!(phy.trials[0].session, "sorted");
    let at = |bin: usize| phy.trials[0].regime[bin].map(|r| phy.regime_names[r].as_str());
    assert_eq!([at(0), at(1999), at(3000)], [Some("rest"), Some("reach"), None]);
}

#[test]
fn the_commands_run_from_python() {
    let Some(python) = python("interop::python_commands", &["regimed", "numpy"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    with_binary(&python, "python_commands.py", &[arg(dir.path())]);
}

/// Runs a script with the binary beside it.
fn with_binary(python: &str, script: &str, args: &[&str]) {
    let out = Command::new(python)
        .arg(checkout("tests/interop").join(script))
        .args(args)
        .env("REGIMED_BINARY", binary())
        .env("PYTHONPATH", checkout("tests/interop"))
        .output()
        .expect("python runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn trials_are_classified_and_reports_are_arrays() {
    let needed = ["regimed", "numpy", "xarray", "matplotlib", "sklearn", "mypy"];
    let Some(python) = python("interop::python_analysis", &needed) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    with_binary(&python, "python_analysis.py", &[arg(dir.path())]);
}

#[test]
fn docstrings_are_of_numpydocs_form() {
    let Some(python) = python("interop::docstrings", &["regimed", "numpydoc", "sklearn"]) else {
        return;
    };
    with_binary(&python, "docstrings.py", &[]);
}

#[test]
fn the_notebook_runs_from_its_first_cell_to_its_last() {
    let needed = ["regimed", "xarray", "matplotlib", "nbclient", "ipykernel"];
    let Some(python) = python("interop::notebook", &needed) else { return };
    let run = "import sys, nbformat, nbclient\n\
               notebook = nbformat.read(sys.argv[1], 4)\n\
               nbclient.NotebookClient(notebook, timeout=120).execute()\n\
               kinds = [o.output_type for c in notebook.cells for o in c.get('outputs', [])]\n\
               pictures = [o for c in notebook.cells for o in c.get('outputs', []) \
               if 'image/png' in o.get('data', {})]\n\
               assert len(pictures) >= 4 and 'error' not in kinds, kinds\n";
    let out = Command::new(&python)
        .args(["-c", run, arg(&checkout("clients/python/examples/a_day.ipynb"))])
        .env("REGIMED_BINARY", binary())
        .output()
        .expect("python runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_labs_day_goes_from_the_rig_to_the_figure() {
    let needed = ["regimed", "numpy", "zmq", "pynwb", "xarray", "matplotlib"];
    let Some(python) = python("interop::lab_day", &needed) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    with_binary(&python, "lab_day.py", &[arg(dir.path()), &two_ports().to_string()]);
}

#[test]
fn a_wheel_brings_the_binary_along() {
    let needed = ["regimed", "numpy", "setuptools", "wheel", "grpc_tools.protoc", "pip"];
    let Some(python) = python("interop::wheel", &needed) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let wheels = dir.path().join("wheels");
    let fresh = dir.path().join("fresh");
    let done = |command: &mut Command| {
        let out = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        text
    };
    let script = checkout("clients/python/wheel.py");
    let made = done(
        Command::new(&python)
            .args([arg(&script), arg(&wheels), "--binary", binary(), "--no-build-isolation"])
            .current_dir(dir.path()),
    );
    let [pure, platform] = made.lines().collect::<Vec<_>>()[..] else { panic!("{made}") };
    assert!(pure.ends_with("py3-none-any.whl") && platform.contains("manylinux_2_"), "{made}");
    done(Command::new(&python).args(["-m", "venv", arg(&fresh)]));
    let inside = |name: &str| fresh.join("bin").join(name);
    // What it depends on is taken from the other interpreter: no network is needed.
    let pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", platform];
    done(Command::new(inside("python")).args(pip));
    let version = done(Command::new(inside("regimed")).arg("--version"));
    assert_eq!(version.trim(), concat!("regimed ", env!("CARGO_PKG_VERSION")));
    let packages =
        done(Command::new(&python).args(["-c", "import numpy; print(numpy.__path__[0])"]));
    let packages = Path::new(packages.trim()).parent().expect("site-packages");
    let ask = "import regimed.commands as c; print(c.binary()); print(c.run('--version'))";
    let found = done(
        Command::new(inside("python"))
            .args(["-c", ask])
            .env("PYTHONPATH", packages)
            .env_remove("REGIMED_BINARY")
            .current_dir(dir.path()),
    );
    assert!(found.starts_with(arg(&inside("regimed"))), "{found}");
}

#[test]
fn the_python_client_does_what_it_says() {
    let Some(python) = python("interop::python_client", &["regimed", "numpy"]) else { return };
    let daemon = Daemon::start(&config("", &["rig"]));
    run(&python, "python_client.py", &[&daemon.grpc, "first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_goes_on_over_a_killed_daemon() {
    let Some(python) = python("interop::python_client", &["regimed", "numpy"]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let journal = format!("[journal]\nfolder = \"{}\"\n", folder.path().join("journal").display());
    let text = config(&journal, &["rig"]);
    let mut daemon = Daemon::start(&text);
    let grpc = daemon.grpc.clone();
    let mut child = Command::new(&python)
        .arg(checkout("tests/interop/python_client.py"))
        .args([&grpc, "resume", "6"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut heard = 0;
    assert_eq!(lines.next().expect("a line").expect("text"), "listening");
    let mut sequence = 0;
    while heard < 6 {
        // A limit cycle, then a fixed point: two events.
        let bins = spikes(400);
        let messages: Vec<_> =
            bins.iter().zip(sequence..).map(|(bin, s)| message("rig", s, bin)).collect();
        sequence += 400;
        let (_, events) = exchange(&daemon, futures_util::stream::iter(messages)).await;
        for event in events {
            heard = event.event_sequence;
            let line = lines.next().expect("a line").expect("text");
            assert_eq!(line, format!("event {heard}"));
            if heard == 6 {
                break;
            }
        }
        daemon.kill();
        daemon =
            Daemon::start(&text.replacen("127.0.0.1:0", grpc.trim_start_matches("http://"), 1));
    }
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn octave_runs_the_example_of_the_manual() {
    let here = Command::new("octave-cli").args(["--eval", "pkg load zeromq"]).output();
    if !here.is_ok_and(|o| !String::from_utf8_lossy(&o.stderr).contains("pkg load")) {
        skipped("interop::octave", "octave-cli with its package zeromq is not here");
        return;
    }
    let manual = std::fs::read_to_string(checkout("docs/languages.md")).expect("text");
    let folder = tempfile::tempdir().expect("a folder");
    for block in manual.split("```matlab\n% ").skip(1) {
        let block = block.split("```").next().expect("a block");
        let (name, code) = block.split_once('\n').expect("a name");
        std::fs::write(folder.path().join(name), code).expect("written");
    }
    let daemon = Daemon::start(&config("", &["rig"]));
    let mut octave = Command::new("octave-cli")
        .current_dir(folder.path())
        .env("REGIMED_PULL", &daemon.pull)
        .env("REGIMED_PUBLISH", &daemon.publish)
        .args(["--eval", "rand('twister', 1); regimed_example"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    // It goes on until there is an event.
    let began = Instant::now();
    while octave.try_wait().expect("waiting").is_none() && began.elapsed() < PATIENCE {
        wait::look_again_here();
    }
    let _ = octave.kill();
    let out = octave.wait_with_output().expect("it ends");
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(stdout.starts_with("event 1: "), "{stdout}{stderr}");
    daemon.wait_metric("regimed_bins_processed_total", "rig", 20.0);
}
