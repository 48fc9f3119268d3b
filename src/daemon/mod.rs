//! The daemon, put together: models, sessions, ports, publishers, and their end.

mod announcer;
mod attach;
mod calibrator;
mod control;
mod handoff;
mod metrics_worker;
mod models;
mod outcomes;
mod resume;
mod session;
mod sessions;
mod state_place;
mod supervisor;
mod teller;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Server;
use tonic::{Request, Status};

use crate::config::{Config, JournalConfig, STATE, Supervision};
use crate::journal::Journal;
use crate::publish::grpc::RegimesService;
use crate::publish::page::Page;
use crate::publish::web::{self, Phase};
use crate::publish::zeromq::Publisher;
use crate::publish::{Bus, Condition, Conditions};
use crate::security::{Admission, Denied, Peer, Role, Tls, TlsFiles, Tokens, admit, admit_unix};
use crate::source::gate::{self, Backyard, Front};
use crate::source::grpc::IngestService;
use crate::source::zeromq as zeromq_source;
use crate::telemetry;
use crate::wire;
use crate::wire::control_server::ControlServer;
use crate::wire::ingest_server::IngestServer;
use crate::wire::journal_record::What;
use crate::wire::regimes_server::RegimesServer;
use crate::wire::{DaemonStarted, DaemonStopped, Lost};

use control::ControlService;
use resume::Keeping;
use session::Shared;
use sessions::Sessions;
use supervisor::{Notifier, Supervisor};

pub use attach::check_source;
pub use calibrator::SelfCalibration;
pub use models::{Plan, builtin_model, plan};

/// The journal has so long at least for its last records.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(1);
/// A peer that is not there any more is found out by pings so far apart, and as long unanswered.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Addresses that are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// gRPC.
    pub grpc: Option<SocketAddr>,
    /// ZeroMQ counts in (PULL).
    pub zeromq_pull: Option<SocketAddr>,
    /// ZeroMQ out (PUB).
    pub zeromq_publish: Option<SocketAddr>,
    /// HTTP.
    pub http: Option<SocketAddr>,
}

/// A daemon that runs.
pub struct Daemon {
    endpoints: Endpoints,
    bus: Arc<Bus>,
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
    _backyard: Backyard,
}

/// Binds a port, or says which and what to do.
async fn listen(what: &str, key: &str, address: SocketAddr) -> Result<TcpListener> {
    gate::bind(address).await.with_context(|| {
        let todo =
            format!("{what}: cannot listen on {address} (another {key} in the configuration helps");
        if address.port() == 0 { todo + ")" } else { todo + ", or ending what uses it)" }
    })
}

fn listen_unix(key: &str, path: &Path) -> Result<UnixListener> {
    gate::bind_unix(path).with_context(|| {
        format!(
            "{key}: cannot listen at {} (another path in the configuration helps)",
            path.display()
        )
    })
}

/// Everything that is listened at.
#[derive(Default)]
struct Fronts {
    grpc: Option<TcpListener>,
    grpc_unix: Option<UnixListener>,
    http: Option<TcpListener>,
    pull: Vec<Front>,
    publish: Vec<Front>,
    unix_paths: Vec<PathBuf>,
}

impl Fronts {
    async fn bind(config: &Config) -> Result<Self> {
        let mut fronts = Self::default();
        if let Some(a) = config.grpc_listen {
            fronts.grpc = Some(listen("gRPC", "grpc.listen", a).await?);
        }
        if let Some(a) = config.http_listen {
            fronts.http = Some(listen("HTTP", "http.listen", a).await?);
        }
        if let Some(a) = config.zeromq_pull {
            fronts.pull.push(Front::Tcp(listen("ZeroMQ in", "zeromq.pull", a).await?));
        }
        if let Some(a) = config.zeromq_publish {
            fronts.publish.push(Front::Tcp(listen("ZeroMQ out", "zeromq.publish", a).await?));
        }
        if let Some(path) = &config.grpc_unix {
            fronts.grpc_unix = Some(listen_unix("grpc.unix", path)?);
        }
        if let Some(path) = &config.zeromq_pull_ipc {
            fronts.pull.push(Front::Unix(listen_unix("zeromq.pull_ipc", path)?));
        }
        if let Some(path) = &config.zeromq_publish_ipc {
            fronts.publish.push(Front::Unix(listen_unix("zeromq.publish_ipc", path)?));
        }
        let paths = [&config.grpc_unix, &config.zeromq_pull_ipc, &config.zeromq_publish_ipc];
        fronts.unix_paths = paths.into_iter().flatten().cloned().collect();
        Ok(fronts)
    }

