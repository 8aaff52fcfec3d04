//! Making pairs: the reader's list of those it has, and both sides' part in making another. A
//! handshake blocks, so each has a thread of its own, for a few seconds at most.

use crate::SCHEME;
use crate::handshake::{self, Hello};
use crate::limits::{N_HANDSHAKES_MAX, N_PAIRS_MAX};
use crate::lost;
use crate::shared::{Command, Join, PairRef, Role, Shared};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{BoxFuture, Shared as Awaited};
use planes::cluster_key::Side;
use planes::{random, table_address};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use types::{Error, ErrorKind, Result};

type Pairing = Awaited<BoxFuture<'static, Result<Arc<PairRef>>>>;

/// The pairs of which we are the reader, by the owner's address.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    pairs: Mutex<HashMap<String, Pairing>>,
}

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, pairs: Mutex::default() }
    }

    /// The pair with the owner at the first of `transports` that is ours; made if there is none.
    pub(crate) fn pair(
        self: &Arc<Self>,
        transports: &[String],
    ) -> impl Future<Output = Result<Arc<PairRef>>> + Send + use<> {
        let is_ours = |address: &&String| table_address::parse(SCHEME, address).is_some();
        let address = transports.iter().find(is_ours).cloned();
        let pool = Arc::clone(self);
        async move {
            let address = address.ok_or_else(|| lost("it has no address for UCX"))?;
            pool.find_or_make(address)?.await
        }
    }

    fn find_or_make(&self, address: String) -> Result<Pairing> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        if pairs.len() >= N_PAIRS_MAX {
            pairs.retain(|_, pairing| is_good(pairing));
        }
        let n_pairs = pairs.len();
        match pairs.entry(address) {
            Entry::Occupied(mut found) => {
                if !is_good(found.get()) {
                    *found.get_mut() = make(&self.shared, found.key().clone());
                }
                Ok(found.get().clone())
            }
            Entry::Vacant(_) if n_pairs >= N_PAIRS_MAX => Err(too_many()),
            Entry::Vacant(free) => {
                let pairing = make(&self.shared, free.key().clone());
                Ok(free.insert(pairing).clone())
            }
        }
    }
}

/// Whether a pair is there, or being made.
fn is_good(pairing: &Pairing) -> bool {
    match pairing.peek() {
        None => true,
        Some(Ok(pair)) => !pair.is_lost(),
        Some(Err(_)) => false,
    }
}

fn too_many() -> Error {
    Error::new(ErrorKind::Overloaded, "too many peers are connected over UCX")
}

/// Begins to make a pair of which we are the reader.
fn make(shared: &Arc<Shared>, address: String) -> Pairing {
    let (made, pairing) = oneshot::channel();
    let shared = Arc::clone(shared);
    let making = move || drop(made.send(meet(&shared, &address)));
    // Without a thread the sender is dropped, and the pairing ends with the error below.
    let _ = thread::Builder::new().name("ucx-connect".into()).spawn(making);
    async move { pairing.await.unwrap_or_else(|_| Err(lost("no thread could be started"))) }
        .boxed()
        .shared()
}

/// The reader's part.
fn meet(shared: &Arc<Shared>, address: &str) -> Result<Arc<PairRef>> {
    let parsed = table_address::parse(SCHEME, address);
    let (peer, table) = parsed.ok_or_else(|| lost("its address is none"))?;
    // Without UCX on this side nobody need be troubled.
    shared.worker()?;
    let stream = handshake::connect(peer, &shared.key)?;
    let ours = introduce(shared, table)?;
    let name = ours.pair;
    handshake::tell(&stream, &Ok(ours))?;
    let peer = handshake::hear(&stream)?;
    join(shared, name, Role::Reader, peer, stream)
}

