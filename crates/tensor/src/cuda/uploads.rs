//! Copies to a GPU from memory that may change at once, by way of a ring of page-locked memory.
//!
//! The driver would copy from ordinary memory only after all that was given to the stream before,
//! and keep whoever asks waiting meanwhile.

use super::error::checked;
use super::{Context, Event, Pinned, Stream};
use cudarc::driver::result;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use types::Result;

/// Bytes of the ring: the pixels of a full run of the tower, and more.
const RING_BYTES: usize = 16 << 20;
/// Most bytes of a copy; larger ones are several.
const PIECE_BYTES: usize = 4 << 20;
/// Most copies under way.
const COPIES_MAX: usize = 256;
/// Every copy begins at a multiple of this many bytes.
const ALIGNMENT: usize = 256;

/// A lane's ring, made when it is first needed.
#[derive(Default)]
pub(super) struct Uploads {
    ring: Mutex<Option<Ring>>,
}

struct Ring {
    memory: Pinned,
    /// Where the next copy begins.
    next: usize,
    /// The oldest first.
    under_way: VecDeque<Copy>,
    /// Events of copies that are over.
    spare: Vec<Event>,
}

struct Copy {
    bytes: Range<usize>,
    over: Event,
}

impl Uploads {
    /// Copies `from` to address `to`, in order with everything else on `stream`.
    pub(super) fn send(
        &self,
        (context, stream): (&Arc<Context>, &Stream),
        from: &[u8],
        to: u64,
    ) -> Result<()> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = match &mut *ring {
            Some(ring) => ring,
            none => none.insert(Ring::new(context)?),
        };
        for (idx, piece) in from.chunks(PIECE_BYTES).enumerate() {
            ring.send((context, stream), piece, to + (idx * PIECE_BYTES) as u64)?;
        }
        Ok(())
    }
}

impl Ring {
    fn new(context: &Arc<Context>) -> Result<Self> {
        let memory = Pinned::new(context, RING_BYTES)?;
        Ok(Self { memory, next: 0, under_way: VecDeque::new(), spare: Vec::new() })
    }

    fn send(
        &mut self,
        (context, stream): (&Arc<Context>, &Stream),
        piece: &[u8],
        to: u64,
    ) -> Result<()> {
        let bytes = self.place(piece.len())?;
        let over = self.spare.pop().map_or_else(|| Event::new(context, false), Ok)?;
        let copy = &mut self.memory.as_mut_slice::<u8>()[bytes.clone()];
        copy.copy_from_slice(piece);
        // SAFETY: the caller's address has room for the bytes; this part of the ring stays as it
        // is until the event recorded below has passed.
        checked(unsafe { result::memcpy_htod_async(to, copy, stream.raw()) }, "copy to a GPU")?;
        stream.record(&over)?;
        self.under_way.push_back(Copy { bytes, over });
        Ok(())
    }

    /// The next `n_bytes` that nobody reads any more.
    fn place(&mut self, n_bytes: usize) -> Result<Range<usize>> {
        let start = if self.next + n_bytes > RING_BYTES { 0 } else { self.next };
        let wanted = start..start + n_bytes;
        self.next = wanted.end.next_multiple_of(ALIGNMENT);
        let is_in_the_way =
            |copy: &Copy| copy.bytes.start < wanted.end && wanted.start < copy.bytes.end;
        while self.under_way.len() == COPIES_MAX || self.under_way.iter().any(is_in_the_way) {
            let Some(Copy { over, .. }) = self.under_way.pop_front() else { break };
            over.synchronize()?;
            self.spare.push(over);
        }
        Ok(wanted)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Page-locked memory must not be freed under a copy. A failed GPU copies no more.
        for copy in &self.under_way {
            let _ = copy.over.synchronize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Cuda, CudaOptions};
    use crate::{DType, Device, Tensor};

    fn gpu() -> Option<Device> {
        let compute = DType::Bf16;
        crate::testing::gpu(CudaOptions { ordinal: 0, compute, deterministic: false })
    }

    fn cuda(device: &Device) -> &Cuda {
        match device {
            Device::Cuda(cuda) => cuda,
            Device::Cpu(_) => unreachable!("only GPUs are tried"),
        }
    }

    /// Many sizes, several times around the ring, each source overwritten at once.
    #[test]
    fn cuda_uploads_arrive_though_their_sources_change() {
        if let Some(device) = gpu() {
            let sizes = [1, 255, 256, 257, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 3];
            let mut kept = Vec::new();
            for (idx, n_bytes) in sizes.into_iter().cycle().take(6 * sizes.len()).enumerate() {
                let byte_at = move |at: usize| (at * 31 + idx * 7) as u8;
                let mut source: Vec<u8> = (0..n_bytes).map(byte_at).collect();
                let there = Tensor::scratch_on(&device, DType::U8, &[n_bytes]).unwrap();
                cuda(&device).upload(&source, there.address()).unwrap();
                source.fill(0xA5);
                kept.push((there, byte_at));
            }
            for (there, byte_at) in kept {
                let found = there.to_host(&device).unwrap();
                let same = found.as_slice::<u8>().iter().enumerate();
                assert!(same.clone().all(|(at, &byte)| byte == byte_at(at)), "{there:?}");
            }
        }
    }

    #[test]
    fn cuda_uploads_are_many_at_a_time() {
        if let Some(device) = gpu() {
            let n = 3 * COPIES_MAX as u32;
            let there = Tensor::scratch_on(&device, DType::U32, &[n as usize]).unwrap();
            for idx in 0..n {
                let to = there.address() + u64::from(idx) * 4;
                cuda(&device).upload(&idx.to_le_bytes(), to).unwrap();
            }
            let found = there.to_host(&device).unwrap();
            assert!(found.as_slice::<u32>().iter().copied().eq(0..n));
        }
    }
}
