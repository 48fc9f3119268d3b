//! What the benches of the daemon share: one in a process of its own.

#![allow(dead_code)] // not every bench asks for all of it

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::stream::unfold;
use regimed::internals::wire::Counts;
use regimed::internals::wire::exchange_reply::Reply;
use regimed::internals::wire::ingest_client::IngestClient;

/// A running daemon; ends when dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    ready: String,
}

impl Daemon {
    /// Starts one with a configuration written to `folder`, and waits until it is ready.
    pub(crate) fn start(folder: &Path, config: &str) -> Self {
        Self::start_by(folder, config, Command::new(env!("CARGO_BIN_EXE_regimed")))
    }

    /// The same, by a command to which its arguments are added.
    pub(crate) fn start_by(folder: &Path, config: &str, mut command: Command) -> Self {
        let file = folder.join("c.toml");
        std::fs::write(&file, config).expect("written");
        let mut child = command
            .args(["serve", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let ready =
            lines.by_ref().map_while(Result::ok).find(|l| l.contains(" ready ")).expect("ready");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, ready }
    }

    /// Where it listens: `key` as in its line that says it is ready.
    pub(crate) fn address(&self, key: &str) -> String {
        let from = self.ready.find(&format!("{key}=\"")).expect(key) + key.len() + 2;
        self.ready[from..].split('"').next().expect("an address").to_owned()
    }
}

/// Resident memory of a process, MiB.
pub(crate) fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |k| k / 1024.0)
}

/// Processor time of a process, seconds, in the hundredths that Linux tells.
pub(crate) fn processor_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

/// An HTTP GET: headers and body.
pub(crate) fn get(http: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(http).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    text
}

/// Channels of [`rig`].
pub(crate) const CHANNELS: u32 = 96;

/// What a bin took.
pub(crate) struct Bin {
    /// From sending its counts to receiving its decision, us.
    pub(crate) there_and_back_us: f64,
    /// From the daemon's receiving them to handing the decision to its subscribers, us.
    pub(crate) inside_us: f64,
}

/// A session's rig: 100 bins a second, each of them decided; what they took, but for the first
/// second's.
pub(crate) async fn rig(
    address: String,
    session: String,
    offset: Duration,
    seconds: u64,
) -> Vec<Bin> {
    let start = Instant::now() + offset;
    let outbound = unfold(0u64, move |bin| {
        let session = session.clone();
        async move {
            if bin == seconds * 100 {
                return None;
            }
            tokio::time::sleep_until((start + Duration::from_millis(10 * bin)).into()).await;
            let value = |i: u64| u32::from((i * 7 + bin * 13).is_multiple_of(6));
            let message = Counts {
                session,
                sequence: bin,
                n_channels: CHANNELS,
                bin_width_s: 0.01,
                rig_time_ns: start.elapsed().as_nanos() as i64 + 1,
                counts: (0..u64::from(CHANNELS)).map(value).collect(),
                ..Counts::default()
            };
            Some((message, bin + 1))
        }
    });
    let mut client = IngestClient::connect(address).await.expect("connected");
    let mut replies = client.exchange(outbound).await.expect("accepted").into_inner();
    let mut bins = Vec::new();
    while let Some(reply) = replies.message().await.expect("no error") {
        if let Some(Reply::Decision(d)) = reply.reply {
            let back = start.elapsed().as_nanos() as i64;
            bins.push(Bin {
                there_and_back_us: (back - d.rig_time_ns) as f64 * 1e-3,
                inside_us: (d.publish_time_ns - d.receive_time_ns) as f64 * 1e-3,
            });
        }
    }
    assert_eq!(bins.len() as u64, seconds * 100, "every bin is decided");
    bins.drain(..100);
    bins
}

/// The value that a share `q` of them does not exceed.
pub(crate) fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(q * (values.len() - 1) as f64) as usize]
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
