//! The servers at the daemon's ports: ZeroMQ behind its gates, gRPC, HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::{Router, Server};
use tonic_health::server::HealthReporter;

use super::acts;
use super::control::ControlService;
use super::credentials::{Access, needs_control, needs_ingest, needs_nothing, needs_read};
use super::sessions::Sessions;
use crate::api::grpc::ingest::IngestService;
use crate::api::grpc::regimes::RegimesService;
use crate::api::http;
use crate::api::http::Phase;
use crate::api::page::Page;
use crate::api::zeromq::gate::{Gate, Listener};
use crate::api::zeromq::publisher::Publisher;
use crate::api::zeromq::socket_dir::PrivateSocketDir;
use crate::api::zeromq::{Side, counts};
use crate::bus::{Intake, Registry};
use crate::config::Config;
use crate::platform::LocalListener;
use crate::security::{Admission, Guarded, InFlight, Listening, admit, admit_unix};
use crate::tasks;
use crate::telemetry::Series;
use crate::wire;
use crate::wire::control_server::ControlServer;
use crate::wire::ingest_server::IngestServer;
use crate::wire::regimes_server::RegimesServer;

/// Longest message to services that are only asked something.
const QUESTION_BYTES_MAX: usize = 4 << 10;
/// Longest message to `Control`: a session's table.
const CONTROL_BYTES_MAX: usize = 256 << 10;
/// Interval of the metrics' upkeep.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// HTTP/2 pings: their interval, and how long one may stay unanswered before the peer is taken to
/// be gone.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What all ports use. Each has its own [`Admission`] and [`InFlight`], so filling one port does
/// not affect the others.
pub(super) struct Ports<'a> {
    pub(super) config: &'a Config,
    pub(super) access: &'a Access,
    pub(super) sockets: &'a PrivateSocketDir,
}