    fn endpoints(&self) -> Endpoints {
        let address = |l: &Option<TcpListener>| l.as_ref().and_then(|l| l.local_addr().ok());
        let of_front = |fronts: &[Front]| {
            fronts.iter().find_map(|f| match f {
                Front::Tcp(listener) => listener.local_addr().ok(),
                Front::Unix(_) => None,
            })
        };
        Endpoints {
            grpc: address(&self.grpc),
            zeromq_pull: of_front(&self.pull),
            zeromq_publish: of_front(&self.publish),
            http: address(&self.http),
        }
    }
}

/// Who may come in.
pub struct Access {
    tokens: Arc<Tokens>,
    grpc_tls: Option<Arc<Tls>>,
    http_tls: Option<Arc<Tls>>,
}

/// Reads certificates and tokens.
///
/// # Errors
/// A file that cannot be read or is none of the kind.
pub fn access(config: &Config) -> Result<Access> {
    let tls = |protocol: &'static [u8]| {
        let open = |files: &TlsFiles| Tls::open(files.clone(), protocol).map(Arc::new);
        config.tls.as_ref().map(open).transpose()
    };
    Ok(Access {
        tokens: Arc::new(Tokens::open(config.tokens.clone())?),
        grpc_tls: tls(b"h2")?,
        http_tls: tls(b"http/1.1")?,
    })
}

/// Asks a call for its token; a Unix socket's file has said already who may come.
fn guard(
    tokens: &Arc<Tokens>,
    role: Role,
) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone + use<> {
    let tokens = tokens.clone();
    move |request| {
        if request.extensions().get::<Peer>().is_some_and(|p| p.address.is_none()) {
            return Ok(request);
        }
        let authorization = request.metadata().get("authorization");
        match tokens.check(authorization.and_then(|a| a.to_str().ok()), role) {
            Ok(()) => Ok(request),
            Err(e @ Denied::Unknown) => Err(Status::unauthenticated(e.to_string())),
            Err(e @ Denied::Role) => Err(Status::permission_denied(e.to_string())),
        }
    }
}

/// Every connection is an open file: as many as the system allows.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(e) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!("the limit of open files stays at {:?}: {e}", limit.current);
        }
    }
}

/// Tells the health service's clients.
async fn report(health: &tonic_health::server::HealthReporter, serving: bool) {
    if serving {
        health.set_serving::<IngestServer<IngestService>>().await;
        health.set_serving::<RegimesServer<RegimesService>>().await;
        health.set_serving::<ControlServer<ControlService>>().await;
    } else {
        health.set_not_serving::<IngestServer<IngestService>>().await;
        health.set_not_serving::<RegimesServer<RegimesService>>().await;
        health.set_not_serving::<ControlServer<ControlService>>().await;
    }
}

fn told(ended: Result<(), tonic::transport::Error>) {
    if let Err(e) = ended {
        tracing::error!("gRPC server: {e}");
    }
}

/// The journal, where sessions' states are kept, and what of the journal is damaged.
#[derive(Default)]
struct Opened {
    journal: Option<Arc<Journal>>,
    keeping: Option<Keeping>,
    /// Where decisions are recorded, and every how many of them.
    decisions: Option<(Arc<Journal>, u64)>,
    damaged: Option<String>,
}

