//! `regimed brand`: the daemon as a node of a BRAND graph, with the graph's flags and parameters.

use std::path::Path;

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use serde_json::Value;

use super::serve::{runtime, until_end};
use crate::config::Config;
use crate::daemon::Daemon;
use crate::platform::Signals;
use crate::rigs::brand::fields;
use crate::rigs::redis::{Connection, newest};
use crate::tasks;
use crate::{config, telemetry};

/// Stream in which the graph lies.
const SUPERGRAPH: &str = "supergraph_stream";
/// Parameters of the node that are the rig's, not the session's.
const RIG_KEYS: [(&str, &str); 4] = [
    ("input_stream", "stream"),
    ("dtype", "dtype"),
    ("crossings_first", "crossings_first"),
    ("output_stream", "output_stream"),
];
/// Parameters that are top-level tables of the configuration.
const TABLES: [&str; 5] = ["grpc", "zeromq", "http", "limits", "metrics"];

/// Run as a node of a BRAND graph (parameters come from the graph; see docs/rigs/brand.md)
#[derive(Debug, clap::Args)]
pub struct BrandArgs {
    /// -n NICKNAME, -i REDIS_HOST, -p REDIS_PORT, -s REDIS_SOCKET; other flags are ignored, as
    /// BRAND has it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
}

/// What a supervisor starts a node with.
#[derive(Debug, PartialEq, Eq)]
struct Flags {
    nickname: String,
    host: String,
    port: u16,
    socket: Option<String>,
}

impl Flags {
    fn parse(flags: &[String]) -> Result<Self> {
        let mut parsed =
            Self { nickname: String::new(), host: "127.0.0.1".into(), port: 6379, socket: None };
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            let mut value = || {
                flags
                    .next()
                    .cloned()
                    .with_context(|| format!("{flag}: expected a value, found none"))
            };
            match flag.as_str() {
                "-n" | "--nickname" => parsed.nickname = value()?,
                "-i" | "--redis_host" => parsed.host = value()?,
                "-p" | "--redis_port" => {
                    let port = value()?;
                    parsed.port = port
                        .parse()
                        .with_context(|| format!("{flag}: expected a port, found '{port}'"))?;
                }
                "-s" | "--redis_socket" => parsed.socket = Some(value()?),
                _ => {}
            }
        }
        if parsed.nickname.is_empty() {
            bail!("expected -n with the node's nickname in the graph, found none");
        }
        Ok(parsed)
    }
}

/// Runs the command.
///
/// # Errors
/// No Redis, a graph without this node, parameters that do not fit.
pub fn run(args: &BrandArgs) -> Result<()> {
    let flags = Flags::parse(&args.flags)?;
    telemetry::log_to_stderr()?;
    tasks::block_on(&runtime()?, node(&flags))
}

async fn node(flags: &Flags) -> Result<()> {
    let mut signals = Signals::new()?;
    let (url, mut redis) = connect(flags).await?;
    state(&mut redis, flags, 0, "initialized").await?;
    let result = async {
        let daemon = Daemon::start(configured(flags, &url, &mut redis).await?).await?;
        state(&mut redis, flags, 0, "NODE_READY").await?;
        tracing::info!(nickname = flags.nickname, "ready");
        until_end(&mut signals, &daemon).await;
        tracing::info!("draining");
        daemon.stop().await
    };
    match result.await {
        Ok(()) => {
            state(&mut redis, flags, 0, "NODE_SHUTDOWN").await?;
            tracing::info!("stopped");
            Ok(())
        }
        Err(e) => {
            // The error that is returned below matters more than a failure to report it.
            let _ = state(&mut redis, flags, 1, "NODE_FATAL_ERROR").await;
            Err(e)
        }
    }
}

/// The Unix socket first, as BRAND's nodes do.
async fn connect(flags: &Flags) -> Result<(String, MultiplexedConnection)> {
    if let Some(socket) = &flags.socket {
        let url = format!("unix://{socket}");
        match Connection::open(&url).await {
            Ok(redis) => return Ok((url, redis)),
            Err(e) => tracing::warn!(socket, "Redis does not answer there: {e}"),
        }
    }
    let url = format!("redis://{}:{}", flags.host, flags.port);
    let redis = Connection::open(&url).await.with_context(|| format!("no Redis at {url}"))?;
    Ok((url, redis))
}

async fn state(
    redis: &mut MultiplexedConnection,
    flags: &Flags,
    code: i32,
    status: &str,
) -> Result<()> {
    let stream = format!("{}_state", flags.nickname);
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("*").arg("code").arg(code).arg("status").arg(status);
    command.query_async::<String>(redis).await.context("cannot tell the node's state")?;
    Ok(())
}

