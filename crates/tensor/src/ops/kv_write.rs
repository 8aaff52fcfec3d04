//! Writing keys and values into the paged cache.
//!
//! Contract. `qkv` `[rows, (heads + 2 · kv_heads) · dim]` in the compute type: queries, keys,
//! values; each row goes to its place as [`PagedRows`] says.

use super::misuse;
use super::paged::PagedRows;
use crate::cuda::{Arg, Cuda, Grid};
use crate::device::Device;
use crate::kv::KvPool;
use crate::tensor::Tensor;
use types::Result;

/// Writes the keys and values of all rows for one layer.
///
/// Errors: shapes that do not fit, a table that is too short or names no block.
pub fn kv_write(
    device: &Device,
    qkv: &Tensor,
    (kv, layer): (&mut KvPool, usize),
    rows: &PagedRows,
) -> Result<()> {
    let layout = kv.layout;
    let fits = 2 * layout.n_kv_heads * layout.head_dim <= qkv.row_len()
        && layer < layout.n_layers
        && [layout.dtype, qkv.dtype()] == [device.compute_dtype(); 2]
        && rows.n_rows() == qkv.n_rows()
        && rows.fit(kv);
    if !fits {
        return Err(misuse("kv_write", "the rows do not fit the cache or the tables"));
    }
    match device {
        Device::Cpu(_) => run_cpu(qkv, (kv, layer), rows),
        Device::Cuda(cuda) => run_cuda(cuda, qkv, (kv, layer), rows)?,
    }
    Ok(())
}

fn run_cpu(qkv: &Tensor, (kv, layer): (&mut KvPool, usize), rows: &PagedRows) {
    let kv_width = kv.layout.n_kv_heads * kv.layout.head_dim;
    let key_counts = rows.key_counts.as_slice::<u32>();
    for (seq_idx, span) in rows.spans.iter().enumerate() {
        let table = rows.table(seq_idx);
        let counts = &key_counts[span.first_row..span.first_row + span.n_rows];
        for (idx, &n_keys) in counts.iter().enumerate() {
            let row = qkv.row(span.first_row + idx);
            let (keys, values) = row[row.len() - 2 * kv_width..].split_at(kv_width);
            write_row(kv, layer, (table, n_keys as usize - 1), (keys, values));
        }
    }
}

fn write_row(
    kv: &mut KvPool,
    layer: usize,
    (block_table, pos): (&[u32], usize),
    (keys, values): (&[f32], &[f32]),
) {
    let layout = kv.layout;
    let dim = layout.head_dim;
    let block = block_table[pos / layout.block_size] as usize;
    let heads = keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate();
    for (head, (key, value)) in heads {
        let offset = layout.plane_offset(head, layer) + pos % layout.block_size * dim;
        // SAFETY: the block exists, so the row lies inside the arena; the caller of the step owns
        // the block, so nobody else touches it now.
        unsafe {
            let base = kv.arena.base().add(block * layout.block_bytes()).cast::<f32>();
            base.add(offset).copy_from_nonoverlapping(key.as_ptr(), dim);
            let values = base.add(offset + layout.plane_len());
            values.copy_from_nonoverlapping(value.as_ptr(), dim);
        }
    }
}

/// Most threads of a block, which writes one row, and bytes of a thread.
const ROW_THREADS_MAX: usize = 256;
const BYTES_OF_THREAD: usize = 16;

fn run_cuda(
    cuda: &Cuda,
    qkv: &Tensor,
    (kv, layer): (&mut KvPool, usize),
    rows: &PagedRows,
) -> Result<()> {
    let layout = kv.layout;
    let element_bytes = layout.dtype.n_bytes();
    let head_bytes = layout.head_dim * element_bytes;
    // In the order of the kernel's struct. The spare block counts: padding may name it.
    let shape = [
        kv.arena.n_bytes() / layout.block_bytes(),
        layout.block_size,
        layout.n_layers,
        layer,
        layout.n_kv_heads,
        head_bytes,
        qkv.row_len() * element_bytes,
        rows.table_starts.n_elements(),
        rows.tables.n_elements(),
    ]
    .map(|size| size as u32);
    let n_threads = (2 * layout.n_kv_heads * head_bytes).div_ceil(BYTES_OF_THREAD);
    let n_threads = n_threads.next_multiple_of(32).clamp(32, ROW_THREADS_MAX);
    let grid = Grid::line(qkv.n_rows(), n_threads as u32);
    let args = [
        Arg::tensor(qkv),
        Arg::Address(kv.arena.base() as u64),
        Arg::tensor(&rows.tables),
        Arg::tensor(&rows.table_starts),
        Arg::tensor(&rows.seq_of_row),
        Arg::tensor(&rows.key_counts),
        Arg::Bytes(bytemuck::bytes_of(&shape)),
    ];
    cuda.launch("kv", "kv_write", grid, &args)
}

#[cfg(test)]
#[path = "kv_write_tests.rs"]
mod tests;
