//! Bulk bytes from one worker's memory to another's.
//!
//! A read is a request to the owner of the memory, who looks it up in its lease table and sends the
//! bytes: no address of memory travels, nobody writes into another's memory, and a forged or stale
//! handle can only be refused.

use crate::lease::LeaseTable;
use crate::messaging::Address;
use crate::withdraw::Withdraw;
use futures::future::BoxFuture;
use std::any::Any;
use std::sync::Arc;
use types::{Error, ErrorKind, LeaseId, Result, Secret};

/// A piece of memory, kept alive by whoever holds the structure it is part of.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    ptr: *mut u8,
    n_bytes: usize,
    memory: Memory,
}

/// Whose memory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// The processor's, which may be read and written where it lies.
    Host,
    /// A GPU's, which only the GPU's driver may touch.
    Gpu,
}

// SAFETY: a region is an address and a length; those who dereference it promise, in `Region::new`,
// that the memory may be used from any thread for as long as the owner beside it lives.
unsafe impl Send for Region {}
// SAFETY: as above; sharing the address allows nothing that sending it does not.
unsafe impl Sync for Region {}

impl Region {
    /// `n_bytes` of the host's memory at `ptr`.
    ///
    /// # Safety
    /// The memory stays valid, from any thread, while the value it is handed over with
    /// ([`crate::LeasedMemory`] or [`Destination`]) exists. Memory that is lent is initialised and
    /// is not written meanwhile; in a destination nobody else touches it.
    pub unsafe fn new(ptr: *mut u8, n_bytes: usize) -> Self {
        Self { ptr, n_bytes, memory: Memory::Host }
    }

    /// The same, in the memory that is said.
    ///
    /// # Safety
    /// As for [`Self::new`].
    pub unsafe fn within(memory: Memory, ptr: *mut u8, n_bytes: usize) -> Self {
        Self { ptr, n_bytes, memory }
    }

    /// `n_bytes` of it from `offset` on; panics if it is not that long.
    #[must_use]
    pub fn part(&self, offset: usize, n_bytes: usize) -> Self {
        let fits = offset.checked_add(n_bytes).is_some_and(|end| end <= self.n_bytes);
        assert!(fits, "{n_bytes} bytes at {offset} of a region of {}", self.n_bytes);
        Self { ptr: self.ptr.wrapping_add(offset), n_bytes, memory: self.memory }
    }

    /// Itself, for those who read and write it where it lies.
    ///
    /// Errors: it is a GPU's (`Unavailable`).
    pub fn on_host(self) -> Result<Self> {
        match self.memory {
            Memory::Host => Ok(self),
            Memory::Gpu => Err(Error::new(
                ErrorKind::Unavailable,
                "this transport does not move the memory of GPUs yet",
            )),
        }
    }

    /// Whose memory it is.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Start of the memory.
    pub fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// Length in bytes.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}

/// The right to read memory that somebody else owns, as it travels in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteHandle {
    /// Where the owner takes messages (to ask whether the memory is ready).
    pub owner: Address,
    /// Where the owner serves its memory, one address for each transport, best first.
    pub transports: Vec<String>,
    /// The lease in the owner's table.
    pub lease: LeaseId,
    /// Proof of the right.
    pub secret: Secret,
}

/// What to read: `n_bytes` (given by the destination) from `offset` of a region of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Index of the region in the leased memory.
    pub region_idx: usize,
    /// First byte inside the region.
    pub offset: usize,
}

/// Where to put what is read, and the owner of that memory.
pub struct Destination {
    /// One region for each source.
    pub regions: Vec<Region>,
    /// Keeps the memory reserved; dropped only when no more byte can land in it.
    pub keep: Box<dyn Any + Send>,
}

/// Sources in one read, at most.
pub const N_SOURCES_MAX: usize = 65_536;

impl Destination {
    /// Whether `sources` can be read into it.
    ///
    /// Errors: there is not one region for each source (`Internal`), or there are more than
    /// [`N_SOURCES_MAX`] (`TooLarge`).
    pub fn check_for(&self, sources: &[Source]) -> Result<()> {
        if sources.len() != self.regions.len() {
            return Err(Error::internal("a read needs one destination for each source"));
        }
        if sources.len() > N_SOURCES_MAX {
            let message = format!("a read of {} parts is over {N_SOURCES_MAX}", sources.len());
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        Ok(())
    }
}

/// The error of a read whose owner is out of reach (`PeerLost`).
pub fn owner_lost(why: &str) -> Error {
    let message = format!("the owner of the memory cannot be reached: {why}");
    Error::new(ErrorKind::PeerLost, message)
}

/// The carrier of bulk bytes.
pub trait Transport: Send + Sync {
    /// Lets peers read what `leases` grants. Gives the addresses they need, best first.
    fn serve(&self, leases: Arc<LeaseTable>)
    -> BoxFuture<'static, Result<(Vec<String>, Withdraw)>>;

    /// Whether this is the transport that `address` belongs to (`tcp://…`).
    fn speaks(&self, address: &str) -> bool;

    /// Opens the way to an owner, so that the first read does not pay for it.
    ///
    /// Errors: the owner is out of reach (`PeerLost`), or does not know us (`Forbidden`).
    fn connect(&self, transports: &[String]) -> BoxFuture<'static, Result<()>>;

    /// Reads each source into the region of the same index and gives the destination back.
    ///
    /// Dropping the future gives up the bytes, not the memory: the destination is dropped when the
    /// transport has finished with it. Errors: the owner is out of reach, or sends nothing for too
    /// long (`PeerLost`); the handle is stale or forged or the source outside of the lease
    /// (`NotFound`).
    fn read(
        &self,
        from: RemoteHandle,
        sources: Vec<Source>,
        into: Destination,
    ) -> BoxFuture<'static, Result<Destination>>;
}
