//! The system port: `/health`, `/live` and `/metrics` of any process, apart from its API.

use crate::{EXPOSITION_TYPE, Telemetry};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::fmt::Write;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Whether a process can do its work, and if not, what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// What is missing, in words; empty means ready.
    pub missing: Vec<String>,
}

impl Health {
    /// 200 or 503, with a JSON body that says what is missing.
    pub fn response(&self) -> Response {
        let (status, word) = match self.missing.is_empty() {
            true => (StatusCode::OK, "ready"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        let missing: Vec<_> = self.missing.iter().map(|text| json_string(text)).collect();
        let body = format!(r#"{{"status":"{word}","missing":[{}]}}"#, missing.join(","));
        (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

/// Answers `/metrics`.
pub fn metrics_response(telemetry: &Telemetry) -> Response {
    ([(header::CONTENT_TYPE, EXPOSITION_TYPE)], telemetry.exposition()).into_response()
}

/// Answers `/live`: the process runs, whatever it can do.
pub fn live_response() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], r#"{"status":"live"}"#).into_response()
}

/// The three routes.
pub fn router(
    telemetry: Arc<Telemetry>,
    health: impl Fn() -> Health + Clone + Send + Sync + 'static,
) -> Router {
    Router::new()
        .route("/health", get(async move || health().response()))
        .route("/live", get(async || live_response()))
        .route("/metrics", get(async move || metrics_response(&telemetry)))
}

/// Serves the three routes until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

fn json_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", control as u32);
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
