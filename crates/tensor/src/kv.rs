//! The paged KV pool: blocks of tokens, each block of all layers one contiguous span, so that a
//! block moves between workers in one transfer and a rank's share of heads is a contiguous slice of
//! it.

use crate::arena::Arena;
use crate::device::Device;
use crate::dtype::DType;
use std::sync::Arc;
use types::Result;

/// The shape of one block: `[kv_head][layer][K|V][token][dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvLayout {
    /// Tokens in a block.
    pub block_size: usize,
    /// Layers that have a cache.
    pub n_layers: usize,
    /// Key-value heads.
    pub n_kv_heads: usize,
    /// Elements of one key or value.
    pub head_dim: usize,
    /// Element type: the device's compute type.
    pub dtype: DType,
}

impl KvLayout {
    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.n_kv_heads * self.n_layers * 2 * self.plane_len() * self.dtype.n_bytes()
    }

    /// Elements of the keys (or values) of one head, layer and block: `[token][dim]`.
    pub fn plane_len(&self) -> usize {
        self.block_size * self.head_dim
    }

    /// Offset in elements, inside a block, of the keys of a head and layer; the values follow them.
    pub fn plane_offset(&self, kv_head: usize, layer: usize) -> usize {
        (kv_head * self.n_layers + layer) * 2 * self.plane_len()
    }
}

/// All blocks of one engine: block `b` is bytes `[b * block_bytes, (b + 1) * block_bytes)`.
#[derive(Debug, Clone)]
pub struct KvPool {
    /// The memory; peers may read blocks of it that no step writes.
    pub arena: Arc<Arena>,
    /// The shape of a block.
    pub layout: KvLayout,
    /// How many blocks there are.
    pub n_blocks: usize,
}

impl KvPool {
    /// A pool of zeros in host memory.
    ///
    /// Errors: the system has not that much memory.
    pub fn new(layout: KvLayout, n_blocks: usize) -> Result<Self> {
        let arena = Arena::host(layout.block_bytes() * n_blocks)?;
        Ok(Self { arena, layout, n_blocks })
    }

    /// A pool of zeros on a device. A GPU's arena holds one block more than the pool has, which
    /// stands in where a recorded step has more sequences than there are.
    ///
    /// Errors: the device has not that much memory.
    pub fn on(device: &Device, layout: KvLayout, n_blocks: usize) -> Result<Self> {
        let n_spare = match device {
            Device::Cpu(_) => 0,
            Device::Cuda(_) => 1,
        };
        let arena = device.arena(layout.block_bytes() * (n_blocks + n_spare))?;
        Ok(Self { arena, layout, n_blocks })
    }
}
