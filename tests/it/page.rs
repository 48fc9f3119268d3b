//! The live page in a real browser, against the real binary; and what it is made of, asked for by
//! hand.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use futures_util::stream::unfold;
use regimed::internals::wire::Counts;
use regimed::internals::wire::ingest_client::IngestClient;
use serde_json::{Value, json};

use crate::rig::{Daemon, checkout, config, message, skipped, spikes};

/// A browser that is driven step by step.
struct Browser {
    child: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    /// `None`, and said, where there is no Node.js with playwright-core, or no Chromium.
    fn start(test: &str) -> Option<Self> {
        let chromium =
            std::env::var("REGIMED_CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
        let modules = std::env::var("REGIMED_NODE_MODULES").unwrap_or_default();
        let node = Command::new("node").arg("--version").output();
        if node.is_err()
            || ["playwright-core", "axe-core"].iter().any(|m| !Path::new(&modules).join(m).is_dir())
            || !Path::new(&chromium).exists()
        {
            skipped(
                test,
                "node with playwright-core and axe-core (REGIMED_NODE_MODULES), and Chromium, are \
                 not here",
            );
            return None;
        }
        let mut child = Command::new("node")
            .arg(checkout("tests/interop/page.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node runs");
        let steps = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Some(Self { child, steps, answers })
    }

    fn step(&mut self, step: &Value) -> Value {
        writeln!(self.steps, "{step}").expect("taken");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["faults"], json!([]), "{step}");
        assert!(answer["error"].is_null(), "{}", answer["error"]);
        answer["answer"].clone()
    }

    fn text(&mut self, selector: &str, is: &str) {
        self.step(&json!({ "do": "text", "selector": selector, "is": is }));
    }

    fn evaluate(&mut self, js: &str) -> Value {
        self.step(&json!({ "do": "evaluate", "js": js }))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a session's bins as a rig does, 100 a second, from `first` on.
async fn pace(grpc: String, session: &'static str, first: u64, bins: Vec<Vec<u32>>) {
    let mut client = IngestClient::connect(grpc).await.expect("connected");
    let ticks = tokio::time::interval(Duration::from_millis(10));
    let bins = bins.into_iter().zip(first..);
    let outbound = unfold((ticks, bins), move |(mut ticks, mut bins)| async move {
        let (counts, sequence) = bins.next()?;
        ticks.tick().await;
        let message: Counts = message(session, sequence, &counts);
        Some((message, (ticks, bins)))
    });
    client.send_counts(outbound).await.expect("sent");
}

/// A limit cycle and a fixed point, each for 1.5 s, again and again.
fn switching(times: usize) -> Vec<Vec<u32>> {
    (0..times).flat_map(|_| spikes(300)).collect()
}

fn body(answer: &str) -> Value {
    let text = answer.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_what_the_daemon_says() {
    let test = "a_browser_shows_what_the_daemon_says";
    let Some(mut browser) = Browser::start(test) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let journal = format!("[journal]\nfolder = \"{}\"\n", folder.path().join("journal").display());
    let text = config(&journal, &["a", "b"]);
    let daemon = Daemon::start(&text);
    let url = format!("http://{}/", daemon.http);
    browser.step(&json!({ "do": "open", "url": url }));
    browser.text("#link", "live");
    browser.text("#name", "a");
    // Before anything comes, it says what it waits for.
    let waits = "Waiting for a rig: 96 channels in bins of 10 ms for \u{2018}a\u{2019}, over gRPC \
                 or ZeroMQ.";
    browser.text("#state p", waits);
    browser.step(&json!({ "do": "press", "key": "2" }));
    pace(daemon.grpc.clone(), "b", 0, switching(1)).await;
    browser.step(&json!({ "do": "visible", "selector": "#state", "is": false }));
    browser.step(&json!({ "do": "press", "key": "1" }));
    browser.text("#name", "a");
    // Labels appear soon after they are decided.
    pace(daemon.grpc.clone(), "a", 0, switching(4)).await;
    daemon.wait_metric("regimed_bins_processed_total", "session=\"a\"", 1200.0);
    browser.step(&json!({ "do": "evaluate", "js": "new Promise(r => setTimeout(r, 500))" }));
    let seen = browser.evaluate("window.seen");
    let (_, answer) = daemon.get("/api/sessions/a/events?after=0");
    let events = body(&answer)["events"].as_array().expect("events").clone();
    assert!(events.len() >= 5, "{events:?}");
    let mut waits: Vec<f64> = Vec::new();
    let seen = seen.as_array().expect("labels");
    let mut seen = seen.iter();
    for event in &events {
        let decided_ms = event["decision_time_ns"].as_f64().expect("a time") / 1e6;
        let shown = seen
            .find(|s| s[0] == event["to"] && s[1].as_f64().is_some_and(|t| t >= decided_ms - 1.0));
        waits.push(shown.expect("shown in order")[1].as_f64().expect("a time") - decided_ms);
    }
    waits.sort_by(f64::total_cmp);
    println!("label decided to shown: {waits:.1?} ms");
    assert!(waits[waits.len() / 2] <= 200.0, "{waits:?}");
    // Values are those of the API, and the last decision's.
    let (_, answer) = daemon.get("/api/sessions/a");
    let one = body(&answer);
    assert_eq!(one["session"]["bins"], 1200);
    assert_eq!(one["session"]["state"], "SESSION_STATE_RUNNING");
    assert_eq!(browser.evaluate("document.getElementById('regime').dataset.bin"), "1199");
    let radius = one["metrics"]["spectral_radius"].as_f64().expect("a number");
    browser.text("#v-spectral-radius", &format!("{radius:.4}"));
    browser.text("#v-received", "1200");
    browser.text("#v-processed", "1200");
    browser.text("#v-missing", "0");
    let last = events.last().expect("one");
    browser.text("#regime", last["to"].as_str().expect("a label"));
    let shown = browser.evaluate(
        "[...document.querySelectorAll('#posterior li span')].map(s => Number(s.dataset.value))",
    );
    let sum: f64 = shown.as_array().expect("a list").iter().filter_map(Value::as_f64).sum();
    assert!((sum - 1.0).abs() < 1e-3, "{shown}");
    assert_eq!(one["map"]["clusters"].as_array().map(|c| !c.is_empty()), Some(true));
    assert_eq!(one["metrics"]["map_eigenvalues"].as_array().map(Vec::len), Some(8));
    // All pictures have something on them, and words for those who do not see them.
    let blank = browser.evaluate(
        "[...document.querySelectorAll('canvas')].filter(c => \
         { const d = c.getContext('2d').getImageData(0, 0, c.width, \
         c.height).data; return new Set(new Uint32Array(d.buffer)).size < 3; \
         }).map(c => c.id || c.parentElement.id)",
    );
    assert_eq!(blank, json!([]));
    let mute = browser.evaluate(
        "[...document.querySelectorAll('canvas:not(.uplot canvas, [aria-hidden]), .chart')]\
         .filter(c => c.getAttribute('role') !== 'img' || \
         !c.ariaLabel).length",
    );
    assert_eq!(mute, 0);
    let accessible = browser.step(&json!({ "do": "accessible" }));
    assert_eq!(accessible["violations"], json!([]), "{accessible}");
    let rows = "[...document.querySelectorAll('#events tr')].map(r => Number(r.dataset.number))";
    let numbers = |n: u64| json!((1..=n).rev().collect::<Vec<_>>());
    assert_eq!(browser.evaluate(rows), numbers(events.len() as u64));
    // A note from the page: on the chart, in the journal's reach, and over the API.
    browser.step(&json!({ "do": "fill", "selector": "#note-text", "text": "juice" }));
    browser.text("#said", "Noted at bin 1199.");
    let (_, answer) = daemon.get("/api/sessions/a/annotations");
    let noted = body(&answer)["annotations"][0].clone();
    assert_eq!((&noted["text"], &noted["source"]), (&json!("juice"), &json!("page")));
    // A longer window, an event looked at, and back to what is live.
    let pressed = "document.getElementById('live').getAttribute('aria-pressed')";
    browser.evaluate(
        "(() => { const w = document.getElementById('window'); w.value = '10'; \
         w.dispatchEvent(new Event('change')); document.querySelector('#events tr:last-child')\
         .click(); })()",
    );
    assert_eq!(browser.evaluate(pressed), "false");
    browser.evaluate("document.getElementById('live').click()");
    assert_eq!(browser.evaluate(pressed), "true");
    // Pointed at, a chart says when that was, in both times; drawn over, it shows that stretch.
    let middle = browser.evaluate(
        "(() => { const b = document.querySelector('#timeline .u-over').getBoundingClientRect(); \
         return [b.left, b.top + b.height / 2, b.width]; })()",
    );
    let at = |i: usize| middle[i].as_f64().expect("a number");
    browser.step(&json!({ "do": "point", "x": at(0) + at(2) / 2.0, "y": at(1) }));
    let said = browser.evaluate("document.getElementById('cursor').textContent");
    let said = said.as_str().expect("a text");
    assert!(said.contains(" s \u{b7} ") && said.contains(":") && said.contains(" us"), "{said}");
    let (from, to) = (at(0) + 0.5 * at(2), at(0) + 0.7 * at(2));
    browser.step(&json!({ "do": "drag", "x": from, "y": at(1), "to": to }));
    assert_eq!(browser.evaluate("document.getElementById('window').value"), "");
    browser.evaluate("document.getElementById('live').click()");
    // Channels by name, with what they do.
    let channels = browser.evaluate("document.getElementById('channels-said').textContent");
    let channels = channels.as_str().expect("a text");
    assert!(channels.starts_with("96 channels, "), "{channels}");
    // What is shown, as files.
    let saved = browser.step(&json!({ "do": "download", "selector": "#save-csv" }));
    let csv = saved["text"].as_str().expect("a text");
    assert!(csv.starts_with("second,time,regime,p_"), "{csv}");
    assert!(csv.lines().count() > 100, "{}", csv.lines().count());
    let saved = browser.step(&json!({ "do": "download", "selector": "#save-png" }));
    assert_eq!(saved["name"], "a.png");
    assert!(saved["bytes"].as_u64().is_some_and(|n| n > 20_000), "{saved}");
    // Another rate of false changes, chosen among those that were measured.
    let chosen = browser.evaluate(
        "(() => { const s = document.getElementById('swap-rate'); s.selectedIndex = 1; \
         document.getElementById('swap').requestSubmit(); return Number(s.value); })()",
    );
    browser.step(&json!({ "do": "starts", "selector": "#said", "with": "It runs " }));
    let (_, answer) = daemon.get("/api/sessions/a");
    assert_eq!(body(&answer)["session"]["false_changes_per_min"], chosen);
    // Nothing comes any more: it says since when, and what is old is grey.
    daemon.wait_metric("regimed_source_stalled", "session=\"a\"", 1.0);
    browser.step(&json!({ "do": "visible", "selector": "body[data-state=stalled]", "is": true }));
    let said = browser.evaluate("document.querySelector('#state p').textContent");
    assert!(said.as_str().is_some_and(|s| s.starts_with("Nothing comes from the rig since")));
    // Paused and resumed by hand.
    browser.evaluate("document.getElementById('stop').click()");
    browser.text("#state p", "Paused: counts are refused.");
    browser.evaluate("document.getElementById('stop').click()");
    browser.text("#said", "Resumed.");
    // No size has a hole at its side.
    for width in [1920, 1440, 1024, 390] {
        browser.step(&json!({ "do": "size", "width": width, "height": 1000 }));
        let beyond = browser.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth",
        );
        assert_eq!(beyond, 0, "{width} px");
    }
    browser.step(&json!({ "do": "size", "width": 1400, "height": 1180 }));
    // Another theme, another session, by keys alone.
    browser.step(&json!({ "do": "press", "key": "t" }));
    let theme = browser.evaluate("document.documentElement.dataset.theme");
    assert_eq!(theme, "dark");
    let accessible = browser.step(&json!({ "do": "accessible" }));
    assert_eq!(accessible["violations"], json!([]), "{accessible}");
    browser.step(&json!({ "do": "press", "key": "2" }));
    browser.text("#name", "b");
    browser.step(&json!({ "do": "press", "key": "ArrowUp" }));
    browser.text("#name", "a");
    // A lost daemon is shown; one that comes again goes on where this one was.
    let (grpc, http) = (daemon.grpc.clone(), daemon.http.clone());
    daemon.kill();
    browser.step(&json!({ "do": "visible", "selector": "#lost", "is": true }));
    browser.text("#link", "not connected");
    let again = text.replacen("127.0.0.1:0", grpc.trim_start_matches("http://"), 1).replacen(
        "[http]\nlisten = \"127.0.0.1:0\"",
        &format!("[http]\nlisten = \"{http}\""),
        1,
    );
    let daemon = Daemon::start(&again);
    browser.text("#link", "live");
    browser.step(&json!({ "do": "visible", "selector": "#lost", "is": false }));
    pace(daemon.grpc.clone(), "a", 1200, switching(1)).await;
    daemon.wait_metric("regimed_bins_processed_total", "session=\"a\"", 300.0);
    let (_, answer) = daemon.get("/api/sessions/a");
    let newest = body(&answer)["session"]["last_event_sequence"].as_u64().expect("a number");
    assert!(newest > events.len() as u64);
    browser.text("#events tr td", &newest.to_string());
    assert_eq!(browser.evaluate(rows), numbers(newest));
    assert!(daemon.metric("regimed_page_viewers", "") >= 1.0);
}

/// Ten sessions, one of 512 channels, some of which are dead or noisy: what a busy lab looks at. A
/// session is started, and ended, from the page. With REGIMED_SCREENSHOTS, pictures of every size.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_ten_sessions_and_many_channels() {
    let test = "a_browser_shows_ten_sessions_and_many_channels";
    let Some(mut browser) = Browser::start(test) else { return };
    let names = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"];
    let many = "[[session]]\nname = \"many\"\nmodel = \"builtin\"\nchannels = 512\n\
                calibrate_s = 5\n";
    let daemon = Daemon::start(&(config("", &names) + many));
    browser.step(&json!({ "do": "open", "url": format!("http://{}/", daemon.http) }));
    browser.text("#link", "live");
    browser.step(&json!({ "do": "click", "selector": "#sessions li:last-child button" }));
    browser.text("#name", "many");
    let wide = |bin: &Vec<u32>, i: usize| -> Vec<u32> {
        let count = |c: usize| match c {
            7 => 0,
            9 => 3,
            c => bin[(c * 7 + i) % bin.len()],
        };
        (0..512).map(count).collect()
    };
    let bins: Vec<Vec<u32>> = switching(12).iter().enumerate().map(|(i, b)| wide(b, i)).collect();
    let grpc = daemon.grpc.clone();
    // Beside the browser's steps, which block.
    let feeding = std::thread::spawn(move || {
        let feeds = names.iter().enumerate().map(|(i, name)| {
            let mut bins = switching(12);
            bins.rotate_left(37 * i);
            pace(grpc.clone(), name, 0, bins)
        });
        let all = futures_util::future::join_all(feeds);
        let many = pace(grpc.clone(), "many", 0, bins);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async { tokio::join!(all, many) });
    });
    // Long enough for one to be called silent.
    daemon.wait_metric("regimed_bins_processed_total", "session=\"many\"", 1700.0);
    browser.step(&json!({ "do": "starts", "selector": "#channels-said", "with": "512 channels" }));
    // Every channel has a row that is a pixel or more, and no tile hides another.
    let rows = browser.evaluate("document.getElementById('raster').clientHeight");
    assert!(rows.as_u64().is_some_and(|h| h >= 512), "{rows}");
    for (width, height) in [(1920, 1500), (1440, 1500), (1024, 1700), (390, 1700)] {
        browser.step(&json!({ "do": "size", "width": width, "height": height }));
        let beyond = browser.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth",
        );
        assert_eq!(beyond, 0, "{width} px");
        let covered = browser.evaluate(
            "(() => { const b = [...document.querySelectorAll('#sessions li')].map(l => \
             l.getBoundingClientRect()); return b.filter((x, i) => b.some((y, j) => j > i && \
             x.left < y.right && y.left < x.right && x.top < y.bottom && y.top < \
             x.bottom)).length + 100 * b.length; })()",
        );
        assert_eq!(covered, 1000, "{width} px");
        if let Ok(to) = std::env::var("REGIMED_SCREENSHOTS") {
            for theme in ["light", "dark"] {
                let now = browser.evaluate("document.documentElement.dataset.theme");
                if now != theme {
                    browser.step(&json!({ "do": "press", "key": "t" }));
                }
                browser.evaluate("new Promise(r => setTimeout(r, 300))");
                let path = format!("{to}/ten-{width}-{theme}.png");
                browser.step(&json!({ "do": "screenshot", "path": path }));
            }
        }
    }
    feeding.join().expect("fed");
    // Another one begins, and ends, by hand.
    browser.evaluate(
        "(() => { document.getElementById('start-config').value = '[[session]]\\nname = \
         \"later\"\\nmodel = \"builtin\"\\nreadout = \"0\"\\n'; \
         document.getElementById('start').requestSubmit(); })()",
    );
    browser.text("#said", "later has begun.");
    browser.step(&json!({ "do": "visible", "selector": "[data-name=later]", "is": true }));
    browser.evaluate("document.querySelector('[data-name=later] button').click()");
    browser.text("#name", "later");
    browser.evaluate("document.getElementById('end').click()");
    browser.text("#end", "Really end later?");
    browser.evaluate("document.getElementById('end').click()");
    browser.text("#said", "later has ended after 0 bins.");
    let (code, _) = daemon.get("/api/sessions/later");
    assert_eq!(code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_asked_for_a_token() {
    let Some(mut browser) = Browser::start("a_browser_is_asked_for_a_token") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("read.token");
    std::fs::write(&file, "a-secret-of-thirty-two-characters\n").expect("written");
    let token = format!("[[token]]\nfile = \"{}\"\nroles = [\"read\"]\n", file.display());
    let daemon = Daemon::start(&config(&token, &["rig"]));
    browser.step(&json!({ "do": "open", "url": format!("http://{}/", daemon.http) }));
    browser.step(&json!({ "do": "visible", "selector": "#token", "is": true }));
    browser.step(
        &json!({ "do": "fill", "selector": "#secret", "text": "a-guess-of-more-than-sixteen" }),
    );
    browser.text("#denied", "Not let in: no such token.");
    let right = "a-secret-of-thirty-two-characters";
    browser.step(&json!({ "do": "fill", "selector": "#secret", "text": right }));
    browser.text("#link", "live");
    browser.step(&json!({ "do": "visible", "selector": "#token", "is": false }));
    // Who may only read notes nothing.
    browser.step(&json!({ "do": "fill", "selector": "#note-text", "text": "juice" }));
    browser.text("#said", "This needs a token of the role \u{2018}control\u{2019}.");
}

#[test]
fn the_page_and_its_data_say_what_is_wrong_with_a_request() {
    let daemon = Daemon::start(&config("", &["rig"]));
    let (code, page) = daemon.get("/");
    assert_eq!(code, 200);
    assert!(page.contains("frame-ancestors 'none'") && page.contains("<title>regimed</title>"));
    // Everything that it loads is there.
    let parts: Vec<_> = page.split(['"', '\'']).filter(|p| p.starts_with("/page/")).collect();
    assert!(parts.len() >= 4, "{parts:?}");
    for part in parts {
        assert_eq!(daemon.get(part).0, 200, "{part}");
    }
    let (code, answer) = daemon.get("/api/sessions");
    assert_eq!((code, &body(&answer)["sessions"][0]["name"]), (200, &json!("rig")));
    let (code, answer) = daemon.get("/api/sessions/other");
    assert_eq!(code, 404);
    let why = "expected one of the sessions rig, found 'other'";
    assert_eq!(body(&answer)["error"], why);
    let (code, answer) = daemon.get("/api/sessions/rig/events?after=7");
    assert_eq!((code, &body(&answer)["nearest"]), (416, &json!(0)));
    assert_eq!(daemon.get("/api/stream?session=other").0, 404);
    assert_eq!(daemon.get("/api/sessions/rig/events?after=x").0, 400);
    // What changes something is JSON alone, which a page of another site cannot send unasked.
    let post = |path: &str, kind: &str, text: &str| {
        let mut stream = std::net::TcpStream::connect(&daemon.http).expect("connected");
        let length = text.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: \
             {length}\r\nConnection: close\r\n\r\n{text}"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("answered");
        answer
    };
    let (notes, note) = ("/api/sessions/rig/annotations", "{\"text\":\"x\"}");
    assert!(post(notes, "text/plain", note).starts_with("HTTP/1.1 415"));
    assert!(post("/api/sessions", "text/plain", note).starts_with("HTTP/1.1 415"));
    assert!(post("/api/sessions/rig/stopped", "text/plain", "").starts_with("HTTP/1.1 415"));
    assert!(post(notes, "application/json", "{\"text\":\"\"}").starts_with("HTTP/1.1 400"));
    assert!(post(notes, "application/json", note).starts_with("HTTP/1.1 200"));
    let (_, answer) = daemon.get(notes);
    assert_eq!(body(&answer)["annotations"].as_array().map(Vec::len), Some(1));
    // A page of another site that had its name pointed here.
    let elsewhere = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&daemon.http).expect("connected");
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("answered");
        answer
    };
    for path in ["/", "/api/sessions", "/metrics", "/health", "/healthz", "/readyz"] {
        assert!(elsewhere(path).starts_with("HTTP/1.1 421"), "{path}");
    }
}
