//! The caller's end of a call: replies that have arrived, and the stream that hands them over.

use crate::frame::StreamId;
use crate::shared::{Shared, lock};
use bytes::Bytes;
use futures::Stream;
use planes::messaging::CREDITS;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use types::{Error, ErrorKind, Result};

/// Replies read before the callee is told: late enough that a short answer needs no such frame,
/// early enough that a long one never waits for it.
const N_READ_UNTOLD_MAX: u64 = CREDITS as u64 * 3 / 4;

/// Replies of one call that nobody has read yet.
#[derive(Debug, Default)]
pub(crate) struct ReplyQueue {
    state: Mutex<QueueState>,
    n_read: AtomicU64,
}

#[derive(Debug, Default)]
struct QueueState {
    replies: VecDeque<Bytes>,
    /// Set when nothing more comes; what the reader shall see last, once.
    end: Option<Option<Error>>,
    waker: Option<Waker>,
}

/// What the reader finds.
enum Found {
    Reply(Bytes),
    End(Option<Error>),
    Nothing,
}

impl ReplyQueue {
    /// Adds a reply, and returns whom to wake; nothing when the callee has sent more than it had
    /// credits for.
    pub(crate) fn push(&self, reply: Bytes) -> Option<Option<Waker>> {
        let mut state = lock(&self.state);
        if state.replies.len() >= CREDITS {
            return None;
        }
        state.replies.push_back(reply);
        Some(state.waker.take())
    }

    /// Says that nothing more comes, and returns whom to wake.
    pub(crate) fn finish(&self, failure: Option<Error>) -> Option<Waker> {
        let mut state = lock(&self.state);
        state.end.get_or_insert(failure);
        state.waker.take()
    }

    /// Replies that were read.
    pub(crate) fn n_read(&self) -> u64 {
        self.n_read.load(Ordering::Relaxed)
    }

    /// Nobody reads any more; returns whether the call had ended.
    fn abandon(&self) -> bool {
        let mut state = lock(&self.state);
        state.waker = None;
        state.end.is_some()
    }

    /// Everything there is, read at once by a reader that counts for itself.
    #[cfg(test)]
    pub(crate) fn drain(&self) -> (VecDeque<Bytes>, Option<Option<Error>>) {
        let mut state = lock(&self.state);
        (std::mem::take(&mut state.replies), state.end.take())
    }

    /// Says how many replies were read.
    pub(crate) fn count(&self, n_read: u64) {
        self.n_read.store(n_read, Ordering::Relaxed);
    }

    fn find(&self, ctx: &Context<'_>) -> Found {
        let mut state = lock(&self.state);
        if let Some(reply) = state.replies.pop_front() {
            return Found::Reply(reply);
        }
        if let Some(end) = &mut state.end {
            return Found::End(end.take());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(ctx.waker()),
            none => *none = Some(ctx.waker().clone()),
        }
        Found::Nothing
    }
}

/// When the first reply must have come.
enum Deadline {
    /// Nobody has waited yet.
    Ahead(Instant, Duration),
    Waiting(Pin<Box<Sleep>>),
    /// A reply has come.
    Met,
}

/// The replies to a call; dropping it cancels the call.
pub(crate) struct ReplyStream {
    shared: Arc<Shared>,
    stream: StreamId,
    queue: Arc<ReplyQueue>,
    deadline: Deadline,
    n_read: u64,
    n_told: u64,
    is_over: bool,
}

impl ReplyStream {
    pub(crate) fn new(
        shared: Arc<Shared>,
        stream: StreamId,
        queue: Arc<ReplyQueue>,
        deadline: Duration,
    ) -> Self {
        let deadline = Deadline::Ahead(Instant::now(), deadline);
        Self { shared, stream, queue, deadline, n_read: 0, n_told: 0, is_over: false }
    }

    fn count_reply(&mut self) {
        self.deadline = Deadline::Met;
        self.n_read += 1;
        self.queue.count(self.n_read);
        if self.n_read - self.n_told >= N_READ_UNTOLD_MAX {
            self.n_told = self.n_read;
            self.shared.with(|exchange| exchange.credit(self.stream, self.n_read));
        }
    }

    fn is_late(&mut self, ctx: &mut Context<'_>) -> bool {
        if let Deadline::Ahead(begun, deadline) = self.deadline {
            let left = deadline.saturating_sub(begun.elapsed());
            self.deadline = Deadline::Waiting(Box::pin(tokio::time::sleep(left)));
        }
        match &mut self.deadline {
            Deadline::Waiting(sleep) => sleep.as_mut().poll(ctx).is_ready(),
            Deadline::Ahead(..) | Deadline::Met => false,
        }
    }
}

impl Stream for ReplyStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        match self.queue.find(ctx) {
            Found::Reply(reply) => {
                self.count_reply();
                Poll::Ready(Some(Ok(reply)))
            }
            Found::End(failure) => {
                self.is_over = true;
                Poll::Ready(failure.map(Err))
            }
            Found::Nothing if self.is_late(ctx) => {
                self.is_over = true;
                self.shared.with(|exchange| exchange.cancel(self.stream));
                Poll::Ready(Some(Err(late())))
            }
            Found::Nothing => Poll::Pending,
        }
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        if !self.is_over && !self.queue.abandon() {
            self.shared.with(|exchange| exchange.cancel(self.stream));
        }
    }
}

/// What a call ends with that got no answer in time.
pub(crate) fn late() -> Error {
    Error::new(ErrorKind::Timeout, "no answer within the deadline")
}
