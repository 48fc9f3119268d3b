//! A real Prometheus on a running daemon, with the rules and dashboards of `deploy/`: none of their
//! expressions fails or is empty.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use regimed::internals::wire::ingest_client::IngestClient;
use serde_json::Value;

use crate::rig::{Daemon, PATIENCE, checkout, config, message, skipped, spikes};
use crate::wait;

struct Prometheus {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// With the deployed configuration, but for where the daemon is, and for how long an alert has
    /// to hold where that is said; `None`, and said, where there is none.
    fn start(test: &str, daemon: &Daemon, holds: Option<&str>) -> Option<Self> {
        if Command::new("prometheus").arg("--version").output().is_err() {
            skipped(test, "prometheus is not here");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let deployed = checkout("deploy/prometheus");
        let text = std::fs::read_to_string(deployed.join("prometheus.yml")).expect("text");
        let there = text
            .replace("127.0.0.1:9464", &daemon.http)
            .replace("interval: 1s", "interval: 500ms")
            .replace("evaluation_interval: 5s", "evaluation_interval: 1s");
        assert!(there.contains(&daemon.http));
        std::fs::write(folder.path().join("prometheus.yml"), there).expect("written");
        for rules in ["recording.yml", "alerts.yml"] {
            let text = std::fs::read_to_string(deployed.join(rules)).expect("text");
            let text = text.replace("interval: 5s", "interval: 1s");
            let line = |line: &str| match (holds, line.find("for: ")) {
                (Some(time), Some(at)) => format!("{}for: {time}\n", &line[..at]),
                _ => format!("{line}\n"),
            };
            let text: String = text.lines().map(line).collect();
            std::fs::write(folder.path().join(rules), text).expect("written");
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound").to_string();
        drop(free);
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Some(Self { child, address, _folder: folder })
    }

    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        // Of HTTP 1.0: an answer in one piece.
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// What an expression is now: its series, or why it failed.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
        let encoded: String = expression
            .bytes()
            .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}")).ok_or("no answer")?;
        match answer["data"]["result"].as_array() {
            Some(series) => Ok(series.clone()),
            None => Err(answer["error"].to_string()),
        }
    }
}

/// Every expression of a dashboard, with where it is.
fn expressions(board: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in board["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((title.to_owned(), target["expr"].as_str().expect("text").to_owned()));
        }
    }
    for annotation in board["annotations"]["list"].as_array().into_iter().flatten() {
        let expr = annotation["expr"].as_str().expect("text");
        found.push(("annotation".to_owned(), figure(expr)));
    }
    found
}

