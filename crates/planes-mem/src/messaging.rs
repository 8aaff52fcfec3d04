//! Calls from one task of this process to another.
//!
//! A handler runs in a task of its own, as it would in another process, and is at most the credits
//! ahead of its reader.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use planes::messaging::{CREDITS, N_BODY_BYTES_MAX};
use planes::{Address, Call, Handler, Messaging, Replies, Withdraw};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use types::{Error, ErrorKind, Result};

type Handlers = HashMap<Address, Arc<dyn Handler>>;

#[derive(Default)]
pub(crate) struct MemMessaging(Arc<Mutex<Handlers>>);

fn lock(handlers: &Mutex<Handlers>) -> MutexGuard<'_, Handlers> {
    handlers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(kind: ErrorKind, message: &str) -> Replies {
    let failure = Error::new(kind, message);
    futures::stream::once(async move { Err(failure) }).boxed()
}

impl Messaging for MemMessaging {
    fn call(&self, address: &Address, call: Call) -> Replies {
        if call.body.len() > N_BODY_BYTES_MAX {
            return failed(ErrorKind::TooLarge, "the message is over the size limit");
        }
        let Some(handler) = lock(&self.0).get(address).cloned() else {
            return failed(ErrorKind::Unavailable, "nobody answers at this address");
        };
        let (sender, receiver) = mpsc::channel(CREDITS);
        tokio::spawn(drive(handler, call, sender));
        ReceiverStream::new(receiver).boxed()
    }

    fn serve(
        &self,
        address: &Address,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Withdraw>> {
        let (handlers, address) = (Arc::clone(&self.0), address.clone());
        async move {
            match lock(&handlers).entry(address.clone()) {
                Entry::Occupied(_) => {
                    return Err(Error::internal(format!("{} is served already", address.0)));
                }
                Entry::Vacant(place) => place.insert(handler),
            };
            Ok(Withdraw::on_drop(move || {
                lock(&handlers).remove(&address);
            }))
        }
        .boxed()
    }
}

/// Runs a handler until its stream ends, fails, or the reader is gone.
async fn drive(handler: Arc<dyn Handler>, call: Call, sender: mpsc::Sender<Result<bytes::Bytes>>) {
    let deadline = call.deadline;
    let gone = sender.clone();
    tokio::select! {
        () = gone.closed() => {}
        () = forward(handler.handle(call), deadline, &sender) => {}
    }
}

fn within_limit(body: bytes::Bytes) -> Result<bytes::Bytes> {
    if body.len() > N_BODY_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "the reply is over the size limit"));
    }
    Ok(body)
}

async fn forward(
    mut replies: Replies,
    deadline: Duration,
    sender: &mpsc::Sender<Result<bytes::Bytes>>,
) {
    let late = |_| Some(Err(Error::new(ErrorKind::Timeout, "no answer within the deadline")));
    let mut next = timeout(deadline, replies.next()).await.unwrap_or_else(late);
    while let Some(reply) = next {
        let reply = reply.and_then(within_limit);
        let is_last = reply.is_err();
        if sender.send(reply).await.is_err() || is_last {
            return;
        }
        next = replies.next().await;
    }
}
