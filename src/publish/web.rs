//! `/metrics`, `/healthz` and `/readyz` over HTTP.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

/// What the daemon is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Loading models, binding ports.
    Starting,
    /// Taking counts.
    Ready,
    /// Finishing what waits.
    Draining,
}

#[derive(Clone)]
struct Shared {
    metrics: PrometheusHandle,
    phase: watch::Receiver<Phase>,
}

/// The routes.
pub fn routes(metrics: PrometheusHandle, phase: watch::Receiver<Phase>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Shared { metrics, phase })
}

async fn render(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match *shared.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}
