//! From a configuration to a connection that has what the plane needs, or to words for what is
//! missing.

use crate::config::{NatsConfig, backoff};
use crate::exchange::{Exchange, FRAMES, inbox};
use crate::frame::{Epoch, N_MESSAGE_BYTES_MIN};
use crate::link::{Link, subscribe_inbox};
use crate::plane::{ConnectionThread, NatsMessaging};
use crate::shared::Shared;
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerInfo,
    StatusCode, Subscriber,
};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use types::{Error, ErrorKind, Result};

/// Time for the server to say that nobody listens to a subject.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// What a server without headers answers to a client that asks for them.
const NO_HEADERS: &str = "requires headers support";
/// Round trips that a check measures.
const N_ROUND_TRIPS: usize = 9;

/// What the connection's thread has made.
struct Connected {
    link: Arc<Link>,
    runtime: Handle,
    stop: oneshot::Sender<()>,
}

/// Connects, trying again until the start deadline, and checks that the server has what is needed.
/// Errors: a configuration that cannot work (`InvalidInput`), credentials that the server does not
/// take (`Forbidden`), nobody there in time or a server that lacks something (`Unavailable`).
pub async fn connect(config: NatsConfig) -> Result<Arc<NatsMessaging>> {
    let (sender, connected) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("nats".into())
        .spawn(move || serve_connection(&config, sender))
        .map_err(|_| Error::internal("the operating system gives no thread"))?;
    let died = |_| Error::internal("the thread of the NATS connection has ended");
    let Connected { link, runtime, stop } = connected.await.map_err(died)??;
    let thread = ConnectionThread { stop, thread };
    Ok(Arc::new(NatsMessaging::new(link, runtime, thread)))
}

/// Connects as [`connect`] does, and says in a sentence what is there: the version, the largest
/// message, the round-trip time. Errors: those of [`connect`].
pub async fn check(config: NatsConfig) -> Result<String> {
    let messaging = connect(config).await?;
    let link = messaging.link();
    let mut round_trips = Vec::new();
    for _ in 0..N_ROUND_TRIPS {
        round_trips.push(link.echo().await?);
    }
    round_trips.sort_unstable();
    let ServerInfo { version, max_payload, .. } = link.client.server_info();
    let round_trip_ms = round_trips[N_ROUND_TRIPS / 2].as_secs_f64() * 1e3;
    Ok(format!(
        "NATS {version}, messages of up to {} KiB, round trip {round_trip_ms:.2} ms",
        max_payload / 1024
    ))
}

/// The life of the connection's thread.
fn serve_connection(config: &NatsConfig, sender: oneshot::Sender<Result<Connected>>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(_) => {
            let _ = sender.send(Err(Error::internal("the operating system gives no event queue")));
            return;
        }
    };
    runtime.block_on(connect_and_run(config, sender));
}

async fn connect_and_run(config: &NatsConfig, mut sender: oneshot::Sender<Result<Connected>>) {
    let established = tokio::select! {
        established = establish(config) => established,
        () = sender.closed() => return,
    };
    let (client, epoch, inbox) = match established {
        Ok(established) => established,
        Err(error) => {
            let _ = sender.send(Err(error));
            return;
        }
    };
    let shared = Shared::new(Exchange::new(epoch, client.max_payload()));
    let link = Arc::new(Link::new(client, shared));
    let (stop, is_stopped) = oneshot::channel();
    let connected = Connected { link: Arc::clone(&link), runtime: Handle::current(), stop };
    if sender.send(Ok(connected)).is_ok() {
        link.run(inbox, is_stopped).await;
    }
}

