//! Nothing announced is lost: the journal under SIGKILL, a full disk and damage; sessions that go
//! on.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use rand::{RngExt, SeedableRng};
use regimed::internals::journal;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::journal_record::What;
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{Counts, Decision, Event, JournalRecord, SubscribeEventsRequest};

use crate::rig::{Daemon, PATIENCE, arg, binary, config, exchange, message, run, skipped, spikes};
use crate::wait;

/// Times that the daemon is killed, and events that are heard at least.
const KILLS: usize = 200;
/// Times at most, where a slow machine brings few events between two.
const KILLS_MAX: usize = 5 * KILLS;

fn journalled(folder: &Path, more: &str) -> String {
    config(&format!("[journal]\nfolder = \"{}\"\n{more}", arg(folder)), &["rig"])
}

/// Bins that change their regime every `each`, as messages numbered from `from`.
fn changing(each: usize, periods: usize, from: u64) -> Vec<Counts> {
    let period = spikes(2 * each);
    let bins = (0..periods).flat_map(|_| period.iter());
    bins.enumerate().map(|(i, c)| message("rig", from + i as u64, c)).collect()
}

fn records(folder: &Path) -> (Vec<JournalRecord>, journal::Reading) {
    let mut records = Vec::new();
    let reading = journal::read(folder, |record| records.push(record)).expect("a journal");
    (records, reading)
}

fn events(records: &[JournalRecord]) -> Vec<Event> {
    let event = |r: &JournalRecord| match &r.what {
        Some(What::Event(event)) => Some(event.clone()),
        _ => None,
    };
    records.iter().filter_map(event).collect()
}

