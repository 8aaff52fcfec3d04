//! Memory that operations use and give back: taken from the GPU in large pieces that are kept, so
//! that a step that has run once never allocates again.

use super::{Context, Stream};
use crate::slab::{Slab, SlabRange};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::{Error, Result};

/// The smallest piece that is taken from the GPU.
const PIECE_BYTES_MIN: usize = 64 << 20;
/// Every range starts at a multiple of this many bytes, which suits any access of a GPU.
const ALIGNMENT: usize = 256;
/// Most pieces; beyond them a program leaks.
const PIECES_MAX: usize = 256;

pub(super) struct Scratch {
    context: Arc<Context>,
    pieces: Mutex<Vec<Arc<Slab>>>,
}

impl Scratch {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::clone(context), pieces: Mutex::default() }
    }

    pub(super) fn alloc(&self, n_bytes: usize) -> Result<SlabRange> {
        // All ranges are multiples of the alignment, so all of them start at one.
        let n_bytes = n_bytes.max(1).next_multiple_of(ALIGNMENT);
        let mut pieces = self.lock();
        if let Some(range) = pieces.iter().find_map(|piece| piece.alloc(n_bytes)) {
            return Ok(range);
        }
        if pieces.len() == PIECES_MAX {
            return Err(Error::internal("scratch memory of a GPU is in too many pieces"));
        }
        let size = n_bytes.next_power_of_two().max(PIECE_BYTES_MIN);
        // A power of two wastes least over time; where it does not fit, the exact size might.
        let arena = self.context.arena(size).or_else(|_| self.context.arena(n_bytes))?;
        let piece = Slab::new(arena);
        let range = piece.alloc(n_bytes);
        pieces.push(piece);
        range.ok_or_else(|| Error::internal("a fresh piece of memory is too small"))
    }

    /// Bytes in use, and taken.
    pub(super) fn n_bytes(&self) -> (usize, usize) {
        let pieces = self.lock();
        let used = pieces.iter().map(|piece| piece.n_bytes_used()).sum();
        (used, pieces.iter().map(|piece| piece.arena().n_bytes()).sum())
    }

    pub(super) fn poison(&self, stream: &Stream) -> Result<()> {
        for piece in self.lock().iter() {
            for (offset, n_bytes) in piece.gaps() {
                stream.fill(piece.arena().base() as u64 + offset as u64, 0xFF, n_bytes)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Slab>>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
