//! Every failure as OpenAI's error body, and the one table from kinds of failure to HTTP statuses.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use types::{Error, ErrorKind};

/// How long a client should wait before it tries again where a queue is full, in seconds.
const RETRY_AFTER_S: u16 = 1;

/// A failure as its client sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) class: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
}

/// Status, `type` and `code` of a kind of failure.
const fn row(kind: ErrorKind) -> (u16, &'static str, Option<&'static str>) {
    const REQUEST: &str = "invalid_request_error";
    const SERVER: &str = "server_error";
    match kind {
        ErrorKind::InvalidInput => (400, REQUEST, None),
        ErrorKind::ContextLengthExceeded => (400, REQUEST, Some("context_length_exceeded")),
        ErrorKind::NotFound => (404, REQUEST, Some("not_found")),
        ErrorKind::Forbidden => (403, "permission_error", Some("forbidden")),
        ErrorKind::TooLarge => (413, REQUEST, Some("too_large")),
        ErrorKind::UnsupportedMedia => (415, REQUEST, Some("unsupported_media_type")),
        ErrorKind::Overloaded => (429, "rate_limit_error", Some("overloaded")),
        ErrorKind::Timeout => (504, SERVER, Some("timeout")),
        ErrorKind::Cancelled => (499, REQUEST, Some("cancelled")),
        ErrorKind::MediaOrigin => (502, SERVER, Some("media_origin_failed")),
        ErrorKind::Unavailable => (503, SERVER, Some("unavailable")),
        ErrorKind::PeerLost => (503, SERVER, Some("peer_lost")),
        ErrorKind::Internal => (500, SERVER, Some("internal_error")),
    }
}

impl ApiError {
    /// The client's request is wrong; `code` is the machine's word for how.
    pub(crate) fn invalid(code: &'static str, param: &str, message: String) -> Self {
        let error: Self = Error::invalid(message).at(param).into();
        Self { code: Some(code), ..error }
    }

    /// There is no such address, or not with this method; or HTTP itself was used wrongly.
    pub(crate) fn http(status: StatusCode, code: &'static str, message: String) -> Self {
        let error: Self = Error::invalid(message).into();
        Self { status, code: Some(code), ..error }
    }

    /// The request does not carry an API key that is known here.
    pub(crate) fn unauthorized(message: String) -> Self {
        Self::http(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
    }

    /// No worker serves a model of this name.
    pub(crate) fn no_such_model(name: &str) -> Self {
        const SHOWN_MAX: usize = 128;
        let message = format!("The model '{name:.SHOWN_MAX$}' does not exist.");
        let error: Self = Error::new(ErrorKind::NotFound, message).at("model").into();
        Self { code: Some("model_not_found"), ..error }
    }

    /// `{"error": {…}}`.
    pub(crate) fn body(&self) -> String {
        json!({"error": {
            "message": self.message,
            "type": self.class,
            "param": self.param,
            "code": self.code,
        }})
        .to_string()
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let (status, class, code) = row(error.kind);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, class, code, message: error.message, param: error.param }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let mut response = (self.status, self.body()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_an_error_status_with_a_whole_body() {
        for kind in ErrorKind::ALL {
            let error = ApiError::from(Error::new(kind, "words").at("field"));
            assert!(error.status.is_client_error() || error.status.is_server_error(), "{kind:?}");
            let body: serde_json::Value = serde_json::from_str(&error.body()).unwrap();
            assert_eq!(body["error"]["message"], "words");
            assert_eq!(body["error"]["param"], "field");
            assert!(body["error"]["type"].is_string(), "{kind:?}");
            let retries = error.into_response().headers().contains_key(header::RETRY_AFTER);
            assert_eq!(retries, kind == ErrorKind::Overloaded, "{kind:?}");
        }
    }
}
