//! Question: how long from sending a bin's counts to receiving its decision, over loopback, with
//! the real daemon in a process of its own (built-in model, 96 channels), and how much of that is
//! the daemon's? An echo of the same transport, which decodes the counts and answers with a
//! decision it did not have to find, runs in turn with it; what the daemon takes beside it is what
//! it adds. Over gRPC, ZeroMQ and Redis (a BRAND graph's streams, where there is a redis-server),
//! and over ZeroMQ to a consumer in Python (where REGIMED_PYTHON has pyzmq and the client).
//! Aims: p50 120 us and p99 300 us more than the echo at 1 kHz.
//!
//! And how long until a datagram is out that a trigger sends, beside what the decision takes?
//! Budget: p99 <= 100 us from the decision to the datagram.
//!
//!     # Medians and quartiles over the rounds; BINARY: a daemon built before, in the same rounds.
//!     cargo bench --bench latency [-- BINARY]
//!     # The daemon with a [runtime] table: what its keys bring on this machine.
//!     cargo bench --bench latency -- runtime

#[path = "support/echo.rs"]
mod echo;
#[path = "support/rigs.rs"]
mod rigs;
mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use echo::STREAMS;
use prost::Message;
use regimed::internals::wire::ArmTriggersRequest;
use regimed::internals::wire::control_client::ControlClient;
use regimed::internals::wire::journal_record::What;
use rigs::{SentAt, WARM_UP_BINS, grpc, interpreter, python, redis, rig, zeromq};
use support::{Daemon, quantile};
use tonic::Request as Call;
use zeromq::{Socket, SocketSend};

/// More than the echo at 1 kHz, us: p50, p99.
const ADDED_AIM_US: [f64; 2] = [120.0, 300.0];
const TRIGGER_BUDGET_P99_US: f64 = 100.0;
const TOKEN: &str = "a-token-of-the-bench";
/// Bins per second, and bins of a round.
const CASES: [(f64, u64); 2] = [(100.0, 600), (1000.0, 4_000)];
const ROUNDS: usize = 7;

/// One with the built-in model on ports of the system's choosing, and more configuration.
fn daemon(binary: &Path, way: Way, redis: Option<&Redis>, more: &str) -> Daemon {
    let folder = tempfile::tempdir().expect("a folder");
    let brand = redis.filter(|_| way == Way::Redis).map_or(String::new(), |redis| {
        format!(
            "channels = 96\nbin_ms = 10\n[session.brand]\nredis = \"{}\"\nstream = \"{}\"\n\
             dtype = \"int8\"\noutput_stream = \"{}\"\n",
            redis.url, STREAMS[0], STREAMS[1]
        )
    });
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"\"\n\
         [zeromq]\npull = \"127.0.0.1:0\"\npublish = \"127.0.0.1:0\"\n{more}\
         [[session]]\nname = \"rig\"\nmodel = \"builtin\"\nreadout = \"0\"\n{brand}"
    );
    Daemon::start_by(folder.path(), &config, Command::new(binary))
}

/// A server of its own, in memory alone.
struct Redis {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Redis {
    /// `None` where the system has none.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let url = format!("unix://{}", socket.display());
        let server = Self { child, url, _folder: folder };
        let began = Instant::now();
        let client = redis::Client::open(server.url.as_str()).expect("an address");
        while client.get_connection().is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who answers.
enum Server {
    Daemon(Daemon),
    Echo(Child, String),
}

impl Server {
    /// This program as an echo.
    fn echo(way: Way, redis: Option<&Redis>) -> Self {
        let own = std::env::current_exe().expect("its path");
        let url = redis.filter(|_| way == Way::Redis).map(|r| r.url.as_str());
        let mut child = Command::new(own)
            .args(["echo", way.name()])
            .args(url)
            .stdout(Stdio::piped())
            .spawn()
            .expect("an echo");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = lines.next().expect("an address").expect("a line");
        Self::Echo(child, ready)
    }

