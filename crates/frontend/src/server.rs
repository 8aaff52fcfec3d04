//! Routes, and the life of the server from its first connection to its last.

use crate::app::App;
use crate::chat;
use crate::openai::error::ApiError;
use crate::openai::model_list;
use crate::phase::{Phase, Phases};
use crate::shutdown::Shutdown;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use config::FrontendConfig;
use router::Backend;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use telemetry::{Telemetry, system};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use types::{Error, ErrorKind};

/// How long connections may take to close after their requests were cancelled.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Serves the API on `listener` until `shutdown` begins, then finishes what is at work.
///
/// Requests still running at the drain deadline fail. Errors: the listener broke.
pub async fn serve(
    listener: TcpListener,
    backend: Arc<dyn Backend>,
    config: FrontendConfig,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
) -> io::Result<()> {
    let (phase, phases) = Phases::start();
    let drain_deadline = config.drain_deadline;
    let app = App::new(backend, config, telemetry, phases);
    let serving =
        axum::serve(listener, routes(app)).with_graceful_shutdown(shutdown.clone().begun());
    let mut serving = tokio::spawn(async move { serving.await });
    tokio::select! {
        ended = &mut serving => return ended.map_err(io::Error::other)?,
        () = drain(phase, shutdown, drain_deadline) => {}
    }
    // A connection that does not close is left behind: the process is about to end.
    match timeout(CLOSE_TIME, &mut serving).await {
        Ok(ended) => ended.map_err(io::Error::other)?,
        Err(_) => {
            serving.abort();
            Ok(())
        }
    }
}

/// From the wish to stop to the end of the requests' time.
async fn drain(phase: watch::Sender<Phase>, shutdown: Shutdown, deadline: Duration) {
    shutdown.begun().await;
    phase.send_replace(Phase::Draining);
    sleep(deadline).await;
    phase.send_replace(Phase::Cancelled);
}

fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/health", get(health))
        .route("/live", get(async || system::live_response()))
        .route("/metrics", get(metrics))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        // Bodies are read under limits of our own.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

async fn models(State(app): State<Arc<App>>) -> Response {
    json(model_list::list(&app.backend.models()))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let models = app.backend.models();
    let unknown = || Error::new(ErrorKind::NotFound, format!("The model '{name}' does not exist."));
    match models.iter().find(|model| model.name == name) {
        Some(model) => json(model_list::one(model).to_string()),
        None => ApiError::from(unknown().at("model")).into_response(),
    }
}

/// Not ready while draining, so that nobody sends more.
async fn health(State(app): State<Arc<App>>) -> Response {
    let mut health = app.health();
    if app.phases.now() != Phase::Serving {
        health.missing.push("the server is stopping".to_owned());
    }
    health.response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    system::metrics_response(&app.telemetry)
}

async fn no_such_route(uri: Uri) -> ApiError {
    let message = format!("There is nothing at {}.", uri.path());
    ApiError::http(StatusCode::NOT_FOUND, "unknown_url", message)
}

async fn wrong_method(uri: Uri) -> ApiError {
    let message = format!("{} does not take this method.", uri.path());
    ApiError::http(StatusCode::METHOD_NOT_ALLOWED, "method_not_supported", message)
}

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
