//! The daemon, put together: models, sessions, ports, servers, and their end.

mod acts;
mod announcer;
mod attach;
mod calibrator;
mod control;
mod credentials;
mod journal;
mod listeners;
mod metrics_worker;
mod outcomes;
mod plans;
pub(crate) mod probe;
mod publishing;
mod resume;
mod servers;
mod session_thread;
mod sessions;
mod shared;
mod snapshot_slot;
mod start;
mod supervisor;
mod triggers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::api::http::Phase;
use crate::api::zeromq::socket_dir::PrivateSocketDir;
use crate::bus::{Condition, Conditions, Intake, Registry, Stranger};
use crate::config::{Config, Supervision};
use crate::journal::Journal;
use crate::platform::Notifier;
use crate::tasks;
use crate::telemetry;
use crate::wire::DaemonStopped;
use crate::wire::journal_record::What;
use journal::{Opened, check_journal, open_journal};
use listeners::Listeners;
use metrics_worker::MetricsWorker;
use servers::{Ports, Services, report};
use sessions::Sessions;
use shared::Shared;
use supervisor::Supervisor;

pub(crate) use attach::{check_source, named};
pub(crate) use credentials::access;
pub(crate) use listeners::Endpoints;
pub(crate) use plans::plan;
pub(crate) use triggers::check_triggers;

/// Least time for the journal's last records.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(1);

/// A daemon that runs.
pub(crate) struct Daemon {
    endpoints: Endpoints,
    sessions: Arc<Sessions>,
    journal: Option<Arc<Journal>>,
    recorded: Option<Arc<Journal>>,
    notifier: Notifier,
    phase: watch::Sender<Phase>,
    closing: watch::Sender<bool>,
    health: tonic_health::server::HealthReporter,
    servers: Vec<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    drain: Duration,
    /// Sockets in the file system, removed at the end.
    unix_paths: Vec<PathBuf>,
    /// Tokens and certificates are to be read again.
    reread: Arc<Notify>,
    _sockets: PrivateSocketDir,
}

/// Starts the supervisor.
fn supervise(registry: Arc<Registry>, journal: Option<Arc<Journal>>) -> (Notifier, JoinHandle<()>) {
    let supervision = Supervision::from_environment();
    let notifier = Notifier::new(supervision.notify_socket.as_deref());
    let supervisor = Supervisor { registry, journal, supervision };
    (notifier, tasks::spawn(supervisor.run()))
}

impl Daemon {
    /// Loads models, binds every port, starts every session. When it returns, counts are taken.
    ///
    /// # Errors
    /// A model that does not fit its session, a port that is taken: reported before anything is
    /// served.
    pub(crate) async fn start(config: Config) -> Result<Self> {
        // Without an HTTP port nobody can read metrics, and none are kept.
        let metrics = config.http_listen.map(|_| telemetry::install());
        let asked = config.clone();
        let prepared = move || anyhow::Ok((plan(&asked)?, access(&asked)?));
        let (plans, access) = tokio::task::spawn_blocking(prepared).await??;
        listeners::raise_open_files();
        let listeners = Listeners::bind(&config).await?;
        let endpoints = listeners.endpoints();
        let sockets = PrivateSocketDir::new().context("no private folder for sockets")?;
        let ports = Ports { config: &config, access: &access, sockets: &sockets };
        let (closing, closed) = watch::channel(false);
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let mut tasks = Vec::new();
        let publisher = ports.zeromq_out(listeners.publish, &mut tasks).await?;
        let worker = MetricsWorker::start(plans.len())?;
        let asked = config.clone();
        let opened = tokio::task::spawn_blocking(move || open_journal(&asked)).await??;
        let Opened { journal, keeping, decisions, damaged } = opened;
        let registry = Arc::new(Registry::new(closed, Conditions::new(journal.clone())));
        registry.conditions.set("", Condition::JournalDamaged, damaged);
        if let Some(journal) = &config.journal {
            check_journal(journal.settings.folder.clone(), registry.clone())?;
        }
        let recorded = decisions.as_ref().map(|(log, _)| log.clone());
        let shared = Shared { publisher, worker, journal: journal.clone(), keeping, decisions };
        let sessions = Arc::new(Sessions::new(config.clone(), registry.clone(), shared));
        for (plan, session) in plans.into_iter().zip(config.sessions.clone()) {
            sessions.begin(plan, session).await?;
        }
        let intake = Arc::new(Intake::new(registry.clone()));
        ports.zeromq_in(listeners.pull, &intake, &mut tasks).await?;
        let services = Services { intake, registry: registry.clone(), sessions: sessions.clone() };
        let (health, servers) = ports.grpc((listeners.grpc, listeners.grpc_unix), services).await?;
        if let (Some(listener), Some(metrics)) = (listeners.http, metrics) {
            ports.http(listener, metrics, phase_seen, &sessions, &mut tasks)?;
        }
        let reread = Arc::new(Notify::new());
        tasks.extend(access.keep_reading(&registry, &reread));
        let (notifier, supervising) = supervise(registry, journal.clone());
        tasks.push(supervising);
        notifier.notify("READY=1");
        phase.send_replace(Phase::Ready);
        Ok(Self {
            endpoints,
            sessions,
            journal,
            recorded,
            notifier,
            phase,
            closing,
            health,
            servers,
            tasks,
            drain: Duration::from_secs_f64(config.drain_s),
            unix_paths: listeners.unix_paths,
            reread,
            _sockets: sockets,
        })
    }