async fn configured(flags: &Flags, url: &str, redis: &mut MultiplexedConnection) -> Result<Config> {
    let entry = newest(redis, SUPERGRAPH)
        .await
        .context("cannot read the graph")?
        .with_context(|| format!("expected a graph in '{SUPERGRAPH}', found none"))?;
    let Some(redis::Value::BulkString(data)) = entry.map.get("data") else {
        bail!("{SUPERGRAPH}: expected a field 'data', found {}", fields(&entry));
    };
    let graph: Value = serde_json::from_slice(data).context("supergraph_stream: data")?;
    let text = toml_of(parameters(&graph, &flags.nickname)?, &flags.nickname, url)?;
    config::parse(Path::new("(graph)"), &text).context("the node's parameters")
}

/// A node's parameters in a graph.
fn parameters<'a>(graph: &'a Value, nickname: &str) -> Result<&'a Value> {
    let nodes = graph.get("nodes").context("graph: expected 'nodes', found none")?;
    let all: Vec<&Value> = match nodes {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => bail!("graph: expected 'nodes' to be a table, found {nodes}"),
    };
    let name = |n: &&&Value| n.get("nickname").and_then(Value::as_str) == Some(nickname);
    all.iter().find(name).and_then(|n| n.get("parameters")).with_context(|| {
        let known: Vec<&str> =
            all.iter().filter_map(|n| n.get("nickname").and_then(Value::as_str)).collect();
        format!("expected a node with parameters named '{nickname}', found {}", known.join(", "))
    })
}

/// Parameters as the configuration has them: the session's keys, its rig's, and other tables.
fn toml_of(parameters: &Value, nickname: &str, url: &str) -> Result<String> {
    let Value::Object(parameters) = parameters else {
        bail!("expected parameters in a table, found {parameters}");
    };
    let mut rig = toml::Table::new();
    rig.insert("redis".into(), url.into());
    let mut session = toml::Table::new();
    session.insert("name".into(), nickname.into());
    let mut top = toml::Table::new();
    for (key, value) in parameters {
        let value = toml::Value::try_from(value)
            .with_context(|| format!("parameter '{key}': expected a value, found {value}"))?;
        if let Some((_, ours)) = RIG_KEYS.iter().find(|k| k.0 == key) {
            rig.insert((*ours).into(), value);
        } else if TABLES.contains(&key.as_str()) {
            top.insert(key.clone(), value);
        } else {
            session.insert(key.clone(), value);
        }
    }
    session.insert("brand".into(), rig.into());
    top.insert("session".into(), toml::Value::Array(vec![session.into()]));
    toml::to_string(&top).context("the node's parameters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SourceConfig;
    use crate::rigs::brand::Dtype;

    #[test]
    fn a_node_finds_its_parameters_and_ignores_flags_it_does_not_know() {
        let flags =
            ["--gpu", "-n", "regime", "-i", "host", "-p", "6380", "-x", "-s", "/tmp/r.sock"];
        let flags = Flags::parse(&flags.map(String::from)).expect("flags");
        assert_eq!((flags.port, flags.socket.as_deref()), (6380, Some("/tmp/r.sock")));
        assert!(Flags::parse(&["-n".into()]).is_err() && Flags::parse(&[]).is_err());
        let graph = serde_json::json!({"nodes": {"0": {"nickname": "bin"}, "1": {
            "nickname": "regime",
            "parameters": {"model": "builtin", "readout": "0", "channels": 96, "bin_ms": 10,
                "dtype": "float32",
                "input_stream": "b", "output_stream": "regimes", "grpc": {"listen": ""}}}}});
        let found = parameters(&graph, "regime").expect("parameters");
        let text = toml_of(found, "regime", "redis://h:1").expect("toml");
        let config = config::parse(Path::new("(graph)"), &text).expect("a good configuration");
        assert_eq!(config.grpc_listen, None);
        let Some(SourceConfig::Brand(rig)) = &config.sessions[0].source else {
            panic!("{config:?}")
        };
        assert_eq!((rig.dtype, rig.stream.as_str()), (Dtype::Float32, "b"));
        assert!(
            parameters(&graph, "other").expect_err("absent").to_string().contains("bin, regime")
        );
        let bad = serde_json::json!({"modell": "x"});
        let text = toml_of(&bad, "n", "redis://h:1").expect("toml");
        assert!(
            config::parse(Path::new("g"), &text).expect_err("bad").to_string().contains("modell")
        );
    }
}
