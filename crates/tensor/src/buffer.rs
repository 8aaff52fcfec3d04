//! Host memory of tensors: aligned to cache lines, and kept for reuse, because fresh pages cost
//! more than most operations that fill them (a fault per 4 KiB, about 0.1 to 0.2 µs each).

use crate::pages;
use memmap2::MmapMut;
use std::sync::{Mutex, PoisonError};

/// Most bytes kept for reuse in the whole process.
const KEPT_BYTES_MAX: usize = 256 << 20;
/// Most buffers kept for reuse.
const KEPT_BUFFERS_MAX: usize = 64;
/// A kept buffer serves a request of at least this share of its size, so that none is wasted.
const FIT_DIVISOR: usize = 2;
/// From this size on memory comes from the system directly, see [`pages`].
const MAPPED_BYTES_MIN: usize = 2 << 20;

/// A cache line: the unit of allocation, and the alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes of a tensor. They are always initialised.
pub(crate) struct Buffer {
    memory: Memory,
    n_bytes: usize,
}

enum Memory {
    Lines(Vec<Line>),
    Mapped(MmapMut),
}

static KEPT: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

impl Buffer {
    /// A buffer of `n_bytes` with unspecified contents.
    pub(crate) fn of(n_bytes: usize) -> Self {
        let memory = kept(n_bytes).unwrap_or_else(|| Memory::fresh(n_bytes));
        Self { memory, n_bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory has at least `n_bytes` initialised bytes (see `of`).
        unsafe { std::slice::from_raw_parts(self.memory.address(), self.n_bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let base = match &mut self.memory {
            Memory::Lines(lines) => lines.as_mut_ptr().cast(),
            Memory::Mapped(map) => map.as_mut_ptr(),
        };
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(base, self.n_bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        keep(std::mem::replace(&mut self.memory, Memory::Lines(Vec::new())));
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.n_bytes)
    }
}

impl Memory {
    fn fresh(n_bytes: usize) -> Self {
        let is_mapped = n_bytes >= MAPPED_BYTES_MIN;
        // Where the system refuses, the allocator says why.
        let mapped = if is_mapped { pages::zeroed(n_bytes).ok() } else { None };
        let lines = || Self::Lines(vec![Line([0; 64]); n_bytes.div_ceil(64)]);
        mapped.map_or_else(lines, Self::Mapped)
    }

    fn address(&self) -> *const u8 {
        match self {
            Self::Lines(lines) => lines.as_ptr().cast(),
            Self::Mapped(map) => map.as_ptr(),
        }
    }

    fn n_bytes(&self) -> usize {
        match self {
            Self::Lines(lines) => lines.len() * 64,
            Self::Mapped(map) => map.len(),
        }
    }
}

/// The smallest kept buffer that holds `n_bytes` without wasting more than it uses.
fn kept(n_bytes: usize) -> Option<Memory> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |size: usize| size >= n_bytes && size / FIT_DIVISOR <= n_bytes;
    let candidates = kept.iter().enumerate().filter(|(_, memory)| fits(memory.n_bytes()));
    let (idx, _) = candidates.min_by_key(|(_, memory)| memory.n_bytes())?;
    Some(kept.swap_remove(idx))
}

fn keep(memory: Memory) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let n_bytes: usize = kept.iter().map(Memory::n_bytes).sum();
    if kept.len() < KEPT_BUFFERS_MAX && n_bytes + memory.n_bytes() <= KEPT_BYTES_MAX {
        kept.push(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for n_bytes in [0, 1, 63, 64, 65, 1000, 1 << 20, MAPPED_BYTES_MIN + 1] {
            let mut buffer = Buffer::of(n_bytes);
            assert_eq!(buffer.bytes().len(), n_bytes);
            assert_eq!(buffer.bytes_mut().as_ptr() as usize % 64, 0);
            buffer.bytes_mut().fill(7);
            assert!(buffer.bytes().iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn a_dropped_buffer_is_used_again() {
        // A size that no other test asks for.
        let first = Buffer::of(MAPPED_BYTES_MIN + 12_345);
        let address = first.bytes().as_ptr();
        drop(first);
        assert_eq!(Buffer::of(MAPPED_BYTES_MIN + 12_345).bytes().as_ptr(), address);
    }
}
