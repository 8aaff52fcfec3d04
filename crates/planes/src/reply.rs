//! A handler written as an `async` function that sends replies, seen from outside as a stream.
//!
//! The function runs only while the stream is polled and ends when the stream is dropped, so
//! whatever it owns is released with it: cancellation needs no signal.

use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use std::pin::Pin;
use std::task::{Context, Poll};
use types::{Error, ErrorKind, Result};

/// Replies that the function may be ahead of its reader.
const N_AHEAD: usize = 8;

/// Where the function puts its replies.
pub struct ReplySender<T>(mpsc::Sender<T>);

impl<T> ReplySender<T> {
    /// Sends one reply, waiting for room. Errors: the reader is gone (`Cancelled`).
    pub async fn send(&mut self, reply: T) -> Result<()> {
        let gone = |_| Error::new(ErrorKind::Cancelled, "the caller has gone");
        self.0.send(reply).await.map_err(gone)
    }
}

/// The stream of what `run` sends; its error, if it fails, is the last item.
pub fn reply_stream<T, F, R>(run: R) -> BoxStream<'static, Result<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
    R: FnOnce(ReplySender<T>) -> F,
{
    let (sender, receiver) = mpsc::channel(N_AHEAD);
    let future = run(ReplySender(sender)).boxed();
    ReplyStream { future: Some(future), failure: None, receiver }.boxed()
}

struct ReplyStream<T> {
    future: Option<BoxFuture<'static, Result<()>>>,
    failure: Option<Error>,
    receiver: mpsc::Receiver<T>,
}

impl<T> Stream for ReplyStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(future) = &mut self.future
            && let Poll::Ready(result) = future.poll_unpin(ctx)
        {
            self.future = None;
            self.failure = result.err();
        }
        match self.receiver.poll_next_unpin(ctx) {
            Poll::Ready(Some(reply)) => Poll::Ready(Some(Ok(reply))),
            Poll::Ready(None) if self.future.is_none() => Poll::Ready(self.failure.take().map(Err)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
