//! Nobody in who should not be: TLS, tokens, roles, bounds on connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use regimed::internals::wire::control_client::ControlClient;
use regimed::internals::wire::ingest_client::IngestClient;
use regimed::internals::wire::regimes_client::RegimesClient;
use regimed::internals::wire::{ListSessionsRequest, PauseSessionRequest};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};

use crate::rig::{Daemon, PATIENCE, arg, config, run, scraped};
use crate::wait;

const READ: &str = "read-token-0123456789";
const INGEST: &str = "ingest-token-0123456789";
const CONTROL: &str = "control-token-0123456789";

/// Token files of three roles, and their tables.
fn tokens(folder: &Path) -> String {
    let mut text = String::new();
    for (name, token) in [("read", READ), ("ingest", INGEST), ("control", CONTROL)] {
        let file = folder.join(name);
        std::fs::write(&file, format!("# {name}\n{token}\n")).expect("written");
        text += &format!("[[token]]\nfile = \"{}\"\nroles = [\"{name}\"]\n", arg(&file));
    }
    text
}

pub(crate) type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A certificate for this machine: PEM of it and of its key.
fn certificate(by: &Issuer) -> (String, String) {
    certificate_for(by, &["localhost", "127.0.0.1"])
}

/// The same for other names and addresses.
pub(crate) fn certificate_for(by: &Issuer, names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(names).expect("parameters");
    let cert = params.signed_by(&key, by).expect("a certificate");
    (cert.pem(), key.serialize_pem())
}

fn bearing<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("plain");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// What becomes of a call of each service: read, ingest, control.
async fn codes(channel: &Channel, token: Option<&str>) -> [Code; 3] {
    let code = |result: Result<(), tonic::Status>| result.map_or_else(|s| s.code(), |()| Code::Ok);
    let list = bearing(token, ListSessionsRequest {});
    let read = RegimesClient::new(channel.clone()).list_sessions(list).await;
    let counts = bearing(token, futures_util::stream::empty());
    let ingest = IngestClient::new(channel.clone()).send_counts(counts).await;
    let pause = bearing(token, PauseSessionRequest { session: "rig".into() });
    let control = ControlClient::new(channel.clone()).pause_session(pause).await;
    [code(read.map(drop)), code(ingest.map(drop)), code(control.map(drop))]
}

async fn channel(
    daemon: &Daemon,
    tls: Option<ClientTlsConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let at = match &tls {
        None => daemon.grpc.clone(),
        Some(_) => daemon.grpc.replace("http://127.0.0.1", "https://localhost"),
    };
    let mut endpoint = Endpoint::from_shared(at).expect("an endpoint");
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls)?;
    }
    endpoint.connect().await
}

const DENIED: Code = Code::Unauthenticated;
const ROLE: Code = Code::PermissionDenied;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_open_what_their_roles_allow_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(&config(&tokens(folder.path()), &["rig"]));
    let channel = channel(&daemon, None).await.expect("connected");
    assert_eq!(codes(&channel, None).await, [DENIED; 3]);
    assert_eq!(codes(&channel, Some("wrong-token-0123456789")).await, [DENIED; 3]);
    assert_eq!(codes(&channel, Some(READ)).await, [Code::Ok, ROLE, ROLE]);
    assert_eq!(codes(&channel, Some(INGEST)).await, [ROLE, Code::Ok, ROLE]);
    assert_eq!(codes(&channel, Some(CONTROL)).await, [Code::Ok; 3]);
    // What comes back of an exchange is decisions: who may only send does not get them.
    let exchange = bearing(Some(INGEST), futures_util::stream::empty());
    let refused = IngestClient::new(channel.clone()).exchange(exchange).await;
    assert_eq!(refused.map(drop).map_err(|s| s.code()), Err(ROLE));
    for (path, without, with) in
        [("/metrics", 401, 200), ("/health", 401, 200), ("/healthz", 200, 200)]
    {
        assert_eq!(daemon.get(path).0, without, "{path}");
        assert_eq!(get(&daemon, path, Some(READ)), with, "{path}");
    }
    assert_eq!(get(&daemon, "/metrics", Some(INGEST)), 403);
    // Another token in the file, without a restart.
    std::fs::write(folder.path().join("read"), "another-token-0123456789").expect("written");
    let began = Instant::now();
    while codes(&channel, Some(READ)).await[0] != DENIED {
        assert!(began.elapsed() < PATIENCE);
        wait::look_again().await;
    }
    assert_eq!(codes(&channel, Some("another-token-0123456789")).await[0], Code::Ok);
    // The command line shows who it is.
    let control = folder.path().join("control");
    let (ok, _, stderr) = run(&["sessions", "--at", &daemon.grpc]);
    assert!(!ok && stderr.contains("Bearer TOKEN"), "{stderr}");
    let (ok, shown, stderr) =
        run(&["sessions", "--at", &daemon.grpc, "--token-file", arg(&control)]);
    assert!(ok && shown.contains("rig"), "{stderr}");
    let log = daemon.log();
    for secret in [READ, INGEST, CONTROL, "wrong-token", "another-token"] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
    assert!(log.contains("a request was denied") && log.contains("tokens have changed"), "{log}");
}