/// Opens the journal, where one is configured, and tells what was found.
fn open_journal(config: &Config) -> Result<Opened> {
    let Some(JournalConfig {
        settings,
        state_every_s,
        state_age_max_s,
        decisions_every,
        decisions,
    }) = &config.journal
    else {
        tracing::warn!("no journal: events are kept in memory alone (set journal.folder)");
        return Ok(Opened::default());
    };
    let folder = &settings.folder;
    let began = Instant::now();
    let (journal, found) = Journal::open(settings.clone()).with_context(|| {
        format!("journal.folder: the journal in {} cannot be opened", folder.display())
    })?;
    let opened_ms = began.elapsed().as_millis();
    tracing::info!(opened_ms, records = found.last, clean = found.ended, "journal opened");
    let started = DaemonStarted { version: env!("CARGO_PKG_VERSION").into() };
    journal.add("", What::DaemonStarted(started));
    if found.torn_bytes > 0 {
        let bytes = found.torn_bytes;
        tracing::info!(
            bytes,
            "the journal ended in a record cut short: nothing in it was announced"
        );
    }
    if let Some((first, last)) = found.lost {
        journal.add("", What::Lost(Lost { first, last }));
    }
    let state = folder.join(STATE);
    let keeping = (*state_every_s > 0.0).then(|| Keeping {
        folder: state.clone(),
        every_s: *state_every_s,
        age_max_s: *state_age_max_s,
    });
    if keeping.is_some()
        && let Err(e) = std::fs::create_dir_all(&state)
    {
        tracing::warn!("sessions' states cannot be saved: {e}");
    }
    let damaged = found.lost.map(|(first, last)| {
        format!("expected sound records in the journal, found {first} to {last} damaged or lost")
    });
    let decisions = if *decisions_every > 0 {
        let place = decisions.folder.display();
        let (log, _) = Journal::open(decisions.clone())
            .with_context(|| format!("recorded decisions in {place} cannot be opened"))?;
        Some((Arc::new(log), *decisions_every as u64))
    } else {
        None
    };
    Ok(Opened { journal: Some(Arc::new(journal)), keeping, decisions, damaged })
}

