//! What the tests share: a daemon in a process of its own, and a simulated rig.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use regimed::internals::teacher::{Animal, AnimalSettings, Regime, Simulation};
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{
    Accounts, Counts, Decision, Event, ListSessionsRequest, Session, SubscribeDecisionsRequest,
};

use crate::wait;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Path of the binary.
pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_regimed")
}

/// Says on standard error that a test could not be done here; the line is counted.
pub(crate) fn skipped(test: &str, why: &str) {
    // Past the test runner's capture.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// Sessions of the built-in model on ports of the system's choosing.
pub(crate) fn config(extra: &str, sessions: &[&str]) -> String {
    let mut text = String::from(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [zeromq]\npull = \"127.0.0.1:0\"\npublish = \"127.0.0.1:0\"\n",
    );
    text.push_str(extra);
    for name in sessions {
        text.push_str(&format!(
            "\n[[session]]\nname = \"{name}\"\nmodel = \"builtin\"\nreadout = \"0\"\n"
        ));
    }
    text
}

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) grpc: String,
    pub(crate) pull: String,
    pub(crate) publish: String,
    pub(crate) http: String,
    log: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_by(config, Command::new(binary()))
    }

    /// Starts one and kills it after so long, ready or not.
    pub(crate) fn start_and_kill(config: &str, after: Duration) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Self::spawn(config, folder.path(), Command::new(binary()));
        wait::pace_here(after);
        let _ = child.kill();
        let _ = child.wait();
    }

    fn spawn(config: &str, folder: &Path, mut command: Command) -> Child {
        let file = folder.join("regimed.toml");
        std::fs::write(&file, config).expect("a config");
        command
            .args(["serve", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts")
    }

    /// Starts one by a command to which its arguments are added.
    pub(crate) fn start_by(config: &str, command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Self::spawn(config, folder.path(), command);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let mut ready = String::new();
        for line in lines.by_ref() {
            let line = line.expect("text");
            log.lock().expect("log").push_str(&(line.clone() + "\n"));
            if line.contains(" ready ") {
                ready = line;
                break;
            }
        }
        assert!(!ready.is_empty(), "not ready: {}", log.lock().expect("log"));
        let address = |key: &str| {
            let from = ready.find(&format!("{key}=\"")).expect(key) + key.len() + 2;
            ready[from..].split('"').next().expect("an address").to_owned()
        };
        let rest = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                rest.lock().expect("log").push_str(&(line + "\n"));
            }
        });
        Self {
            grpc: format!("http://{}", address("grpc")),
            pull: format!("tcp://{}", address("zeromq_pull")),
            publish: format!("tcp://{}", address("zeromq_publish")),
            http: address("http"),
            child,
            log,
            _folder: folder,
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a running process");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).expect("kB") / 1024.0
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// SIGTERM, then waits for its end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "still running: {}", self.log());
            wait::look_again_here();
        }
    }

    /// An HTTP GET: status code and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).expect("an answer")
    }

    /// An HTTP GET that may be refused: status code and body.
    pub(crate) fn try_get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.http)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let code = text.split(' ').nth(1).and_then(|c| c.parse().ok());
        let code = code.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((code, text))
    }

    /// The sum over a metric's series that hold `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        scraped(&text, name, label)
    }

    /// Waits until a metric reaches a value.
    pub(crate) fn wait_metric(&self, name: &str, label: &str, at_least: f64) {
        let began = Instant::now();
        while self.metric(name, label) < at_least {
            assert!(
                began.elapsed() < PATIENCE,
                "{name} {label} stays at {} below {at_least}: {}",
                self.metric(name, label),
                self.log()
            );
            wait::look_again_here();
        }
    }
}