impl Ports<'_> {
    fn admission(&self) -> Admission {
        Admission::new(self.config.connections)
    }

    fn in_flight(&self) -> Arc<InFlight> {
        InFlight::new(self.config.message_bytes_max)
    }

    fn gate(&self, name: &str, side: Side) -> Gate {
        Gate {
            behind: self.sockets.socket(name),
            side,
            message_bytes_max: self.config.message_bytes_max,
            admission: self.admission(),
            in_flight: self.in_flight(),
        }
    }

    /// ZeroMQ out, where it is on.
    pub(super) async fn zeromq_out(
        &self,
        listeners: Vec<Listener>,
        tasks: &mut Vec<JoinHandle<()>>,
    ) -> Result<Option<Arc<Publisher>>> {
        if listeners.is_empty() {
            return Ok(None);
        }
        let gate = self.gate("publish", Side::Out);
        let publisher = Publisher::bind(&format!("ipc://{}", gate.behind.display()))
            .await
            .context("ZeroMQ out: cannot listen behind the gate")?;
        tasks.extend(listeners.into_iter().map(|l| tasks::spawn(gate.clone().serve(l))));
        Ok(Some(publisher))
    }

    /// ZeroMQ in: its ports, and the rigs that the daemon connects to.
    pub(super) async fn zeromq_in(
        &self,
        listeners: Vec<Listener>,
        intake: &Arc<Intake>,
        tasks: &mut Vec<JoinHandle<()>>,
    ) -> Result<()> {
        let bytes_max = self.config.message_bytes_max;
        if !listeners.is_empty() {
            let gate = self.gate("pull", Side::In);
            let socket = counts::bind_pull(&format!("ipc://{}", gate.behind.display()))
                .await
                .context("ZeroMQ in: cannot listen behind the gate")?;
            tasks.push(tasks::spawn(counts::receive(socket, intake.clone(), bytes_max)));
            tasks.extend(listeners.into_iter().map(|l| tasks::spawn(gate.clone().serve(l))));
        }
        for endpoint in &self.config.zeromq_subscribe {
            let task = counts::subscribe(endpoint.clone(), intake.clone(), bytes_max);
            tasks.push(tasks::spawn(task));
        }
        Ok(())
    }

    /// gRPC over TCP and over a Unix socket, each where it is on.
    pub(super) async fn grpc(
        &self,
        (tcp, unix): (Option<TcpListener>, Option<LocalListener>),
        services: Services,
    ) -> Result<(HealthReporter, Vec<JoinHandle<()>>)> {
        let registry = services.registry.clone();
        let (health, router) = self.router(services)?;
        report(&health, true).await;
        let mut servers = Vec::new();
        if let Some(listener) = tcp {
            let tls = self.access.grpc_tls.clone();
            let incoming =
                admit(listener, Listening { admission: self.admission(), tls, http1: false })?;
            let (router, end) = (router.clone(), closed(registry.clone()));
            servers.push(tasks::spawn(async move {
                log_end(router.serve_with_incoming_shutdown(incoming, end).await);
            }));
        }
        if let Some(listener) = unix {
            let incoming = admit_unix(listener, self.admission());
            let end = closed(registry);
            servers.push(tasks::spawn(async move {
                log_end(router.serve_with_incoming_shutdown(incoming, end).await);
            }));
        }
        Ok((health, servers))
    }

    fn router(&self, services: Services) -> Result<(HealthReporter, Router)> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .context("gRPC reflection")?;
        let Services { intake, registry, sessions } = services;
        let ingest = IngestService { intake, registry: registry.clone() };
        let regimes = RegimesService { registry };
        let control = ControlService(sessions);
        let bytes_max = self.config.message_bytes_max;
        let streams = u32::try_from(self.config.streams_per_connection_max).unwrap_or(u32::MAX);
        let room = self.in_flight();
        // Each service has its own largest message: only counts are long.
        macro_rules! guarded {
            ($service:expr, $needs:expr, $bytes_max:expr) => {
                Guarded::new(
                    $service.max_decoding_message_size($bytes_max),
                    self.access.tokens.clone(),
                    $needs,
                    room.clone(),
                    $bytes_max,
                )
            };
        }
        let router = Server::builder()
            .max_concurrent_streams(streams)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(guarded!(health_service, needs_nothing, QUESTION_BYTES_MAX))
            .add_service(guarded!(reflection, needs_nothing, QUESTION_BYTES_MAX))
            .add_service(guarded!(IngestServer::new(ingest), needs_ingest, bytes_max))
            .add_service(guarded!(ControlServer::new(control), needs_control, CONTROL_BYTES_MAX))
            .add_service(guarded!(RegimesServer::new(regimes), needs_read, QUESTION_BYTES_MAX));
        Ok((health, router))
    }

    /// HTTP, and the upkeep of what it shows. Ends with the process: health stays visible while
    /// draining.
    pub(super) fn http(
        &self,
        listener: TcpListener,
        metrics: Series,
        phase: watch::Receiver<Phase>,
        sessions: &Arc<Sessions>,
        tasks: &mut Vec<JoinHandle<()>>,
    ) -> Result<()> {
        let registry = sessions.registry();
        let routes = http::routes(http::Shared {
            metrics: metrics.clone(),
            phase,
            registry: registry.clone(),
            page: Page::new(registry.clone()),
            acts: acts::routes(sessions.clone()),
            tokens: self.access.tokens.clone(),
        });
        let tls = self.access.http_tls.clone();
        let incoming =
            admit(listener, Listening { admission: self.admission(), tls, http1: true })?;
        tasks.push(tasks::spawn(async move {
            if let Err(e) = axum::serve(incoming, routes).await {
                tracing::error!("HTTP server: {e}");
            }
        }));
        tasks.push(tasks::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP_EVERY).await;
                let metrics = metrics.clone();
                let upkeep = move || metrics.upkeep(Instant::now());
                let _ = tokio::task::spawn_blocking(upkeep).await;
            }
        }));
        Ok(())
    }
}

/// What the gRPC services work with.
pub(super) struct Services {
    pub(super) intake: Arc<Intake>,
    pub(super) registry: Arc<Registry>,
    pub(super) sessions: Arc<Sessions>,
}

/// Gives the health service's clients the state of all services.
pub(super) async fn report(health: &HealthReporter, serving: bool) {
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

fn log_end(ended: Result<(), tonic::transport::Error>) {
    if let Err(e) = ended {
        tracing::error!("gRPC server: {e}");
    }
}

async fn closed(registry: Arc<Registry>) {
    registry.closed().await;
}