/// The owner's part, in a thread of its own; too many at a time are turned away.
pub(crate) fn receive(shared: &Arc<Shared>, stream: TcpStream) {
    if shared.n_handshakes.fetch_add(1, Ordering::AcqRel) >= N_HANDSHAKES_MAX {
        shared.n_handshakes.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let ours = Arc::clone(shared);
    let receiving = move || {
        match welcome(&ours, stream) {
            Ok(()) => {}
            // Probes of a load balancer do nothing else; and why there is no UCX is in the log.
            Err(failure)
                if [ErrorKind::PeerLost, ErrorKind::Unavailable].contains(&failure.kind) =>
            {
                tracing::debug!(%failure, "a handshake for UCX ended early");
            }
            Err(failure) => tracing::warn!(%failure, "a peer was turned away from UCX"),
        }
        ours.n_handshakes.fetch_sub(1, Ordering::AcqRel);
    };
    if thread::Builder::new().name("ucx-accept".into()).spawn(receiving).is_err() {
        shared.n_handshakes.fetch_sub(1, Ordering::AcqRel);
    }
}

fn welcome(shared: &Arc<Shared>, stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false).map_err(|why| lost(&why.to_string()))?;
    let stranger = shared.strangers.admit(&stream).map_err(|why| lost(&why.to_string()))?;
    let stream = handshake::prove(stream, &shared.key, Side::Accepting)?;
    drop(stranger);
    let link = stream.try_clone().map_err(|why| lost(&why.to_string()))?;
    let joined = handshake::hear(&stream).and_then(|peer| {
        if !shared.tables().contains_key(&peer.table) {
            return Err(lost("it serves this memory no longer"));
        }
        let ours = introduce(shared, peer.table)?;
        // The pair exists before the reader hears of it, so its first request finds it.
        join(shared, ours.pair, Role::Owner, peer, link)?;
        Ok(ours)
    });
    handshake::tell(&stream, &joined).inspect_err(|_| {
        // The thread of UCX has the same connection, and sees its end.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    })?;
    joined.map(|_| ())
}

/// Errors: there is no UCX at the moment (`Unavailable`).
fn introduce(shared: &Shared, table: u128) -> Result<Hello> {
    let worker = shared.worker()?;
    Ok(Hello { table, pair: random::instance_id().0 as u64, worker })
}

fn join(
    shared: &Shared,
    name: u64,
    role: Role,
    peer: Hello,
    stream: TcpStream,
) -> Result<Arc<PairRef>> {
    let (reply, joined) = sync_channel(1);
    shared.command(Command::Join(Join { name, role, peer, stream, reply }))?;
    joined.recv().unwrap_or_else(|_| Err(lost("the transport was closed")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Way;
    use planes::{ClusterKey, LeaseTable};
    use std::net::TcpListener;

    const TABLE: u128 = 7;

    /// A process that serves [`TABLE`], whatever has become of its UCX.
    fn serving(way: Way) -> Arc<Shared> {
        let (shared, _) = Shared::new(ClusterKey::open(), "127.0.0.1:1".into()).unwrap();
        shared.set_way(way);
        shared.tables().insert(TABLE, Arc::new(LeaseTable::default()));
        shared
    }

    fn closed() -> Way {
        Way::Closed(Error::new(ErrorKind::Unavailable, "it finds no devices"))
    }

    fn expect_no_ucx(failure: &Error) {
        assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure}");
        assert!(failure.message.ends_with("it finds no devices"), "{failure}");
    }

    #[test]
    fn an_owner_without_ucx_says_so_to_its_readers() {
        let (owner, listener) = (serving(closed()), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap().to_string();
        let welcoming = thread::spawn(move || welcome(&owner, listener.accept().unwrap().0));
        let stream = handshake::connect(&address, &ClusterKey::open()).unwrap();
        let ours = Hello { table: TABLE, pair: 1, worker: vec![1] };
        handshake::tell(&stream, &Ok(ours)).unwrap();
        expect_no_ucx(&handshake::hear(&stream).unwrap_err());
        expect_no_ucx(&welcoming.join().unwrap().unwrap_err());
    }

    #[test]
    fn a_reader_without_ucx_troubles_no_owner() {
        // Nobody listens there, which would be found first.
        let address = table_address::of_table(SCHEME, "127.0.0.1:1", TABLE);
        expect_no_ucx(&meet(&serving(closed()), &address).err().unwrap());
    }

    #[test]
    fn a_handshake_waits_for_ucx_to_be_opened() {
        let shared = serving(Way::Opening);
        let ours = Arc::clone(&shared);
        let opening = thread::spawn(move || {
            // Most likely somebody waits by then; nobody says so.
            thread::sleep(std::time::Duration::from_millis(20));
            ours.set_way(Way::Open(vec![1, 2, 3]));
        });
        assert_eq!(introduce(&shared, TABLE).unwrap().worker, [1, 2, 3]);
        opening.join().unwrap();
    }
}