    /// Where counts go, and where decisions come from.
    fn addresses(&self, way: Way) -> (String, String) {
        match (self, way) {
            (Self::Echo(_, ready), _) => {
                let (counts, decisions) = ready.split_once(' ').expect("two addresses");
                (counts.into(), decisions.into())
            }
            (Self::Daemon(daemon), Way::Grpc) => (daemon.address("grpc"), String::new()),
            (Self::Daemon(daemon), Way::ZeroMq | Way::Python) => {
                (daemon.address("zeromq_pull"), daemon.address("zeromq_publish"))
            }
            (Self::Daemon(_), Way::Redis) => Default::default(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Echo(child, _) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Grpc,
    ZeroMq,
    Redis,
    Python,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "gRPC",
            Self::ZeroMq => "ZeroMQ",
            Self::Redis => "Redis",
            Self::Python => "Python",
        }
    }
}

async fn once(server: &Server, way: Way, redis_url: &str, rate_hz: f64, bins: u64) -> [f64; 4] {
    let (counts, decisions) = server.addresses(way);
    let times = match way {
        Way::Grpc => grpc(&counts, rate_hz, bins).await,
        Way::ZeroMq => zeromq(&counts, &decisions, rate_hz, bins).await,
        Way::Redis => tokio::task::block_in_place(|| redis(redis_url, rate_hz, bins)),
        Way::Python => python(&counts, &decisions, rate_hz, bins).await,
    };
    let lost = bins - WARM_UP_BINS - times.0.len() as u64;
    assert_eq!(lost, 0, "{} at {rate_hz} Hz lost decisions", way.name());
    times.quantiles()
}

/// The ways that this machine has; says which are left out.
fn ways() -> Vec<Way> {
    let mut ways = vec![Way::Grpc, Way::ZeroMq];
    let runs = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        let command = command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if runs("redis-server", &["--version"]) {
        ways.push(Way::Redis);
    } else {
        println!("no redis-server: Redis left out");
    }
    if runs(&interpreter(), &["-c", "import zmq; from regimed.v1 import decisions_pb2"]) {
        ways.push(Way::Python);
    } else {
        println!("REGIMED_PYTHON names no Python with pyzmq and regimed: its consumer left out");
    }
    ways
}

/// Median and quartiles.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let values: Vec<f64> = values.collect();
    [0.5, 0.25, 0.75].map(|q| quantile(values.clone(), q))
}

fn shown([median, low, high]: [f64; 3]) -> String {
    if median.is_nan() {
        return "-".into();
    }
    format!("{median:>5.0} ({low:.0} to {high:.0})")
}

/// An echo and daemons in turn; what each takes, and adds to the echo of its round.
async fn compare(
    daemons: &[(String, PathBuf, String)],
    ways: &[Way],
    (rate_hz, bins): (f64, u64),
    rounds: usize,
) {
    for &way in ways {
        let mut found = vec![Vec::new(); daemons.len() + 1];
        for _ in 0..rounds {
            // New ones for each: the numbering begins at 0.
            for (i, found) in found.iter_mut().enumerate() {
                let redis = if way == Way::Redis { Redis::start() } else { None };
                let server = match i.checked_sub(1).map(|i| &daemons[i]) {
                    None => Server::echo(way, redis.as_ref()),
                    Some((_, binary, more)) => {
                        Server::Daemon(daemon(binary, way, redis.as_ref(), more))
                    }
                };
                let url = redis.as_ref().map_or("", |r| r.url.as_str());
                if way == Way::Redis {
                    // Reading begins at the newest entry: it has to have begun.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                found.push(once(&server, way, url, rate_hz, bins).await);
            }
        }
        let of = |rounds: &[[f64; 4]], i: usize| shown(spread(rounds.iter().map(|r| r[i])));
        println!(
            "{:<7} {rate_hz:>5.0} Hz  {:<26} p50 {:<20} p99 {}",
            way.name(),
            "echo",
            of(&found[0], 0),
            of(&found[0], 1)
        );
        for ((name, ..), rounds) in daemons.iter().zip(&found[1..]) {
            let added = |i: usize| spread(rounds.iter().zip(&found[0]).map(|(r, e)| r[i] - e[i]));
            let over = |i: usize| {
                let ratio = added(i)[0] / ADDED_AIM_US[i];
                format!("{} / {:.0} = {ratio:.2}", shown(added(i)), ADDED_AIM_US[i])
            };
            println!(
                "                  {name:<26} p50 {:<20} p99 {:<22} in the daemon p50 {}, p99 {}",
                of(rounds, 0),
                of(rounds, 1),
                of(rounds, 2),
                of(rounds, 3)
            );
            println!(
                "                  {:<26} p50 {}, p99 {}",
                "  more than the echo",
                over(0),
                over(1)
            );
        }
    }
}

/// A daemon with a trigger that acts as often as it may; it asks for a token, by which the trigger
/// is armed.
async fn armed(folder: &Path, to: SocketAddr) -> Daemon {
    let (token, journal) = (folder.join("token"), folder.join("journal"));
    std::fs::write(&token, TOKEN).expect("written");
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"\"\n\
         [zeromq]\npull = \"127.0.0.1:0\"\npublish = \"127.0.0.1:0\"\n\
         [[token]]\nfile = \"{}\"\nroles = [\"control\"]\n[journal]\nfolder = \"{}\"\n\
         [[session]]\nname = \"rig\"\nmodel = \"builtin\"\nreadout = \"0\"\nunknown = false\n\
         [[session.trigger]]\nname = \"t\"\nwhen = \"above\"\nprobability = 0.0\n\
         regime = \"chaotic\"\nrepeat = true\nrefractory_ms = 10\ndaily_max = 1000000\n\
         [session.trigger.udp]\naddress = \"{to}\"\n",
        token.display(),
        journal.display()
    );
    let daemon = Daemon::start(folder, &config);
    let endpoint = format!("http://{}", daemon.address("grpc"));
    let mut control = ControlClient::connect(endpoint).await.expect("connected");
    let mut request = Call::new(ArmTriggersRequest { session: "rig".into(), armed: true });
    let bearer = format!("Bearer {TOKEN}").parse().expect("plain");
    request.metadata_mut().insert("authorization", bearer);
    control.arm_triggers(request).await.expect("armed");
    daemon
}

/// Sent to datagram received; and from the decision to the datagram, by the journal.
async fn trigger(rate_hz: f64, bins: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
    let daemon = armed(folder.path(), socket.local_addr().expect("bound")).await;
    let sent = SentAt::default();
    let (at, mut heard) = (sent.clone(), Vec::new());
    let listening = std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok(n) = socket.recv(&mut buffer) {
            let now = Instant::now();
            let said: serde_json::Value = serde_json::from_slice(&buffer[..n]).expect("JSON");
            let sequence = said["sequence"].as_u64().expect("a number");
            let since = at.lock().expect("sent").get(&sequence).copied();
            if let Some(since) = since.filter(|_| sequence >= WARM_UP_BINS) {
                heard.push((now - since).as_secs_f64() * 1e6);
            }
        }
        heard
    });
    let mut push = zeromq::PushSocket::new();
    push.connect(&format!("tcp://{}", daemon.address("zeromq_pull"))).await.expect("connected");
    let mut messages = rig(rate_hz, bins, sent);
    while let Some(message) = messages.recv().await {
        push.send(bytes::Bytes::from(message.encode_to_vec()).into()).await.expect("sent");
    }
    let heard = listening.join().expect("joined");
    let mut acted = Vec::new();
    regimed::internals::journal::read(&folder.path().join("journal"), |record| {
        if let Some(What::Triggered(t)) = record.what
            && t.latency_ns > 0
        {
            acted.push(t.latency_ns as f64 * 1e-3);
        }
    })
    .expect("a journal");
    let at = |values: &[f64], q| quantile(values.to_vec(), q);
    let p99 = at(&acted, 0.99);
    println!(
        "trigger  {rate_hz:>6.0} Hz {:>8.0} {:>8.0} {:>8.0}  | decided to sent: p50 {:.0}, p99 \
         {p99:.0}, p99.9 {:.0} | p99 {p99:.0}/{TRIGGER_BUDGET_P99_US:.0} = {:.2}, {} datagrams",
        at(&heard, 0.5),
        at(&heard, 0.99),
        at(&heard, 0.999),
        at(&acted, 0.5),
        at(&acted, 0.999),
        p99 / TRIGGER_BUDGET_P99_US,
        heard.len()
    );
}

