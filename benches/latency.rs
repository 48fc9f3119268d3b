//! Question: how long from sending a bin's counts to receiving its decision, over loopback, with
//! the real daemon in a process of its own (built-in model, 96 channels)? Budget: p99 <= 1 ms at 1
//! kHz, over ZeroMQ and over gRPC.
//!
//! And how long until a datagram is out that a trigger sends, beside what the decision takes?
//! Budget: p99 <= 100 us from the decision to the datagram.
//!
//!     cargo bench --bench latency

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message;
use regimed::internals::wire::control_client::ControlClient;
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::journal_record::What;
use regimed::internals::wire::{ArmTriggersRequest, Counts, Decision};
use support::{Daemon, quantile};
use zeromq::{Socket, SocketRecv, SocketSend};

const BUDGET_P99_US: f64 = 1000.0;
const TRIGGER_BUDGET_P99_US: f64 = 100.0;
const TOKEN: &str = "a-token-of-the-bench";
/// Bins per second, and bins in all.
const CASES: [(f64, u64); 2] = [(100.0, 1_500), (1000.0, 15_000)];
const WARM_UP_BINS: u64 = 100;
const CHANNELS: u32 = 96;

type SentAt = Arc<Mutex<HashMap<u64, Instant>>>;

/// One with the built-in model on ports of the system's choosing.
fn daemon() -> Daemon {
    let folder = tempfile::tempdir().expect("a folder");
    let config = "[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"\"\n\
                  [zeromq]\npull = \"127.0.0.1:0\"\npublish = \"127.0.0.1:0\"\n\
                  [[session]]\nname = \"rig\"\nmodel = \"builtin\"\nreadout = \"0\"\n";
    Daemon::start(folder.path(), config)
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

    fn print(mut self, way: &str, rate_hz: f64, bins: u64) {
        let mut line = format!("{way:<8} {rate_hz:>6.0} Hz");
        let mut p99_all = 0.0;
        for list in [&mut self.0, &mut self.1] {
            list.sort_by(f64::total_cmp);
            let at = |q: f64| list[(q * (list.len() - 1) as f64) as usize];
            line += &format!(" {:>8.0} {:>8.0} {:>8.0}  |", at(0.5), at(0.99), at(0.999));
            if p99_all == 0.0 {
                p99_all = at(0.99);
            }
        }
        let lost = bins - WARM_UP_BINS - self.0.len() as u64;
        println!(
            "{line} p99 {:.0}/{BUDGET_P99_US:.0} = {:.2}, lost {lost}",
            p99_all,
            p99_all / BUDGET_P99_US
        );
    }
}

async fn grpc(daemon: &Daemon, rate_hz: f64, bins: u64) {
    let sent = SentAt::default();
    let outbound = futures_util::stream::unfold(rig(rate_hz, bins, sent.clone()), |mut r| async {
        r.recv().await.map(|message| (message, r))
    });
    let mut client = IngestClient::connect(format!("http://{}", daemon.address("grpc")))
        .await
        .expect("connected");
    let mut replies = client.exchange(outbound).await.expect("accepted").into_inner();
    let mut times = Times(Vec::new(), Vec::new());
    while let Some(reply) = replies.message().await.expect("no error") {
        if let Some(Reply::Decision(d)) = reply.reply {
            times.note(&sent, &d);
        }
    }
    times.print("gRPC", rate_hz, bins);
}

async fn zeromq(daemon: &Daemon, rate_hz: f64, bins: u64) {
    let sent = SentAt::default();
    let mut subscriber = zeromq::SubSocket::new();
    subscriber
        .connect(&format!("tcp://{}", daemon.address("zeromq_publish")))
        .await
        .expect("connected");
    subscriber.subscribe("rig/decision").await.expect("subscribed");
    let mut push = zeromq::PushSocket::new();
    push.connect(&format!("tcp://{}", daemon.address("zeromq_pull"))).await.expect("connected");
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
    times.print("ZeroMQ", rate_hz, bins);
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
    let mut request =
        tonic::Request::new(ArmTriggersRequest { session: "rig".into(), armed: true });
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

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    println!("us: sent to decision received                | in the daemon, received to decided |");
    println!(
        "way          rate      p50      p99    p99.9  |      p50      p99    p99.9  | budget"
    );
    runtime.block_on(async {
        for (rate_hz, bins) in CASES {
            // A daemon for each: the numbering begins at 0.
            grpc(&daemon(), rate_hz, bins).await;
            zeromq(&daemon(), rate_hz, bins).await;
            trigger(rate_hz, bins).await;
        }
    });
}
