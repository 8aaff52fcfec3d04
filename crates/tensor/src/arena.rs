//! One plain allocation that peers may read: page aligned, freed as a whole.

use crate::cuda::Allocation;
use crate::pages;
use memmap2::MmapMut;
use std::fmt;
use std::sync::Arc;
use types::{Error, ErrorKind, Result};

/// A span of memory of the host or of a GPU, handed around by raw address; who may touch which
/// bytes is decided by those who divide it ([`crate::Slab`], [`crate::KvPool`]).
pub struct Arena {
    memory: Memory,
    base: *mut u8,
    n_bytes: usize,
}

/// Owns the memory until the last reference is dropped.
enum Memory {
    /// Zeroed lazily.
    Host(#[expect(dead_code, reason = "held for its drop")] MmapMut),
    Gpu(#[expect(dead_code, reason = "held for its drop")] Allocation),
}

// SAFETY: the arena only hands out an address; whoever dereferences it must hold the bytes
// exclusively (or share them read-only), which the dividing types guarantee.
unsafe impl Send for Arena {}
// SAFETY: as above; the arena itself is never written after construction.
unsafe impl Sync for Arena {}

impl Arena {
    /// Reserves `n_bytes` of zeros; pages, huge ones where there are, are taken from the system
    /// when first touched.
    ///
    /// Errors: the system refuses (`Unavailable`).
    pub fn host(n_bytes: usize) -> Result<Arc<Self>> {
        let mut map = pages::zeroed(n_bytes).map_err(|error| {
            let message = format!("cannot reserve {n_bytes} bytes of memory: {error}");
            Error::new(ErrorKind::Unavailable, message)
        })?;
        let base = map.as_mut_ptr();
        Ok(Arc::new(Self { memory: Memory::Host(map), base, n_bytes }))
    }

    /// Hands around what was reserved on a GPU.
    pub(crate) fn on_gpu(allocation: Allocation) -> Arc<Self> {
        let (base, n_bytes) = (allocation.address() as *mut u8, allocation.n_bytes());
        Arc::new(Self { memory: Memory::Gpu(allocation), base, n_bytes })
    }

    /// Address of the first byte; at least 64-byte aligned. Only the host's may be dereferenced.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Whether the host can read and write it.
    pub fn is_on_host(&self) -> bool {
        matches!(self.memory, Memory::Host(_))
    }

    /// Size in bytes.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} bytes)", self.n_bytes)
    }
}