    /// Reads tokens and certificates again now, not within the next second.
    pub(crate) fn reread_credentials(&self) {
        self.reread.notify_waiters();
    }

    /// What was sent to a session that is not here, most recently.
    #[must_use]
    pub(crate) fn stranger(&self) -> Option<Stranger> {
        self.sessions.stranger()
    }

    /// Addresses that are served.
    #[must_use]
    pub(crate) fn endpoints(&self) -> Endpoints {
        self.endpoints
    }

    /// Takes nothing more, finishes what waits, ends every stream; within the configured bound.
    ///
    /// # Errors
    /// When the bound was too short: names what was left undone.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let began = Instant::now();
        self.phase.send_replace(Phase::Draining);
        self.notifier.notify("STOPPING=1");
        report(&self.health, false).await;
        let late = self.sessions.end_all(self.drain).await;
        // A moment for the last messages to leave the sockets' queues.
        tokio::time::sleep(Duration::from_millis(50).min(self.drain)).await;
        self.closing.send_replace(true);
        let left = || self.drain.saturating_sub(began.elapsed());
        if let Some(recorded) = self.recorded.take() {
            let closing = tokio::task::spawn_blocking(move || recorded.close());
            let closed = tokio::time::timeout(left().max(JOURNAL_PATIENCE), closing).await;
            if !matches!(closed, Ok(Ok(true))) {
                tracing::error!("the disk of recorded decisions fails: its newest are lost");
            }
        }
        if let Some(journal) = self.journal.take() {
            journal.add("", What::DaemonStopped(DaemonStopped {}));
            let closing = tokio::task::spawn_blocking(move || journal.close());
            let kept = tokio::time::timeout(left().max(JOURNAL_PATIENCE), closing).await;
            if !matches!(kept, Ok(Ok(true))) {
                tracing::error!("the journal's disk fails: its newest records are lost");
            }
        }
        let mut cut = false;
        for server in &mut self.servers {
            let left = self.drain.saturating_sub(began.elapsed()).max(Duration::from_millis(50));
            if tokio::time::timeout(left, &mut *server).await.is_err() {
                server.abort();
                cut = true;
            }
        }
        for task in &self.tasks {
            task.abort();
        }
        for path in &self.unix_paths {
            let _ = std::fs::remove_file(path);
        }
        if !late.is_empty() {
            bail!("stopped before the sessions {} had done all bins that waited", late.join(", "));
        }
        if cut {
            tracing::warn!("some gRPC connections did not end in time and were cut");
        }
        Ok(())
    }
}
