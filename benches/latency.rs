//! Question: how long from sending a bin's counts to receiving its decision, over loopback, with
//! the real daemon in a process of its own (built-in model, 96 channels), and how much of that is
//! the daemon's? An echo of the same transport, which decodes the counts and answers with a
//! decision it did not have to find, runs in turn with it; what the daemon takes beside it is what
//! it adds.
//! Aims: p50 120 us and p99 300 us more than the echo at 1 kHz.
//!
//! And how long until a datagram is out that a trigger sends, beside what the decision takes?
//! Budget: p99 <= 100 us from the decision to the datagram.
//!
//!     # Medians and quartiles over the rounds; BINARY: a daemon built before, in the same rounds.
//!     cargo bench --bench latency [-- BINARY]
//!     # The daemon with a [runtime] table: what its keys bring on this machine.
//!     cargo bench --bench latency -- runtime

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use prost::Message;
use regimed::internals::wire::control_client::ControlClient;
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::ingest_server::{Ingest, IngestServer};
use regimed::internals::wire::journal_record::What;
use regimed::internals::wire::{
    ArmTriggersRequest, Counts, Decision, ExchangeReply, IngestSummary, Spikes, SpikesSummary,
};
use support::{Daemon, quantile};
use tonic::{Request as Call, Response as Answer, Status, Streaming};
use zeromq::{Socket, SocketRecv, SocketSend, ZmqMessage};

/// More than the echo at 1 kHz, us: p50, p99.
const ADDED_AIM_US: [f64; 2] = [120.0, 300.0];
const TRIGGER_BUDGET_P99_US: f64 = 100.0;
const TOKEN: &str = "a-token-of-the-bench";
/// Bins per second, and bins of a round.
const CASES: [(f64, u64); 2] = [(100.0, 600), (1000.0, 4_000)];
const ROUNDS: usize = 7;
const WARM_UP_BINS: u64 = 100;
const CHANNELS: u32 = 96;

type SentAt = Arc<Mutex<HashMap<u64, Instant>>>;

/// One with the built-in model on ports of the system's choosing, and more configuration.
fn daemon(binary: &Path, more: &str) -> Daemon {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"\"\n\
         [zeromq]\npull = \"127.0.0.1:0\"\npublish = \"127.0.0.1:0\"\n{more}\
         [[session]]\nname = \"rig\"\nmodel = \"builtin\"\nreadout = \"0\"\n"
    );
    Daemon::start_by(folder.path(), &config, Command::new(binary))
}

/// Who answers.
enum Server {
    Daemon(Daemon),
    Echo(Child, String),
}

impl Server {
    /// This program as an echo.
    fn echo(way: Way) -> Self {
        let own = std::env::current_exe().expect("its path");
        let mut child = Command::new(own)
            .args(["echo", way.name()])
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
            (Self::Daemon(daemon), Way::ZeroMq) => {
                (daemon.address("zeromq_pull"), daemon.address("zeromq_publish"))
            }
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
}

impl Way {
    fn name(self) -> &'static str {
        if self == Self::Grpc { "gRPC" } else { "ZeroMQ" }
    }
}

/// A decision as long as the built-in model's.
fn decision(counts: &Counts) -> Decision {
    Decision {
        session: counts.session.clone(),
        sequence: counts.sequence,
        bin: counts.sequence,
        latency_ns: 1,
        regime: "limit cycle".into(),
        posterior: vec![0.2; 5],
        regime_names: ["stable", "bistable", "limit cycle", "ring", "chaotic"]
            .map(Into::into)
            .into(),
        embedding_mean: vec![0.1; 8],
        embedding_sd: vec![0.1; 8],
        latent: vec![0.1; 8],
        latent_sd: vec![0.1; 8],
        ..Decision::default()
    }
}

struct Echo;

type Replies = Pin<Box<dyn Stream<Item = Result<ExchangeReply, Status>> + Send>>;

#[tonic::async_trait]
impl Ingest for Echo {
    type ExchangeStream = Replies;

    async fn exchange(&self, call: Call<Streaming<Counts>>) -> Result<Answer<Replies>, Status> {
        let replies = call.into_inner().map(|counts| {
            let reply = Some(Reply::Decision(decision(&counts?)));
            Ok(ExchangeReply { reply })
        });
        Ok(Answer::new(Box::pin(replies)))
    }

    async fn send_counts(
        &self,
        _: Call<Streaming<Counts>>,
    ) -> Result<Answer<IngestSummary>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn send_spikes(
        &self,
        _: Call<Streaming<Spikes>>,
    ) -> Result<Answer<SpikesSummary>, Status> {
        Err(Status::unimplemented("an echo"))
    }
}

/// Answers until it is killed.
async fn echo(way: &str) {
    if way == Way::Grpc.name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{} -", listener.local_addr().expect("bound"));
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tonic::transport::Server::builder().add_service(IngestServer::new(Echo));
        return server.serve_with_incoming(incoming).await.expect("it serves");
    }
    let (mut pull, mut publish) = (zeromq::PullSocket::new(), zeromq::PubSocket::new());
    let from = pull.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    let to = publish.bind("tcp://127.0.0.1:0").await.expect("bound").to_string();
    println!("{} {}", from.trim_start_matches("tcp://"), to.trim_start_matches("tcp://"));
    loop {
        let message = pull.recv().await.expect("counts");
        let counts = Counts::decode(message.get(0).expect("a frame").as_ref()).expect("counts");
        let mut answer = ZmqMessage::from("rig/decision");
        answer.push_back(decision(&counts).encode_to_vec().into());
        publish.send(answer).await.expect("sent");
    }
}

