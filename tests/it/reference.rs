//! What is written down is what is there: the pages of metrics and of the command line, and what `/metrics` answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use regimed::telemetry::{Kind, declared};

use crate::rig::{Daemon, binary, checkout, config, message, run, skipped, spikes};

/// Holds a page of docs/ against what it is made from; writes it where `REGIMED_WRITE_DOCS` is set.
fn same_page(page: &str, made: &str) {
    let path = checkout(page);
    if std::env::var_os("REGIMED_WRITE_DOCS").is_some() {
        std::fs::write(&path, made).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(made.lines()).find(|(a, b)| a != b);
    assert!(
        found == made,
        "{page} is not what the program says, first {differs:?}; REGIMED_WRITE_DOCS=1 cargo test --release \
         reference writes it"
    );
}

#[test]
fn the_page_of_metrics_is_what_is_declared() {
    let mut page = String::from(
        "# Metrics\n\nWhat `/metrics` answers, written from the program's own declarations. Base units; times in seconds. \
         `session` is as configured, `regime` and `to` are the model's regime names with `unknown`; every other label \
         takes few values, which the help names. The dashboards and rules in `deploy/` are made of these.\n",
    );
    for (group, metrics) in declared() {
        page.push_str(&format!("\n## {}\n\n{}\n\n", group.title, group.about));
        page.push_str("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
        for (i, (name, help)) in metrics.iter().enumerate() {
            let like = group.metrics.get(i).unwrap_or(&group.metrics[0]);
            let kind = match like.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let labels = like.labels.replace(' ', ", ");
            let help = help.replace('|', "\\|");
            page.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
        }
    }
    page.push_str(
        "\n## Process\n\nAs Prometheus' own libraries name them: `process_cpu_seconds_total`, `process_resident_memory_bytes`, \
         `process_virtual_memory_bytes`, `process_open_fds`, `process_max_fds`, `process_start_time_seconds`, \
         `process_threads`.\n",
    );
    same_page("docs/metrics.md", &page);
}

#[test]
fn the_page_of_commands_is_what_they_say() {
    let help = |args: &[&str]| {
        let (ok, text, told) = run(args);
        assert!(ok, "{args:?}: {told}");
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    };
    let mut page = String::from("# Commands\n\nAs `regimed help COMMAND` tells them.\n");
    let mut add = |of: &str, text: &str| {
        page.push_str(&format!("\n## {of}\n\n```text\n{text}\n```\n"));
    };
    let top = help(&["--help"]);
    let commands = |text: &str| -> Vec<String> {
        let listed = text.split("Commands:\n").nth(1).unwrap_or_default().to_owned();
        let listed = listed.lines().take_while(|l| !l.is_empty());
        let names = listed.filter_map(|l| l.split_whitespace().next().map(str::to_owned));
        names.filter(|n| n != "help").collect()
    };
    add("regimed", &top);
    let names = commands(&top);
    assert!(names.len() > 12, "{names:?}");
    for name in names {
        let text = help(&[&name, "--help"]);
        add(&format!("regimed {name}"), &text);
        for inner in commands(&text) {
            add(&format!("regimed {name} {inner}"), &help(&[&name, &inner, "--help"]));
        }
    }
    same_page("docs/commands.md", &page);
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ok, page, told) = run(&["man"]);
    assert!(ok && page.contains(".TH regimed 1") && page.contains("regimed\\-serve"), "{told}");
    let (ok, _, told) = run(&["man", "--out", folder.path().to_str().expect("a path")]);
    assert!(ok, "{told}");
    for name in ["regimed", "regimed-serve", "regimed-sessions-start"] {
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.1")));
        assert!(text.is_ok_and(|t| t.contains(&format!(".TH {name} 1"))), "{name}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (ok, script, told) = run(&["completions", shell]);
        assert!(ok && script.contains("serve") && script.contains("watch"), "{shell}: {told}");
    }
    let (ok, ..) = run(&["completions", "tcl"]);
    assert!(!ok);
}

/// Every series' name without a histogram's suffix, and its labels' names.
fn series(text: &str) -> Vec<(String, Vec<String>)> {
    let lines = text.lines().filter(|l| l.starts_with("regimed_"));
    let split = lines.map(|line| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
        let keys = labels.map_or("", |l| l.0).split(',').filter_map(|l| l.split_once('='));
        (name.to_owned(), keys.map(|(key, _)| key.to_owned()).collect())
    });
    split.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scraped_is_declared_and_well_formed() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = format!("[journal]\nfolder = \"{}\"\n", folder.path().join("journal").display());
    let daemon = Daemon::start(&config(&journal, &["rig"]));
    let bins = spikes(400);
    let messages: Vec<_> =
        bins.iter().enumerate().map(|(i, bin)| message("rig", i as u64, bin)).collect();
    crate::rig::exchange(&daemon, futures_util::stream::iter(messages)).await;
    daemon.wait_metric("regimed_bins_processed_total", "session=\"rig\"", 400.0);
    let (_, text) = daemon.get("/metrics");
    let text = text.split_once("\r\n\r\n").map_or(text.as_str(), |t| t.1);
    let mut known = BTreeMap::new();
    for (group, metrics) in declared() {
        for (i, (name, _)) in metrics.into_iter().enumerate() {
            let like = group.metrics.get(i).unwrap_or(&group.metrics[0]);
            known.insert(name, (like.kind, like.labels));
        }
    }
    for (name, keys) in series(text) {
        let ends = ["_bucket", "_sum", "_count"];
        let stem =
            ends.iter().find_map(|e| name.strip_suffix(e)).filter(|n| known.contains_key(*n));
        let stem = stem.unwrap_or(&name);
        let (kind, labels) = known.get(stem).unwrap_or_else(|| panic!("{name} is not declared"));
        for key in keys.iter().filter(|k| *k != "le") {
            assert!(labels.split(' ').any(|l| l == key), "{name}: {key} is not declared");
        }
        assert!(text.contains(&format!("# HELP {stem} ")), "{stem} has no help");
        let kind = format!("{kind:?}").to_lowercase();
        assert!(text.contains(&format!("# TYPE {stem} {kind}\n")), "{stem} is no {kind}");
    }
    // What a session alone brings is there from its start; nothing that is declared never comes.
    let absent: Vec<_> = known
        .keys()
        .filter(|name| !text.contains(&format!("# TYPE {name} ")))
        .filter(|n| !n.contains("_source_") && !n.contains("_bus_out_") && !n.contains("_ttl_"))
        .collect();
    assert!(absent.is_empty(), "never seen: {absent:?}");
    assert!(text.contains("process_resident_memory_bytes "));
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        skipped("what_is_scraped_is_declared_and_well_formed", "promtool is not here");
        return;
    };
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("taken");
    let found = promtool.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(found.status.success() && told.trim().is_empty(), "{told}");
    assert!(!binary().is_empty());
}
