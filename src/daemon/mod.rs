//! The daemon, put together: models, sessions, ports, publishers, and their end.

mod announcer;
mod attach;
mod calibrator;
mod control;
mod credentials;
mod fronts;
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
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tonic::transport::server::Server;

use crate::config::{Config, JournalConfig, STATE, Supervision};
use crate::journal::{self, Journal};
use crate::publish::grpc::RegimesService;
use crate::publish::page::Page;
use crate::publish::web::{self, Phase};
use crate::publish::zeromq::Publisher;
use crate::publish::{Bus, Condition, Conditions};
use crate::security::{Admission, Guarded, InFlight, Listening, admit, admit_unix};
use crate::source::gate::Gate;
use crate::source::grpc::IngestService;
use crate::source::socket_dir::PrivateSocketDir;
use crate::source::{Intake, Side, zeromq as zeromq_source};
use crate::telemetry;
use crate::wire;
use crate::wire::control_server::ControlServer;
use crate::wire::ingest_server::IngestServer;
use crate::wire::journal_record::What;
use crate::wire::regimes_server::RegimesServer;
use crate::wire::{DaemonStarted, DaemonStopped, Lost};

use control::ControlService;
use credentials::{needs_control, needs_ingest, needs_nothing, needs_read};
use fronts::Fronts;
use resume::Keeping;
use session::Shared;
use sessions::Sessions;
use supervisor::{Notifier, Supervisor};

pub use attach::check_source;
pub use calibrator::SelfCalibration;
pub use credentials::access;
pub use models::{Plan, builtin_model, plan};

/// The journal has so long at least for its last records.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(1);
/// Longest message to services that are only asked something.
const QUESTION_BYTES_MAX: usize = 4 << 10;
/// Longest message to `Control`: a session's table.
const CONTROL_BYTES_MAX: usize = 256 << 10;
/// Places of damage that are told at most: regimed journal lists all.
const DAMAGE_TOLD_MAX: usize = 8;
/// Metrics are looked after so often.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
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
    /// Tokens and certificates are to be read again.
    reread: Arc<Notify>,
    _sockets: PrivateSocketDir,
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
        && let Err(e) = crate::files::own_folder(&state)
    {
        tracing::warn!("sessions' states cannot be saved: {e}");
    }
    let damaged = (!found.damage.is_empty())
        .then(|| format!("expected a sound journal, found damage: {}", found.damage.join("; ")));
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

/// Reads the whole journal on a thread of its own, beside whoever writes it: what is damaged in files that were not read
/// at the start is told as well.
fn check_journal(folder: PathBuf, bus: Arc<Bus>) -> Result<()> {
    let check = move || {
        give_way();
        match journal::read(&folder, |_| {}) {
            Ok(reading) => tell_damage(&reading, &bus),
            Err(e) => tracing::warn!("the journal cannot be read: {e}"),
        }
    };
    let thread = std::thread::Builder::new().name("journal-check".into());
    thread.spawn(check).context("cannot start a thread to check the journal")?;
    Ok(())
}

fn tell_damage(reading: &journal::Reading, bus: &Bus) {
    let places = reading.troubles.iter().filter(|t| !t.torn);
    let mut damage: Vec<String> = places
        .map(|t| format!("{} bytes at {} of file {:020}.rgj", t.bytes, t.at, t.file))
        .collect();
    if reading.lost_untold > 0 {
        damage.push(format!("{} records are lost", reading.lost_untold));
    }
    if !damage.is_empty() {
        damage.truncate(DAMAGE_TOLD_MAX);
        let found = format!("expected a sound journal, found damage: {}", damage.join("; "));
        bus.conditions.set("", Condition::JournalDamaged, Some(found));
    }
}

