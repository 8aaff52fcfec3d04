//! `POST /v1/chat/completions`: from bytes to a running request, and its answer back.

use crate::admission::Place;
use crate::answer::Answer;
use crate::app::App;
use crate::body;
use crate::conversation::{ChatRequest, Delivery};
use crate::loaded::LoadedModel;
use crate::openai::chunk::ChunkWriter;
use crate::openai::completion::{self, Header};
use crate::openai::error::ApiError;
use crate::openai::request;
use crate::plan::{Envelope, plan};
use crate::run::{Run, Work};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use telemetry::frontend::{Endpoint, RequestType, Status};
use telemetry::{RequestMetrics, TraceParent};
use types::{ErrorKind, RequestId};

/// Answers a chat. Whatever fails before the first token becomes a status here.
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut place = app.admission.enter()?;
    let (request, n_bytes) = read(&app, &headers, body, &mut place).await?;
    let model = find(&app, &request.model).await?;
    let delivery = request.delivery;
    let names = Names::new(id, &request.model, &model);
    let mut metrics = arrived(&app, &request);
    let answer = Answer::new(Arc::clone(&model), &request.wishes);
    let envelope = envelope(&app, id, &headers);
    let planned = app.offload.run(n_bytes, move || plan(request, &model, envelope)).await;
    let work = Work::begin(&app.backend, metrics.watch(planned)?);
    let mut run = Run::new(work, answer, metrics, &app);
    run.start().await?;
    match delivery.stream {
        true => Ok(streamed(run, &names, delivery, place)),
        false => whole(run, &names).await,
    }
}

async fn read(
    app: &Arc<App>,
    headers: &HeaderMap,
    body: Body,
    place: &mut Place,
) -> Result<(ChatRequest, usize), ApiError> {
    let bytes = body::read(headers, body, place, &app.config).await?;
    let n_bytes = bytes.len();
    let shared = Arc::clone(app);
    let read = move || request::read(&bytes, &shared.config.limits);
    Ok((app.offload.run(n_bytes, read).await?, n_bytes))
}

async fn find(app: &App, name: &str) -> Result<Arc<LoadedModel>, ApiError> {
    app.models.get(name).await.map_err(|error| match error.kind == ErrorKind::NotFound {
        true => ApiError::no_such_model(name),
        false => error.into(),
    })
}

fn arrived(app: &App, request: &ChatRequest) -> RequestMetrics {
    let kind = if request.delivery.stream { RequestType::Stream } else { RequestType::Unary };
    app.telemetry.frontend.arrived(&request.model, Endpoint::ChatCompletions, kind)
}

/// A caller's trace goes on; without one, the request's id begins a trace.
fn envelope(app: &App, id: RequestId, headers: &HeaderMap) -> Envelope {
    let given = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let trace = given.and_then(TraceParent::parse).unwrap_or_else(|| TraceParent::start(id.0));
    Envelope {
        id,
        random_seed: id.0 as u64,
        first_token_deadline: app.config.first_token_deadline,
        trace: trace.to_string(),
    }
}

/// What the answer's objects are called.
struct Names {
    id: String,
    model: String,
    fingerprint: String,
    created_s: u64,
}

impl Names {
    fn new(id: RequestId, model: &str, loaded: &LoadedModel) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: format!("chatcmpl-{id}"),
            model: model.to_owned(),
            fingerprint: loaded.fingerprint.clone(),
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
    run.finish().await?;
    let body = completion::body(&names.header(), &mut run.answer);
    run.end(Status::Success);
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn streamed(run: Run, names: &Names, delivery: Delivery, place: Place) -> Response {
    let writer = ChunkWriter::new(&names.header(), run.answer.choices.len(), delivery);
    let streaming = Streaming { run, writer, _place: place };
    let pieces = stream::unfold(Some(streaming), async |state| {
        let mut streaming = state?;
        let goes_on = streaming.next().await;
        let bytes = streaming.writer.take();
        Some((Ok::<Bytes, Infallible>(bytes), goes_on.then_some(streaming)))
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(pieces)).into_response()
}

/// A streamed answer under way. When the client leaves it is dropped, which cancels the request.
struct Streaming {
    run: Run,
    writer: ChunkWriter,
    _place: Place,
}

impl Streaming {
    /// Writes the next events, and says whether more will come.
    async fn next(&mut self) -> bool {
        self.writer.pieces(&mut self.run.answer);
        while self.writer.is_empty() && !self.run.is_done() {
            if let Err(error) = self.run.advance().await {
                self.writer.error(&error.into());
                return false;
            }
            self.writer.pieces(&mut self.run.answer);
        }
        if self.run.is_done() {
            self.writer.end(&self.run.answer);
            self.run.end(Status::Success);
            return false;
        }
        true
    }
}
