//! `x-request-id`: the client's own id comes back to it; a response without one gets ours.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use types::RequestId;

/// Longest id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Gives a request its unique id (as an extension) and its response the id to show.
pub(crate) async fn echo(mut request: Request, next: Next) -> Response {
    let id = planes::random::request_id();
    let given = request.headers().get(HEADER).filter(|given| is_decent(given)).cloned();
    request.extensions_mut().insert(id);
    let mut response = next.run(request).await;
    if let Some(shown) = given.or_else(|| ours(id)) {
        response.headers_mut().insert(HEADER, shown);
    }
    response
}

fn ours(id: RequestId) -> Option<HeaderValue> {
    HeaderValue::from_str(&id.to_string()).ok()
}

/// Printable ASCII of a sensible length.
fn is_decent(given: &HeaderValue) -> bool {
    let bytes = given.as_bytes();
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}
