//! What the live page does with sessions: the calls of `Control` over HTTP, as JSON alone, which a
//! page of another site cannot send unasked.

use std::future::Future;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::sessions::Sessions;
use crate::tasks;
use crate::wire::{AnnotateRequest, SwapModelRequest};

/// Where the page says what is to be done.
pub(super) fn routes(sessions: Arc<Sessions>) -> Router {
    Router::new()
        .route("/api/sessions", post(start))
        .route("/api/sessions/{name}/annotations", post(annotate))
        .route("/api/sessions/{name}/paused", post(pause))
        .route("/api/sessions/{name}/armed", post(arm))
        .route("/api/sessions/{name}/model", post(swap))
        .route("/api/sessions/{name}/stopped", post(stop))
        .with_state(sessions)
}

type Acting = State<Arc<Sessions>>;

/// Runs an act to its end, even where nobody waits for it any more.
async fn done<F, T>(key: &'static str, act: F) -> Response
where
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
    T: Serialize + Send + 'static,
{
    let (code, body) = match tasks::spawn(act).await {
        Ok(Ok(answer)) => (StatusCode::OK, json!({ key: answer })),
        Ok(Err(e)) => (StatusCode::BAD_REQUEST, json!({ "error": format!("{e:#}") })),
        Err(_) => {
            let why = "the daemon is shutting down";
            (StatusCode::SERVICE_UNAVAILABLE, json!({ "error": why }))
        }
    };
    (code, Json(body)).into_response()
}

/// A session as a configuration file would have it.
#[derive(Deserialize)]
struct Start {
    config: String,
}

async fn start(State(sessions): Acting, Json(Start { config }): Json<Start>) -> Response {
    done("session", async move { sessions.start(&config).await }).await
}

async fn stop(State(sessions): Acting, Path(name): Path<String>, Json(()): Json<()>) -> Response {
    done("session", async move { sessions.stop(&name).await }).await
}

/// A note at the newest bin.
#[derive(Deserialize)]
struct Note {
    text: String,
}

async fn annotate(
    State(sessions): Acting,
    Path(session): Path<String>,
    Json(Note { text }): Json<Note>,
) -> Response {
    let request = AnnotateRequest { session, text, source: "page".into() };
    done("annotation", async move { sessions.annotate(&request) }).await
}

/// Whether counts are refused.
#[derive(Deserialize)]
struct Paused {
    paused: bool,
}

async fn pause(
    State(sessions): Acting,
    Path(name): Path<String>,
    Json(Paused { paused }): Json<Paused>,
) -> Response {
    done("session", async move { sessions.pause(&name, paused) }).await
}

/// Whether triggers act.
#[derive(Deserialize)]
struct Armed {
    armed: bool,
}

async fn arm(
    State(sessions): Acting,
    Path(name): Path<String>,
    Json(Armed { armed }): Json<Armed>,
) -> Response {
    done("session", async move { sessions.arm(&name, armed) }).await
}

/// What a session is to run; as now, where it is not said.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Swap {
    model: String,
    readout: String,
    false_changes_per_min: f64,
}

async fn swap(
    State(sessions): Acting,
    Path(session): Path<String>,
    Json(Swap { model, readout, false_changes_per_min }): Json<Swap>,
) -> Response {
    let request =
        SwapModelRequest { session, model, readout, warm_up_s: 0.0, false_changes_per_min };
    done("session", async move { sessions.swap(request).await }).await
}
