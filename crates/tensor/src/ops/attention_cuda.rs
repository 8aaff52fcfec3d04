//! Attention on a GPU: which kernels, over which lists, with how much memory. The arithmetic is in
//! `crates/kernels/cu/attention*.cu`.
//!
//! Of [`super::work`]'s two lists, *split* entries go to a kernel whose blocks take a part of one
//! row's keys each, and *spans* to one whose blocks take a tile of rows and all their keys. Queries
//! are grouped by key-value head in both. The split kernel's launch depends on the list's room, not
//! on its entries, so that a recorded step serves any lengths.

use super::Segments;
use super::work::Work;
use crate::cuda::{Arg, Cuda, Grid};
use crate::device::Device;
use crate::dtype::DType;
use crate::kv::KvPool;
use crate::ops::misuse;
use crate::ops::paged::PagedRows;
use crate::tensor::Tensor;
use types::Result;

/// Sizes of heads that kernels are made for; others use the next one, padded with zeros.
const HEAD_SIZES: [usize; 6] = [32, 64, 80, 96, 128, 256];
/// Bytes that kernels read at a time where everything is aligned to them.
const VECTOR_BYTES: u64 = 16;

/// Arguments of all kernels, as `cu/common/attention.cuh` declares and explains them.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    q: u64,
    out: u64,
    keys: u64,
    values: u64,
    tables: u64,
    key_counts: u64,
    work: u64,
    arrivals: u64,
    part_sums: u64,
    part_scales: u64,
    block_stride: u64,
    head_stride: u64,
    token_stride: u64,
    block_size: u32,
    n_blocks: u32,
    n_table_blocks: u32,
    q_stride: u32,
    out_stride: u32,
    n_heads: u32,
    n_kv_heads: u32,
    group: u32,
    dim: u32,
    in_vectors: u32,
    scale: f32,
    padding: u32,
}

pub(super) fn packed(
    (device, cuda): (&Device, &Cuda),
    qkv: &Tensor,
    n_heads: usize,
    segments: &Segments,
) -> Result<Tensor> {
    let dtype = device.compute_dtype();
    let width = qkv.row_len() / 3;
    let dim = width / n_heads;
    let out = Tensor::scratch_on(device, dtype, &[qkv.n_rows(), width])?;
    let part_bytes = (width * dtype.n_bytes()) as u64;
    let args = Args {
        keys: qkv.address() + part_bytes,
        values: qkv.address() + 2 * part_bytes,
        head_stride: dim as u64,
        token_stride: qkv.row_len() as u64,
        ..common(qkv, &out, (n_heads, n_heads, dim))
    };
    run((device, cuda), args, &segments.work)?;
    Ok(out)
}

pub(super) fn paged(
    (device, cuda): (&Device, &Cuda),
    q: &Tensor,
    n_heads: usize,
    (kv, layer): (&KvPool, usize),
    rows: &PagedRows,
) -> Result<Tensor> {
    let layout = kv.layout;
    let dim = layout.head_dim;
    let element_bytes = layout.dtype.n_bytes();
    let out = Tensor::scratch_on(device, layout.dtype, &[q.n_rows(), n_heads * dim])?;
    let keys = kv.arena.base() as u64 + (layout.plane_offset(0, layer) * element_bytes) as u64;
    let args = Args {
        keys,
        values: keys + (layout.plane_len() * element_bytes) as u64,
        tables: rows.tables.address(),
        key_counts: rows.key_counts.address(),
        block_stride: (layout.block_bytes() / element_bytes) as u64,
        head_stride: layout.plane_offset(1, 0) as u64,
        token_stride: dim as u64,
        block_size: layout.block_size as u32,
        // The spare block counts: padding may name it.
        n_blocks: (kv.arena.n_bytes() / layout.block_bytes()) as u32,
        n_table_blocks: rows.tables.n_elements() as u32,
        ..common(q, &out, (n_heads, layout.n_kv_heads, dim))
    };
    run((device, cuda), args, &rows.work)?;
    Ok(out)
}

/// What does not depend on where keys are.
fn common(q: &Tensor, out: &Tensor, (n_heads, n_kv_heads, dim): (usize, usize, usize)) -> Args {
    Args {
        q: q.address(),
        out: out.address(),
        q_stride: q.row_len() as u32,
        out_stride: out.row_len() as u32,
        n_heads: n_heads as u32,
        n_kv_heads: n_kv_heads as u32,
        group: (n_heads / n_kv_heads) as u32,
        dim: dim as u32,
        scale: std::f32::consts::LOG2_E / (dim as f32).sqrt(),
        ..bytemuck::Zeroable::zeroed()
    }
}

fn run((device, cuda): (&Device, &Cuda), mut args: Args, work: &Work) -> Result<()> {
    let dtype = device.compute_dtype();
    let dim = args.dim as usize;
    let padded_dim = HEAD_SIZES.into_iter().find(|&size| size >= dim);
    let padded_dim = padded_dim.ok_or_else(|| misuse("attention", "heads are larger than 256"))?;
    args.in_vectors = u32::from(is_aligned(&args, dtype));
    if work.n_splits_max > 0 {
        run_splits((device, cuda), args, (dtype, padded_dim), work)?;
    }
    if !work.rows_of_spans.is_empty() {
        let plan = Plan::of_tiles(dtype, padded_dim);
        let n_pairs = |rows: &usize| rows * args.group as usize;
        let n_tiles: usize =
            work.rows_of_spans.iter().map(|rows| n_pairs(rows).div_ceil(plan.n_pairs)).sum();
        args.work = work.spans.address();
        plan.launch(cuda, n_tiles * args.n_kv_heads as usize, &args)?;
    }
    Ok(())
}

