//! The callee's end of a call: a task that polls the handler's stream while there are credits.

use crate::exchange::{RunKey, Start};
use crate::replies::late;
use crate::shared::Shared;
use bytes::Bytes;
use futures::StreamExt;
use futures::task::AtomicWaker;
use planes::Replies;
use planes::messaging::{CREDITS, N_BODY_BYTES_MAX};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Sleep;
use types::{Error, ErrorKind};

/// Replies that are handed over together, in bytes.
const N_BURST_BYTES: usize = 256 * 1024;

/// What the exchange tells a run.
#[derive(Debug, Default)]
pub(crate) struct RunControl {
    n_read: AtomicU64,
    is_cancelled: AtomicBool,
    is_blocked: AtomicBool,
    waker: AtomicWaker,
}

impl RunControl {
    /// Ends the run; returns whom to wake.
    pub(crate) fn cancel(&self) -> Option<Waker> {
        self.is_cancelled.store(true, Ordering::Release);
        self.waker.take()
    }

    /// So many replies have been read; returns whom to wake.
    pub(crate) fn credit(&self, n_read: u64) -> Option<Waker> {
        let is_news = self.n_read.fetch_max(n_read, Ordering::AcqRel) < n_read;
        is_news.then(|| self.waker.take()).flatten()
    }

    /// There is no room for replies.
    pub(crate) fn block(&self) {
        self.is_blocked.store(true, Ordering::Release);
    }

    /// There is room again; returns whom to wake.
    pub(crate) fn unblock(&self) -> Option<Waker> {
        self.is_blocked.store(false, Ordering::Release);
        self.waker.take()
    }

    /// Whether a handler that has sent so many replies may send another.
    pub(crate) fn may_send(&self, n_sent: u64) -> bool {
        let n_read = self.n_read.load(Ordering::Acquire);
        !self.is_blocked.load(Ordering::Acquire) && n_sent < n_read.saturating_add(CREDITS as u64)
    }
}

/// A handler at work.
pub(crate) struct Run {
    shared: Arc<Shared>,
    key: RunKey,
    control: Arc<RunControl>,
    replies: Replies,
    deadline: Duration,
    /// Set while the first reply is waited for.
    sleep: Option<Pin<Box<Sleep>>>,
    n_sent: u64,
    is_over: bool,
    burst: Vec<Bytes>,
}

/// Why a run stops being polled.
enum Pause {
    Over(Option<Error>),
    Cancelled,
    Waiting,
    /// More is at hand, once these have been handed over.
    Full,
}

impl Run {
    /// Runs a handler in a task of the runtime that it was registered from.
    pub(crate) fn spawn(shared: Arc<Shared>, start: Start) {
        let Start { key, call, control, handler, runtime } = start;
        let mut run = Self {
            shared,
            key,
            control,
            replies: futures::stream::empty().boxed(),
            deadline: call.deadline,
            sleep: None,
            n_sent: 0,
            is_over: false,
            burst: Vec::new(),
        };
        runtime.spawn(async move {
            run.replies = handler.handle(call);
            std::future::poll_fn(|ctx| run.poll(ctx)).await;
        });
    }

    fn poll(&mut self, ctx: &mut Context<'_>) -> Poll<()> {
        self.control.waker.register(ctx.waker());
        loop {
            let pause = self.fill(ctx);
            self.hand_over();
            match pause {
                Pause::Full => {}
                Pause::Waiting => return Poll::Pending,
                Pause::Cancelled => {
                    self.is_over = true;
                    return Poll::Ready(());
                }
                Pause::Over(failure) => {
                    self.is_over = true;
                    self.shared.with(|exchange| exchange.finish(self.key, failure));
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Takes from the handler what it has and may send.
    fn fill(&mut self, ctx: &mut Context<'_>) -> Pause {
        let mut n_bytes = 0;
        loop {
            if self.control.is_cancelled.load(Ordering::Acquire) {
                return Pause::Cancelled;
            }
            if !self.control.may_send(self.n_sent) {
                return Pause::Waiting;
            }
            if n_bytes > N_BURST_BYTES {
                return Pause::Full;
            }
            match self.replies.poll_next_unpin(ctx) {
                Poll::Ready(Some(Ok(body))) if body.len() > N_BODY_BYTES_MAX => {
                    return Pause::Over(Some(too_large()));
                }
                Poll::Ready(Some(Ok(body))) => {
                    n_bytes += body.len();
                    self.n_sent += 1;
                    self.sleep = None;
                    self.burst.push(body);
                }
                Poll::Ready(Some(Err(failure))) => return Pause::Over(Some(failure)),
                Poll::Ready(None) => return Pause::Over(None),
                Poll::Pending if self.is_late(ctx) => return Pause::Over(Some(late())),
                Poll::Pending => return Pause::Waiting,
            }
        }
    }

    fn is_late(&mut self, ctx: &mut Context<'_>) -> bool {
        let is_first = self.n_sent == 0;
        let sleep = || Box::pin(tokio::time::sleep(self.deadline));
        is_first && self.sleep.get_or_insert_with(sleep).as_mut().poll(ctx).is_ready()
    }

    fn hand_over(&mut self) {
        if !self.burst.is_empty() {
            let (key, burst) = (self.key, self.burst.drain(..));
            self.shared.with(|exchange| exchange.reply(key, burst));
        }
    }
}

impl Drop for Run {
    /// A handler that panics, or whose runtime ends, leaves a caller behind.
    fn drop(&mut self) {
        if !self.is_over {
            let stopped = Error::new(ErrorKind::PeerLost, "the handler stopped before its end");
            self.shared.with(|exchange| exchange.finish(self.key, Some(stopped)));
        }
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::TooLarge, "the reply is over the size limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_only_grow() {
        let control = RunControl::default();
        let n_credits = CREDITS as u64;
        assert!(control.may_send(n_credits - 1) && !control.may_send(n_credits));
        control.credit(10);
        control.credit(5);
        assert!(control.may_send(n_credits + 9) && !control.may_send(n_credits + 10));
        control.credit(u64::MAX);
        assert!(control.may_send(u64::MAX - 1));
    }

    #[test]
    fn no_room_means_no_sending() {
        let control = RunControl::default();
        control.block();
        assert!(!control.may_send(0));
        control.unblock();
        assert!(control.may_send(0));
    }
}