/// Events after a number until `enough` says so, the stream ends, or nothing comes for the
/// patience.
async fn hear(
    daemon: &Daemon,
    after: u64,
    mut enough: impl FnMut(&Event) -> bool,
) -> (Vec<Event>, Option<tonic::Status>) {
    let request = SubscribeEventsRequest { session: "rig".into(), after_event_sequence: after };
    let mut stream = match daemon.regimes().await.subscribe_events(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut heard = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time") {
            Ok(Some(event)) => {
                let done = enough(&event);
                heard.push(event);
                if done {
                    return (heard, None);
                }
            }
            Ok(None) => return (heard, None),
            Err(status) => return (heard, Some(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_no_announced_event_is_missing_or_comes_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = journalled(folder.path(), "");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(6);
    let messages = changing(60, 40, 0);
    let (mut heard, mut slowest_ms) = (Vec::<Event>::new(), 0);
    let mut kills = 0;
    while kills < KILLS || (heard.len() <= KILLS && kills < KILLS_MAX) {
        kills += 1;
        let after = Duration::from_millis(rng.random_range(5..120));
        if kills.is_multiple_of(5) {
            // Before it is ready, or just then.
            Daemon::start_and_kill(&text, after);
            continue;
        }
        let daemon = Daemon::start(&text);
        let log = daemon.log();
        let opened = log.split("opened_ms=").nth(1).expect("an opened journal");
        let ms: u64 = opened.split_whitespace().next().expect("ms").parse().expect("a number");
        slowest_ms = slowest_ms.max(ms);
        let (grpc, messages) = (daemon.grpc.clone(), messages.clone());
        let sequence = kills as u64 * 1_000_000;
        let feeding = tokio::spawn(async move {
            let Ok(mut client) = IngestClient::connect(grpc).await else { return };
            let numbered = messages
                .into_iter()
                .enumerate()
                .map(move |(i, m)| Counts { sequence: sequence + i as u64, ..m });
            let _ = client.send_counts(futures_util::stream::iter(numbered)).await;
        });
        let last = heard.last().map_or(0, |e| e.event_sequence);
        let grpc = daemon.grpc.clone();
        let hearing = tokio::spawn(async move {
            let request =
                SubscribeEventsRequest { session: "rig".into(), after_event_sequence: last };
            let mut heard = Vec::new();
            let Ok(mut client) = RegimesClient::connect(grpc).await else { return heard };
            let Ok(stream) = client.subscribe_events(request).await else { return heard };
            let mut stream = stream.into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(event)) => heard.push(event),
                    Ok(None) => return heard,
                    Err(status) => {
                        // The connection's end, and nothing that the daemon has said.
                        assert_ne!(status.code(), tonic::Code::OutOfRange, "{status}");
                        return heard;
                    }
                }
            }
        });
        wait::pace(after).await;
        daemon.kill();
        heard.extend(hearing.await.expect("heard"));
        feeding.await.expect("fed");
    }
    let numbers: Vec<u64> = heard.iter().map(|e| e.event_sequence).collect();
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "each once and in order");
    assert!(heard.len() > KILLS, "only {} events", heard.len());
    let (records, reading) = records(folder.path());
    assert_eq!(reading.lost, 0, "{reading:?}");
    assert!(reading.damaged_files.iter().all(|t| t.torn), "{reading:?}");
    let kept = events(&records);
    assert_eq!(kept[..heard.len()], heard[..], "what was heard is what is kept");
    assert!(slowest_ms < 1000, "the journal took {slowest_ms} ms to open");
    // And whoever was not there hears all of it.
    let daemon = Daemon::start(&text);
    let last = kept.last().expect("events").event_sequence;
    let (all, _) = hear(&daemon, 0, |e| e.event_sequence == last).await;
    assert_eq!(all, kept);
    println!("{kills} kills, {} events, opened in {slowest_ms} ms at most", heard.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_from_its_saved_state_with_a_label_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = journalled(folder.path(), "state_every_s = 0.2\n");
    let bins = spikes(1200);
    let part = |from: usize, to: usize| {
        let messages: Vec<_> = (from..to).map(|i| message("rig", i as u64, &bins[i])).collect();
        futures_util::stream::iter(messages)
    };
    let daemon = Daemon::start(&text);
    let (before, _) = exchange(&daemon, part(0, 300)).await;
    assert_eq!(before[299].regime, "limit_cycle");
    // The last state is at most 0.2 s of stream old.
    let state = folder.path().join("state");
    let saved = || journal::Snapshot::read(&state, "rig").is_ok_and(|state| state.sequence >= 279);
    wait::until(saved, || daemon.log());
    daemon.kill();
    let daemon = Daemon::start(&text);
    assert!(daemon.log().contains("goes on from its saved state"), "{}", daemon.log());
    // Bins that came while it was away are lost; the rig's numbers tell how many.
    let (after, events) = exchange(&daemon, part(340, 600)).await;
    let sure = after
        .iter()
        .position(|d| d.regime == "limit_cycle" && d.posterior.iter().any(|p| *p > 0.9));
    let sure_ms = sure.expect("a confident label") * 10;
    assert!(sure_ms <= 200, "a confident label after {sure_ms} ms of stream");
    // The filter itself goes on, and not only its label: one bin alone could not tell.
    let surest = |d: &Decision| d.posterior.iter().copied().fold(0.0, f32::max);
    assert!(surest(&after[0]) > 0.7, "the first bin's posterior is {:?}", after[0].posterior);
    assert!(events.is_empty(), "nothing has changed: {events:?}");
    let before_the_change = after.iter().filter(|d| d.sequence < 600);
    assert!(before_the_change.clone().count() > 200);
    assert!(before_the_change.clone().all(|d| d.regime == "limit_cycle"), "its label never wavers");
    daemon.kill();
    // One of another model is of no use, and neither is a damaged one.
    let state = folder.path().join("state/rig.state");
    let mut bytes = std::fs::read(&state).expect("a state");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&state, bytes).expect("written");
    let daemon = Daemon::start(&text);
    assert!(daemon.log().contains("its saved state is of no use"), "{}", daemon.log());
    let (fresh, _) = exchange(&daemon, part(600, 900)).await;
    assert!(fresh[0].regime.is_empty(), "it restarts: {:?}", fresh[0]);
    assert!(surest(&fresh[0]) < 0.7, "from its prior: {:?}", fresh[0].posterior);
}

