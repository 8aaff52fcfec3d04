//! Reads between parts of one process: the owner's lease table is asked, then bytes are copied.

use futures::FutureExt;
use futures::future::BoxFuture;
use planes::{Destination, LeaseTable, LeasedMemory, RemoteHandle, Source, Transport, Withdraw};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::{Error, ErrorKind, Result};

type Owners = HashMap<String, Arc<LeaseTable>>;

/// How addresses of this process's memory begin; the rest is a random number.
const SCHEME: &str = "mem://";

#[derive(Default)]
pub(crate) struct MemTransport(Arc<Mutex<Owners>>);

impl MemTransport {
    fn owner(&self, transports: &[String]) -> Result<Arc<LeaseTable>> {
        let owners = lock(&self.0);
        transports.iter().find_map(|address| owners.get(address).cloned()).ok_or_else(lost)
    }
}

fn lock(owners: &Mutex<Owners>) -> MutexGuard<'_, Owners> {
    owners.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transport for MemTransport {
    fn serve(
        &self,
        leases: Arc<LeaseTable>,
    ) -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>> {
        let owners = Arc::clone(&self.0);
        async move {
            let address = format!("{SCHEME}{:032x}", planes::random::instance_id().0);
            lock(&owners).insert(address.clone(), leases);
            let withdrawn = address.clone();
            let withdraw = Withdraw::on_drop(move || {
                lock(&owners).remove(&withdrawn);
            });
            Ok((vec![address], withdraw))
        }
        .boxed()
    }

    fn speaks(&self, address: &str) -> bool {
        address.starts_with(SCHEME)
    }

    fn connect(&self, transports: &[String]) -> BoxFuture<'static, Result<()>> {
        let is_there = self.owner(transports).map(|_| ());
        async move { is_there }.boxed()
    }

    fn read(
        &self,
        from: RemoteHandle,
        sources: Vec<Source>,
        into: Destination,
    ) -> BoxFuture<'static, Result<Destination>> {
        let owner = self.owner(&from.transports);
        async move {
            let memory = owner?.pin(from.lease, from.secret)?;
            // Copies of megabytes would hold up the other tasks of this thread.
            let copied = tokio::task::spawn_blocking(move || copy(&memory, &sources, into));
            copied.await.map_err(|_| lost())?
        }
        .boxed()
    }
}

fn copy(memory: &LeasedMemory, sources: &[Source], into: Destination) -> Result<Destination> {
    if sources.len() != into.regions.len() {
        return Err(Error::internal("a read needs one destination for each source"));
    }
    for (&source, region) in sources.iter().zip(&into.regions) {
        let part = memory.locate(source, region.n_bytes())?;
        // SAFETY: `part` is kept by `memory`, the destination is ours alone by its contract, and
        // neither ends before this function does; both are `n_bytes` long.
        unsafe { std::ptr::copy_nonoverlapping(part.ptr(), region.ptr(), region.n_bytes()) };
    }
    Ok(into)
}

fn lost() -> Error {
    Error::new(ErrorKind::PeerLost, "the owner of the memory cannot be reached")
}
