//! Bulk bytes over UCX.
//!
//! A reader and an owner first meet over TCP, where both prove that they have the cluster's key
//! (`handshake`); then each knows how UCX reaches the other, and they are a *pair*. The reader
//! asks by an active message, the owner pins the lease and announces pieces of memory, and the
//! reader fetches them into its destination (`wire` has the messages, `runs` the cutting).
//! One thread owns UCX and all that belongs to it (`core`); it keeps the memory of every
//! operation until UCX says that the operation has ended.
//!
//! Must not know what the bytes are.

mod answers;
mod core;
mod handshake;
mod limits;
mod ops;
mod owner;
mod pair;
mod pairing;
mod patience;
mod reader;
mod runs;
mod settings;
mod shared;
mod system;
mod ucp;
mod wire;

use crate::limits::N_ATTEMPTS_MAX;
use crate::pairing::Pool;
use crate::reader::Answer;
use crate::shared::{Command, Shared};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use planes::owner_lost as lost;
use planes::{
    ClusterKey, Destination, LeaseTable, RemoteHandle, Source, Transport, Withdraw, random,
    table_address,
};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread;
use types::{Error, ErrorKind, Result};

/// How addresses of this transport begin. Host and port are those of the handshake.
const SCHEME: &str = "ucx://";

/// How a process takes part in transfers over UCX.
#[derive(Debug, Clone)]
pub struct UcxConfig {
    /// Where to listen for handshakes, over TCP; port 0 is any free one.
    pub listen: SocketAddr,
    /// The host by which peers reach us: a name or an address. Without one it is the address we
    /// listen on; where that is any, the one of the way out of this machine.
    pub advertise: Option<String>,
    /// What peers must prove to have.
    pub key: ClusterKey,
}

/// Starts UCX and listens. Dropping the transport ends its reads (`PeerLost`) and its thread.
///
/// Errors: UCX is not there or finds no devices, or the address cannot be listened on
/// (`Unavailable`); the host is none (`InvalidInput`).
pub fn start(config: UcxConfig) -> Result<Arc<dyn Transport>> {
    let cannot = |what: &str| {
        let what = what.to_string();
        move |why: std::io::Error| {
            Error::new(ErrorKind::Unavailable, format!("the transport ucx cannot {what}: {why}"))
        }
    };
    for ignored in settings::ignored() {
        tracing::warn!("{ignored} is ignored: peers could write to memory that was given back");
    }
    let listen = format!("listen on {}", config.listen);
    let listener = TcpListener::bind(config.listen).map_err(cannot(&listen))?;
    listener.set_nonblocking(true).map_err(cannot(&listen))?;
    let bound = listener.local_addr().map_err(cannot(&listen))?;
    let host = table_address::of_listener(config.advertise.as_deref(), bound)?;
    let (shared, commands) = Shared::new(config.key, host).map_err(cannot("start"))?;
    let (ready, begun) = mpsc::sync_channel(1);
    let core = Arc::clone(&shared);
    let thread = thread::Builder::new()
        .name("ucx".into())
        .spawn(move || core::run(core, listener, commands, &ready))
        .map_err(cannot("start its thread"))?;
    begun.recv().unwrap_or_else(|_| Err(Error::internal("the thread of UCX ended")))?;
    let pool = Arc::new(Pool::new(Arc::clone(&shared)));
    Ok(Arc::new(UcxTransport { shared, pool, thread: Some(thread) }))
}

/// Whether UCX works here, in a sentence: its version, the transports and devices it found, and
/// what of the environment is ignored because memory would not be safe with it.
///
/// Errors: it is not there, or finds nothing to work with (`Unavailable`).
pub fn check() -> Result<String> {
    let context = ucp::Context::open()?;
    let library = context.library();
    let (major, minor, release) = library.version;
    let found = context.resources().join(", ");
    let ignored = settings::ignored().into_iter().map(|it| format!("; {it} is ignored"));
    let ignored: String = ignored.collect();
    Ok(format!("UCX {major}.{minor}.{release} ({}) finds {found}{ignored}", library.path))
}

struct UcxTransport {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for UcxTransport {
    fn drop(&mut self) {
        self.shared.stop();
        let Some(thread) = self.thread.take() else { return };
        // The last reference may be in memory that the thread itself lets go of.
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Transport for UcxTransport {
    fn serve(
        &self,
        leases: Arc<LeaseTable>,
    ) -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>> {
        let table = random::instance_id().0;
        self.shared.tables().insert(table, leases);
        let address = table_address::of_table(SCHEME, &self.shared.host, table);
        let shared = Arc::clone(&self.shared);
        let withdraw = Withdraw::on_drop(move || {
            shared.tables().remove(&table);
        });
        async move { Ok((vec![address], withdraw)) }.boxed()
    }

    fn speaks(&self, address: &str) -> bool {
        address.starts_with(SCHEME)
    }

    fn connect(&self, transports: &[String]) -> BoxFuture<'static, Result<()>> {
        let pair = self.pool.pair(transports);
        async move { pair.await.map(|_| ()) }.boxed()
    }

    fn read(
        &self,
        from: RemoteHandle,
        sources: Vec<Source>,
        into: Destination,
    ) -> BoxFuture<'static, Result<Destination>> {
        let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&self.pool));
        async move {
            into.check_for(&sources)?;
            read_from(&shared, &pool, &from, (sources, into)).await
        }
        .boxed()
    }
}

async fn read_from(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    from: &RemoteHandle,
    (sources, mut into): (Vec<Source>, Destination),
) -> Result<Destination> {
    // Dropped after the answer is, so that the thread finds nobody waiting.
    let mut notice = shared.notice_on_drop();
    let (lease, secret) = (from.lease, from.secret);
    let mut n_attempts = 0;
    loop {
        n_attempts += 1;
        let (pair, (reply, answer)) = (pool.pair(&from.transports).await?, oneshot::channel());
        let order = reader::Order { lease, secret, sources: sources.clone(), into, reply };
        shared.command(Command::Read { pair: pair.name, order })?;
        let outcome = match answer.await {
            Ok(Answer::Ended(outcome)) => outcome,
            Ok(Answer::Lost { into: back, .. }) if n_attempts < N_ATTEMPTS_MAX => {
                into = back;
                continue;
            }
            Ok(Answer::Lost { why, .. }) => Err(why),
            Err(oneshot::Canceled) => Err(lost("the transport was closed")),
        };
        notice.is_needed = false;
        return outcome;
    }
}
