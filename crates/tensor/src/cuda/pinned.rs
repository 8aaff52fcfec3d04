//! Host memory that a GPU copies from and to by itself.

use super::Context;
use super::error::checked;
use crate::dtype::Element;
use cudarc::driver::result;
use std::sync::Arc;
use types::Result;

/// Page-locked host memory, freed when dropped. Whoever gives it to a copy keeps it, unwritten,
/// until that copy is over.
pub struct Pinned {
    context: Arc<Context>,
    base: *mut u8,
    n_bytes: usize,
}

// SAFETY: plain memory, owned.
unsafe impl Send for Pinned {}
// SAFETY: reads are shared, writes need `&mut`.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `n_bytes` of zeros.
    ///
    /// Errors: the system does not lock that much memory.
    pub fn new(context: &Arc<Context>, n_bytes: usize) -> Result<Self> {
        context.bind()?;
        // SAFETY: freed when dropped; initialised below.
        let base = unsafe { result::malloc_host(n_bytes.max(1), 0) };
        let base: *mut u8 = checked(base, "lock host memory")?.cast();
        // SAFETY: as many bytes were just allocated.
        unsafe { base.write_bytes(0, n_bytes.max(1)) };
        Ok(Self { context: Arc::clone(context), base, n_bytes })
    }

    /// The elements that fit.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        // SAFETY: initialised, page aligned, owned; any bits are a `T`.
        unsafe { std::slice::from_raw_parts(self.base.cast(), self.n_bytes / size_of::<T>()) }
    }

    /// The elements that fit, to write.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.cast(), self.n_bytes / size_of::<T>()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated in `new`, freed once.
            let _ = unsafe { result::free_host(self.base.cast()) };
        }
    }
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pinned({} bytes)", self.n_bytes)
    }
}
