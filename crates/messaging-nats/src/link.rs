//! The tasks beside the connection, all on the one thread that serves it and does nothing else:
//! what is to be sent is written, and what arrives is handed to the exchange.

use crate::exchange::{Door, FRAMES, inbox};
use crate::frame::Epoch;
use crate::shared::{Shared, lock};
use async_nats::connection::State;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use types::{Error, ErrorKind, Result};

/// How the last word of an echo's subject begins; a number follows.
const ECHO: &str = "echo-";
/// The last word of everything that is subscribed to in an inbox.
const ANY: &str = "*";
/// How long an address that was withdrawn still refuses calls in words. By then nobody knows it any
/// more; a call that came while the server forgets it would be lost.
const WITHDRAWN_FOR: Duration = Duration::from_secs(2);
/// Time for a message to the server and back.
const ECHO_MAX: Duration = Duration::from_secs(10);
/// Time for the last words of a connection.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// A connection and the streams that go over it.
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) shared: Arc<Shared>,
    /// Rung when the process has a new epoch.
    pub(crate) has_woken: Notify,
    echoes: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    next_echo: AtomicU64,
}

/// A service of an address, from its beginning to its end.
pub(crate) struct Service {
    pub(crate) address: Arc<str>,
    pub(crate) generation: u64,
    /// Told once, when calls arrive or cannot.
    pub(crate) is_ready: oneshot::Sender<Result<()>>,
    /// Ends, one way or the other, when the address is withdrawn.
    pub(crate) is_withdrawn: oneshot::Receiver<()>,
}

impl Link {
    pub(crate) fn new(client: Client, shared: Arc<Shared>) -> Self {
        Self {
            client,
            shared,
            has_woken: Notify::new(),
            echoes: Mutex::default(),
            next_echo: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Writes and reads until `is_stopped` comes, then says the last words.
    pub(crate) async fn run(self: Arc<Self>, inbox: Subscriber, is_stopped: oneshot::Receiver<()>) {
        let writer = tokio::spawn(Arc::clone(&self).write());
        let mut reader = tokio::spawn(Arc::clone(&self).read(inbox));
        tokio::pin!(is_stopped);
        loop {
            tokio::select! {
                _ = &mut is_stopped => break,
                () = self.has_woken.notified() => {
                    if let Ok(inbox) = self.open_inbox().await {
                        reader.abort();
                        reader = tokio::spawn(Arc::clone(&self).read(inbox));
                    }
                }
            }
        }
        writer.abort();
        let _ = timeout(FAREWELL_MAX, self.say_farewell()).await;
        reader.abort();
    }

    async fn open_inbox(&self) -> Result<Subscriber> {
        let epoch = self.shared.with(|exchange| exchange.epoch());
        let subscriber = subscribe_inbox(&self.client, epoch).await?;
        self.shared.with(|exchange| exchange.is_open = true);
        Ok(subscriber)
    }

    async fn write(self: Arc<Self>) {
        loop {
            let outgoing = self.shared.next_outgoing().await;
            self.publish(outgoing).await;
        }
    }

    async fn publish(&self, outgoing: crate::exchange::Outgoing) {
        for message in outgoing.messages {
            let (subject, payload) = (outgoing.subject.clone(), message.payload);
            let published = match outgoing.status_to {
                Some(epoch) => {
                    let status_to = inbox(epoch, message.number);
                    self.client.publish_with_reply(subject, status_to, payload).await
                }
                None => self.client.publish(subject, payload).await,
            };
            if let Err(error) = published {
                // The streams concerned notice the gap.
                tracing::warn!(%error, "a NATS message could not be sent");
            }
        }
    }

    async fn say_farewell(&self) {
        while let Some(outgoing) = self.shared.take_outgoing() {
            self.publish(outgoing).await;
        }
        let _ = self.client.flush().await;
    }

    async fn read(self: Arc<Self>, mut messages: Subscriber) {
        while let Some(message) = messages.next().await {
            self.receive(message);
        }
    }

    fn receive(&self, message: Message) {
        let last_word = message.subject.rsplit('.').next().unwrap_or_default();
        if last_word == FRAMES {
            let arrive = |exchange: &mut crate::exchange::Exchange| {
                exchange.arrive(&Door::Inbox, message.payload, Instant::now());
            };
            self.shared.with(arrive);
        } else if message.status == Some(StatusCode::NO_RESPONDERS) {
            if let Ok(number) = last_word.parse() {
                self.shared.with(|exchange| exchange.nobody_there(number));
            }
        } else if let Some(number) = last_word.strip_prefix(ECHO)
            && let Some(echo) = number.parse().ok().and_then(|n: u64| lock(&self.echoes).remove(&n))
        {
            let _ = echo.send(());
        }
    }

    /// Waits until a message has been to the server and back: whatever was said to it before is
    /// done. Errors: no answer (`Unavailable`).
    pub(crate) async fn echo(&self) -> Result<Duration> {
        let number = self.next_echo.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.echoes).insert(number, sender);
        let epoch = self.shared.with(|exchange| exchange.epoch());
        let subject = inbox(epoch, format_args!("{ECHO}{number}"));
        let begun = Instant::now();
        let round_trip = async {
            self.client.publish(subject, bytes::Bytes::new()).await.map_err(silent)?;
            receiver.await.map_err(silent)
        };
        let outcome = timeout(ECHO_MAX, round_trip).await;
        lock(&self.echoes).remove(&number);
        outcome.map_err(silent)??;
        Ok(begun.elapsed())
    }

    /// Takes calls to an address until it is withdrawn, and some time longer refuses them.
    pub(crate) async fn serve(self: Arc<Self>, service: Service) {
        let Service { address, generation, is_ready, is_withdrawn } = service;
        let subscribed = self.client.subscribe(address.to_string()).await;
        let (Ok(mut calls), Ok(_)) = (subscribed, self.echo().await) else {
            let _ = is_ready.send(Err(silent(())));
            return;
        };
        let _ = is_ready.send(Ok(()));
        let is_over = async {
            let _ = is_withdrawn.await;
            tokio::time::sleep(WITHDRAWN_FOR).await;
        };
        tokio::pin!(is_over);
        let door = Door::Address { address, generation };
        loop {
            tokio::select! {
                biased;
                message = calls.next() => match message {
                    Some(message) => self.receive_call(&door, message),
                    None => return,
                },
                () = &mut is_over => return,
            }
        }
    }

    fn receive_call(&self, door: &Door, message: Message) {
        self.shared.with(|exchange| exchange.arrive(door, message.payload, Instant::now()));
    }
}

/// Subscribes to everything in the inbox of `epoch`. Errors: no connection (`Unavailable`).
pub(crate) async fn subscribe_inbox(client: &Client, epoch: Epoch) -> Result<Subscriber> {
    client.subscribe(inbox(epoch, ANY)).await.map_err(silent)
}

/// The server does not do what it was asked for, whatever the reason.
fn silent<E>(_: E) -> Error {
    Error::new(ErrorKind::Unavailable, "the NATS server does not answer")
}