/// Of the journal's faults of its own disk: whether each began or was cleared.
fn cleared(folder: &Path) -> Vec<bool> {
    let (records, _) = records(folder);
    let faults = records.iter().filter_map(|r| match &r.what {
        Some(What::Fault(f)) if f.condition == "journal_failing" => Some(f.cleared),
        _ => None,
    });
    faults.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_events_back_and_nothing_else_and_loses_none() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return skipped("journal::a_full_disk", "prlimit is not here");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let text = journalled(folder.path(), "state_every_s = 0\n");
    // A file that may not grow is to a process what a full disk is.
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", binary()]);
    let daemon = Daemon::start_by(&text, command);
    let limit = |daemon: &Daemon, bytes: &str| {
        let pid = daemon.pid().to_string();
        let done = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")])
            .status();
        assert!(done.expect("prlimit runs").success());
    };
    let heard = hear(&daemon, 0, |e| e.event_sequence >= 8);
    let fed = async {
        exchange(&daemon, futures_util::stream::iter(changing(100, 1, 0))).await;
        limit(&daemon, "100");
        let began = Instant::now();
        let (decisions, events) =
            exchange(&daemon, futures_util::stream::iter(changing(100, 4, 200))).await;
        assert_eq!(decisions.len(), 800, "the live path goes on");
        assert!(events.iter().all(|e| !e.not_durable), "{events:?}");
        assert!(decisions.iter().filter(|d| d.event_sequence != 0).count() >= 6);
        while !daemon.get("/health").1.contains("journal_failing") {
            assert!(began.elapsed() < PATIENCE, "{}", daemon.get("/health").1);
            wait::look_again().await;
        }
        assert_eq!(daemon.get("/readyz").0, 200);
        assert_eq!(daemon.metric("regimed_journal_failing", "journal"), 1.0);
        assert!(daemon.metric("regimed_journal_waiting_records", "journal") >= 6.0);
        assert_eq!(daemon.metric("regimed_condition", "journal_failing"), 1.0);
        limit(&daemon, "unlimited");
    };
    let ((heard, _), ()) = tokio::join!(heard, fed);
    let numbers: Vec<u64> = heard.iter().map(|e| e.event_sequence).collect();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    // The fault's end is a record too, and comes to the disk a little after it shows.
    let began = Instant::now();
    while cleared(folder.path()) != [false, true] {
        assert!(began.elapsed() < PATIENCE, "{:?}", cleared(folder.path()));
        wait::look_again().await;
    }
    assert!(!daemon.get("/health").1.contains("journal_failing"));
    daemon.kill();
    let (records, reading) = records(folder.path());
    assert_eq!(reading.lost, 0, "{reading:?}");
    assert_eq!(events(&records)[..8], heard[..8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_may_be_announced_before_they_are_kept_where_that_is_wished() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return skipped("journal::announce", "prlimit is not here");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let more = "state_every_s = 0\nwhen_disk_fails = \"announce\"\nsync = \"interval\"\n";
    let text = journalled(folder.path(), more);
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -S -f 0; exec \"$0\" \"$@\"", binary()]);
    let daemon = Daemon::start_by(&text, command);
    let (decisions, events) =
        exchange(&daemon, futures_util::stream::iter(changing(100, 2, 0))).await;
    assert_eq!(decisions.len(), 400);
    assert!(events.len() >= 3 && events.iter().all(|e| e.not_durable), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_costs_what_it_hits() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = journalled(folder.path(), "state_every_s = 0\n");
    let daemon = Daemon::start(&text);
    let (_, first) = exchange(&daemon, futures_util::stream::iter(changing(100, 3, 0))).await;
    assert!(first.len() >= 5, "{first:?}");
    daemon.kill();
    // One bit of one event, and what a crash would leave behind the last.
    let file = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .find(|p| p.extension().is_some_and(|e| e == "rgj"))
        .expect("a file");
    let mut bytes = std::fs::read(&file).expect("bytes");
    let needle = first[2].encode_needle();
    let at = bytes.windows(needle.len()).position(|w| w == needle).expect("the third event");
    bytes[at + needle.len() / 2] ^= 0x40;
    bytes.extend(&bytes[24..60].to_vec());
    std::fs::write(&file, bytes).expect("written");
    let (ok, shown, stderr) = run(&["journal", arg(folder.path())]);
    assert!(!ok && stderr.contains("damaged") && stderr.contains("cut short"), "{stderr}");
    assert!(shown.contains("event 4:") && !shown.contains("event 3:"), "{shown}");
    let daemon = Daemon::start(&text);
    let health = daemon.get("/health").1;
    assert!(health.contains("journal_damaged") && health.contains("cure"), "{health}");
    let last = first.last().expect("events").event_sequence;
    let (heard, _) = hear(&daemon, 0, |e| e.event_sequence == last).await;
    for (now, then) in heard.iter().zip(&first) {
        assert_eq!(now.event_sequence, then.event_sequence);
        assert_eq!(now.lost, then.event_sequence == 3, "{now:?}");
        assert!(now.lost || now == then, "{now:?} was {then:?}");
    }
    // No number that may have been announced is given again.
    let (_, more) = exchange(&daemon, futures_util::stream::iter(changing(100, 1, 10_000))).await;
    assert!(more.iter().all(|e| e.event_sequence > last), "{more:?}");
    // Whoever comes with a number that was never given is told.
    let (_, status) = hear(&daemon, 1000, |_| true).await;
    let status = status.expect("an error");
    assert_eq!(status.code(), tonic::Code::OutOfRange);
    assert!(status.message().contains("found 1000"), "{status}");
}

/// Bytes that stand in the journal for an event and no other.
trait Needle {
    fn encode_needle(&self) -> Vec<u8>;
}

impl Needle for Event {
    fn encode_needle(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(self)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_sessions_is_kept_and_decisions_become_arrays() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = journalled(folder.path(), "decisions_every = 1\n");
    let mut daemon = Daemon::start(&text);
    // A second journal at the same place would be two writers of one file.
    let second = tempfile::tempdir().expect("a folder");
    let file = second.path().join("second.toml");
    std::fs::write(&file, &text).expect("written");
    let (ok, _, stderr) = run(&["serve", "--config", arg(&file)]);
    assert!(!ok && stderr.contains("another regimed"), "{stderr}");
    let mut messages = changing(100, 2, 0);
    messages.drain(150..153);
    // Metrics are read beside the decisions: the last bins wait for the first reading.
    let last_bins = messages.split_off(300);
    let (read, reading) = tokio::sync::oneshot::channel();
    let rest = async move {
        reading.await.expect("a reading");
        futures_util::stream::iter(last_bins)
    };
    let stream = futures_util::stream::iter(messages).chain(rest.flatten_stream());
    let looking = async {
        while !daemon.get("/api/sessions/rig").1.contains("spectral_radius") {
            wait::look_again().await;
        }
        read.send(()).expect("a stream");
    };
    let ((decisions, events), ()) = tokio::join!(exchange(&daemon, stream), looking);
    assert!(daemon.terminate().success(), "{}", daemon.log());
    let (records, reading) = records(folder.path());
    assert_eq!((reading.lost, reading.damaged_files.len()), (0, 0), "{reading:?}");
    let kinds: Vec<&str> = records
        .iter()
        .map(|r| match r.what.as_ref().expect("something") {
            What::DaemonStarted(_) => "daemon started",
            What::SessionStarted(_) => "session started",
            What::Gap(g) => {
                assert_eq!((g.bins, g.first_sequence, g.last_sequence), (3, 150, 152));
                "gap"
            }
            What::Event(_) => "event",
            What::SessionStopped(s) => {
                assert_eq!((s.bins, s.bins_missing), (400, 3));
                "session stopped"
            }
            What::DaemonStopped(_) => "daemon stopped",
            other => panic!("{other:?}"),
        })
        .filter(|k| *k != "event")
        .collect();
    let expected =
        ["daemon started", "session started", "gap", "session stopped", "daemon stopped"];
    assert_eq!(kinds, expected);
    let numbers: Vec<u64> = records.iter().map(|r| r.number).collect();
    assert_eq!(numbers, (1..=records.len() as u64).collect::<Vec<_>>());
    let (ok, json, stderr) = run(&["journal", arg(folder.path()), "--json", "--session", "rig"]);
    assert!(ok, "{stderr}");
    let lines: Vec<serde_json::Value> =
        json.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let told_events = lines.iter().filter(|l| l["what"]["event"].is_object()).count();
    assert_eq!(told_events, events.len());

    let out = folder.path().join("session.npz");
    let (ok, _, stderr) = run(&["export", arg(folder.path()), "--out", arg(&out)]);
    assert!(ok, "{stderr}");
    assert!(stderr.contains("400 decisions"), "{stderr}");
    let array = |key: &str| {
        let mut zip =
            zip::ZipArchive::new(std::fs::File::open(&out).expect("a file")).expect("a zip");
        let mut entry = zip.by_name(&format!("{key}.npy")).expect(key);
        regimed::internals::recording::Array::read(&mut entry).expect(key)
    };
    let numbers = |key: &str| match array(key).values {
        regimed::internals::recording::Values::Numbers(n) => n,
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(numbers("sequence"), (0..400).map(f64::from).collect::<Vec<_>>());
    let posterior = numbers("posterior");
    let n = decisions[0].posterior.len();
    assert_eq!(posterior.len(), 400 * n);
    let sent: Vec<f64> = decisions[399].posterior.iter().map(|p| f64::from(*p)).collect();
    assert_eq!(posterior[399 * n..], sent);
    assert_eq!(numbers("predicted").iter().sum::<f64>(), 3.0);
    let bins: Vec<f64> = events.iter().map(|e| e.bin as f64).collect();
    assert_eq!(numbers("event_bin"), bins);
    assert!(!numbers("metrics_bin").is_empty());
    let (ok, _, stderr) =
        run(&["export", arg(folder.path()), "--out", arg(&out), "--session", "x"]);
    assert!(!ok && stderr.contains("expected one of rig, found 'x'"), "{stderr}");
}
