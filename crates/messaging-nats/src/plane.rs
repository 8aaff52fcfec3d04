//! The messaging plane over one connection to NATS.
//!
//! The connection has a thread of its own, with a runtime that nobody else uses: no handler can
//! hold up a frame, and heartbeats go out whatever the process is busy with.

use crate::exchange::Served;
use crate::link::{Link, Service};
use crate::replies::{ReplyQueue, ReplyStream};
use crate::stats::Stats;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use planes::messaging::N_BODY_BYTES_MAX;
use planes::{Address, Beat, Call, Handler, Messaging, Pulse, Replies, Withdraw};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use types::{Error, ErrorKind, Result};

/// Longest address, in bytes.
const N_ADDRESS_BYTES_MAX: usize = 255;

/// Calls over NATS.
pub struct NatsMessaging {
    link: Arc<Link>,
    /// The runtime of the connection's thread.
    runtime: Handle,
    next_generation: AtomicU64,
    pulse: Option<Pulse>,
    thread: Option<ConnectionThread>,
}

/// The thread that serves the connection, until it is told to stop.
pub(crate) struct ConnectionThread {
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) thread: thread::JoinHandle<()>,
}

impl NatsMessaging {
    pub(crate) fn new(link: Arc<Link>, runtime: Handle, thread: ConnectionThread) -> Self {
        let beating = Arc::clone(&link);
        let pulse = Pulse::start(move |beat| on_beat(&beating, beat));
        let next_generation = AtomicU64::new(0);
        Self { link, runtime, next_generation, pulse: Some(pulse), thread: Some(thread) }
    }

    /// What has gone through the connection.
    pub fn stats(&self) -> Stats {
        let n_connects = self.link.client.statistics().connects.load(Ordering::Relaxed);
        let stats = self.link.shared.with(|exchange| exchange.stats);
        Stats { n_reconnects: n_connects.saturating_sub(1), ..stats }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    fn open(&self, address: &Address, call: Call) -> Result<ReplyStream> {
        if call.body.len() > N_BODY_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "the message is over the size limit"));
        }
        // Nobody can be served there, so nobody is; it may come from a forged registration.
        check_address(address).map_err(|error| Error { kind: ErrorKind::Unavailable, ..error })?;
        if !self.link.is_connected() {
            return Err(Error::new(ErrorKind::Unavailable, "the NATS server cannot be reached"));
        }
        let (queue, deadline) = (Arc::new(ReplyQueue::default()), call.deadline);
        let (shared, now) = (&self.link.shared, Instant::now());
        let open = |exchange: &mut crate::exchange::Exchange| {
            exchange.open(&address.0, call, Arc::clone(&queue), now)
        };
        let stream = shared.with(open)?;
        Ok(ReplyStream::new(Arc::clone(shared), stream, queue, deadline))
    }

    /// Puts a handler into the table, from where the returned promise takes it.
    fn register(&self, address: &Address, handler: Arc<dyn Handler>) -> Result<(Service, Ready)> {
        check_address(address)?;
        let runtime = Handle::try_current()
            .map_err(|_| Error::internal("an address is served from within a runtime"))?;
        let address: Arc<str> = Arc::from(address.0.as_str());
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let served = Served { handler, runtime, generation };
        let shared = Arc::clone(&self.link.shared);
        let refused = shared.with(|exchange| match exchange.served.contains_key(&address) {
            true => Some(served),
            false => exchange.served.insert(Arc::clone(&address), served),
        });
        if refused.is_some() {
            return Err(Error::internal(format!("{address} is served already")));
        }
        let (withdrawn, is_withdrawn) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let key = Arc::clone(&address);
        let withdraw = Withdraw::on_drop(move || {
            // The handler is dropped when nothing is locked: it may hold calls of its own.
            let handler = shared.with(|exchange| exchange.served.remove(&key));
            drop((handler, withdrawn));
        });
        let service = Service { address, generation, is_ready: ready, is_withdrawn };
        Ok((service, Ready { is_ready, withdraw }))
    }
}

/// A served address whose first call may not reach it yet.
struct Ready {
    is_ready: oneshot::Receiver<Result<()>>,
    withdraw: Withdraw,
}

impl Messaging for NatsMessaging {
    fn call(&self, address: &Address, call: Call) -> Replies {
        match self.open(address, call) {
            Ok(replies) => replies.boxed(),
            Err(failure) => futures::stream::once(async move { Err(failure) }).boxed(),
        }
    }

    fn serve(
        &self,
        address: &Address,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<'static, Result<Withdraw>> {
        let registered = self.register(address, handler).map(|(service, ready)| {
            self.runtime.spawn(Arc::clone(&self.link).serve(service));
            ready
        });
        async move {
            let Ready { is_ready, withdraw } = registered?;
            let closed = |_| Error::new(ErrorKind::Unavailable, "the NATS connection is closed");
            is_ready.await.map_err(closed)??;
            Ok(withdraw)
        }
        .boxed()
    }
}

impl Drop for NatsMessaging {
    fn drop(&mut self) {
        self.pulse = None;
        let close = |exchange: &mut crate::exchange::Exchange| {
            exchange.close();
            std::mem::take(&mut exchange.served)
        };
        drop(self.link.shared.with(close));
        let Some(ConnectionThread { stop, thread }) = self.thread.take() else { return };
        let _ = stop.send(());
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

/// Runs on the pulse's thread.
fn on_beat(link: &Link, beat: Beat) {
    match beat {
        Beat::Regular => {
            let n_message_bytes_max = link.client.max_payload();
            link.shared.with(|exchange| {
                exchange.limit(n_message_bytes_max);
                exchange.beat(Instant::now());
            });
        }
        Beat::Woke { silence } => {
            tracing::warn!(?silence, "the process stood still: its streams have ended");
            let epoch = planes::random::instance_id().0;
            link.shared.with(|exchange| exchange.start_anew(epoch));
            link.has_woken.notify_one();
        }
    }
}

/// An address is one subject: no wildcard, no empty part, nothing that ends a line of the protocol.
fn check_address(address: &Address) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'*' && byte != b'>';
    let Address(address) = address;
    let is_good = address.len() <= N_ADDRESS_BYTES_MAX
        && address.bytes().all(is_plain)
        && address.split('.').all(|part| !part.is_empty());
    is_good.then_some(()).ok_or_else(|| Error::internal("this is not an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_single_subjects() {
        for (address, is_good) in [
            ("dynamo.backend.generate.0123", true),
            ("a", true),
            ("", false),
            (".a", false),
            ("a.", false),
            ("a..b", false),
            ("a.*", false),
            ("a.>", false),
            ("a b", false),
            ("a\r\nPUB b 0", false),
            ("\u{fc}ber", false),
        ] {
            assert_eq!(check_address(&Address(address.into())).is_ok(), is_good, "{address:?}");
        }
        let long = "a".repeat(N_ADDRESS_BYTES_MAX);
        assert!(check_address(&Address(long.clone())).is_ok());
        assert!(check_address(&Address(long + "a")).is_err());
    }
}
