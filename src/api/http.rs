//! `/metrics`, `/healthz`, `/readyz`, `/health` and the live page over HTTP.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::{Connected, IntoMakeServiceWithConnectInfo};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use tokio::sync::{Semaphore, watch};

use super::page;
use super::page::Page;
use crate::bus::Registry;
use crate::platform;
use crate::security::{Answer, Denied, Incoming, Peer, Role, Tokens};
use crate::telemetry;
use crate::telemetry::Series;

/// What the daemon is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Loading models, binding ports.
    Starting,
    /// Taking counts.
    Ready,
    /// Finishing what waits.
    Draining,
}

/// State of the routes.
#[derive(Clone)]
pub(crate) struct Shared {
    /// For `/metrics`.
    pub metrics: Series,
    /// For `/readyz`.
    pub phase: watch::Receiver<Phase>,
    /// For `/health`.
    pub registry: Arc<Registry>,
    /// The live page.
    pub page: Arc<Page>,
    /// What the page's visitors do, for those who may.
    pub acts: Router,
    /// Who may read.
    pub tokens: Arc<Tokens>,
}

/// The routes; handlers get the connection's information.
pub(crate) fn routes(shared: Shared) -> IntoMakeServiceWithConnectInfo<Router, Peer> {
    let tokens = shared.tokens.clone();
    let guarded = Router::new()
        .route("/metrics", get(render))
        .route("/health", get(health))
        .with_state(shared.clone())
        .merge(page::data(shared.page.clone()))
        .layer(from_fn_with_state((tokens.clone(), Role::Read), guard));
    let acts =
        shared.acts.clone().layer(from_fn_with_state((tokens.clone(), Role::Control), guard));
    // A supervisor that restarts the daemon has no token, and the page asks for liveness.
    let open = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(shared);
    open.merge(page::files())
        .merge(guarded)
        .merge(acts)
        .layer(from_fn_with_state(tokens, near))
        .layer(from_fn(counted))
        .into_make_service_with_connect_info::<Peer>()
}

impl Connected<IncomingStream<'_, Incoming>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        stream.io().peer()
    }
}

/// Marks a connection as busy while a request on it is answered.
async fn counted(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    let open = peer.request(true);
    next.run(request).await.map(|body| Body::new(Answer::new(body, open)))
}

async fn guard(
    State((tokens, role)): State<(Arc<Tokens>, Role)>,
    request: Request,
    next: Next,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let code = match tokens.check(authorization.and_then(|a| a.to_str().ok()), role) {
        Ok(()) => return next.run(request).await,
        Err(Denied::Unknown) => StatusCode::UNAUTHORIZED,
        Err(Denied::Role) => StatusCode::FORBIDDEN,
    };
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    let name = Role::NAMES.iter().find(|n| n.1 == role).map_or("", |n| n.0);
    let why = format!("expected 'authorization: Bearer TOKEN' of the role '{name}'\n");
    (code, challenge, why).into_response()
}

/// Without tokens, refuses requests from pages of other sites, which can reach this address through
/// a host name that they control.
async fn near(State(tokens): State<Arc<Tokens>>, request: Request, next: Next) -> Response {
    if tokens.are_needed() || is_of_this_machine(request.headers()) {
        return next.run(request).await;
    }
    let why = "expected a request for 'localhost' or an address (with tokens, for any name)\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Whether the `Host` of a request is an address or `localhost`, or is missing. A page that points
/// its own host name at this machine (DNS rebinding) sends that name.
fn is_of_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|h| h.to_str().ok()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Current conditions, each with its cure; answers as long as the process lives.
async fn health(State(shared): State<Shared>) -> impl IntoResponse {
    let holding = shared.registry.conditions.holding();
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

/// On a thread that gives way, one after the other: with many sessions this takes milliseconds,
/// which would delay decisions.
async fn render(State(shared): State<Shared>) -> Result<impl IntoResponse, StatusCode> {
    static ONE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let unavailable = || StatusCode::SERVICE_UNAVAILABLE;
    let turn = ONE.clone().acquire_owned().await.map_err(|_| unavailable())?;
    let text = platform::aside("scrape", move || {
        // Held until the thread ends, also where nobody waits for it any more.
        let _turn = turn;
        telemetry::render(&shared.metrics)
    });
    let text = text.map_err(|_| unavailable())?.await.map_err(|_| unavailable())?;
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match *shared.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sites_names_are_not_this_machine() {
        let asked = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a value"));
            is_of_this_machine(&headers)
        };
        assert!(is_of_this_machine(&HeaderMap::new()));
        for host in ["localhost:9464", "LOCALHOST", "127.0.0.1:9464", "[::1]:9464", "10.1.2.3"] {
            assert!(asked(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9464", "localhost.evil.example", ""] {
            assert!(!asked(host), "{host}");
        }
    }
}
