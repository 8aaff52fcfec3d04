//! The bytes of a request's body, under its limit, its deadline and the account of all bodies.

use crate::admission::Place;
use crate::openai::error::ApiError;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use config::FrontendConfig;
use futures::StreamExt;
use std::time::Duration;
use tokio::time::timeout;
use types::{Error, ErrorKind};

/// Of a body that is too large, so many bytes more are received and dropped, for so long: a client
/// that is still sending would not see the answer.
const DRAINED_BYTES_MAX: usize = 256 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Reads a JSON body. Errors: 415, 413, 408, 429.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    place: &mut Place,
    config: &FrontendConfig,
) -> Result<Bytes, ApiError> {
    check_type(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if let Some(n_bytes) = announced.and_then(|text| text.parse::<usize>().ok()) {
        if let Err(refusal) = check_size(n_bytes, config.limits.body_bytes_max) {
            let _ = timeout(DRAIN_TIME, drain(body.into_data_stream())).await;
            return Err(refusal);
        }
        place.hold(n_bytes)?;
    }
    let receive = receive(body, place, config.limits.body_bytes_max);
    timeout(config.receive_deadline, receive).await.map_err(|_| too_slow())?
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "The request's content-type must be application/json.".to_owned();
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(ApiError::http(status, "unsupported_content_type", message))
}

async fn receive(body: Body, place: &mut Place, most: usize) -> Result<Bytes, ApiError> {
    let mut pieces = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| broken())?;
        if let Err(refusal) = check_size(bytes.len() + piece.len(), most) {
            let _ = timeout(DRAIN_TIME, drain(pieces)).await;
            return Err(refusal);
        }
        place.hold(bytes.len() + piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

async fn drain(mut pieces: BodyDataStream) {
    let mut n_bytes = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        n_bytes += piece.len();
        if n_bytes > DRAINED_BYTES_MAX {
            break;
        }
    }
}

fn check_size(n_bytes: usize, most: usize) -> Result<(), ApiError> {
    if n_bytes <= most {
        return Ok(());
    }
    let message = format!("The request body is over the limit of {most} bytes.");
    Err(Error::new(ErrorKind::TooLarge, message).into())
}

fn broken() -> ApiError {
    Error::invalid("The request body broke off.").into()
}

fn too_slow() -> ApiError {
    let message = "The request body did not arrive in time.".to_owned();
    ApiError::http(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
}
