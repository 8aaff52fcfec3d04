//! A running request: events of the backend in, text of the choices out, with deadlines.
//!
//! Streamed and whole answers both go through here. Dropping a [`Run`] cancels the request.

use crate::answer::Answer;
use crate::phase::Phases;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::time::Duration;
use telemetry::RequestMetrics;
use telemetry::frontend::Status;
use tokio::time::{Instant, sleep_until};
use types::output::{GenerateEvent, GenerateResult};
use types::{Error, ErrorKind, Result};

/// Events that were ready together and are applied in one go; the rest come in the next.
const EVENTS_AT_ONCE_MAX: usize = 256;

/// How long a request may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) first_token: Duration,
    pub(crate) idle: Duration,
}

/// A request at work.
pub(crate) struct Run {
    /// `None` once every choice has ended.
    events: Option<BoxStream<'static, GenerateResult>>,
    pub(crate) answer: Answer,
    metrics: RequestMetrics,
    deadlines: Deadlines,
    phases: Phases,
}

impl Run {
    pub(crate) fn new(
        events: BoxStream<'static, GenerateResult>,
        answer: Answer,
        metrics: RequestMetrics,
        deadlines: Deadlines,
        phases: Phases,
    ) -> Self {
        Self { events: Some(events), answer, metrics, deadlines, phases }
    }

    /// Waits for the first token or the first end of a choice: what fails before can still become
    /// an HTTP status.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let most = self.deadlines.first_token;
        let deadline = Instant::now() + most;
        while !self.answer.has_begun() {
            self.wait(deadline, most).await?;
        }
        Ok(())
    }

    /// Waits for something new, and takes whatever else is ready with it.
    pub(crate) async fn advance(&mut self) -> Result<()> {
        let most = self.deadlines.idle;
        self.wait(Instant::now() + most, most).await
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
        self.events.is_none()
    }

    /// How it ended, for the metrics.
    pub(crate) fn end(&mut self, status: Status) {
        self.metrics.end(status);
    }

    async fn wait(&mut self, deadline: Instant, most: Duration) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let first = tokio::select! {
            biased;
            event = events.next() => Ok(event),
            () = self.phases.cancelled() => Err(stopping()),
            () = sleep_until(deadline) => Err(too_slow(most)),
        };
        let taken = first.and_then(|first| self.take(first));
        self.metrics.watch(taken)
    }

    /// Applies `first` and all that is ready behind it.
    fn take(&mut self, first: Option<GenerateResult>) -> Result<()> {
        let mut next = Some(first);
        for _ in 0..EVENTS_AT_ONCE_MAX {
            let Some(event) = next else { break };
            self.apply(event.ok_or_else(cut_short)??)?;
            // Once nothing more is wanted, the backend's work is cancelled.
            if self.answer.is_done() {
                self.events = None;
            }
            next = self.events.as_mut().and_then(|events| events.next().now_or_never());
        }
        Ok(())
    }

    fn apply(&mut self, event: GenerateEvent) -> Result<()> {
        match &event {
            GenerateEvent::Admitted { prompt_tokens, .. } => self.metrics.admitted(*prompt_tokens),
            GenerateEvent::Tokens { tokens, .. } => self.metrics.tokens(tokens.len()),
            GenerateEvent::Finished { .. } => {}
        }
        self.answer.apply(event)
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
