//! Whole blocks of the paged cache: copied, and filled.
//!
//! Contract. Blocks are numbered as the pool numbers them, its spare one included where it has one.
//! On a GPU the work is given to the device's stream and nobody waits for it.

use super::misuse;
use crate::device::Device;
use crate::kv::KvPool;
use types::Result;

/// Copies block `from` over block `to` for each pair `(from, to)`, in order.
///
/// Errors: no such block; a block onto itself; the device refuses.
pub fn copy_blocks(device: &Device, kv: &mut KvPool, pairs: &[(u32, u32)]) -> Result<()> {
    let fit = pairs.iter().all(|&(from, to)| from != to && is_there(kv, from) && is_there(kv, to));
    if !fit {
        return Err(misuse("copy_blocks", "a block that is not there, or the same block twice"));
    }
    let n_bytes = kv.layout.block_bytes();
    pairs.iter().try_for_each(|&(from, to)| match device {
        Device::Cpu(_) => {
            let (from, to) = (address(kv, from), address(kv, to));
            // SAFETY: two different whole blocks of the arena; the caller owns the destination,
            // and nobody writes the source.
            unsafe { std::ptr::copy_nonoverlapping(from, to, n_bytes) };
            Ok(())
        }
        Device::Cuda(cuda) => cuda.copy(address(kv, from) as u64, address(kv, to) as u64, n_bytes),
    })
}

/// Sets all bytes of some blocks (with ones, to see what is read that nobody wrote).
///
/// Errors: no such block; the device refuses.
pub fn fill_blocks(device: &Device, kv: &mut KvPool, blocks: &[u32], byte: u8) -> Result<()> {
    if !blocks.iter().all(|&block| is_there(kv, block)) {
        return Err(misuse("fill_blocks", "a block that is not there"));
    }
    let n_bytes = kv.layout.block_bytes();
    blocks.iter().try_for_each(|&block| match device {
        Device::Cpu(_) => {
            // SAFETY: a whole block of the arena, owned by the caller.
            unsafe { address(kv, block).write_bytes(byte, n_bytes) };
            Ok(())
        }
        Device::Cuda(cuda) => cuda.stream().fill(address(kv, block) as u64, byte, n_bytes),
    })
}

fn is_there(kv: &KvPool, block: u32) -> bool {
    (block as usize + 1) * kv.layout.block_bytes() <= kv.arena.n_bytes()
}

/// Where a block begins; only the host's may be dereferenced by the processor.
fn address(kv: &KvPool, block: u32) -> *mut u8 {
    kv.arena.base().wrapping_add(block as usize * kv.layout.block_bytes())
}
