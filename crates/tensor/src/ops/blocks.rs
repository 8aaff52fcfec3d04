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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::kv::KvLayout;
    use crate::ops::cases::cuda_device;
    use crate::ops::gpu_cases::arena_bytes;

    const LAYOUT: KvLayout =
        KvLayout { block_size: 3, n_layers: 2, n_kv_heads: 1, head_dim: 7, dtype: DType::F32 };
    const N_BLOCKS: u32 = 5;

    /// The first byte of every block, after checking that all its bytes are the same.
    fn contents(device: &Device, kv: &KvPool) -> Vec<u8> {
        let bytes = arena_bytes(device, &kv.arena);
        let blocks = bytes.chunks_exact(LAYOUT.block_bytes()).take(N_BLOCKS as usize);
        blocks
            .map(|block| {
                assert!(block.iter().all(|byte| *byte == block[0]), "part of a block");
                block[0]
            })
            .collect()
    }

    fn check(device: &Device) {
        let mut kv = KvPool::on(device, LAYOUT, N_BLOCKS as usize).unwrap();
        for block in 0..N_BLOCKS {
            fill_blocks(device, &mut kv, &[block], block as u8 + 1).unwrap();
        }
        assert_eq!(contents(device, &kv), [1, 2, 3, 4, 5]);
        // In order: block 3 gets what block 4 had been given just before.
        copy_blocks(device, &mut kv, &[(0, 4), (4, 3), (2, 0)]).unwrap();
        assert_eq!(contents(device, &kv), [3, 2, 3, 1, 1]);
        fill_blocks(device, &mut kv, &[1, 2], 0xFF).unwrap();
        assert_eq!(contents(device, &kv), [3, 255, 255, 1, 1]);
        for pair in [(0, 0), (0, 17), (17, 0), (u32::MAX, 1)] {
            assert!(copy_blocks(device, &mut kv, &[(1, 2), pair]).is_err());
        }
        assert!(fill_blocks(device, &mut kv, &[0, 17], 0).is_err());
        assert_eq!(contents(device, &kv), [3, 255, 255, 1, 1], "refused calls do nothing");
    }

    #[test]
    fn blocks_are_copied_and_filled_whole() {
        check(&Device::all_cpus());
    }

    #[test]
    fn cuda_blocks_are_copied_and_filled_whole() {
        cuda_device(DType::F32).iter().for_each(check);
    }
}