/// The figure of an alert: what stands before its bound, and before what it is left out for.
fn figure(expression: &str) -> String {
    let aside = [" unless on ", " and on "].iter().filter_map(|w| expression.find(w)).min();
    let expression = aside.map_or(expression, |at| &expression[..at]);
    let at = [" > ", " < ", " == "].iter().filter_map(|c| expression.rfind(c)).max();
    at.map_or(expression, |at| &expression[..at]).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_rule_has_something_to_show() {
    let test = "every_panel_and_rule_has_something_to_show";
    let folder = tempfile::tempdir().expect("a folder");
    let journal = format!("[journal]\nfolder = \"{}\"\n", folder.path().join("journal").display());
    // Beside a session that is sent counts, one whose rig is not there.
    let names: Vec<String> = (1..=96).map(|i| format!("\"Electrode {i}\"")).collect();
    let gone = &format!(
        "[session.open_ephys]\nendpoint = \"tcp://127.0.0.1:9\"\nsample_rate_hz = \
         30000\nelectrodes = [{}]\n",
        names.join(", ")
    );
    let daemon = Daemon::start(&(config(&journal, &["rig", "gone"]) + gone));
    let Some(prometheus) = Prometheus::start(test, &daemon, None) else { return };
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let bins = spikes(100);
    let (began, mut sequence) = (Instant::now(), 0);
    // Until rules that need several scrapes have theirs.
    loop {
        let messages: Vec<_> =
            bins.iter().zip(sequence..).map(|(bin, s)| message("rig", s, bin)).collect();
        sequence += bins.len() as u64;
        let stream = futures_util::stream::iter(messages);
        client.send_counts(stream).await.expect("sent");
        let recorded = prometheus.query("log:regimed_journal_commit_seconds:p99_5m");
        if sequence > 1500 && recorded.is_ok_and(|series| !series.is_empty()) {
            break;
        }
        assert!(began.elapsed() < 2 * PATIENCE, "{:?}", prometheus.query("up"));
        wait::pace(Duration::from_millis(500)).await;
    }
    let mut asked = Vec::new();
    for board in ["overview", "operations"] {
        let path = checkout(&format!("deploy/grafana/dashboards/{board}.json"));
        let text = std::fs::read_to_string(path).expect("text");
        let board_json: Value = serde_json::from_str(&text).expect("JSON");
        let variables = board_json["templating"]["list"].to_string();
        assert!(variables.contains("\"datasource\"") && variables.contains("\"session\""));
        for (title, expression) in expressions(&board_json) {
            asked.push((format!("{board}: {title}"), expression));
        }
    }
    assert!(asked.len() > 60, "{}", asked.len());
    // Rules as Prometheus has them: which are well, and each one's figure.
    let rules = prometheus.get("/api/v1/rules").expect("an answer");
    let groups = rules["data"]["groups"].as_array().expect("groups").clone();
    let rules: Vec<_> = groups.iter().filter_map(|g| g["rules"].as_array()).flatten().collect();
    assert!(rules.len() >= 29, "{}", rules.len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        let name = rule["name"].as_str().expect("a name").to_owned();
        asked.push((name, figure(rule["query"].as_str().expect("text"))));
    }
    // Rates need several scrapes.
    let began = Instant::now();
    loop {
        let faults: Vec<String> =
            asked.iter().filter_map(|(place, e)| fault(&prometheus, place, e)).collect();
        if faults.is_empty() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", faults.join("\n"));
        wait::look_again().await;
    }
    println!("{} expressions", asked.len());
    // What was sent is what is seen.
    let seen = prometheus.query("regimed_bins_processed_total{session=\"rig\"}").expect("ok");
    let value = seen[0]["value"][1].as_str().expect("text").parse::<f64>().expect("a number");
    assert!(value > 1000.0 && value <= sequence as f64, "{value}");
}

/// Ten sessions: eight whose rigs send, one whose rig was never there, one whose rig stops. Each of
/// the dead raises one alert, and none says anything of dynamics.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_rig_among_ten_sessions_raises_one_alert() {
    let test = "a_dead_rig_among_ten_sessions_raises_one_alert";
    let names: Vec<String> = (0..9).map(|i| format!("rig{i}")).collect();
    let electrodes: Vec<String> = (1..=96).map(|i| format!("\"Electrode {i}\"")).collect();
    let gone = format!(
        "\n[[session]]\nname = \"gone\"\nmodel = \"builtin\"\nreadout = \
         \"0\"\n[session.open_ephys]\nendpoint = \"tcp://127.0.0.1:9\"\nsample_rate_hz = \
         30000\nelectrodes = [{}]\n",
        electrodes.join(", ")
    );
    let of: Vec<&str> = names.iter().map(String::as_str).collect();
    let daemon = Daemon::start(&(config("", &of) + &gone));
    let bins = spikes(200);
    let mut feeds = Vec::new();
    for name in names {
        let (grpc, bins) = (daemon.grpc.clone(), bins.clone());
        feeds.push(tokio::spawn(async move {
            let mut client = IngestClient::connect(grpc).await.expect("connected");
            // The last of them is switched off after two seconds.
            let seconds = if name == "rig8" { 2 } else { 600 };
            for second in 0..seconds {
                for part in 0..10 {
                    let from = (second * 100 + part * 10) as u64;
                    let batch: Vec<_> = (from..from + 10)
                        .map(|s| message(&name, s, &bins[s as usize % bins.len()]))
                        .collect();
                    let stream = futures_util::stream::iter(batch);
                    if client.send_counts(stream).await.is_err() {
                        return;
                    }
                    wait::pace(Duration::from_millis(100)).await;
                }
            }
        }));
    }
    let Some(prometheus) = Prometheus::start(test, &daemon, Some("2s")) else { return };
    let began = Instant::now();
    let expected = ["RegimedSourceGone gone", "RegimedSourceStalled rig8"];
    let mut seen_in_a_row = 0;
    loop {
        let alerts = prometheus.get("/api/v1/alerts");
        let alerts = alerts.as_ref().and_then(|a| a["data"]["alerts"].as_array());
        let mut firing: Vec<String> = alerts
            .into_iter()
            .flatten()
            .filter(|a| a["state"] == "firing")
            .map(|a| {
                let of = |key: &str| a["labels"][key].as_str().unwrap_or_default().to_owned();
                format!("{} {}", of("alertname"), of("session"))
            })
            // This machine may be slow: that is no dead rig.
            .filter(|a| !a.starts_with("RegimedSlow"))
            .collect();
        firing.sort();
        seen_in_a_row = if firing == expected { seen_in_a_row + 1 } else { 0 };
        // Nothing joins them while time goes by.
        if seen_in_a_row == 20 {
            break;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "{firing:?}");
        wait::pace(Duration::from_millis(250)).await;
    }
    feeds.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Why an expression shows nothing, where it does.
fn fault(prometheus: &Prometheus, place: &str, expression: &str) -> Option<String> {
    let there = expression
        .replace("$session", ".*")
        .replace("$__rate_interval", "10s")
        .replace("$__interval", "10s");
    assert!(!there.contains('$'), "{there}");
    match prometheus.query(&there) {
        Ok(series) if series.is_empty() => Some(format!("{place}: {there} is empty")),
        Ok(_) => None,
        Err(e) => Some(format!("{place}: {there}: {e}")),
    }
}

#[test]
fn rules_do_what_their_tests_say() {
    let promtool = |args: &[&str]| {
        Command::new("promtool").current_dir(checkout("deploy/prometheus")).args(args).output()
    };
    if promtool(&["--version"]).is_err() {
        skipped("rules_do_what_their_tests_say", "promtool is not here");
        return;
    }
    for args in [
        &["test", "rules", "tests.yml"][..],
        &["check", "rules", "recording.yml", "alerts.yml"],
        &["check", "config", "prometheus.yml"],
    ] {
        let done = promtool(args).expect("it runs");
        let output = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output));
    }
}
