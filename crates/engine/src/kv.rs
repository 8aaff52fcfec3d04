//! Touching KV blocks from the engine's thread.

use scheduler::BlockCopy;
use tensor::KvPool;

/// Copies whole blocks. The blocks must not be in use elsewhere.
pub(crate) fn copy_blocks(kv: &mut KvPool, copies: &[BlockCopy]) {
    for copy in copies {
        let from = block_address(kv, copy.from);
        let to = block_address(kv, copy.to);
        // SAFETY: both are whole blocks of the arena, not the same one; the scheduler gave the
        // destination to one sequence alone, and nobody writes the source, which is shared.
        unsafe { std::ptr::copy_nonoverlapping(from, to, kv.layout.block_bytes()) };
    }
}

/// Address of the first byte of a block.
pub(crate) fn block_address(kv: &KvPool, block: u32) -> *mut u8 {
    let block = block as usize;
    assert!(block < kv.n_blocks, "block {block} is outside the pool of {}", kv.n_blocks);
    // SAFETY: the block lies inside the arena, as just checked.
    unsafe { kv.arena.base().add(block * kv.layout.block_bytes()) }
}