impl Daemon {
    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bins of the built-in model's first animal: a limit cycle, then a stable fixed point.
pub(crate) fn spikes(bins: usize) -> Vec<Vec<u32>> {
    let animal = Animal::new(1, 0, AnimalSettings::default());
    let first = animal.task(Regime::LimitCycle, 2001);
    let second = animal.task(Regime::StableFixedPoint, 2002);
    let mut simulation = Simulation::new(animal.clone(), first, 11);
    let mut counts = vec![0u16; animal.n_channels()];
    (0..bins)
        .map(|bin| {
            if bin == bins / 2 {
                simulation.begin(second.clone());
            }
            simulation.bin(&mut counts);
            counts.iter().map(|&c| u32::from(c)).collect()
        })
        .collect()
}

/// A message of one bin.
pub(crate) fn message(session: &str, sequence: u64, counts: &[u32]) -> Counts {
    Counts {
        session: session.into(),
        sequence,
        n_channels: counts.len() as u32,
        bin_width_s: 0.01,
        counts: counts.to_vec(),
        ..Counts::default()
    }
}

/// Runs the binary to its end: success, standard output, standard error.
pub(crate) fn run(args: &[&str]) -> (bool, String, String) {
    let out = Command::new(binary()).args(args).output().expect("the binary runs");
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A path in the checkout.
pub(crate) fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Sends messages over `Exchange` and gathers everything that comes back; a refusal fails the test.
pub(crate) async fn exchange(
    daemon: &Daemon,
    messages: impl futures_util::Stream<Item = Counts> + Send + 'static,
) -> (Vec<Decision>, Vec<Event>) {
    let mut client = IngestClient::connect(daemon.grpc.clone()).await.expect("connected");
    let mut replies = client.exchange(messages).await.expect("accepted").into_inner();
    let (mut decisions, mut events) = (Vec::new(), Vec::new());
    while let Some(reply) =
        tokio::time::timeout(PATIENCE, replies.message()).await.expect("in time").expect("no error")
    {
        match reply.reply.expect("a reply") {
            Reply::Decision(d) => decisions.push(d),
            Reply::Event(e) => events.push(e),
            Reply::Rejection(r) => panic!("rejected: {r:?}"),
        }
    }
    (decisions, events)
}

/// Sends messages one by one until a decision carries metrics, which come beside the decisions
/// whenever they are ready.
pub(crate) async fn exchange_until_metrics(
    daemon: &Daemon,
    messages: &mut impl Iterator<Item = Counts>,
) -> Decision {
    loop {
        let message = messages.next().expect("metrics before the messages end");
        let (decisions, _) = exchange(daemon, futures_util::stream::iter([message])).await;
        let decision = decisions.into_iter().next().expect("a decision");
        if decision.metrics.is_some() {
            return decision;
        }
        wait::look_again().await;
    }
}

/// A recording of bins of 10 ms as a file.
pub(crate) fn recording(folder: &Path, bins: &[Vec<u32>]) -> PathBuf {
    let file = folder.join("bins.npz");
    let counts: Vec<u16> = bins.iter().flatten().map(|&c| c as u16).collect();
    let recording = regimed::internals::recording::Recording {
        path: file.clone(),
        n_channels: bins[0].len(),
        channels: None,
        bin_width_s: 0.01,
        regime_names: Vec::new(),
        trials: vec![regimed::internals::recording::Trial::unlabelled(
            "rig",
            regimed::internals::recording::in_bins(counts, bins[0].len()),
        )],
        continuous: true,
    };
    regimed::internals::recording::write(&recording, &file).expect("written");
    file
}

impl Daemon {
    /// Waits until a session's rig is known to be gone.
    pub(crate) fn wait_rig_lost(&self, session: &str) {
        let began = Instant::now();
        while self.metric("regimed_source_connected", session) != 0.0 {
            assert!(began.elapsed() < PATIENCE, "still connected: {}", self.log());
            wait::look_again_here();
        }
    }

    /// A client of the regimes' service.
    pub(crate) async fn regimes(&self) -> RegimesClient<tonic::transport::Channel> {
        RegimesClient::connect(self.grpc.clone()).await.expect("connected")
    }

    /// A session as it is listed.
    pub(crate) async fn session(&self, name: &str) -> Session {
        let listed = self.regimes().await.list_sessions(ListSessionsRequest {}).await;
        let mut sessions = listed.expect("listed").into_inner().sessions;
        let at = sessions.iter().position(|s| s.name == name).expect(name);
        sessions.swap_remove(at)
    }

    /// Waits until nothing waits, and checks that every bin and every event is accounted for:
    /// received = processed + late + rejected.
    pub(crate) async fn check_accounts(&self, name: &str) -> Accounts {
        let began = Instant::now();
        loop {
            let session = self.session(name).await;
            let accounts = session.accounts.expect("accounts");
            let processed = session.bins - session.bins_missing;
            // One reading of all: a rig that is still heard has moved on by the next.
            let (_, scrape) = self.get("/metrics");
            let settled = accounts.bins_waiting == 0 && processed == accounts.bins_accepted;
            match accounted(&accounts, &scrape, name) {
                Ok(()) if settled => return accounts,
                account => assert!(
                    began.elapsed() < PATIENCE,
                    "not accounted for: {account:?}, {session:?}"
                ),
            }
            wait::look_again().await;
        }
    }
}

/// Holds a session's accounts, as they are told and as they are scraped, against themselves.
fn accounted(a: &Accounts, scrape: &str, name: &str) -> Result<(), String> {
    let label = format!("session=\"{name}\"");
    let of = |metric: &str| scraped(scrape, &format!("regimed_{metric}_total"), &label);
    let equal = |what: &str, received: f64, known: f64| {
        if received == known { Ok(()) } else { Err(format!("{what}: {received} and {known}")) }
    };
    let accounted = a.bins_accepted + a.bins_late + a.bins_rejected;
    equal("bins as listed", a.bins_received as f64, accounted as f64)?;
    let events = ["binned", "late", "rejected"].map(|what| of(&format!("events_{what}")));
    equal("events", of("events_received"), events.iter().sum())?;
    let bins = ["bins_processed", "bins_late", "bins_rejected"].map(of);
    equal("bins", of("bins_received"), bins.iter().sum())
}

/// The sum over a metric's series that hold `label`.
pub(crate) fn scraped(scrape: &str, name: &str, label: &str) -> f64 {
    scrape
        .lines()
        .filter(|l| l.starts_with(name) && l.contains(label))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Every decision of a session from now on, as they come, until one of bin `last` or later.
pub(crate) async fn decisions_until(
    daemon: &Daemon,
    session: &str,
    last: u64,
) -> tokio::task::JoinHandle<Vec<Decision>> {
    let request = SubscribeDecisionsRequest { session: session.into(), every: 1 };
    let stream = daemon.regimes().await.subscribe_decisions(request).await;
    let mut stream = stream.expect("subscribed").into_inner();
    tokio::spawn(async move {
        let mut decisions = Vec::new();
        while let Ok(Ok(Some(update))) = tokio::time::timeout(PATIENCE, stream.message()).await {
            let decision = update.decision.expect("a decision");
            let done = decision.sequence >= last;
            decisions.push(decision);
            if done {
                break;
            }
        }
        decisions
    })
}

/// The same decisions on the bins that came, bit for bit.
pub(crate) fn same(heard: &[Decision], expected: &[Decision]) {
    let numbers = |decisions: &[Decision]| -> Vec<(u64, String, Vec<f32>)> {
        let seen = decisions.iter().filter(|d| !d.predicted);
        seen.map(|d| (d.sequence, d.regime.clone(), d.posterior.clone())).collect()
    };
    let (heard, expected) = (numbers(heard), numbers(expected));
    let first = heard.iter().zip(&expected).find(|(h, e)| h != e);
    assert!(first.is_none(), "found {first:?}");
    assert_eq!(heard.len(), expected.len());
}
