//! The daemon, put together: models, sessions, ports, publishers, and their end.

mod calibrator;
mod counts;
mod handoff;
mod metrics_worker;
mod models;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::{Server, TcpIncoming};

use crate::config::Config;
use crate::publish::grpc::RegimesService;
use crate::publish::web::{self, Phase};
use crate::publish::zeromq::Publisher;
use crate::publish::{Bus, SessionBus};
use crate::source::gate::{self, Backyard};
use crate::source::grpc::IngestService;
use crate::source::{Intake, zeromq as zeromq_source};
use crate::telemetry;
use crate::wire;
use crate::wire::ingest_server::IngestServer;
use crate::wire::regimes_server::RegimesServer;

pub use calibrator::SelfCalibration;
pub use models::{Plan, builtin_model, plan};

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
    sessions: Vec<session::Running>,
    phase: watch::Sender<Phase>,
    closing: watch::Sender<bool>,
    health: tonic_health::server::HealthReporter,
    servers: Vec<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    drain: Duration,
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

impl Daemon {
    /// Loads models, binds every port, starts every session. When it returns, counts are taken.
    ///
    /// # Errors
    /// A model that does not fit its session, a port that is taken: said before anything is served.
    pub async fn start(config: Config) -> Result<Self> {
        let metrics = telemetry::install();
        let plans = plan(&config)?;
        let grpc = match config.grpc_listen {
            Some(a) => Some(listen("gRPC", "grpc.listen", a).await?),
            None => None,
        };
        let http = match config.http_listen {
            Some(a) => Some(listen("HTTP", "http.listen", a).await?),
            None => None,
        };
        let pull = match config.zeromq_pull {
            Some(a) => Some(listen("ZeroMQ in", "zeromq.pull", a).await?),
            None => None,
        };
        let publish = match config.zeromq_publish {
            Some(a) => Some(listen("ZeroMQ out", "zeromq.publish", a).await?),
            None => None,
        };
        let address = |l: &Option<TcpListener>| l.as_ref().and_then(|l| l.local_addr().ok());
        let endpoints = Endpoints {
            grpc: address(&grpc),
            zeromq_pull: address(&pull),
            zeromq_publish: address(&publish),
            http: address(&http),
        };
        let backyard = Backyard::new().context("cannot make a private folder for sockets")?;
        let (closing, closed) = watch::channel(false);
        let (phase, phase_seen) = watch::channel(Phase::Starting);
        let mut tasks = Vec::new();
        let mut servers = Vec::new();

        let publisher = match publish {
            Some(front) => {
                let behind = backyard.socket("publish");
                let publisher = Publisher::bind(&format!("ipc://{}", behind.display()))
                    .await
                    .context("ZeroMQ out: cannot listen behind the gate")?;
                tasks.push(tokio::spawn(gate::serve(front, behind, config.message_bytes_max)));
                Some(publisher)
            }
            None => None,
        };

        let worker = metrics_worker::MetricsWorker::start(plans.len())?;
        let mut sessions = Vec::new();
        for plan in plans {
            sessions.push(session::start(&plan, &config, publisher.clone(), &worker)?);
        }
        let bus = Arc::new(Bus {
            sessions: sessions.iter().map(|s| s.bus.clone()).collect::<Vec<Arc<SessionBus>>>(),
            closing: closed,
        });
        let intake = Arc::new(Intake::new(sessions.iter().map(|s| s.port.clone())));

        if let Some(front) = pull {
            let behind = backyard.socket("pull");
            let socket = zeromq_source::bind_pull(&format!("ipc://{}", behind.display()))
                .await
                .context("ZeroMQ in: cannot listen behind the gate")?;
            let bytes_max = config.message_bytes_max;
            tasks.push(tokio::spawn(zeromq_source::receive(socket, intake.clone(), bytes_max)));
            tasks.push(tokio::spawn(gate::serve(front, behind, bytes_max)));
        }
        for endpoint in config.zeromq_subscribe.clone() {
            let task = zeromq_source::subscribe(endpoint, intake.clone(), config.message_bytes_max);
            tasks.push(tokio::spawn(task));
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_not_serving::<IngestServer<IngestService>>().await;
        health.set_not_serving::<RegimesServer<RegimesService>>().await;
        if let Some(listener) = grpc {
            let reflection = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .build_v1()
                .context("gRPC reflection")?;
            let ingest = IngestService { intake: intake.clone(), bus: bus.clone() };
            let regimes = RegimesService { bus: bus.clone(), intake: intake.clone() };
            let server = Server::builder()
                .add_service(health_service)
                .add_service(reflection)
                .add_service(
                    IngestServer::new(ingest).max_decoding_message_size(config.message_bytes_max),
                )
                .add_service(RegimesServer::new(regimes))
                .serve_with_incoming_shutdown(
                    TcpIncoming::from(listener).with_nodelay(Some(true)),
                    closed_signal(bus.clone()),
                );
            servers.push(tokio::spawn(async move {
                if let Err(e) = server.await {
                    tracing::error!("gRPC server: {e}");
                }
            }));
        }
        if let Some(listener) = http {
            let routes = web::routes(metrics.clone(), phase_seen);
            // Ends with the process: health stays visible while draining.
            tasks.push(tokio::spawn(async move {
                if let Err(e) = axum::serve(listener, routes).await {
                    tracing::error!("HTTP server: {e}");
                }
            }));
        }
        tasks.push(tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                metrics.run_upkeep();
            }
        }));
        health.set_serving::<IngestServer<IngestService>>().await;
        health.set_serving::<RegimesServer<RegimesService>>().await;
        phase.send_replace(Phase::Ready);
        Ok(Self {
            endpoints,
            bus,
            sessions,
            phase,
            closing,
            health,
            servers,
            tasks,
            drain: Duration::from_secs_f64(config.drain_s),
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
        self.health.set_not_serving::<IngestServer<IngestService>>().await;
        self.health.set_not_serving::<RegimesServer<RegimesService>>().await;
        for session in &self.sessions {
            session.port.close();
        }
        let mut late = Vec::new();
        for session in &mut self.sessions {
            let left = self.drain.saturating_sub(began.elapsed());
            if tokio::time::timeout(left, &mut session.publishing).await.is_err() {
                late.push(session.port.settings().session.clone());
            }
        }
        // A moment for the last messages to leave the sockets' queues.
        tokio::time::sleep(Duration::from_millis(50).min(self.drain)).await;
        self.closing.send_replace(true);
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
