//! API keys: who has one may ask. Every route is guarded but those by which a process is watched.

use crate::app::App;
use crate::openai::error::ApiError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use blake3::Hash;
use config::secret::HiddenText;
use std::sync::Arc;

/// What may be asked without a key: health, which says nothing about anybody.
const OPEN_PATHS: &[&str] = &["/health", "/live"];

/// The keys that are accepted.
pub(crate) struct ApiKeys {
    // Comparing hashes takes the same time wherever keys differ, and however long they are.
    hashes: Vec<Hash>,
}

impl ApiKeys {
    pub(crate) fn new(keys: &[HiddenText]) -> Self {
        Self { hashes: keys.iter().map(|key| blake3::hash(key.text().as_bytes())).collect() }
    }

    /// Whether the request of these header lines carries one of the keys.
    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let given = headers.get(header::AUTHORIZATION).ok_or_else(no_key)?;
        let (scheme, key) = given.to_str().unwrap_or_default().split_once(' ').unwrap_or_default();
        let hash = blake3::hash(key.trim().as_bytes());
        // All of them, so that the time says nothing of which it was.
        let n_equal = self.hashes.iter().filter(|known| **known == hash).count();
        match scheme.eq_ignore_ascii_case("bearer") && n_equal > 0 {
            true => Ok(()),
            false => Err(wrong_key()),
        }
    }
}

/// Lets a request pass that carries a key, or needs none.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let is_open = OPEN_PATHS.contains(&request.uri().path());
    let guarding = app.keys.as_ref().filter(|_| !is_open);
    match guarding.map_or(Ok(()), |keys| keys.check(request.headers())) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

fn no_key() -> ApiError {
    let message = "You didn't provide an API key. Send it in the header line 'Authorization: \
                   Bearer YOUR_KEY'.";
    ApiError::unauthorized(message.to_owned())
}

fn wrong_key() -> ApiError {
    ApiError::unauthorized("Incorrect API key provided.".to_owned())
}
