//! The live page: what it is made of, all in the binary, and what it shows, as JSON and as a stream
//! of events.

mod channels;
mod feed;
mod viewers;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{broadcast, mpsc};

pub(crate) use viewers::Page;
use viewers::Viewing;

use super::describe;
use crate::bus::{EventsError, ModelSource, Resumed, SessionHandle};
use crate::tasks;
use crate::telemetry;
use crate::wire::Event;

/// Events that a viewer is shown at first.
const EVENTS_SHOWN: u64 = 200;
/// Events of one answer.
const EVENTS_AT_ONCE: usize = 1000;

/// Colours and type, light and dark, of the page and of reports.
pub(crate) const THEME: &str = include_str!("assets/theme.css");
/// The charts' library, and its style.
pub(crate) const UPLOT_JS: &str = include_str!("assets/vendor/uplot-1.6.32.js");
/// As above.
pub(crate) const UPLOT_CSS: &str = include_str!("assets/vendor/uplot-1.6.32.css");

/// The page's files: path, kind, text.
const FILES: [(&str, &str, &str); 13] = [
    ("/", "text/html", include_str!("assets/index.html")),
    ("/page/page.js", "text/javascript", include_str!("assets/page.js")),
    ("/page/state.js", "text/javascript", include_str!("assets/state.js")),
    ("/page/charts.js", "text/javascript", include_str!("assets/charts.js")),
    ("/page/acts.js", "text/javascript", include_str!("assets/acts.js")),
    ("/page/alerts.js", "text/javascript", include_str!("assets/alerts.js")),
    ("/page/history.js", "text/javascript", include_str!("assets/history.js")),
    ("/page/raster.js", "text/javascript", include_str!("assets/raster.js")),
    ("/page/save.js", "text/javascript", include_str!("assets/save.js")),
    ("/page/theme.css", "text/css", THEME),
    ("/page/page.css", "text/css", include_str!("assets/page.css")),
    ("/page/uplot.js", "text/javascript", UPLOT_JS),
    ("/page/uplot.css", "text/css", UPLOT_CSS),
];
/// The page runs and loads only what this server sends, and cannot be embedded in another page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors \
                      'none'";

/// The page's files, which contain no data.
pub(super) fn files() -> Router {
    FILES.iter().fold(Router::new(), |routes, &(path, kind, text)| {
        let answer = move || async move {
            let headers = [
                (header::CONTENT_TYPE, format!("{kind}; charset=utf-8")),
                (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
                (header::REFERRER_POLICY, "no-referrer".to_owned()),
                // Another version of the daemon brings another page.
                (header::CACHE_CONTROL, "no-cache".to_owned()),
            ];
            (headers, text)
        };
        routes.route(path, get(answer))
    })
}

/// What the page shows.
pub(super) fn data(page: Arc<Page>) -> Router {
    Router::new()
        .route("/api/sessions", get(sessions))
        .route("/api/sessions/{name}", get(one_session))
        .route("/api/sessions/{name}/events", get(events))
        .route("/api/sessions/{name}/annotations", get(annotations))
        .route("/api/stream", get(stream))
        .with_state(page)
}

fn refused(code: StatusCode, why: &str) -> Response {
    (code, Json(json!({ "error": why }))).into_response()
}

/// A session by name; otherwise names the sessions that exist.
fn find(page: &Page, name: &str) -> Result<Arc<SessionHandle>, Box<Response>> {
    page.registry
        .find(name)
        .map_err(|why| Box::new(refused(StatusCode::NOT_FOUND, &why.to_string())))
}

fn as_json(page: &Page, session: &SessionHandle) -> Option<serde_json::Value> {
    serde_json::to_value(describe(session, &page.registry.conditions)).ok()
}

async fn sessions(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let sessions: Vec<_> =
        page.registry.sessions().iter().filter_map(|s| as_json(&page, s)).collect();
    Json(json!({ "version": env!("CARGO_PKG_VERSION"), "sessions": sessions }))
}

/// A session with its map and newest metrics.
async fn one_session(State(page): State<Arc<Page>>, Path(name): Path<String>) -> Response {
    match find(&page, &name) {
        Err(refusal) => *refusal,
        Ok(session) => Json(json!({
            "session": as_json(&page, &session),
            "map": &*session.facts().map,
            "metrics": session.metrics(),
            "channels": channels::named(&session.plan()),
            "choices": choices(&page, &session),
        }))
        .into_response(),
    }
}

/// What a session could run instead: the models that this daemon knows of, the sessions whose
/// readouts its own model has, and the rates of false changes that were measured for it.
fn choices(page: &Page, session: &SessionHandle) -> serde_json::Value {
    let plan = session.plan();
    let model = |s: &Arc<SessionHandle>| s.plan().choice.source.to_string();
    let mut models: Vec<String> = page.registry.sessions().iter().map(model).collect();
    models.push(ModelSource::BUILTIN.to_owned());
    models.sort();
    models.dedup();
    let points = plan.model.online.operating_points.iter();
    json!({
        "models": models,
        "model": plan.choice.source.to_string(),
        "readouts": plan.model.session_names(),
        "readout": plan.choice.readout,
        "false_changes_per_min":
            points.map(|p| (p.false_changes_per_min, p.median_delay_s)).collect::<Vec<_>>(),
    })
}

/// Query of `/api/events`: the events after a number.
#[derive(Debug, Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn events(
    State(page): State<Arc<Page>>,
    Path(name): Path<String>,
    Query(After { after }): Query<After>,
) -> Response {
    let session = match find(&page, &name) {
        Ok(session) => session,
        Err(refusal) => return *refusal,
    };
    match session.events.after(after).await {
        Ok(events) => {
            let events: Vec<Event> = events.into_iter().take(EVENTS_AT_ONCE).collect();
            Json(json!({ "events": events })).into_response()
        }
        Err(e) => {
            let nearest = e.nearest();
            let body = json!({ "error": e.to_string(), "nearest": nearest });
            (StatusCode::RANGE_NOT_SATISFIABLE, Json(body)).into_response()
        }
    }
}

