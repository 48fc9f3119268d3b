//! Rigs that send counts at a rate, and consumers that receive the decisions, over each transport.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message;
use redis::Commands;
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::{Counts, Decision};
use zeromq::{Socket, SocketRecv, SocketSend};

use super::echo::{STREAMS, entries};
use super::support::quantile;

pub(crate) const WARM_UP_BINS: u64 = 100;
const CHANNELS: u32 = 96;

pub(crate) type SentAt = Arc<Mutex<HashMap<u64, Instant>>>;

pub(crate) fn counts(sequence: u64) -> Counts {
    let value = |c: u32| u32::from((u64::from(c) * 7 + sequence * 13).is_multiple_of(6));
    Counts {
        session: "rig".into(),
        sequence,
        n_channels: CHANNELS,
        bin_width_s: 0.01,
        counts: (0..CHANNELS).map(value).collect(),
        rig_time_ns: monotonic_ns(),
        ..Counts::default()
    }
}

/// The clock that processes of a machine share.
fn monotonic_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A rig's clock on a thread of its own: notes each bin's time and hands its message on. It sleeps
/// between bins, as a rig does: a spinning client would take a core from the daemon.
pub(crate) fn rig(rate_hz: f64, bins: u64, sent: SentAt) -> tokio::sync::mpsc::Receiver<Counts> {
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

/// Of each bin, us: sent to received, and received to decided by the daemon.
pub(crate) struct Times(pub(crate) Vec<f64>, Vec<f64>);

impl Times {
    fn note(&mut self, sent: &SentAt, d: &Decision) {
        self.note_bin(sent, d.sequence, d.latency_ns as f64 * 1e-3);
    }

    fn note_bin(&mut self, sent: &SentAt, sequence: u64, inside_us: f64) {
        let now = Instant::now();
        let at = sent.lock().expect("sent").remove(&sequence);
        if let Some(at) = at.filter(|_| sequence >= WARM_UP_BINS) {
            self.0.push((now - at).as_secs_f64() * 1e6);
            self.1.push(inside_us);
        }
    }

    /// p50 and p99 of sent to received, then of received to decided.
    pub(crate) fn quantiles(self) -> [f64; 4] {
        let at = |values: &[f64], q| quantile(values.to_vec(), q);
        [at(&self.0, 0.5), at(&self.0, 0.99), at(&self.1, 0.5), at(&self.1, 0.99)]
    }
}

pub(crate) async fn grpc(counts: &str, rate_hz: f64, bins: u64) -> Times {
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

pub(crate) async fn zeromq(counts: &str, decisions: &str, rate_hz: f64, bins: u64) -> Times {
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

/// A graph's node that adds counts, and one that reads what comes back.
pub(crate) fn redis(url: &str, rate_hz: f64, bins: u64) -> Times {
    let client = redis::Client::open(url).expect("an address");
    let mut reader = client.get_connection().expect("connected");
    let mut writer = client.get_connection().expect("connected");
    let sent = SentAt::default();
    let mut messages = rig(rate_hz, bins, sent.clone());
    let sender = std::thread::spawn(move || {
        while let Some(message) = messages.blocking_recv() {
            let samples: Vec<u8> = message.counts.iter().map(|&c| c as u8).collect();
            let (i, ts) = (message.sequence.to_le_bytes(), message.rig_time_ns.to_le_bytes());
            let fields: [(&str, &[u8]); 4] =
                [("samples", &samples), ("i", &i), ("ts", &ts), ("sync", b"{}")];
            let _: String = writer.xadd(STREAMS[0], "*", &fields).expect("added");
        }
    });
    let mut times = Times(Vec::new(), Vec::new());
    let mut last = "0".to_owned();
    loop {
        let found = entries(&mut reader, STREAMS[1], &mut last);
        if found.is_empty() {
            break;
        }
        let mut newest = 0;
        for entry in found {
            let i: Vec<u8> = entry.get("i").expect("the input's number");
            newest = u64::from_le_bytes(i.try_into().expect("eight bytes"));
            // What it took inside is not in the stream.
            times.note_bin(&sent, newest, f64::NAN);
        }
        if newest + 1 == bins {
            break;
        }
    }
    sender.join().expect("joined");
    times
}

/// A lab's program in Python: decisions over ZeroMQ, each one's age when it has been decoded.
const CONSUMER: &str = r#"
import sys, time, zmq
from regimed.v1 import decisions_pb2
socket = zmq.Context().socket(zmq.SUB)
socket.connect("tcp://" + sys.argv[1])
socket.subscribe("rig/decision")
socket.setsockopt(zmq.RCVTIMEO, 4000)
print("ready", flush=True)
last, decision = int(sys.argv[2]) - 1, decisions_pb2.Decision()
found = []
while decision.sequence != last:
    try:
        decision.ParseFromString(socket.recv_multipart()[1])
    except zmq.Again:
        break
    age = time.monotonic_ns() - decision.rig_time_ns
    found.append((decision.sequence, age, decision.latency_ns))
for bin in found:
    print(*bin)
"#;

pub(crate) async fn python(counts: &str, decisions: &str, rate_hz: f64, bins: u64) -> Times {
    let mut child = Command::new(interpreter())
        .args(["-c", CONSUMER, decisions, &bins.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    let mut push = zeromq::PushSocket::new();
    push.connect(&format!("tcp://{counts}")).await.expect("connected");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut messages = rig(rate_hz, bins, SentAt::default());
    while let Some(message) = messages.recv().await {
        push.send(bytes::Bytes::from(message.encode_to_vec()).into()).await.expect("sent");
    }
    let mut times = Times(Vec::new(), Vec::new());
    for line in lines.map_while(Result::ok) {
        let numbers: Vec<f64> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
        if let [sequence, age, inside] = numbers[..]
            && sequence >= WARM_UP_BINS as f64
        {
            times.0.push(age * 1e-3);
            times.1.push(inside * 1e-3);
        }
    }
    child.wait().expect("it ended");
    times
}

pub(crate) fn interpreter() -> String {
    std::env::var("REGIMED_PYTHON").unwrap_or_else(|_| "python3".into())
}