/// Whether every row of a head begins at a multiple of [`VECTOR_BYTES`] and has whole ones.
fn is_aligned(args: &Args, dtype: DType) -> bool {
    let strides = u64::from(args.dim | args.q_stride | args.out_stride)
        | args.token_stride
        | args.head_stride
        | args.block_stride;
    let addresses = args.q | args.out | args.keys | args.values;
    ((strides * dtype.n_bytes() as u64) | addresses).is_multiple_of(VECTOR_BYTES)
}

fn run_splits(
    (device, cuda): (&Device, &Cuda),
    mut args: Args,
    (dtype, padded_dim): (DType, usize),
    work: &Work,
) -> Result<()> {
    let plan = Plan::of_splits(dtype, padded_dim);
    let n_heads = args.n_heads as usize;
    let units = args.n_kv_heads as usize * (args.group as usize).div_ceil(plan.n_pairs);
    let n_units = work.n_splits_max * units;
    let n_parts = work.n_splits_max * n_heads;
    // Given back at once: whatever takes this memory next comes later on the same stream.
    let sums = Tensor::scratch_on(device, DType::F32, &[n_parts, padded_dim])?;
    let scales = Tensor::scratch_on(device, DType::F32, &[n_parts, 2])?;
    args.work = work.splits.address();
    args.arrivals = work.arrivals(device, cuda, n_units)?;
    args.part_sums = sums.address();
    args.part_scales = scales.address();
    let grid = plan.grid(1);
    let n_resident = cuda.blocks_per_multiprocessor(plan.module, &plan.name, grid)?
        * cuda.context().n_multiprocessors();
    if dtype != DType::F32 && cuda.context().compute_capability() >= (9, 0) {
        return plan.launch_early(cuda, n_units.min(n_resident), &args);
    }
    plan.launch(cuda, n_units.min(n_resident), &args)
}

/// A kernel and the sizes it was compiled for.
struct Plan {
    module: &'static str,
    name: String,
    threads: u32,
    /// Of a block.
    shared_bytes: usize,
    /// Pairs of (row, head) of a tile.
    n_pairs: usize,
}

impl Plan {
    /// The sizes in `cu/attention_split_*.cu` and `cu/attention_f32.cu`.
    fn of_splits(dtype: DType, dim: usize) -> Self {
        let name = format!("attention_split_{}_{dim}", dtype.name());
        if dtype == DType::F32 {
            return Self::of_f32(name, dim, 16);
        }
        // Warps that read and warps that merge, and keys of a reading warp's step.
        let (readers, mergers, keys) = (4, 2, 16);
        let steps = match dim {
            32 => 8,
            64 => 5,
            80 | 96 => 4,
            _ => 3,
        };
        // Keys and values of each reading warp and step.
        let shared_bytes = readers * steps * 2 * keys * (dim + 8) * 2;
        let module =
            if dtype == DType::Bf16 { "attention_split_bf16" } else { "attention_split_f16" };
        Self { module, name, threads: 32 * (readers + mergers) as u32, shared_bytes, n_pairs: 8 }
    }

    /// The sizes in `cu/attention_tile_*.cu` and `cu/attention_f32.cu`.
    fn of_tiles(dtype: DType, dim: usize) -> Self {
        let name = format!("attention_tile_{}_{dim}", dtype.name());
        if dtype == DType::F32 {
            return Self::of_f32(name, dim, 64);
        }
        let (warps, keys) = if dim == 256 { (8, 32) } else { (4, 64) };
        let n_pairs = 128;
        // Queries, and two tiles of keys and values.
        let shared_bytes = (n_pairs + 2 * 2 * keys) * (dim + 8) * 2;
        let module =
            if dtype == DType::Bf16 { "attention_tile_bf16" } else { "attention_tile_f16" };
        Self { module, name, threads: 32 * warps, shared_bytes, n_pairs }
    }

    fn of_f32(name: String, dim: usize, n_pairs: usize) -> Self {
        let keys = 32;
        // Queries, keys and values, and weights.
        let n_elements = (n_pairs + 2 * keys) * (dim + 4) + n_pairs * (keys + 1);
        let shared_bytes = n_elements * size_of::<f32>();
        Self { module: "attention_f32", name, threads: 256, shared_bytes, n_pairs }
    }

    fn grid(&self, n_blocks: usize) -> Grid {
        let shared_bytes = self.shared_bytes as u32;
        Grid { shared_bytes, ..Grid::line(n_blocks, self.threads) }
    }

    fn launch(&self, cuda: &Cuda, n_blocks: usize, args: &Args) -> Result<()> {
        let args = [Arg::Bytes(bytemuck::bytes_of(args))];
        cuda.launch(self.module, &self.name, self.grid(n_blocks), &args)
    }

    /// The same for a kernel that waits by itself for the one before it.
    fn launch_early(&self, cuda: &Cuda, n_blocks: usize, args: &Args) -> Result<()> {
        let args = [Arg::Bytes(bytemuck::bytes_of(args))];
        cuda.launch_early((self.module, &self.name), self.grid(n_blocks), 1, &args)
    }
}

#[cfg(test)]
#[path = "attention_cuda_tests.rs"]
mod tests;