impl Daemon {
    /// Loads models, binds every port, starts every session. When it returns, counts are taken.
    ///
    /// # Errors
    /// A model that does not fit its session, a port that is taken: said before anything is served.
    pub async fn start(config: Config) -> Result<Self> {
        // Where nobody can ask for metrics, none are kept.
        let metrics = config.http_listen.map(|_| telemetry::install());
        let plans = plan(&config)?;
        let Access { tokens, grpc_tls, http_tls } = access(&config)?;
        raise_open_files();
        let admission = Admission::new(config.connections);
        let fronts = Fronts::bind(&config).await?;
        let endpoints = fronts.endpoints();
        let backyard = Backyard::new().context("cannot make a private folder for sockets")?;
        let (closing, closed) = watch::channel(false);
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let bytes_max = config.message_bytes_max;
        let mut tasks = Vec::new();

        let publisher = if fronts.publish.is_empty() {
            None
        } else {
            let behind = backyard.socket("publish");
            let publisher = Publisher::bind(&format!("ipc://{}", behind.display()))
                .await
                .context("ZeroMQ out: cannot listen behind the gate")?;
            for front in fronts.publish {
                let admission = admission.clone();
                tasks.push(tokio::spawn(gate::serve(front, behind.clone(), bytes_max, admission)));
            }
            Some(publisher)
        };
        let worker = metrics_worker::MetricsWorker::start(plans.len())?;
        let Opened { journal, keeping, decisions, damaged } = open_journal(&config)?;
        let bus = Arc::new(Bus::new(closed, Conditions::new(journal.clone())));
        bus.conditions.set("", Condition::JournalDamaged, damaged);
        let recorded = decisions.as_ref().map(|(log, _)| log.clone());
        let shared = Shared { publisher, worker, journal: journal.clone(), keeping, decisions };
        let sessions = Arc::new(Sessions::new(config.clone(), bus.clone(), shared));
        let intake = sessions.intake.clone();
        for (plan, session) in plans.into_iter().zip(config.sessions) {
            sessions.begin(plan, session).await?;
        }

        if !fronts.pull.is_empty() {
            let behind = backyard.socket("pull");
            let socket = zeromq_source::bind_pull(&format!("ipc://{}", behind.display()))
                .await
                .context("ZeroMQ in: cannot listen behind the gate")?;
            tasks.push(tokio::spawn(zeromq_source::receive(socket, intake.clone(), bytes_max)));
            for front in fronts.pull {
                let admission = admission.clone();
                tasks.push(tokio::spawn(gate::serve(front, behind.clone(), bytes_max, admission)));
            }
        }
        for endpoint in config.zeromq_subscribe {
            let task = zeromq_source::subscribe(endpoint, intake.clone(), bytes_max);
            tasks.push(tokio::spawn(task));
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        report(&health, true).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .context("gRPC reflection")?;
        let ingest = IngestService { intake: intake.clone(), bus: bus.clone() };
        let regimes = RegimesService { bus: bus.clone(), intake: intake.clone() };
        let ingest = IngestServer::new(ingest).max_decoding_message_size(bytes_max);
        let control = ControlServer::new(ControlService(sessions.clone()));
        let streams = u32::try_from(config.streams_per_connection_max).unwrap_or(u32::MAX);
        let services = Server::builder()
            .max_concurrent_streams(streams)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(InterceptedService::new(ingest, guard(&tokens, Role::Ingest)))
            .add_service(InterceptedService::new(control, guard(&tokens, Role::Control)))
            .add_service(InterceptedService::new(
                RegimesServer::new(regimes),
                guard(&tokens, Role::Read),
            ));
        let mut servers = Vec::new();
        if let Some(listener) = fronts.grpc {
            let incoming = admit(listener, admission.clone(), grpc_tls)?;
            let served = services.clone();
            let end = closed_signal(bus.clone());
            servers.push(tokio::spawn(async move {
                told(served.serve_with_incoming_shutdown(incoming, end).await);
            }));
        }
        if let Some(listener) = fronts.grpc_unix {
            let incoming = admit_unix(listener, admission.clone());
            let end = closed_signal(bus.clone());
            servers.push(tokio::spawn(async move {
                told(services.serve_with_incoming_shutdown(incoming, end).await);
            }));
        }
        if let (Some(listener), Some(metrics)) = (fronts.http, metrics) {
            let routes = web::routes(web::Shared {
                metrics: metrics.clone(),
                phase: phase_seen,
                bus: bus.clone(),
                page: Page::new(bus.clone(), intake.clone()),
                tokens,
            });
            let incoming = admit(listener, admission, http_tls)?;
            // Ends with the process: health stays visible while draining.
            tasks.push(tokio::spawn(async move {
                if let Err(e) = axum::serve(incoming, routes).await {
                    tracing::error!("HTTP server: {e}");
                }
            }));
            tasks.push(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    metrics.run_upkeep();
                }
            }));
        }
        let supervision = Supervision::from_environment();
        let notifier = Notifier::new(&supervision);
        let supervisor =
            Supervisor { bus: bus.clone(), intake, journal: journal.clone(), supervision };
        tasks.push(tokio::spawn(supervisor.run()));
        notifier.tell("READY=1");
        phase.send_replace(Phase::Ready);
        Ok(Self {
            endpoints,
            bus,
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
            unix_paths: fronts.unix_paths,
            _backyard: backyard,
        })
    }

    /// Addresses that are served.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        self.endpoints
    }

    /// The sessions' bus.
    #[must_use]
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Takes nothing more, finishes what waits, ends every stream; within the configured bound.
    ///
    /// # Errors
    /// When the bound was too short: what was left undone is said.
    pub async fn stop(mut self) -> Result<()> {
        let began = Instant::now();
        self.phase.send_replace(Phase::Draining);
        self.notifier.tell("STOPPING=1");
        report(&self.health, false).await;
        let late = self.sessions.end_all(self.drain).await;
        // A moment for the last messages to leave the sockets' queues.
        tokio::time::sleep(Duration::from_millis(50).min(self.drain)).await;
        self.closing.send_replace(true);
        if let Some(recorded) = self.recorded.take() {
            let _ = tokio::task::spawn_blocking(move || recorded.close()).await;
        }
        if let Some(journal) = self.journal.take() {
            journal.add("", What::DaemonStopped(DaemonStopped {}));
            let closing = tokio::task::spawn_blocking(move || journal.close());
            let left = self.drain.saturating_sub(began.elapsed()).max(JOURNAL_PATIENCE);
            let kept = tokio::time::timeout(left, closing).await;
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

async fn closed_signal(bus: Arc<Bus>) {
    bus.closed().await;
}

/// What this thread does can wait: where cores are short, those that decide and tell go first.
fn give_way() {
    // Elsewhere it would be the whole process.
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::nice(10) {
        tracing::debug!("a thread keeps its priority: {e}");
    }
}
