//! `/metrics`, `/healthz`, `/readyz` and `/health` over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use super::bus::Bus;

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
    bus: Arc<Bus>,
}

/// The routes.
pub fn routes(metrics: PrometheusHandle, phase: watch::Receiver<Phase>, bus: Arc<Bus>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/health", get(health))
        .with_state(Shared { metrics, phase, bus })
}

/// What is wrong now, with a cure for each; always answered while the process lives.
async fn health(State(shared): State<Shared>) -> impl IntoResponse {
    let holding = shared.bus.conditions.holding();
    let conditions: Vec<_> = holding
        .iter()
        .map(|held| {
            serde_json::json!({
                "session": held.session,
                "condition": held.condition.name(),
                "detail": held.detail,
                "since_ns": held.since_ns,
                "cure": held.condition.cure(),
            })
        })
        .collect();
    let status = if conditions.is_empty() { "ok" } else { "degraded" };
    let body = serde_json::json!({ "status": status, "conditions": conditions });
    ([(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
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