fn get(daemon: &Daemon, path: &str, token: Option<&str>) -> u16 {
    let mut stream = TcpStream::connect(&daemon.http).expect("HTTP answers");
    let header = token.map_or(String::new(), |t| format!("Authorization: Bearer {t}\r\n"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a code")
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_shows_who_both_sides_are_and_certificates_are_exchanged_while_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let (ours, theirs) = (authority(), authority());
    let put = |(cert, key): &(String, String)| {
        std::fs::write(place("cert.pem"), cert).expect("written");
        std::fs::write(place("key.pem"), key).expect("written");
    };
    put(&certificate(&ours));
    std::fs::write(place("ca.pem"), ours.pem()).expect("written");
    let tls = format!(
        "[tls]\ncert = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
        arg(&place("cert.pem")),
        arg(&place("key.pem")),
        arg(&place("ca.pem"))
    );
    // Beyond loopback, as the configuration allows with both.
    let text = config(&(tokens(folder.path()) + &tls), &["rig"])
        .replace("[grpc]\nlisten = \"127.0.0.1:0\"", "[grpc]\nlisten = \"0.0.0.0:0\"");
    let mut daemon = Daemon::start(&text);
    daemon.grpc = daemon.grpc.replace("0.0.0.0", "127.0.0.1");
    let trusting =
        |ca: &Issuer| ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.pem()));
    let own = certificate(&ours);
    let identity = || Identity::from_pem(&own.0, &own.1);
    let known =
        channel(&daemon, Some(trusting(&ours).identity(identity()))).await.expect("connected");
    assert_eq!(codes(&known, Some(CONTROL)).await, [Code::Ok; 3]);
    assert_eq!(codes(&known, None).await, [DENIED; 3], "a certificate is no token");
    // Whoever has none, or one of another authority, or trusts another authority, gets nowhere.
    let strange = certificate(&theirs);
    let strange = Identity::from_pem(&strange.0, &strange.1);
    for tls in
        [trusting(&ours), trusting(&ours).identity(strange), trusting(&theirs).identity(identity())]
    {
        let refused = match channel(&daemon, Some(tls)).await {
            Err(_) => true,
            // In TLS 1.3 a client learns of it with its first call.
            Ok(channel) => codes(&channel, Some(CONTROL)).await.iter().all(|c| *c != Code::Ok),
        };
        assert!(refused);
    }
    assert!(
        channel(&daemon, None).await.is_err()
            || codes(&channel(&daemon, None).await.expect("connected"), Some(CONTROL)).await[0]
                != Code::Ok
    );
    std::fs::write(place("own.pem"), &own.0).expect("written");
    std::fs::write(place("own.key"), &own.1).expect("written");
    let at = daemon.grpc.replace("http://127.0.0.1", "https://localhost");
    let (ok, shown, stderr) = run(&[
        "sessions",
        "--at",
        &at,
        "--token-file",
        arg(&place("control")),
        "--ca",
        arg(&place("ca.pem")),
        "--client-cert",
        arg(&place("own.pem")),
        "--client-key",
        arg(&place("own.key")),
    ]);
    assert!(ok && shown.contains("rig"), "{stderr}");
    // A certificate of another authority takes over.
    put(&certificate(&theirs));
    let began = Instant::now();
    loop {
        let tls = trusting(&theirs).identity(identity());
        if let Ok(channel) = channel(&daemon, Some(tls)).await
            && codes(&channel, Some(CONTROL)).await == [Code::Ok; 3]
        {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        wait::look_again().await;
    }
    assert_eq!(codes(&known, Some(CONTROL)).await, [Code::Ok; 3], "who is connected stays so");
}

#[test]
fn beyond_loopback_nothing_is_served_without_tls_and_tokens_and_it_says_how() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.toml");
    let session = "[[session]]\nname = \"rig\"\nmodel = \"builtin\"\nreadout = \"0\"\n";
    let tables = tokens(folder.path());
    for (text, expected) in [
        (
            "[grpc]\nlisten = \"0.0.0.0:0\"\n".to_owned(),
            "[tls] with cert and key and at least one [[token]]",
        ),
        (format!("[http]\nlisten = \"0.0.0.0:0\"\n{tables}"), "[tls] with cert and key"),
        ("[zeromq]\npull = \"0.0.0.0:0\"\n".to_owned(), "allow_plaintext = true"),
        ("[[token]]\nfile = \"missing\"\nroles = [\"read\"]\n".to_owned(), "token[0].file"),
        ("[[token]]\nfile = \"x.toml\"\nroles = [\"all\"]\n".to_owned(), "found \"all\""),
        ("[tls]\ncert = \"x.toml\"\nkey = \"x.toml\"\n".to_owned(), "PEM"),
    ] {
        std::fs::write(&file, text + session).expect("written");
        for check in [&["--check"][..], &[]] {
            let (ok, _, stderr) = run(&[&["serve", "--config", arg(&file)], check].concat());
            assert!(!ok && stderr.contains(expected), "expected {expected}, found {stderr}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_who_says_nothing_takes_no_place_for_long() {
    let limits =
        "[limits]\nconnections_max = 30\nconnections_per_peer_max = 20\nsessions_max = 1\n";
    let daemon = Daemon::start(&config(limits, &["rig"]));
    let address = daemon.grpc.trim_start_matches("http://").to_owned();
    let silent: Vec<_> =
        (0..40).map(|_| TcpStream::connect(&address).expect("the system takes it")).collect();
    // Who was refused hears the end at once; a connection of before, which ends at its own pace,
    // may still hold a place.
    let refused = |stream: &TcpStream| {
        stream.set_nonblocking(true).expect("set");
        let mut stream: &TcpStream = stream;
        !matches!(stream.read(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock)
    };
    let inside = || silent.iter().filter(|stream| !refused(stream)).count();
    wait::until(|| inside() <= 20, || format!("{} were let in", inside()));
    let inside = inside();
    assert!((18..=20).contains(&inside), "{inside} were let in");
    // HTTP is refused as well while they are there; after a while those that say nothing are gone,
    // and counted.
    let began = Instant::now();
    let metrics = loop {
        let scrape = daemon.try_get("/metrics");
        if let Ok((200, text)) = scrape
            && scraped(&text, "regimed_connections_cut_total", "said_nothing") >= inside as f64
        {
            break text;
        }
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        wait::look_again().await;
    };
    let cut = |reason| scraped(&metrics, "regimed_connections_cut_total", reason);
    assert_eq!(cut("said_nothing"), inside as f64);
    assert!(cut("too_many_connections_of_one_peer") >= (40 - inside) as f64);
    drop(silent);
    let table = "[[session]]\nname = \"two\"\nmodel = \"builtin\"\nreadout = \"0\"\n";
    let mut control = ControlClient::connect(daemon.grpc.clone()).await.expect("connected");
    let request = regimed::internals::wire::StartSessionRequest { config: table.into() };
    let status = control.start_session(request).await.expect_err("one too many");
    assert!(status.message().contains("limits.sessions_max"), "{status}");
}
