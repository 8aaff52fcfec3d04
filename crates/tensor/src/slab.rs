//! Ranges of an arena, allocated first-fit and given back on drop; the arena's size is the limit.

use crate::arena::Arena;
use crate::dtype::Element;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ranges start at multiples of this many bytes (a cache line, and any element's alignment).
const ALIGNMENT: usize = 64;

/// Divides an arena into ranges of bytes.
#[derive(Debug)]
pub struct Slab {
    arena: Arc<Arena>,
    free: Mutex<FreeRanges>,
    n_waiting: AtomicUsize,
}

/// Somebody who waits for a range, until this is dropped.
#[derive(Debug)]
pub struct Awaiting(Arc<Slab>);

/// A range of a slab, owned: its bytes are nobody else's until it is dropped.
#[derive(Debug)]
pub struct SlabRange {
    slab: Arc<Slab>,
    offset: usize,
    n_bytes: usize,
}

impl Slab {
    /// A slab over the whole of `arena`; nobody else may divide the same arena.
    pub fn new(arena: Arc<Arena>) -> Arc<Self> {
        let n_bytes = arena.n_bytes() / ALIGNMENT * ALIGNMENT;
        let free = FreeRanges { by_offset: BTreeMap::from([(0, n_bytes)]), n_bytes_used: 0 };
        Arc::new(Self { arena, free: Mutex::new(free), n_waiting: AtomicUsize::new(0) })
    }

    /// A range of `n_bytes`, or `None` while there is no gap that large. Contents are unspecified.
    pub fn alloc(self: &Arc<Self>, n_bytes: usize) -> Option<SlabRange> {
        let offset = self.lock().take(padded(n_bytes))?;
        Some(SlabRange { slab: Arc::clone(self), offset, n_bytes })
    }

    /// Whether ranges of these sizes fit at the same time into the empty slab.
    pub fn could_hold(&self, sizes: impl IntoIterator<Item = usize>) -> bool {
        let n_bytes: usize = sizes.into_iter().map(padded).sum();
        n_bytes <= self.arena.n_bytes() / ALIGNMENT * ALIGNMENT
    }

    /// Bytes in ranges that have not been dropped, padding included.
    pub fn n_bytes_used(&self) -> usize {
        self.lock().n_bytes_used
    }

    /// Says that somebody waits for a range: who could do without one that it holds gives it back.
    pub fn await_range(self: &Arc<Self>) -> Awaiting {
        self.n_waiting.fetch_add(1, Ordering::Relaxed);
        Awaiting(Arc::clone(self))
    }

    /// Whether somebody waits for a range.
    pub fn is_awaited(&self) -> bool {
        self.n_waiting.load(Ordering::Relaxed) > 0
    }

    /// Offset and size of everything that is free.
    pub(crate) fn gaps(&self) -> Vec<(usize, usize)> {
        self.lock().by_offset.iter().map(|(&offset, &n_bytes)| (offset, n_bytes)).collect()
    }

    /// The arena that is divided.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FreeRanges> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlabRange {
    /// Offset of the first byte in the arena.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Size in bytes, as asked for.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The slab it belongs to.
    pub fn slab(&self) -> &Arc<Slab> {
        &self.slab
    }

    /// Address of the first byte: of the host or of a GPU, wherever the arena lies.
    pub fn address(&self) -> u64 {
        self.pointer() as u64
    }

    /// The elements that fit into the range; panics if it lies on a GPU.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert!(self.slab.arena.is_on_host(), "memory of a GPU was read as the host's");
        let n_elements = self.n_bytes / size_of::<T>();
        // SAFETY: the range lies in the arena, is aligned to 64 bytes, initialised (zeros at first)
        // and owned by `self`; any bit pattern is a `T` (Pod).
        unsafe { std::slice::from_raw_parts(self.pointer().cast(), n_elements) }
    }

    /// The elements that fit into the range, to write; panics if it lies on a GPU.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        assert!(self.slab.arena.is_on_host(), "memory of a GPU was written as the host's");
        let n_elements = self.n_bytes / size_of::<T>();
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer().cast(), n_elements) }
    }

    fn pointer(&self) -> *mut u8 {
        // SAFETY: `offset` was allocated inside the arena.
        unsafe { self.slab.arena.base().add(self.offset) }
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.0.n_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for SlabRange {
    fn drop(&mut self) {
        self.slab.lock().give_back(self.offset, padded(self.n_bytes));
    }
}

/// What is free, as offset → bytes; neighbours are always merged.
#[derive(Debug)]
struct FreeRanges {
    by_offset: BTreeMap<usize, usize>,
    n_bytes_used: usize,
}

impl FreeRanges {
    fn take(&mut self, n_bytes: usize) -> Option<usize> {
        let (&offset, &gap) = self.by_offset.iter().find(|&(_, &gap)| gap >= n_bytes)?;
        self.by_offset.remove(&offset);
        if gap > n_bytes {
            self.by_offset.insert(offset + n_bytes, gap - n_bytes);
        }
        self.n_bytes_used += n_bytes;
        Some(offset)
    }

    fn give_back(&mut self, mut offset: usize, mut n_bytes: usize) {
        self.n_bytes_used -= n_bytes;
        if let Some(after) = self.by_offset.remove(&(offset + n_bytes)) {
            n_bytes += after;
        }
        if let Some((&before, &gap)) = self.by_offset.range(..offset).next_back()
            && before + gap == offset
        {
            offset = before;
            n_bytes += gap;
        }
        self.by_offset.insert(offset, n_bytes);
    }
}

/// Empty ranges take a line too, so that every range has an offset of its own.
fn padded(n_bytes: usize) -> usize {
    n_bytes.max(1).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_never_overlap_and_all_bytes_come_back() {
        let slab = Slab::new(Arena::host(64 * 100).unwrap());
        let mut state = 1_u64;
        let mut held: Vec<SlabRange> = Vec::new();
        for _ in 0..5000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let draw = (state >> 33) as usize;
            if draw.is_multiple_of(2) && !held.is_empty() {
                held.swap_remove(draw / 2 % held.len());
            } else if let Some(range) = slab.alloc(draw / 2 % 1000) {
                held.push(range);
            }
            let mut spans: Vec<_> =
                held.iter().map(|range| (range.offset(), padded(range.n_bytes()))).collect();
            spans.sort_unstable();
            assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
            assert_eq!(slab.n_bytes_used(), spans.iter().map(|span| span.1).sum::<usize>());
        }
        held.clear();
        assert_eq!(slab.n_bytes_used(), 0);
        assert!(slab.alloc(64 * 100).is_some(), "free ranges did not merge");
    }

    #[test]
    fn a_range_holds_what_was_written() {
        let slab = Slab::new(Arena::host(4096).unwrap());
        let mut first = slab.alloc(12).unwrap();
        let second = slab.alloc(12).unwrap();
        first.as_mut_slice::<f32>().copy_from_slice(&[1.0, 2.0, 3.0]);
        assert_eq!(first.as_slice::<f32>(), [1.0, 2.0, 3.0]);
        assert_eq!(second.as_slice::<f32>(), [0.0; 3]);
        assert!(slab.alloc(4096).is_none());
    }
}
