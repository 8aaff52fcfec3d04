//! Pages of other origins: which of them a browser lets ask, by CORS.

use crate::app::App;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use config::CorsOrigins;
use std::sync::Arc;

/// What pages may do.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");

/// Header lines of an answer that pages may read.
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, retry-after");

/// How long a browser may remember what pages may do, in seconds.
const REMEMBER_S: HeaderValue = HeaderValue::from_static("600");

/// Answers a browser's question whether a page may ask, and says with each answer who may read it.
pub(crate) async fn share(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origins = &app.config.access.cors;
    let allowed = request.headers().get(header::ORIGIN).and_then(|origin| allow(origins, origin));
    let Some(allowed) = allowed else {
        let mut response = next.run(request).await;
        vary(response.headers_mut(), origins);
        return response;
    };
    let mut response = match is_question(&request) {
        true => answer(request.headers()),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    vary(headers, origins);
    response
}

/// How the answer names the origin that may read it; `None` where it may not.
fn allow(origins: &CorsOrigins, origin: &HeaderValue) -> Option<HeaderValue> {
    match origins {
        CorsOrigins::All => Some(HeaderValue::from_static("*")),
        CorsOrigins::These(these) => {
            these.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
        }
    }
}

/// Tells caches that the answer depends on who asks.
fn vary(headers: &mut HeaderMap, origins: &CorsOrigins) {
    if matches!(origins, CorsOrigins::These(these) if !these.is_empty()) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

/// Whether a browser asks on behalf of a page, before the page does.
fn is_question(request: &Request) -> bool {
    let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    request.method() == Method::OPTIONS && asks
}

fn answer(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBER_S);
    // Any header line may come; `*` would not stand for `authorization`.
    const WANTED: HeaderName = header::ACCESS_CONTROL_REQUEST_HEADERS;
    if let Some(wanted) = asked.get(WANTED) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}
