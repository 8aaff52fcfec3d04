//! Memory that outlives every lease of it and every read into it: what is read or written too late
//! is seen, and harms nobody.

use crate::transport::Region;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What memory is filled with when its keeper lets go of it.
pub(super) const POISON: u8 = 0xEE;

/// Some bytes, and the number of those who keep them reserved.
pub(super) struct Plot {
    start: *mut u8,
    n_bytes: usize,
    n_keepers: AtomicUsize,
}

// SAFETY: the memory is the plot's own; it is written through regions, under their rules, and by
// the last keeper.
unsafe impl Send for Plot {}
// SAFETY: as above; `bytes` is called when nobody is to write any more.
unsafe impl Sync for Plot {}

/// Keeps a plot reserved, and poisons it when dropped.
struct Keep(Arc<Plot>);

impl Plot {
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        let bytes = Box::leak(bytes.into_boxed_slice());
        let (start, n_bytes) = (bytes.as_mut_ptr(), bytes.len());
        Arc::new(Self { start, n_bytes, n_keepers: AtomicUsize::new(0) })
    }

    /// `n_bytes` from `offset`, to be handed over with a keeper of the plot.
    pub(super) fn region(&self, offset: usize, n_bytes: usize) -> Region {
        assert!(offset + n_bytes <= self.n_bytes, "a region lies in its plot");
        // SAFETY: the part is inside the plot, which its keepers hold; tests give it to one use.
        unsafe { Region::new(self.start.add(offset), n_bytes) }
    }

    pub(super) fn keep(self: &Arc<Self>) -> Box<dyn Any + Send + Sync> {
        self.n_keepers.fetch_add(1, Ordering::AcqRel);
        Box::new(Keep(Arc::clone(self)))
    }

    pub(super) fn is_kept(&self) -> bool {
        self.n_keepers.load(Ordering::Acquire) > 0
    }

    /// What is there now. A transport that obeys the laws does not write meanwhile.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is valid until the plot is dropped, which outlives the borrow.
        unsafe { std::slice::from_raw_parts(self.start, self.n_bytes) }
    }

    /// Whether it is as its last keeper left it.
    pub(super) fn is_poisoned(&self) -> bool {
        !self.is_kept() && self.bytes().iter().all(|&byte| byte == POISON)
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        // SAFETY: whoever drops the keeper says that nobody uses the memory any more.
        unsafe { std::ptr::write_bytes(self.0.start, POISON, self.0.n_bytes) };
        self.0.n_keepers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Plot {
    fn drop(&mut self) {
        let bytes = std::ptr::slice_from_raw_parts_mut(self.start, self.n_bytes);
        // SAFETY: the memory came from a box of this length, and no keeper is left.
        drop(unsafe { Box::from_raw(bytes) });
    }
}
