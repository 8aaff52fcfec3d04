//! A transport whose reads wait at a gate, as on a network that stands still: they go on when the
//! gate opens, though nobody may wait for them any more. It notes what it is asked for.

use futures::FutureExt;
use futures::future::BoxFuture;
use planes::{Destination, LeaseTable, Planes, RemoteHandle, Source, Transport, Withdraw};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use types::Result;

pub(crate) struct Gate {
    inner: Arc<dyn Transport>,
    open: Arc<Semaphore>,
    met: Mutex<Vec<String>>,
    reads: Arc<Mutex<Vec<Read>>>,
}

/// A read that has come to its end.
#[derive(Clone)]
pub(crate) struct Read {
    /// Whose memory it was.
    pub(crate) owner: String,
    /// How many regions.
    pub(crate) n_regions: usize,
}

impl Gate {
    /// Planes whose reads wait until the gate is opened.
    pub(crate) fn shut(planes: Planes) -> (Arc<Self>, Planes) {
        let (inner, open) = (planes.transport, Arc::new(Semaphore::new(0)));
        let gate = Arc::new(Self { inner, open, met: Mutex::default(), reads: Arc::default() });
        (Arc::clone(&gate), Planes { transport: gate, ..planes })
    }

    /// Planes whose reads are only noted.
    pub(crate) fn opened(planes: Planes) -> (Arc<Self>, Planes) {
        let (gate, planes) = Self::shut(planes);
        gate.open();
        (gate, planes)
    }

    /// Lets all reads pass from now on.
    pub(crate) fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// The addresses that were connected to.
    pub(crate) fn met(&self) -> Vec<String> {
        self.met.lock().unwrap().clone()
    }

    /// The reads of the memory of `owner` that have ended, first to last.
    pub(crate) fn reads_of(&self, owner: &planes::Address) -> Vec<Read> {
        let reads = self.reads.lock().unwrap();
        reads.iter().filter(|read| read.owner == owner.0).cloned().collect()
    }
}

impl Transport for Gate {
    fn serve(
        &self,
        leases: Arc<LeaseTable>,
    ) -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>> {
        self.inner.serve(leases)
    }

    fn speaks(&self, address: &str) -> bool {
        self.inner.speaks(address)
    }

    fn connect(&self, transports: &[String]) -> BoxFuture<'static, Result<()>> {
        self.met.lock().unwrap().extend_from_slice(transports);
        self.inner.connect(transports)
    }

    fn read(
        &self,
        from: RemoteHandle,
        sources: Vec<Source>,
        into: Destination,
    ) -> BoxFuture<'static, Result<Destination>> {
        let read = Read { owner: from.owner.0.clone(), n_regions: sources.len() };
        let (open, reads) = (Arc::clone(&self.open), Arc::clone(&self.reads));
        let reading = self.inner.read(from, sources, into);
        // A job of its own: it goes on when nobody waits for it any more, as a network card would.
        let job = tokio::spawn(async move {
            let _turn = open.acquire().await;
            let done = reading.await;
            reads.lock().unwrap().push(read);
            done
        });
        async move { job.await.unwrap() }.boxed()
    }
}