impl Daemon {
    /// Loads models, binds every port, starts every session. When it returns, counts are taken.
    ///
    /// # Errors
    /// A model that does not fit its session, a port that is taken: said before anything is served.
    pub async fn start(config: Config) -> Result<Self> {
        // Where nobody can ask for metrics, none are kept.
        let metrics = config.http_listen.map(|_| telemetry::install());
        let asked = config.clone();
        let (plans, access) =
            tokio::task::spawn_blocking(move || anyhow::Ok((plan(&asked)?, access(&asked)?)))
                .await??;
        fronts::raise_open_files();
        let fronts = Fronts::bind(&config).await?;
        let endpoints = fronts.endpoints();
        let sockets =
            PrivateSocketDir::new().context("cannot make a private folder for sockets")?;
        let (closing, closed) = watch::channel(false);
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let bytes_max = config.message_bytes_max;
        // One of each for each port: whoever fills one leaves the others as they are.
        let in_flight = || InFlight::new(bytes_max);
        let admission = || Admission::new(config.connections);
        let gate = |name: &str, side: Side| Gate {
            behind: sockets.socket(name),
            side,
            message_bytes_max: bytes_max,
            admission: admission(),
            in_flight: in_flight(),
        };
        let mut tasks = Vec::new();

        let publisher = if fronts.publish.is_empty() {
            None
        } else {
            let gate = gate("publish", Side::Out);
            let publisher = Publisher::bind(&format!("ipc://{}", gate.behind.display()))
                .await
                .context("ZeroMQ out: cannot listen behind the gate")?;
            tasks.extend(fronts.publish.into_iter().map(|f| tokio::spawn(gate.clone().serve(f))));
            Some(publisher)
        };
        let worker = metrics_worker::MetricsWorker::start(plans.len())?;
        let asked = config.clone();
        let opened = tokio::task::spawn_blocking(move || open_journal(&asked)).await??;
        let Opened { journal, keeping, decisions, damaged } = opened;
        let bus = Arc::new(Bus::new(closed, Conditions::new(journal.clone())));
        bus.conditions.set("", Condition::JournalDamaged, damaged);
        if let Some(journal) = &config.journal {
            check_journal(journal.settings.folder.clone(), bus.clone())?;
        }
        let recorded = decisions.as_ref().map(|(log, _)| log.clone());
        let shared = Shared { publisher, worker, journal: journal.clone(), keeping, decisions };
        let sessions = Arc::new(Sessions::new(config.clone(), bus.clone(), shared));
        for (plan, session) in plans.into_iter().zip(config.sessions) {
            sessions.begin(plan, session).await?;
        }
        let intake = Arc::new(Intake::new(bus.clone()));

        if !fronts.pull.is_empty() {
            let gate = gate("pull", Side::In);
            let socket = zeromq_source::bind_pull(&format!("ipc://{}", gate.behind.display()))
                .await
                .context("ZeroMQ in: cannot listen behind the gate")?;
            tasks.push(tokio::spawn(zeromq_source::receive(socket, intake.clone(), bytes_max)));
            tasks.extend(fronts.pull.into_iter().map(|f| tokio::spawn(gate.clone().serve(f))));
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
        let ingest = IngestService { intake, bus: bus.clone() };
        let regimes = RegimesService { bus: bus.clone() };
        let control = ControlService(sessions.clone());
        let streams = u32::try_from(config.streams_per_connection_max).unwrap_or(u32::MAX);
        let tokens = access.tokens.clone();
        let room = in_flight();
        // Every service takes messages of its own size at most: of these, only counts are long.
        macro_rules! guarded {
            ($service:expr, $needs:expr, $bytes_max:expr) => {
                Guarded::new(
                    $service.max_decoding_message_size($bytes_max),
                    tokens.clone(),
                    $needs,
                    room.clone(),
                    $bytes_max,
                )
            };
        }
        let services = Server::builder()
            .max_concurrent_streams(streams)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(guarded!(health_service, needs_nothing, QUESTION_BYTES_MAX))
            .add_service(guarded!(reflection, needs_nothing, QUESTION_BYTES_MAX))
            .add_service(guarded!(IngestServer::new(ingest), needs_ingest, bytes_max))
            .add_service(guarded!(ControlServer::new(control), needs_control, CONTROL_BYTES_MAX))
            .add_service(guarded!(RegimesServer::new(regimes), needs_read, QUESTION_BYTES_MAX));
        let mut servers = Vec::new();
        if let Some(listener) = fronts.grpc {
            let tls = access.grpc_tls.clone();
            let how = Listening { admission: admission(), tls, http1: false };
            let incoming = admit(listener, how)?;
            let served = services.clone();
            let end = closed_signal(bus.clone());
            servers.push(tokio::spawn(async move {
                told(served.serve_with_incoming_shutdown(incoming, end).await);
            }));
        }
        if let Some(listener) = fronts.grpc_unix {
            let incoming = admit_unix(listener, admission());
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
                page: Page::new(bus.clone()),
                tokens,
            });
            let tls = access.http_tls.clone();
            let incoming = admit(listener, Listening { admission: admission(), tls, http1: true })?;
            // Ends with the process: health stays visible while draining.
            tasks.push(tokio::spawn(async move {
                if let Err(e) = axum::serve(incoming, routes).await {
                    tracing::error!("HTTP server: {e}");
                }
            }));
            tasks.push(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(UPKEEP_EVERY).await;
                    let metrics = metrics.clone();
                    let upkeep = move || metrics.upkeep(Instant::now());
                    let _ = tokio::task::spawn_blocking(upkeep).await;
                }
            }));
        }
        let reread = Arc::new(Notify::new());
        tasks.extend(access.keep_reading(&bus, &reread));
        let supervision = Supervision::from_environment();
        let notifier = Notifier::new(&supervision);
        let supervisor = Supervisor { bus: bus.clone(), journal: journal.clone(), supervision };
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
            reread,
            _sockets: sockets,
        })
    }

    /// Reads tokens and certificates again now, not within the next second.
    pub fn reread_credentials(&self) {
        self.reread.notify_waiters();
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