async fn annotations(State(page): State<Arc<Page>>, Path(name): Path<String>) -> Response {
    match find(&page, &name) {
        Ok(session) => Json(json!({ "annotations": session.annotations.held() })).into_response(),
        Err(refusal) => *refusal,
    }
}

/// What a viewer asks to see.
#[derive(Debug, Deserialize)]
struct View {
    session: Option<String>,
    /// Resume after this event number; absent: the newest ones.
    after: Option<u64>,
}

/// Server-sent events: `overview` of all sessions, `frame` and `channels` of one, `change` for each
/// of its regime events.
async fn stream(State(page): State<Arc<Page>>, Query(view): Query<View>) -> Response {
    let first = || page.registry.sessions().first().map(|s| s.name().to_owned());
    let session = match view.session.or_else(first) {
        None => return refused(StatusCode::NOT_FOUND, "there is no session yet"),
        Some(name) => match find(&page, &name) {
            Ok(session) => session,
            Err(refusal) => return *refusal,
        },
    };
    let (sender, receiver) = mpsc::channel(2);
    tasks::spawn(show(page, session, view.after, sender));
    let body = unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), receiver))
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(body)).into_response()
}

/// Position at which a viewer's events begin: after those it has seen, or as near as they are held.
async fn begin(page: &Page, session: Arc<SessionHandle>, after: Option<u64>) -> Option<Resumed> {
    let newest = session.events.newest();
    let mut from = after.unwrap_or_else(|| newest.saturating_sub(EVENTS_SHOWN));
    // Numbers may advance between the two calls.
    for _ in 0..8 {
        match Resumed::after(&page.registry, session.clone(), from).await {
            Ok(resumed) => return Some(resumed),
            Err(e @ (EventsError::NotRetained { .. } | EventsError::NotYet { .. })) => {
                from = e.nearest();
            }
        }
    }
    None
}

async fn show(
    page: Arc<Page>,
    session: Arc<SessionHandle>,
    after: Option<u64>,
    sender: mpsc::Sender<Bytes>,
) {
    let _counted = telemetry::Counted::new(&telemetry::page_viewers());
    let Viewing { mut overview, mut frames, is_first } = page.view(session.name());
    if is_first {
        feed::start(&page);
    }
    let mut events = begin(&page, session, after).await;
    loop {
        let next_event = async {
            match &mut events {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        let chunk = tokio::select! {
            event = next_event => match event {
                Ok(Some(event)) => Ok(feed::change(&event)),
                // The session has ended; the others go on.
                _ => {
                    events = None;
                    continue;
                }
            },
            frame = frames.recv() => frame,
            lines = overview.recv() => lines,
            () = page.registry.closed() => return,
            () = sender.closed() => return,
        };
        match chunk {
            Ok(chunk) => {
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
            // A slow viewer is shown fewer frames.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
