//! Routes, and the life of the server from its first connection to its last.

use crate::app::App;
use crate::chat;
use crate::connections::{self, Connections};
use crate::cors;
use crate::door::Door;
use crate::keys;
use crate::openai::error::ApiError;
use crate::openai::model_list;
use crate::phase::{Phase, Phases};
use crate::request_id;
use crate::shutdown::Shutdown;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use config::FrontendConfig;
use router::Backend;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use telemetry::{Telemetry, system};

/// How long connections may take to close after their requests were cancelled.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Serves the API to whoever comes in by `door` until `shutdown` begins, then finishes what is at
/// work.
///
/// Requests still running at the drain deadline fail with words that say so.
pub async fn serve(
    door: Door,
    backend: Arc<dyn Backend>,
    config: FrontendConfig,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
) -> io::Result<()> {
    let (phase, phases) = Phases::start();
    let drain_deadline = config.drain_deadline;
    let app = App::new(backend, config, telemetry, phases);
    let Door { listener, tls } = door;
    let mut connections = Connections::new(routes(Arc::clone(&app)), tls, &app.config);
    let preload = tokio::spawn(Arc::clone(&app).preload());
    connections.accept(&listener, shutdown.begun()).await;
    preload.abort();
    drop(listener);
    phase.send_replace(Phase::Draining);
    if let Some(hanging) = connections.close(drain_deadline).await {
        phase.send_replace(Phase::Cancelled);
        connections::finish(hanging, CLOSE_TIME).await;
    }
    Ok(())
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
        // The last is the first that a request meets: a browser's questions carry no key.
        .layer(middleware::from_fn_with_state(Arc::clone(&app), keys::guard))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), cors::share))
        .layer(middleware::from_fn(request_id::echo))
        .with_state(app)
}

async fn models(State(app): State<Arc<App>>) -> Response {
    json(model_list::list(&app.backend.models()))
}

async fn model(State(app): State<Arc<App>>, name: Result<Path<String>, PathRejection>) -> Response {
    // No model has a name that is not UTF-8.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let models = app.backend.models();
    match models.iter().find(|model| model.name == name) {
        Some(model) => json(model_list::one(model).to_string()),
        None => ApiError::no_such_model(&name).into_response(),
    }
}

async fn health(State(app): State<Arc<App>>) -> Response {
    app.health().await.response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    system::metrics_response(&app.telemetry)
}

async fn no_such_route(method: Method, uri: Uri) -> ApiError {
    let message = format!("Unknown request URL: {method} {}.", uri.path());
    ApiError::http(StatusCode::NOT_FOUND, "unknown_url", message)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method} requests.", uri.path());
    ApiError::http(StatusCode::METHOD_NOT_ALLOWED, "method_not_supported", message)
}

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