async fn establish(config: &NatsConfig) -> Result<(Client, Epoch, Subscriber)> {
    let client = reach(config).await?;
    let ServerInfo { version, headers, max_payload, .. } = client.server_info();
    let lacks = |what: String| {
        let message = format!("the NATS server (version {version}) {what}");
        Err(Error::new(ErrorKind::Unavailable, message))
    };
    if !headers {
        return Err(headless());
    }
    if max_payload < N_MESSAGE_BYTES_MIN {
        return lacks(format!(
            "takes messages of {max_payload} bytes (max_payload); {N_MESSAGE_BYTES_MIN} are needed"
        ));
    }
    let epoch = planes::random::instance_id().0;
    let mut inbox = subscribe_inbox(&client, epoch).await?;
    if !tells_of_nobody(&client, &mut inbox, epoch).await {
        return lacks(
            "does not say when nobody listens to a subject; version 2.2 or later does, if this \
             user may publish and subscribe to _INBOX.triptych.>"
                .into(),
        );
    }
    Ok((client, epoch, inbox))
}

/// Connects, trying again until the start deadline.
async fn reach(config: &NatsConfig) -> Result<Client> {
    let addresses = config.addresses()?;
    // A process may have several providers of cryptography linked in; whoever is first chooses.
    let _ = async_nats::rustls::crypto::ring::default_provider().install_default();
    let give_up = Instant::now() + config.start_deadline;
    for n_attempts in 1.. {
        let options = watched(config.options(&addresses).await?);
        let left = give_up.saturating_duration_since(Instant::now());
        let error = match timeout(left, options.connect(&addresses[..])).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        if let Some(refusal) = error.as_ref().and_then(refusal) {
            return Err(refusal);
        }
        let wait = backoff(n_attempts + 1);
        if Instant::now() + wait >= give_up {
            return Err(unreachable(config, &addresses, error));
        }
        sleep(wait).await;
    }
    unreachable!("attempts are made until one of them returns")
}

fn headless() -> Error {
    let message = "the NATS server has no headers; version 2.2 or later has them, if not disabled";
    Error::new(ErrorKind::Unavailable, message)
}

/// What no further attempt can change, in words.
fn refusal(error: &ConnectError) -> Option<Error> {
    if error.to_string().contains(NO_HEADERS) {
        return Some(headless());
    }
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            let message = "the NATS server does not take these credentials";
            Some(Error::new(ErrorKind::Forbidden, message))
        }
        ConnectErrorKind::ServerParse | ConnectErrorKind::Tls => {
            Some(Error::invalid(format!("the NATS configuration cannot work: {error}")))
        }
        ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => None,
    }
}

fn unreachable(
    config: &NatsConfig,
    addresses: &[ServerAddr],
    error: Option<ConnectError>,
) -> Error {
    let place = |address: &ServerAddr| format!("{}:{}", address.host(), address.port());
    let places = addresses.iter().map(place).collect::<Vec<_>>().join(", ");
    let seconds = config.start_deadline.as_secs_f64();
    let cause = error.map(|error| format!(" ({error})")).unwrap_or_default();
    let message = format!("no NATS server at {places} could be reached in {seconds} s{cause}");
    Error::new(ErrorKind::Unavailable, message)
}

/// Says what happens to the connection; a slow consumer once, as there may be very many.
fn watched(options: ConnectOptions) -> ConnectOptions {
    let has_been_slow = Arc::new(AtomicBool::new(false));
    options.event_callback(move |event| {
        let is_news = match &event {
            Event::SlowConsumer(_) => !has_been_slow.swap(true, Ordering::Relaxed),
            Event::ServerError(_) | Event::ClientError(_) | Event::Disconnected => true,
            Event::LameDuckMode | Event::Draining | Event::Closed | Event::Connected => false,
        };
        if is_news {
            tracing::warn!(%event, "NATS");
        }
        std::future::ready(())
    })
}

/// Whether the server says so when a message goes to nobody.
async fn tells_of_nobody(client: &Client, inbox_of_us: &mut Subscriber, epoch: Epoch) -> bool {
    let nobody = inbox(planes::random::instance_id().0, FRAMES);
    let status_to = inbox(epoch, "probe");
    if client.publish_with_reply(nobody, status_to, Bytes::new()).await.is_err() {
        return false;
    }
    let status = timeout(PROBE_MAX, inbox_of_us.next()).await.ok().flatten();
    status.is_some_and(|message| message.status == Some(StatusCode::NO_RESPONDERS))
}
