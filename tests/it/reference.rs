//! What is written down is what is there: the pages of metrics and of the command line, and what
//! `/metrics` answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use regimed::internals::telemetry::{Kind, declared};

use crate::rig::{Daemon, checkout, config, message, run, skipped, spikes};

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
        "{page} is not what the program says, first {differs:?}; REGIMED_WRITE_DOCS=1 cargo test \
         --release reference writes it"
    );
}

/// A paragraph in lines of 100 columns; those after the first begin with `rest`.
fn wrapped(text: &str, rest: &str) -> String {
    let (mut out, mut columns) = (String::new(), 0);
    for word in text.split_whitespace() {
        let n = word.chars().count();
        if columns > 0 && columns + 1 + n > 100 {
            out.push('\n');
            out.push_str(rest);
            columns = rest.len();
        } else if columns > 0 {
            out.push(' ');
            columns += 1;
        }
        out.push_str(word);
        columns += n;
    }
    out + "\n"
}

#[test]
fn the_page_of_metrics_is_what_is_declared() {
    let about = wrapped(
        "What `/metrics` answers, written from the program's own declarations. Base units; times \
         in seconds. Each entry: the metric, its kind and labels, its meaning. `session` is as \
         configured, `regime` and `to` are the model's regime names with `unknown`; every other \
         label takes few values, which the meaning names. The dashboards and rules in `deploy/` \
         are made of these.",
        "",
    );
    let mut page = format!("# Metrics\n\n{about}");
    for (group, metrics) in declared() {
        page.push_str(&format!("\n## {}\n\n{}\n", group.title, wrapped(group.about, "")));
        for (i, (name, help)) in metrics.iter().enumerate() {
            let like = group.metrics.get(i).unwrap_or(&group.metrics[0]);
            let kind = match like.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let labels = like.labels.replace(' ', ", ");
            let labels = if labels.is_empty() { labels } else { format!("; {labels}") };
            page.push_str(&wrapped(&format!("* `{name}` ({kind}{labels}): {help}"), "  "));
        }
    }
    page.push_str("\n## Process\n\n");
    page.push_str(&wrapped(
        "As Prometheus' own libraries name them: `process_cpu_seconds_total`, \
         `process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_open_fds`, \
         `process_max_fds`, `process_start_time_seconds`, `process_threads`.",
        "",
    ));
    same_page("docs/metrics.md", &page);
}

