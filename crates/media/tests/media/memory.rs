//! Counts what is allocated, so that tests can bound it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static N_BYTES: AtomicUsize = AtomicUsize::new(0);
static N_BYTES_MAX: AtomicUsize = AtomicUsize::new(0);

/// Most bytes that were allocated at once since the process began.
pub(crate) fn n_bytes_max() -> usize {
    N_BYTES_MAX.load(Ordering::Relaxed)
}

/// The system's allocator, counted.
struct Counted;

#[global_allocator]
static COUNTED: Counted = Counted;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let n_bytes = N_BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        N_BYTES_MAX.fetch_max(n_bytes, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        N_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