fn counts(sequence: u64) -> Counts {
    let value = |c: u32| u32::from((u64::from(c) * 7 + sequence * 13).is_multiple_of(6));
    Counts {
        session: "rig".into(),
        sequence,
        n_channels: CHANNELS,
        bin_width_s: 0.01,
        counts: (0..CHANNELS).map(value).collect(),
        ..Counts::default()
    }
}

/// A rig's clock on a thread of its own: notes each bin's time and hands its message on. It sleeps
/// between bins, as a rig does: a spinning client would take a core from the daemon.
fn rig(rate_hz: f64, bins: u64, sent: SentAt) -> tokio::sync::mpsc::Receiver<Counts> {
    let (messages, receiver) = tokio::sync::mpsc::channel(64);
    std::thread::spawn(move || {
        let start = Instant::now();
        for bin in 0..bins {
            let due = start + Duration::from_secs_f64(bin as f64 / rate_hz);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let message = counts(bin);
            sent.lock().expect("sent").insert(bin, Instant::now());
            if messages.blocking_send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

struct Times(Vec<f64>, Vec<f64>);

impl Times {
    fn note(&mut self, sent: &SentAt, d: &Decision) {
        let now = Instant::now();
        let at = sent.lock().expect("sent").remove(&d.sequence);
        if let Some(at) = at.filter(|_| d.sequence >= WARM_UP_BINS) {
            self.0.push((now - at).as_secs_f64() * 1e6);
            self.1.push(d.latency_ns as f64 * 1e-3);
        }
    }

    /// p50 and p99 of sent to received, then of received to decided.
    fn quantiles(self) -> [f64; 4] {
        let at = |values: &[f64], q| quantile(values.to_vec(), q);
        [at(&self.0, 0.5), at(&self.0, 0.99), at(&self.1, 0.5), at(&self.1, 0.99)]
    }
}

async fn grpc(counts: &str, rate_hz: f64, bins: u64) -> Times {
    let sent = SentAt::default();
    let outbound = futures_util::stream::unfold(rig(rate_hz, bins, sent.clone()), |mut r| async {
        r.recv().await.map(|message| (message, r))
    });
    let mut client = IngestClient::connect(format!("http://{counts}")).await.expect("connected");
    let mut replies = client.exchange(outbound).await.expect("accepted").into_inner();
    let mut times = Times(Vec::new(), Vec::new());
    while let Some(reply) = replies.message().await.expect("no error") {
        if let Some(Reply::Decision(d)) = reply.reply {
            times.note(&sent, &d);
        }
    }
    times
}

async fn zeromq(counts: &str, decisions: &str, rate_hz: f64, bins: u64) -> Times {
    let sent = SentAt::default();
    let mut subscriber = zeromq::SubSocket::new();
    subscriber.connect(&format!("tcp://{decisions}")).await.expect("connected");
    subscriber.subscribe("rig/decision").await.expect("subscribed");
    let mut push = zeromq::PushSocket::new();
    push.connect(&format!("tcp://{counts}")).await.expect("connected");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut messages = rig(rate_hz, bins, sent.clone());
    let sender = tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            push.send(bytes::Bytes::from(message.encode_to_vec()).into()).await.expect("sent");
        }
        push
    });
    let mut times = Times(Vec::new(), Vec::new());
    loop {
        let Ok(received) = tokio::time::timeout(Duration::from_secs(2), subscriber.recv()).await
        else {
            break;
        };
        let message = received.expect("a message");
        let decision =
            Decision::decode(message.get(1).expect("a payload").as_ref()).expect("a decision");
        times.note(&sent, &decision);
        if decision.sequence + 1 == bins {
            break;
        }
    }
    let _push = sender.await.expect("sender");
    times
}

async fn once(server: &Server, way: Way, rate_hz: f64, bins: u64) -> [f64; 4] {
    let (counts, decisions) = server.addresses(way);
    let times = match way {
        Way::Grpc => grpc(&counts, rate_hz, bins).await,
        Way::ZeroMq => zeromq(&counts, &decisions, rate_hz, bins).await,
    };
    let lost = bins - WARM_UP_BINS - times.0.len() as u64;
    assert_eq!(lost, 0, "{} at {rate_hz} Hz lost decisions", way.name());
    times.quantiles()
}

/// Median and quartiles.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let values: Vec<f64> = values.collect();
    [0.5, 0.25, 0.75].map(|q| quantile(values.clone(), q))
}

fn shown([median, low, high]: [f64; 3]) -> String {
    format!("{median:>5.0} ({low:.0} to {high:.0})")
}

/// An echo and daemons in turn; what each takes, and adds to the echo of its round.
async fn compare(daemons: &[(String, PathBuf, String)], rate_hz: f64, bins: u64) {
    for way in [Way::Grpc, Way::ZeroMq] {
        let mut found = vec![Vec::new(); daemons.len() + 1];
        for _ in 0..ROUNDS {
            // A new one for each: the numbering begins at 0.
            found[0].push(once(&Server::echo(way), way, rate_hz, bins).await);
            for ((_, binary, more), found) in daemons.iter().zip(&mut found[1..]) {
                let server = Server::Daemon(daemon(binary, more));
                found.push(once(&server, way, rate_hz, bins).await);
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
    if let [first, way] = arguments.as_slice()
        && first == "echo"
    {
        return runtime.block_on(echo(way));
    }
    println!(
        "us, sent to decision received: medians (quartiles) of {ROUNDS} rounds; the aims are of 1 \
         kHz"
    );
    let daemons = daemons(arguments.first().map(String::as_str));
    runtime.block_on(async {
        for (rate_hz, bins) in CASES {
            compare(&daemons, rate_hz, bins).await;
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
