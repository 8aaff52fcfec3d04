//! `POST /v1/chat/completions`: from bytes to a running request, and its answer back.

use crate::admission::Place;
use crate::answer::Answer;
use crate::app::App;
use crate::body;
use crate::conversation::{ChatRequest, Delivery};
use crate::openai::chunk::{ChunkWriter, Header, error_event};
use crate::openai::completion;
use crate::openai::error::ApiError;
use crate::openai::request;
use crate::plan::{Envelope, plan};
use crate::run::{Deadlines, Run};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use telemetry::RequestMetrics;
use telemetry::frontend::{Endpoint, RequestType, Status};
use types::RequestId;

/// Longest `x-request-id` that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers a chat; every way out is a response with the request's id.
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let id = planes::random::request_id();
    let shown = shown_id(&headers, id);
    let mut response = match answer(&app, &headers, body, id).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    response.headers_mut().insert(REQUEST_ID, shown);
    response
}

async fn answer(
    app: &Arc<App>,
    headers: &HeaderMap,
    body: Body,
    id: RequestId,
) -> Result<Response, ApiError> {
    let mut place = app.admission.enter()?;
    let bytes = body::read(headers, body, &mut place, &app.config).await?;
    let limits = app.config.limits.clone();
    let n_bytes = bytes.len();
    let request = app.offload.run(n_bytes, move || request::read(&bytes, &limits)).await?;
    place.release_body();
    let delivery = request.delivery;
    let model = request.model.clone();
    let mut run = start(app, request, headers, id).await?;
    let begun = run.start().await;
    let names = Names::new(id, model, &run);
    match begun {
        Err(error) => {
            run.end(Status::Error);
            Err(error.into())
        }
        Ok(()) if delivery.stream => Ok(streamed(run, &names, delivery, place)),
        Ok(()) => whole(run, &names).await,
    }
}

/// Plans a request and hands it to the backend.
async fn start(
    app: &Arc<App>,
    request: ChatRequest,
    headers: &HeaderMap,
    id: RequestId,
) -> Result<Run, ApiError> {
    let model = app.models.get(&request.model).await?;
    let metrics = arrived(app, &request);
    let answer = Answer::new(Arc::clone(&model), &request.wishes);
    let trace = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let envelope = Envelope {
        id,
        random_seed: id.0 as u64,
        first_token_deadline: app.config.first_token_deadline,
        trace: trace.unwrap_or_default().to_owned(),
    };
    let n_bytes = request.conversation.messages.iter().map(|message| message.to_string().len());
    let n_bytes = n_bytes.sum();
    let planned = app.offload.run(n_bytes, move || plan(request, &model, envelope)).await?;
    let deadlines = Deadlines {
        first_token: app.config.first_token_deadline,
        idle: app.config.idle_stream_deadline,
    };
    let events = app.backend.generate(planned);
    Ok(Run::new(events, answer, metrics, deadlines, app.phases.clone()))
}

fn arrived(app: &App, request: &ChatRequest) -> RequestMetrics {
    let kind = if request.delivery.stream { RequestType::Stream } else { RequestType::Unary };
    app.telemetry.frontend.arrived(&request.model, Endpoint::ChatCompletions, kind)
}

/// What the answer's objects are called.
struct Names {
    id: String,
    model: String,
    fingerprint: String,
    created_s: u64,
}

impl Names {
    fn new(id: RequestId, model: String, run: &Run) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: format!("chatcmpl-{id}"),
            model,
            fingerprint: run.answer.model.fingerprint.clone(),
            created_s: now.map_or(0, |age| age.as_secs()),
        }
    }

    fn header(&self) -> Header<'_> {
        Header {
            id: &self.id,
            created_s: self.created_s,
            model: &self.model,
            fingerprint: &self.fingerprint,
        }
    }
}

async fn whole(mut run: Run, names: &Names) -> Result<Response, ApiError> {
    if let Err(error) = run.finish().await {
        run.end(Status::Error);
        return Err(error.into());
    }
    run.end(Status::Success);
    let body = completion::body(&names.header(), &mut run.answer);
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// A streamed answer under way. Dropping it, as happens when the client leaves, cancels the request.
struct Streaming {
    run: Run,
    writer: ChunkWriter,
    is_first: bool,
    _place: Place,
}

fn streamed(run: Run, names: &Names, delivery: Delivery, place: Place) -> Response {
    let writer = ChunkWriter::new(&names.header(), run.answer.choices.len(), delivery);
    let streaming = Streaming { run, writer, is_first: true, _place: place };
    let pieces = stream::unfold(Some(streaming), async |state| {
        let mut streaming = state?;
        let (bytes, goes_on) = streaming.next().await;
        Some((Ok::<Bytes, Infallible>(bytes), goes_on.then_some(streaming)))
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(pieces)).into_response()
}

impl Streaming {
    /// The next events, and whether more will come.
    async fn next(&mut self) -> (Bytes, bool) {
        let mut out = String::new();
        if std::mem::replace(&mut self.is_first, false) {
            self.writer.roles(&mut out);
        }
        self.writer.pieces(&mut out, &mut self.run.answer);
        while out.is_empty() && !self.run.is_done() {
            if let Err(error) = self.run.advance().await {
                self.run.end(Status::Error);
                return (error_event(&error.into()).into(), false);
            }
            self.writer.pieces(&mut out, &mut self.run.answer);
        }
        let is_done = self.run.is_done();
        if is_done {
            self.writer.end(&mut out, &self.run.answer);
            self.run.end(Status::Success);
        }
        (out.into(), !is_done)
    }
}

/// The client's own id when it is a decent one, else ours.
fn shown_id(headers: &HeaderMap, id: RequestId) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|given| given.len() <= REQUEST_ID_BYTES_MAX);
    let ours = || HeaderValue::from_str(&id.to_string()).expect("an id is hexadecimal");
    given.cloned().unwrap_or_else(ours)
}
