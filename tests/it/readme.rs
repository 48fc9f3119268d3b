//! README's main path, run as it is printed: recordings, a model, a report, a daemon, and a program
//! that hears events.

use std::process::Command;

use crate::peer::python;
use crate::rig::{Daemon, binary, checkout};

/// Text of README's blocks: indented commands, and fenced ones by their language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence)
        .skip(1)
        .map(|b| b.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn the_main_path_runs_as_printed_and_its_program_prints_events() {
    let test = "readme::the_main_path";
    let readme = std::fs::read_to_string(checkout("README.md")).expect("README");
    let part = readme.split("## From recordings to a rig").nth(1).expect("the path");
    // Commands go on in the next line behind a backslash.
    let part = &part.replace("\\\n", "");
    let folder = tempfile::tempdir().expect("a folder");
    let commands: Vec<&str> = part
        .lines()
        .filter_map(|line| line.strip_prefix("    regimed "))
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .collect();
    let verbs: Vec<&str> = commands.iter().filter_map(|c| c.split(' ').next()).collect();
    assert_eq!(verbs, ["simulate", "simulate", "pretrain", "evaluate", "serve"]);
    for command in &commands[..4] {
        let out = Command::new(binary())
            .args(command.split_whitespace())
            .current_dir(folder.path())
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "regimed {command}: {stderr}");
    }
    assert!(folder.path().join("report/report.html").exists());
    // The daemon's ports are others than the printed ones: somebody may have those.
    let toml = &blocks(part, "toml")[0];
    let toml = toml.replace("\"model\"", &format!("\"{}\"", folder.path().join("model").display()));
    let daemon = Daemon::start(&(crate::rig::config("", &[]) + &toml));
    let Some(python) = python(test, &["numpy", "zmq", "grpc_tools"]) else { return };
    let protoc = part
        .lines()
        .find_map(|line| line.strip_prefix("    python "))
        .expect("how the messages are compiled")
        .replace("-Iproto", &format!("-I{}", checkout("proto").display()))
        .replace(" proto/", &format!(" {}/", checkout("proto").display()));
    let run = |arguments: &[&str]| {
        let out = Command::new(&python)
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .expect("Python runs");
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{stderr}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    run(&protoc.split_whitespace().collect::<Vec<_>>());
    let program = blocks(part, "python")[0]
        .replace("tcp://127.0.0.1:7734", &daemon.pull)
        .replace("tcp://127.0.0.1:7735", &daemon.publish);
    assert!(program.contains(&daemon.pull) && program.contains(&daemon.publish));
    let stdout = run(&["-c", &program]);
    assert!(stdout.lines().filter(|l| l.starts_with("bin ")).count() >= 1, "no event: {stdout}");
}
