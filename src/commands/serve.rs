//! `regimed serve`: the daemon.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use crate::config::RuntimeConfig;
use crate::daemon::{Daemon, access, check_source, check_triggers, plan};
use crate::platform::{self, Signals};
use crate::tasks;
use crate::{config, telemetry};

/// Time for unfinished work when everything is stopped.
const LAST_WORK: std::time::Duration = std::time::Duration::from_secs(1);

/// Run the daemon
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Configuration (TOML; see docs/configuration.md)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only check the configuration and its models
    #[arg(long)]
    pub check: bool,
}

/// Runs the command.
///
/// # Errors
/// A faulty configuration, a model that does not fit, a port that is taken.
pub fn run(args: &ServeArgs) -> Result<()> {
    let config = config::read(&args.config)?;
    if args.check {
        access(&config)?;
        for (p, session) in plan(&config)?.into_iter().zip(&config.sessions) {
            check_triggers(session, &p, &config)
                .with_context(|| format!("session '{}'", p.session))?;
            let rig = check_source(session, &p)
                .with_context(|| format!("session '{}'", p.session))?
                .map_or(String::new(), |rig| format!(", rig: {rig}"));
            let model = &p.checkpoint.model;
            let calibrates = p.choice.calibration.as_ref().map_or(String::new(), |c| {
                format!(", calibrates itself on its first {} s", c.seconds)
            });
            println!(
                "session '{}': readout '{}', {} channels, bins of {} ms, {} hypotheses, regimes \
                 {}{calibrates}{rig}",
                p.session,
                p.readout.session,
                p.readout.n_channels(),
                model.bin_width_s * 1e3,
                p.readout.prior.components.len(),
                model.regime_names.join(", ")
            );
        }
        println!("{}: good", args.config.display());
        return Ok(());
    }
    telemetry::log_to_stderr()?;
    let runtime = runtime_of(&config.runtime)?;
    let ended = tasks::block_on(&runtime, async {
        let mut signals = Signals::new().context("cannot listen for signals")?;
        let daemon = tokio::select! {
            daemon = Daemon::start(config) => daemon?,
            () = signals.end() => {
                tracing::info!("stopped before it was ready");
                return Ok(());
            }
        };
        let e = daemon.endpoints();
        let shown = |a: Option<std::net::SocketAddr>| a.map_or("off".into(), |a| a.to_string());
        tracing::info!(
            grpc = shown(e.grpc),
            zeromq_pull = shown(e.zeromq_pull),
            zeromq_publish = shown(e.zeromq_publish),
            http = shown(e.http),
            "ready"
        );
        until_end(&mut signals, &daemon).await;
        tracing::info!("draining");
        daemon.stop().await?;
        tracing::info!("stopped");
        Ok(())
    });
    // Not longer for a disk that never answers.
    runtime.shutdown_timeout(LAST_WORK);
    ended
}

/// Resolves when the daemon should end; it is told meanwhile to read its files again.
pub(crate) async fn until_end(signals: &mut Signals, daemon: &Daemon) {
    while !signals.next().await {
        tracing::info!("SIGHUP: tokens and certificates are read again");
        daemon.reread_credentials();
    }
}

/// The runtime for I/O of a command.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    runtime_of(&RuntimeConfig::default())
}

/// The runtime for I/O, its threads where they should run.
fn runtime_of(config: &RuntimeConfig) -> Result<tokio::runtime::Runtime> {
    let (placement, threads) = (config.placement.clone(), config.io_threads);
    let started = AtomicUsize::new(0);
    platform::note_home();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .thread_name("io")
        .on_thread_start(move || {
            // Those that come later do what takes long, and are started by these.
            if started.fetch_add(1, Ordering::Relaxed) >= threads {
                return placement.leave();
            }
            if let Err(e) = placement.take() {
                tracing::warn!("a thread for I/O does not run where [runtime] says: {e}");
            }
        })
        .build()
        .context("cannot start the I/O threads")
}
