//! A running request: events of the backend in, text of the choices out, with deadlines.
//!
//! Streamed and whole answers both go through here. Dropping a [`Run`] cancels the request.

use crate::alarm::Alarm;
use crate::answer::Answer;
use crate::app::App;
use crate::pace::Pace;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use router::Backend;
use std::sync::Arc;
use std::time::Duration;
use telemetry::RequestMetrics;
use telemetry::frontend::Status;
use types::output::{GenerateEvent, GenerateResult};
use types::request::GenerateRequest;
use types::{Error, ErrorKind, RequestId, Result};

/// Events that were ready together and are applied in one go; the rest come in the next.
const EVENTS_AT_ONCE_MAX: usize = 256;

/// A request at work.
pub(crate) struct Run {
    /// `None` once every choice has ended.
    work: Option<Work>,
    pub(crate) answer: Answer,
    metrics: RequestMetrics,
    idle: Duration,
    alarm: Alarm,
    pace: Pace,
    /// Resolves when the server gives up what is still at work.
    cancelled: BoxFuture<'static, ()>,
}

/// What the backend does for a request; dropping it cancels that.
pub(crate) struct Work {
    backend: Arc<dyn Backend>,
    id: RequestId,
    events: BoxStream<'static, GenerateResult>,
}

impl Work {
    pub(crate) fn begin(backend: &Arc<dyn Backend>, request: GenerateRequest) -> Self {
        let backend = Arc::clone(backend);
        Self { id: request.id, events: backend.generate(request), backend }
    }
}

impl Run {
    pub(crate) fn new(work: Work, answer: Answer, metrics: RequestMetrics, app: &App) -> Self {
        let mut phases = app.phases.clone();
        Self {
            work: Some(work),
            answer,
            metrics,
            idle: app.config.idle_stream_deadline,
            alarm: Alarm::new(app.config.first_token_deadline),
            pace: app.streams.enter(),
            cancelled: async move { phases.cancelled().await }.boxed(),
        }
    }

    /// Waits for the first token or the first end of a choice: what fails before can still become
    /// an HTTP status.
    pub(crate) async fn start(&mut self) -> Result<()> {
        while !self.answer.has_begun() {
            let first = self.wait().await;
            self.take(first)?;
        }
        Ok(())
    }

    /// Waits for something new, and takes whatever else is ready with it.
    pub(crate) async fn advance(&mut self) -> Result<()> {
        self.alarm.set(self.idle);
        let first = self.wait().await;
        self.pace.turn().await;
        self.take(first)
    }

    /// Runs to the end.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        while !self.is_done() {
            self.advance().await?;
        }
        Ok(())
    }

    /// Whether every choice has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.work.is_none()
    }

    /// How it ended, for the metrics.
    pub(crate) fn end(&mut self, status: Status) {
        self.metrics.end(status);
    }

    /// The next event. Errors: it is one, the stream broke off, none came in time, or the server
    /// stops.
    async fn wait(&mut self) -> Result<Option<GenerateEvent>> {
        let Some(work) = &mut self.work else { return Ok(None) };
        tokio::select! {
            biased;
            event = work.events.next() => event.ok_or_else(cut_short)?.map(Some),
            () = &mut self.cancelled => Err(stopping()),
            most = self.alarm.rung() => Err(too_slow(most)),
        }
    }

    /// Applies `first` and all that is ready behind it.
    fn take(&mut self, first: Result<Option<GenerateEvent>>) -> Result<()> {
        let taken = first.and_then(|first| self.apply_all(first));
        self.metrics.watch(taken)
    }

    fn apply_all(&mut self, first: Option<GenerateEvent>) -> Result<()> {
        let mut next = first;
        for _ in 0..EVENTS_AT_ONCE_MAX {
            let Some(event) = next else { break };
            self.apply(event)?;
            next = match self.work.as_mut().and_then(|work| work.events.next().now_or_never()) {
                Some(event) => Some(event.ok_or_else(cut_short)??),
                None => None,
            };
        }
        Ok(())
    }

    fn apply(&mut self, event: GenerateEvent) -> Result<()> {
        match &event {
            GenerateEvent::Admitted { prompt_tokens, .. } => self.metrics.admitted(*prompt_tokens),
            GenerateEvent::Tokens { tokens, .. } => self.metrics.tokens(tokens.len()),
            GenerateEvent::Finished { .. } => {}
        }
        let stopped = self.answer.apply(event)?;
        // What nobody wants any more is cancelled: the whole request, or one choice of it.
        if self.answer.is_done() {
            self.work = None;
        } else if let (Some(choice), Some(work)) = (stopped, &self.work) {
            work.backend.finish_choice(work.id, choice);
        }
        Ok(())
    }
}

fn stopping() -> Error {
    Error::new(ErrorKind::Unavailable, "The server is stopping and could not finish the answer.")
}

fn too_slow(waited: Duration) -> Error {
    let message = format!("No token came within {} s.", waited.as_secs_f32());
    Error::new(ErrorKind::Timeout, message)
}

fn cut_short() -> Error {
    Error::internal("The answer ended before all of its choices had.")
}