/// Daemons to compare: this one, and a binary or settings that were asked for.
fn daemons(argument: Option<&str>) -> Vec<(String, PathBuf, String)> {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_regimed"));
    let mut list = vec![("daemon".to_owned(), own.clone(), String::new())];
    match argument {
        None => {}
        Some("runtime") => {
            for table in ["io_threads = 2", "spin_us = 200", "priority = 20", "cores = [1]"] {
                list.push((table.into(), own.clone(), format!("[runtime]\n{table}\n")));
            }
        }
        Some(binary) => list.push(("the daemon before".into(), binary.into(), String::new())),
    }
    list
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let [first, way, redis @ ..] = arguments.as_slice()
        && first == "echo"
    {
        return runtime.block_on(echo::answer(way, redis.first()));
    }
    let first = arguments.first().map(String::as_str);
    // Of five daemons in turn, one rate, fewer rounds, and the daemon's own ways.
    let runtime_keys = first == Some("runtime");
    let (cases, rounds) =
        if runtime_keys { (&CASES[1..], ROUNDS - 2) } else { (&CASES[..], ROUNDS) };
    println!(
        "us, sent to decision received: medians (quartiles) of {rounds} rounds; the aims are of 1 \
         kHz"
    );
    let daemons = daemons(first);
    let ways = if runtime_keys { vec![Way::Grpc, Way::ZeroMq] } else { ways() };
    runtime.block_on(async {
        for case in cases {
            compare(&daemons, &ways, *case, rounds).await;
        }
        if arguments.is_empty() {
            println!(
                "way          rate      p50      p99    p99.9  | (sent to datagram received, us)"
            );
            for (rate_hz, bins) in [(100.0, 1_000), (1000.0, 10_000)] {
                trigger(rate_hz, bins).await;
            }
        }
    });
}