#[test]
fn the_page_of_commands_is_what_they_say() {
    let help = |args: &[&str]| {
        let (ok, text, stderr) = run(args);
        assert!(ok, "{args:?}: {stderr}");
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
        // Lines that go on are indented further.
        let first = listed.filter_map(|l| l.strip_prefix("  ")).filter(|l| !l.starts_with(' '));
        let names = first.filter_map(|l| l.split_whitespace().next().map(str::to_owned));
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
    let (ok, page, stderr) = run(&["man"]);
    assert!(ok && page.contains(".TH regimed 1") && page.contains("regimed\\-serve"), "{stderr}");
    let (ok, _, stderr) = run(&["man", "--out", folder.path().to_str().expect("a path")]);
    assert!(ok, "{stderr}");
    for name in ["regimed", "regimed-serve", "regimed-sessions-start"] {
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.1")));
        assert!(text.is_ok_and(|t| t.contains(&format!(".TH {name} 1"))), "{name}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (ok, script, stderr) = run(&["completions", shell]);
        assert!(ok && script.contains("serve") && script.contains("watch"), "{shell}: {stderr}");
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
    let trigger = "[[session.trigger]]\nname = \"t\"\nwhen = \"begin\"\nregime = \"chaotic\"\n\
                   dry_run = true\n[session.trigger.udp]\naddress = \"127.0.0.1:9\"\n";
    let daemon = Daemon::start(&(config(&journal, &["rig"]) + trigger));
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
        // The built-in model has the dynamics alone.
        .filter(|n| *n != "regimed_expert_posterior")
        // A trigger that acts asks for a token.
        .filter(|n| *n != "regimed_trigger_seconds")
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
    let stderr = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(found.status.success() && stderr.trim().is_empty(), "{stderr}");
}

fn files(folder: &str, ending: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(checkout(folder)).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(checkout("")).expect("inside").display().to_string();
        if path.is_dir() {
            files(&name, ending, found);
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

#[test]
fn every_key_of_the_configuration_is_in_its_page_and_no_other() {
    let mut sources = Vec::new();
    files("src/config", ".rs", &mut sources);
    let mut read = std::collections::BTreeSet::new();
    let mut literals = String::new();
    for source in sources {
        let text = std::fs::read_to_string(source).expect("text");
        let code = text.split("#[cfg(test)]").next().expect("code").replace("(\n", "(");
        literals.push_str(&code);
        for part in code.split("s.").chain(code.split("section.")).skip(1) {
            let Some((call, rest)) = part.split_once('(') else { continue };
            let Some(key) = rest.trim_start().strip_prefix('"').and_then(|r| r.split('"').next())
            else {
                continue;
            };
            let reads = [
                "string",
                "required_string",
                "number",
                "whole",
                "milliseconds",
                "endpoint",
                "word",
                "strings",
                "boolean",
                "address",
                "socket_path",
                "section",
                "value",
            ];
            if reads.contains(&call) {
                read.insert(key.to_owned());
            }
        }
    }
    assert!(read.len() > 70, "{read:?}");
    let page = std::fs::read_to_string(checkout("docs/configuration.md")).expect("text");
    let words: std::collections::BTreeSet<&str> =
        page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let missing: Vec<_> = read.iter().filter(|key| !words.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
    // An entry begins with its keys, up to the bracket of the default.
    let entries: Vec<&str> =
        page.split("\n* `").skip(1).map(|e| e.split(" (").next().unwrap_or_default()).collect();
    assert!(entries.len() > 60, "{entries:?}");
    for key in entries.iter().flat_map(|e| e.split("`, `")).map(|key| key.trim_end_matches('`')) {
        let last = key.rsplit('.').next().expect("a word").trim_matches(['[', ']']);
        assert!(literals.contains(&format!("\"{last}\"")), "{key} is not read");
    }
}

/// Modules and functions of tests, by the last part of their path.
fn test_names() -> BTreeSet<String> {
    let mut sources = Vec::new();
    files("src", ".rs", &mut sources);
    files("tests/it", ".rs", &mut sources);
    let mut names = BTreeSet::new();
    for path in sources {
        let text = std::fs::read_to_string(&path).expect("text");
        if !text.contains("#[test]") && !text.contains("#[tokio::test") {
            continue;
        }
        let stem = path.with_extension("");
        let stem = if stem.ends_with("mod") { stem.parent().expect("a folder") } else { &stem };
        names.insert(stem.file_name().expect("a name").to_string_lossy().into_owned());
        let functions = text.split("fn ").skip(1).filter_map(|f| f.split(['(', '<']).next());
        names.extend(functions.map(str::to_owned));
    }
    names
}

#[test]
fn the_tests_that_pages_name_are_there() {
    let names = test_names();
    let mut n = 0;
    for page in ["docs/operations.md", "docs/security.md"] {
        let text = std::fs::read_to_string(checkout(page)).expect("text");
        for entry in text.split("*Test*: ").skip(1) {
            let entry = entry.split("\n* ").next().unwrap_or_default();
            let entry = entry.split("\n\n").next().unwrap_or_default();
            for named in entry.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
                let last = named.rsplit("::").next().unwrap_or_default();
                assert!(names.contains(last), "{page} names {named}");
                n += 1;
            }
        }
    }
    assert!(n > 15, "only {n} tests are named");
}

#[test]
fn the_files_that_the_architecture_walks_are_there() {
    let text = std::fs::read_to_string(checkout("ARCHITECTURE.md")).expect("text");
    let mut sources = Vec::new();
    files("src", ".rs", &mut sources);
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let mut n = 0;
    for name in named.iter().filter(|name| name.ends_with(".rs")) {
        let there = sources.iter().any(|path| path.ends_with(name)) || checkout(name).exists();
        assert!(there, "ARCHITECTURE.md names {name}");
        n += 1;
    }
    assert!(n > 30, "only {n} files are named");
    for room in std::fs::read_dir(checkout("src")).expect("src").filter_map(Result::ok) {
        let file = room.file_name().to_string_lossy().into_owned();
        let name = file.trim_end_matches(".rs");
        let shown = named.iter().any(|n| n.trim_end_matches('/') == name);
        assert!(shown || name == "lib", "ARCHITECTURE.md has no {name}");
    }
}

#[test]
fn links_lead_somewhere_and_every_page_is_in_the_manual() {
    let summary = std::fs::read_to_string(checkout("docs/SUMMARY.md")).expect("text");
    let mut pages = Vec::new();
    files("docs", ".md", &mut pages);
    for page in &pages {
        let name = page.strip_prefix(checkout("docs")).expect("inside").display().to_string();
        let listed = summary.contains(&format!("({name})"));
        assert!(listed || name == "SUMMARY.md", "{name} is not in docs/SUMMARY.md");
    }
    for more in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "clients/python/README.md",
        "fuzz/README.md",
    ] {
        pages.push(checkout(more));
    }
    let mut faults = Vec::new();
    for page in &pages {
        let text = std::fs::read_to_string(page).expect("text");
        for target in text.split("](").skip(1).filter_map(|t| t.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let outside = ["http:", "https:", "mailto:"].iter().any(|s| target.starts_with(s));
            let there = page.parent().expect("a folder").join(file);
            if !outside && !file.is_empty() && !target.contains(' ') && !there.exists() {
                faults.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
