//! `/metrics`, `/healthz`, `/readyz` and `/health` over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use super::bus::Bus;
use crate::security::{Denied, Role, Tokens};

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
pub fn routes(
    metrics: PrometheusHandle,
    phase: watch::Receiver<Phase>,
    bus: Arc<Bus>,
    tokens: Arc<Tokens>,
) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(render))
        .route("/health", get(health))
        .layer(from_fn_with_state(tokens, guard));
    // Whoever restarts a daemon must see whether it lives, without a token.
    guarded
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Shared { metrics, phase, bus })
}

async fn guard(State(tokens): State<Arc<Tokens>>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let code = match tokens.check(authorization.and_then(|a| a.to_str().ok()), Role::Read) {
        Ok(()) => return next.run(request).await,
        Err(Denied::Unknown) => StatusCode::UNAUTHORIZED,
        Err(Denied::Role) => StatusCode::FORBIDDEN,
    };
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (code, challenge, "expected 'authorization: Bearer TOKEN' of the role 'read'\n").into_response()
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
