//! Bulk bytes over TCP, by blocking threads of its own.
//!
//! An owner has one listener for all its lease tables and a thread for each connection; it sends
//! straight from the leased memory. A reader has a few connections to each owner (`lane`), whose
//! threads receive straight into the destination. Threads reach what an asynchronous runtime
//! reaches here, and copies of megabytes hold up nobody's tasks.
//!
//! Must not know what the bytes are.

mod crew;
mod frame;
mod handshake;
mod lane;
mod limits;
mod owner;
mod reader;
mod waiting;

use crew::Crew;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use owner::Owner;
use planes::owner_lost as lost;
use planes::{
    ClusterKey, Destination, LeaseTable, RemoteHandle, Source, Transport, Withdraw, table_address,
};
use reader::Reader;
use std::net::SocketAddr;
use std::sync::Arc;
use types::Result;

/// How addresses of this transport begin.
const SCHEME: &str = "tcp://";

/// How a process takes part in transfers over TCP.
#[derive(Debug, Clone)]
pub struct TcpConfig {
    /// Where to listen; port 0 is any free one.
    pub listen: SocketAddr,
    /// The host by which peers reach us: a name or an address. Without one it is the address we
    /// listen on; where that is any, the one of the way out of this machine; else the loopback's.
    pub advertise: Option<String>,
    /// What peers must prove to have.
    pub key: ClusterKey,
}

/// Starts listening. Dropping the transport ends its connections and joins its threads.
///
/// Errors: the address cannot be listened on, or the host is none (`InvalidInput`).
pub fn start(config: TcpConfig) -> Result<Arc<dyn Transport>> {
    let crew = Arc::new(Crew::default());
    let owner = Owner::listen(&config, &crew)?;
    let reader = Arc::new(Reader::new(config.key, Arc::clone(&crew)));
    Ok(Arc::new(TcpTransport { owner, reader, crew }))
}

struct TcpTransport {
    owner: Owner,
    reader: Arc<Reader>,
    crew: Arc<Crew>,
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.crew.close();
        self.reader.close();
        self.owner.stop();
        self.crew.join();
    }
}

impl Transport for TcpTransport {
    fn serve(
        &self,
        leases: Arc<LeaseTable>,
    ) -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>> {
        let (address, withdraw) = self.owner.serve(leases);
        async move { Ok((vec![address], withdraw)) }.boxed()
    }

    fn speaks(&self, address: &str) -> bool {
        address.starts_with(SCHEME)
    }

    fn connect(&self, transports: &[String]) -> BoxFuture<'static, Result<()>> {
        let connected = first(transports).and_then(|(peer, _)| self.reader.connect(peer));
        answer(connected)
    }

    /// The read is under way when this returns, whether or not its future is polled.
    fn read(
        &self,
        from: RemoteHandle,
        sources: Vec<Source>,
        into: Destination,
    ) -> BoxFuture<'static, Result<Destination>> {
        let begun = first(&from.transports).and_then(|(peer, table)| {
            into.check_for(&sources)?;
            let request = frame::Request::new(table, &from, &sources, &into);
            self.reader.read(peer, &request, into)
        });
        answer(begun)
    }
}

/// What a lane's thread will say.
type Answer<T> = oneshot::Receiver<Result<T>>;

fn answer<T: Send + 'static>(begun: Result<Answer<T>>) -> BoxFuture<'static, Result<T>> {
    async move { begun?.await.unwrap_or_else(|_| Err(lost("the transport was closed"))) }.boxed()
}

/// `host:port` and table of the first address that is ours.
fn first(transports: &[String]) -> Result<(&str, u128)> {
    let found = transports.iter().find_map(|address| table_address::parse(SCHEME, address));
    found.ok_or_else(|| lost("it has no address for TCP"))
}
