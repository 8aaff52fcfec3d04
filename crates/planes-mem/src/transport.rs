//! Reads between parts of one process: the owner's lease table is asked, then bytes are copied.
//! Memory of a GPU is copied by whoever put the planes together; here nobody knows GPUs.

use futures::FutureExt;
use futures::future::BoxFuture;
use planes::{
    Destination, LeaseTable, LeasedMemory, Memory, Region, RemoteHandle, Source, Transport,
    Withdraw,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::{Error, ErrorKind, Result};

type Owners = HashMap<String, Arc<LeaseTable>>;

/// How addresses of this process's memory begin; the rest is a random number.
const SCHEME: &str = "mem://";

/// Copies each first region into the second, of the same length, where at least one of them is a
/// GPU's; returns when the bytes are there.
pub type CopyByGpu = dyn Fn(&[(Region, Region)]) -> Result<()> + Send + Sync;

#[derive(Default)]
pub(crate) struct MemTransport {
    owners: Arc<Mutex<Owners>>,
    copy_by_gpu: Option<Arc<CopyByGpu>>,
}

impl MemTransport {
    pub(crate) fn new(copy_by_gpu: Option<Arc<CopyByGpu>>) -> Self {
        Self { owners: Arc::default(), copy_by_gpu }
    }

    fn owner(&self, transports: &[String]) -> Result<Arc<LeaseTable>> {
        let owners = lock(&self.owners);
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
        let owners = Arc::clone(&self.owners);
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
        let by_gpu = self.copy_by_gpu.clone();
        async move {
            let memory = owner?.pin(from.lease, from.secret)?;
            // Copies of megabytes would hold up the other tasks of this thread.
            let copied = tokio::task::spawn_blocking(move || {
                copy(&memory, &sources, into, by_gpu.as_deref())
            });
            copied.await.map_err(|_| lost())?
        }
        .boxed()
    }
}

fn copy(
    memory: &LeasedMemory,
    sources: &[Source],
    into: Destination,
    by_gpu: Option<&CopyByGpu>,
) -> Result<Destination> {
    into.check_for(sources)?;
    let pair = |(&source, into): (&Source, &Region)| {
        Ok::<_, Error>((memory.locate(source, into.n_bytes())?, *into))
    };
    let pairs: Vec<_> = sources.iter().zip(&into.regions).map(pair).collect::<Result<_>>()?;
    let is_on_host = |region: &Region| region.memory() == Memory::Host;
    match by_gpu {
        Some(by_gpu) if !pairs.iter().all(|(from, to)| is_on_host(from) && is_on_host(to)) => {
            by_gpu(&pairs)?;
        }
        Some(_) | None => pairs.into_iter().try_for_each(|(from, to)| {
            let (from, to) = (from.on_host()?, to.on_host()?);
            // SAFETY: `from` is kept by `memory`, the destination is ours alone by its contract,
            // and neither ends before this function does; both are as long.
            unsafe { std::ptr::copy_nonoverlapping(from.ptr(), to.ptr(), to.n_bytes()) };
            Ok::<_, Error>(())
        })?,
    }
    Ok(into)
}

fn lost() -> Error {
    Error::new(ErrorKind::PeerLost, "the owner of the memory cannot be reached")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pretend to be a GPU's.
    fn region(memory: Memory, bytes: &mut [u8]) -> Region {
        // SAFETY: every test holds its bytes until it is done with the region.
        unsafe { Region::within(memory, bytes.as_mut_ptr(), bytes.len()) }
    }

    fn read(from: Memory, to: Memory, by_gpu: Option<&CopyByGpu>) -> Result<[u8; 3]> {
        let (mut source, mut target) = ([1, 2, 3, 4], [0; 3]);
        let memory = LeasedMemory { regions: vec![region(from, &mut source)], keep: Box::new(()) };
        let into = Destination { regions: vec![region(to, &mut target)], keep: Box::new(()) };
        copy(&memory, &[Source { region_idx: 0, offset: 1 }], into, by_gpu)?;
        Ok(target)
    }

    /// Copies nothing, but says for which memory it was asked.
    fn by_gpu(pairs: &[(Region, Region)]) -> Result<()> {
        assert_eq!(pairs.len(), 1);
        let memories = (pairs[0].0.memory(), pairs[0].1.memory());
        assert_ne!(memories, (Memory::Host, Memory::Host), "the host copies that itself");
        assert_eq!((pairs[0].0.n_bytes(), pairs[0].1.n_bytes()), (3, 3));
        Ok(())
    }

    #[test]
    fn memory_of_a_gpu_is_copied_by_whoever_can_or_not_at_all() {
        let (host, gpu) = (Memory::Host, Memory::Gpu);
        assert_eq!(read(host, host, None).unwrap(), [2, 3, 4]);
        assert_eq!(read(host, host, Some(&by_gpu)).unwrap(), [2, 3, 4]);
        for (from, to) in [(gpu, gpu), (gpu, host), (host, gpu)] {
            assert_eq!(read(from, to, Some(&by_gpu)).unwrap(), [0; 3], "the host touched it");
            assert_eq!(read(from, to, None).unwrap_err().kind, ErrorKind::Unavailable);
        }
    }
}
