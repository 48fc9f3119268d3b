//! `regimed doctor`: whether everything is there for a daemon to run well.

mod finding;
mod machine;
mod rig;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::access::AccessArgs;
use super::serve::runtime;
use super::watch::duration;
use crate::bus::{Plan, Stranger};
use crate::clock::wall_ns;
use crate::config;
use crate::config::Config;
use crate::daemon::{Daemon, access, check_triggers, plan};
use crate::tasks;
use crate::wire::regimes_client::RegimesClient;
use crate::wire::{ListSessionsRequest, Session};
use finding::{Finding, Level};

/// A wall clock that strays by more from the steady one was set.
const STRAYED_S: f64 = 0.05;

/// Check a configuration, its models, this machine and the rig; one line each, with the cure
///
/// Where a daemon runs with the configuration, its sessions are asked; else each rig is listened
/// to. Exits with 1 where something fails, with 0 also where there are warnings.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Configuration
    #[arg(long, value_name = "FILE", default_value = "regimed.toml")]
    pub config: PathBuf,
    /// Listen to each rig for this long
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub for_time: Duration,
    #[command(flatten)]
    /// Access to a daemon that asks who comes.
    pub access: AccessArgs,
}

/// Runs the command.
///
/// # Errors
/// Something fails.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let findings = tasks::block_on(&runtime()?, examine(args));
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (failures, warnings) = (count(Level::Failure), count(Level::Warning));
    println!("{} checks, {warnings} warnings, {failures} failures", findings.len());
    if failures > 0 {
        bail!("expected everything in place, found {failures} failures");
    }
    Ok(())
}

/// Prints each finding as it is made.
struct Told(Vec<Finding>);

impl Told {
    fn tell(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            println!("{finding}");
            self.0.push(finding);
        }
    }
}

async fn examine(args: &DoctorArgs) -> Vec<Finding> {
    let mut told = Told(Vec::new());
    let config = match config::read(&args.config) {
        Ok(config) => config,
        Err(e) => {
            let (cure, found) = ("docs/configuration.md has every key", e.to_string());
            told.tell([Finding::bad(Level::Failure, "configuration", found, cure)]);
            return told.0;
        }
    };
    told.tell([Finding::good("configuration", args.config.display().to_string())]);
    told.tell([secrets(&config)]);
    told.tell([machine::journal(&config)]);
    told.tell(machine::limits(&config));
    let running = running(args, &config).await;
    if let Some(sessions) = &running {
        let n = sessions.len();
        told.tell([Finding::good("daemon", format!("one runs here, with {n} sessions"))]);
        told.tell(sessions.iter().flat_map(rig::told_by_daemon));
        return told.0;
    }
    told.tell(machine::ports(&config));
    let plans = match plan(&config) {
        Ok(plans) => plans,
        Err(e) => {
            let cure = "docs/training.md: pretrain, calibrate";
            told.tell([Finding::bad(Level::Failure, "model", format!("{e:#}"), cure)]);
            return told.0;
        }
    };
    let (steady, wall) = (Instant::now(), wall_ns());
    rigs(&mut told, &config, &plans, args.for_time).await;
    let strayed = (wall_ns() - wall) as f64 * 1e-9 - steady.elapsed().as_secs_f64();
    told.tell([if strayed.abs() > STRAYED_S {
        let cure = "let NTP or PTP slew it, not step it, while a session records";
        Finding::bad(
            Level::Warning,
            "wall clock",
            format!("set by {strayed:+.3} s meanwhile"),
            cure,
        )
    } else {
        Finding::good("wall clock", format!("steady within {:.1} ms", strayed.abs() * 1e3))
    }]);
    told.0
}

/// Every session's model, triggers and rig.
async fn rigs(told: &mut Told, config: &Config, plans: &[Plan], time: Duration) {
    let came = waited(config, time).await;
    for (session, plan) in config.sessions.iter().zip(plans) {
        let model = format!("{}, readout '{}'", plan.facts().model, plan.readout.session);
        told.tell([Finding::good(format!("{} model", session.name), model)]);
        if let Err(e) = check_triggers(session, plan, config) {
            let what = format!("{} triggers", session.name);
            told.tell([Finding::bad(Level::Failure, what, format!("{e:#}"), "docs/triggers.md")]);
        }
        if session.source.is_some() {
            told.tell(rig::listened(session, plan, time).await);
        } else {
            match &came {
                Ok(found) => told.tell([rig::came(session, plan, found.as_ref())]),
                Err(e) => {
                    let what = format!("{} rig", session.name);
                    let cure = "see the ports above";
                    told.tell([Finding::bad(Level::Failure, what, format!("{e:#}"), cure)]);
                }
            }
        }
    }
}

/// Tokens and certificates can be read.
fn secrets(config: &Config) -> Finding {
    let what = "access";
    match access(config) {
        Err(e) => {
            Finding::bad(Level::Failure, what, format!("{e:#}"), "docs/security.md has the files")
        }
        Ok(_) => {
            let tls = if config.tls.is_some() { "TLS" } else { "no TLS" };
            Finding::good(what, format!("{tls}, {} files of tokens", config.tokens.len()))
        }
    }
}

/// The sessions of a daemon that runs at the configuration's gRPC port.
async fn running(args: &DoctorArgs, config: &Config) -> Option<Vec<Session>> {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let at = format!("{scheme}://{}", config.grpc_listen?);
    let connection = args.access.connect(&at).await.ok()?;
    let listed = RegimesClient::new(connection).list_sessions(ListSessionsRequest {}).await.ok()?;
    Some(listed.into_inner().sessions)
}

/// Waits for rigs that come by themselves, where the configuration has such sessions.
async fn waited(config: &Config, time: Duration) -> Result<Option<Stranger>> {
    if config.sessions.iter().all(|s| s.source.is_some()) {
        return Ok(None);
    }
    // The same ports without sessions: whatever comes is a stranger's.
    let ports = Config {
        sessions: Vec::new(),
        journal: None,
        http_listen: None,
        zeromq_publish: None,
        zeromq_publish_ipc: None,
        ..config.clone()
    };
    let daemon = Daemon::start(ports).await?;
    tokio::time::sleep(time).await;
    let found = daemon.stranger();
    daemon.stop().await?;
    Ok(found)
}
