//! Large copies to a GPU from memory that it cannot read by itself (files): several threads fill
//! page-locked pieces, one of which travels while the next is filled.

use super::error::checked;
use super::{Context, Event, Pinned, Stream};
use crate::threads::Threads;
use cudarc::driver::result;
use std::num::NonZeroUsize;
use std::sync::Arc;
use types::{Error, Result};

/// Bytes of a piece.
const PIECE_BYTES: usize = 32 << 20;
/// Pieces: one travels, one is filled, one is ready.
const N_PIECES: usize = 3;
/// Most threads that fill; more than a link to a GPU takes helps nobody.
const THREADS_MAX: usize = 16;
/// Least bytes of a thread's task.
const TASK_BYTES_MIN: usize = 256 << 10;

/// The pieces and the threads that fill them.
pub(super) struct Staging {
    pieces: Vec<Piece>,
    next: usize,
    threads: Threads,
}

struct Piece {
    memory: Pinned,
    /// The last copy from it.
    sent: Event,
}

/// What goes up: `n_units` units of `unit_bytes` each.
pub(crate) struct Upload<'a> {
    /// Size of a unit.
    pub(crate) unit_bytes: usize,
    /// How many there are.
    pub(crate) n_units: usize,
    /// Writes the bytes of one unit.
    pub(crate) fill: &'a (dyn Fn(usize, &mut [u8]) + Sync),
}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        let piece = |_| {
            let memory = Pinned::new(context, PIECE_BYTES)?;
            Ok(Piece { memory, sent: Event::new(context, false)? })
        };
        let n_threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let most = NonZeroUsize::new(THREADS_MAX).unwrap_or(NonZeroUsize::MIN);
        let pieces = (0..N_PIECES).map(piece).collect::<Result<_>>()?;
        Ok(Self { pieces, next: 0, threads: Threads::start(n_threads.min(most)) })
    }

    /// Copies all units to `to`, one behind the other, in order with everything else on `stream`.
    pub(super) fn send(&mut self, stream: &Stream, to: u64, upload: &Upload<'_>) -> Result<()> {
        let unit_bytes = upload.unit_bytes;
        if unit_bytes == 0 || unit_bytes > PIECE_BYTES {
            return Err(Error::internal("a row of a weight is empty or larger than its staging"));
        }
        let piece_units = PIECE_BYTES / unit_bytes;
        let task_units = TASK_BYTES_MIN.div_ceil(unit_bytes);
        for first in (0..upload.n_units).step_by(piece_units) {
            let n_bytes = piece_units.min(upload.n_units - first) * unit_bytes;
            let piece = &mut self.pieces[self.next];
            self.next = (self.next + 1) % N_PIECES;
            piece.sent.synchronize()?;
            let bytes = &mut piece.memory.as_mut_slice::<u8>()[..n_bytes];
            self.threads.for_each_chunk(bytes, task_units * unit_bytes, &|task, bytes| {
                for (idx, unit) in bytes.chunks_exact_mut(unit_bytes).enumerate() {
                    (upload.fill)(first + task * task_units + idx, unit);
                }
            });
            let address = to + (first * unit_bytes) as u64;
            // SAFETY: the caller's memory has room for all units; the piece stays as it is until
            // the event recorded below has passed.
            let sent = unsafe { result::memcpy_htod_async(address, bytes, stream.raw()) };
            checked(sent, "copy to a GPU")?;
            stream.record(&piece.sent)?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Page-locked memory must not be freed under a copy. A failed GPU copies no more.
        for piece in &self.pieces {
            let _ = piece.sent.synchronize();
        }
    }
}
