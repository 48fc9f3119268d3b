//! A log that nobody reads, that is full or gone, and filters that choose nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use regimed::internals::wire::Counts;
use regimed::internals::wire::ingest_client::IngestClient;

use crate::rig::{PATIENCE, arg, binary, config, message, scraped, spikes};
use crate::wait;

/// A daemon whose log goes to a given place.
struct Unread {
    child: Child,
    grpc: String,
    http: String,
    _folder: tempfile::TempDir,
}

impl Unread {
    fn start(log: Stdio) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = || {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            free.local_addr().expect("bound").to_string()
        };
        let (grpc, http) = (port(), port());
        let text = format!(
            "[grpc]\nlisten = \"{grpc}\"\n[http]\nlisten = \"{http}\"\n[zeromq]\npull = \
             \"\"\npublish = \"\"\n\
             [limits]\nqueue_bins = 8192\n[[session]]\nname = \"rig\"\nmodel = \
             \"builtin\"\nreadout = \"0\"\n"
        );
        let file = folder.path().join("c.toml");
        std::fs::write(&file, text).expect("written");
        let child = Command::new(binary())
            .args(["serve", "--config", arg(&file)])
            // Every frame of every call is a line.
            .env("REGIMED_LOG", "trace")
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        Self { child, grpc: format!("http://{grpc}"), http, _folder: folder }
    }

    async fn decide(&self, bins: u64) {
        let began = Instant::now();
        let mut client = loop {
            match IngestClient::connect(self.grpc.clone()).await {
                Ok(client) => break client,
                Err(e) => assert!(began.elapsed() < PATIENCE, "{e}"),
            }
            wait::look_again().await;
        };
        let counts = spikes(1);
        let all: Vec<Counts> = (0..bins).map(|i| message("rig", i, &counts[0])).collect();
        let mut replies =
            client.exchange(futures_util::stream::iter(all)).await.expect("accepted").into_inner();
        let mut n = 0;
        while let Some(reply) = tokio::time::timeout(PATIENCE, replies.message())
            .await
            .expect("in time")
            .expect("no error")
        {
            n += u64::from(matches!(
                reply.reply,
                Some(regimed::internals::wire::exchange_reply::Reply::Decision(_))
            ));
        }
        assert_eq!(n, bins);
    }

    fn lost_lines(&self) -> f64 {
        let mut stream = TcpStream::connect(&self.http).expect("HTTP answers");
        let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        scraped(&text, "regimed_log_lines_lost_total", "")
    }

    fn terminate(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        let began = Instant::now();
        while self.child.try_wait().expect("waiting").is_none() {
            assert!(began.elapsed() < PATIENCE, "it does not end");
            wait::look_again_here();
        }
        let status = self.child.wait().expect("ended");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_the_log_stops_delays_and_ends_nothing() {
    // A pipe that nobody reads.
    let mut unread = Unread::start(Stdio::piped());
    let pipe = unread.child.stderr.take();
    unread.decide(2000).await;
    assert!(unread.lost_lines() > 0.0, "the pipe is full");
    unread.terminate();
    drop(pipe);
    // A reader that goes away.
    let mut gone = Unread::start(Stdio::piped());
    drop(gone.child.stderr.take());
    gone.decide(500).await;
    assert!(gone.lost_lines() > 0.0);
    gone.terminate();
    // A disk that is full.
    let full = std::fs::File::options().write(true).open("/dev/full").expect("there");
    let mut full = Unread::start(Stdio::from(full));
    full.decide(500).await;
    assert!(full.lost_lines() > 0.0);
    full.terminate();
}

#[test]
fn a_log_filter_that_chooses_nothing_is_a_fault_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.toml");
    std::fs::write(&file, config("", &["rig"])).expect("written");
    let out = Command::new(binary())
        .args(["serve", "--config", arg(&file)])
        .env("REGIMED_LOG", "regimed=loud")
        .output()
        .expect("it runs");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(
        !out.status.success() && stderr.contains("REGIMED_LOG") && stderr.contains("loud"),
        "{stderr}"
    );
}
