//! Attention of query rows to a prefix of their sequence's keys, one core for towers and caches.
//!
//! Contract. Heads of `dim` columns lie side by side in a row; query heads `g·i .. g·(i+1)` share
//! key-value head `i`. Row `r` sees the first `key_counts[r]` keys:
//! `softmax(q Kᵀ / sqrt(dim)) V`, sums in f32; queries, keys and the result `[rows, heads · dim]`
//! in the device's compute type. A row without keys becomes zeros.
//! On the processor scores are summed in order of dim, values in order of keys, so a row's bits do
//! not depend on which other rows are asked for together with it. On a GPU they do not depend on
//! other sequences, nor on the order of blocks; whether few or many rows of its own sequence come
//! with it decides which kernel takes it, and by that its last bits.

use super::misuse;
use super::paged::PagedRows;
use super::tile::{Panels, Rows, Sink, n_panels, product};
use crate::device::Device;
use crate::kv::KvPool;
use crate::simd::{Isa, Kernel, LANES, Lanes, launch, math};
use crate::tensor::Tensor;
use crate::threads::Threads;
use types::Result;
use work::Work;

#[path = "attention_cuda.rs"]
mod gpu;
#[path = "attention_work.rs"]
pub(super) mod work;

/// Segments of consecutive rows that attend to themselves.
#[derive(Debug)]
pub struct Segments {
    lens: Vec<usize>,
    work: Work,
}

impl Segments {
    /// Segments of these numbers of rows, made once for all layers.
    ///
    /// Errors: the device has no memory left, or fails.
    pub fn new(device: &Device, lens: &[usize]) -> Result<Self> {
        Ok(Self { lens: lens.to_vec(), work: Work::of_segments(device, lens)? })
    }

    /// Rows of all segments.
    pub fn n_rows(&self) -> usize {
        self.lens.iter().sum()
    }
}

/// Full attention inside each segment of consecutive rows, as towers do.
///
/// `qkv` is `[rows, 3 · n_heads · dim]`: queries, keys, values.
/// Errors: shapes that do not fit.
pub fn attention_packed(
    device: &Device,
    qkv: &Tensor,
    n_heads: usize,
    segments: &Segments,
) -> Result<Tensor> {
    let width = qkv.row_len() / 3;
    let fits = width * 3 == qkv.row_len()
        && qkv.dtype() == device.compute_dtype()
        && n_heads > 0
        && width.is_multiple_of(n_heads);
    if !fits || segments.n_rows() != qkv.n_rows() {
        return Err(misuse("attention_packed", "the segments or heads do not fit the input"));
    }
    match device {
        Device::Cpu(threads) => {
            Ok(run_packed((threads, Isa::best()), qkv, n_heads, &segments.lens))
        }
        Device::Cuda(cuda) => gpu::packed((device, cuda), qkv, n_heads, segments),
    }
}

fn run_packed(on: (&Threads, Isa), qkv: &Tensor, n_heads: usize, segments: &[usize]) -> Tensor {
    let width = qkv.row_len() / 3;
    let mut out = Tensor::scratch::<f32>(&[qkv.n_rows(), width]);
    let shape = Shape { n_kv_heads: n_heads, group: 1, dim: width / n_heads };
    let counts: Vec<u32> = segments.iter().flat_map(|&len| vec![len as u32; len]).collect();
    let mut first_row = 0;
    let mut seqs = Vec::with_capacity(segments.len());
    for &len in segments {
        let keys = qkv.as_f32()[first_row * 3 * width..].as_ptr().wrapping_add(width);
        let keys = Keys::Rows { keys, values: keys.wrapping_add(width), stride: 3 * width };
        seqs.push(Seq { first_row, key_counts: &counts[first_row..first_row + len], keys });
        first_row += len;
    }
    run_cpu(on, shape, qkv, &seqs, &mut out);
    out
}

/// Attention to keys in the paged cache.
///
/// `q` is `[rows, n_heads · dim or more]`, queries first; `layer` indexes the pool's layers.
/// Errors: shapes that do not fit, a row without keys, a table that is too short or names no block.
pub fn attention_paged(
    device: &Device,
    q: &Tensor,
    n_heads: usize,
    (kv, layer): (&KvPool, usize),
    rows: &PagedRows,
) -> Result<Tensor> {
    let layout = kv.layout;
    let heads_fit = n_heads.is_multiple_of(layout.n_kv_heads)
        && n_heads * layout.head_dim <= q.row_len()
        && layer < layout.n_layers
        && [layout.dtype, q.dtype()] == [device.compute_dtype(); 2];
    if !heads_fit || rows.n_rows() != q.n_rows() || !rows.fit(kv) {
        return Err(misuse("attention_paged", "the queries do not fit the cache or the tables"));
    }
    match device {
        Device::Cpu(threads) => {
            Ok(run_paged((threads, Isa::best()), q, n_heads, (kv, layer), rows))
        }
        Device::Cuda(cuda) => gpu::paged((device, cuda), q, n_heads, (kv, layer), rows),
    }
}

fn run_paged(
    on: (&Threads, Isa),
    q: &Tensor,
    n_heads: usize,
    (kv, layer): (&KvPool, usize),
    rows: &PagedRows,
) -> Tensor {
    let (n_kv_heads, dim) = (kv.layout.n_kv_heads, kv.layout.head_dim);
    let mut out = Tensor::scratch::<f32>(&[q.n_rows(), n_heads * dim]);
    let shape = Shape { n_kv_heads, group: n_heads / n_kv_heads, dim };
    let key_counts = rows.key_counts.as_slice::<u32>();
    let seqs: Vec<Seq<'_>> = rows
        .spans
        .iter()
        .enumerate()
        .map(|(idx, span)| Seq {
            first_row: span.first_row,
            key_counts: &key_counts[span.first_row..span.first_row + span.n_rows],
            keys: Keys::Blocks { kv, layer, block_table: rows.table(idx) },
        })
        .collect();
    run_cpu(on, shape, q, &seqs, &mut out);
    out
}

/// Heads and their size.
#[derive(Clone, Copy)]
struct Shape {
    n_kv_heads: usize,
    /// Query heads per key-value head.
    group: usize,
    dim: usize,
}

/// The queries of one sequence, and its keys.
struct Seq<'a> {
    first_row: usize,
    key_counts: &'a [u32],
    keys: Keys<'a>,
}

/// Where keys and values are.
#[derive(Clone, Copy)]
enum Keys<'a> {
    /// In rows of a tensor, `stride` elements apart.
    Rows { keys: *const f32, values: *const f32, stride: usize },
    /// In blocks of the cache.
    Blocks { kv: &'a KvPool, layer: usize, block_table: &'a [u32] },
}

// SAFETY: the pointers are into tensors that the operation only reads.
unsafe impl Sync for Keys<'_> {}

impl Keys<'_> {
    /// Addresses of key and value `idx` of a head.
    ///
    /// # Safety
    /// The sequence has that many keys.
    #[inline(always)]
    unsafe fn at(&self, head: usize, dim: usize, idx: usize) -> (*const f32, *const f32) {
        // SAFETY: passed on to the caller.
        unsafe {
            match *self {
                Self::Rows { keys, values, stride } => {
                    let offset = idx * stride + head * dim;
                    (keys.add(offset), values.add(offset))
                }
                Self::Blocks { kv, layer, block_table } => {
                    let layout = kv.layout;
                    let block = block_table[idx / layout.block_size] as usize;
                    let key = layout.plane_offset(head, layer) + idx % layout.block_size * dim;
                    let base = kv.arena.base().add(block * layout.block_bytes()).cast::<f32>();
                    (base.add(key), base.add(key + layout.plane_len()))
                }
            }
        }
    }
}

/// Tasks for each thread, so that all end at about the same time.
const TASKS_PER_THREAD: usize = 4;
/// Fewest pairs of (row, query head) of one task: enough to pay for packing the keys.
const TASK_PAIRS_MIN: usize = 64;
/// Work below this runs on the caller: waking a helper costs some 10 µs.
const LONE_TASK_FLOP: usize = 1_500_000;
/// Pairs of one tile.
const TILE_PAIRS: usize = 8;

fn run_cpu(
    (threads, isa): (&Threads, Isa),
    shape: Shape,
    q: &Tensor,
    seqs: &[Seq<'_>],
    out: &mut Tensor,
) {
    let n_scores: usize = seqs.iter().flat_map(|seq| seq.key_counts).map(|&n| n as usize).sum();
    let flop = n_scores * shape.n_kv_heads * shape.group * shape.dim * 4;
    let n_pairs: usize = seqs.iter().map(|seq| seq.key_counts.len() * shape.group).sum();
    let share = n_pairs * shape.n_kv_heads / (threads.n_threads() * TASKS_PER_THREAD);
    let share = share.next_multiple_of(TILE_PAIRS).max(TASK_PAIRS_MIN);
    let task_pairs = if flop < LONE_TASK_FLOP { usize::MAX } else { share };
    let tasks = tasks(shape, seqs, task_pairs);
    let (q_stride, out_stride) = (q.row_len(), out.row_len());
    let ends = Ends { q: q.as_f32().as_ptr(), out: out.as_mut_slice::<f32>().as_mut_ptr() };
    let run = |idx: usize| {
        let ends = &ends;
        let task = tasks[idx];
        let (q, out) = (ends.q, ends.out);
        let attend =
            Attend { shape, seq: &seqs[task.seq], task, q: (q, q_stride), out: (out, out_stride) };
        // SAFETY: rows, heads and keys were checked; tasks write different rows or heads of `out`.
        unsafe { launch(isa, attend) };
    };
    if flop < LONE_TASK_FLOP {
        (0..tasks.len()).for_each(run);
    } else {
        threads.for_each(tasks.len(), &run);
    }
}

/// Input and output of all tasks.
struct Ends {
    q: *const f32,
    out: *mut f32,
}

// SAFETY: tasks only read `q`, and write disjoint parts of `out`.
unsafe impl Sync for Ends {}

/// Some pairs of one sequence and key-value head; pair `i` is row `i / group`, head `i % group`.
#[derive(Clone, Copy)]
struct Task {
    seq: usize,
    kv_head: usize,
    first_pair: usize,
    n_pairs: usize,
}

fn tasks(shape: Shape, seqs: &[Seq<'_>], task_pairs: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (idx, seq) in seqs.iter().enumerate() {
        let n_pairs = seq.key_counts.len() * shape.group;
        let step = task_pairs.min(n_pairs).max(1);
        for kv_head in 0..shape.n_kv_heads {
            tasks.extend((0..n_pairs).step_by(step).map(|first_pair| Task {
                seq: idx,
                kv_head,
                first_pair,
                n_pairs: step.min(n_pairs - first_pair),
            }));
        }
    }
    tasks
}

/// One task on one thread.
struct Attend<'a> {
    shape: Shape,
    seq: &'a Seq<'a>,
    task: Task,
    /// Queries and their row stride.
    q: (*const f32, usize),
    /// Results and their row stride.
    out: (*mut f32, usize),
}

impl Kernel for Attend<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Task { first_pair, n_pairs, .. } = self.task;
        let n_keys = self.n_keys(first_pair, n_pairs);
        let padded_dim = n_panels(self.shape.dim) * LANES;
        let padded_keys = n_panels(n_keys) * LANES;
        // Rows a multiple of 4 KiB apart would compete for the same lines of the first cache.
        let score_stride = padded_keys + LANES;
        let mut packed_keys = Tensor::scratch::<f32>(&[padded_keys * self.shape.dim]);
        let mut values = Tensor::scratch::<f32>(&[n_keys * padded_dim]);
        let mut scores = Tensor::scratch::<f32>(&[TILE_PAIRS, score_stride]);
        let mut queries = Tensor::scratch::<f32>(&[TILE_PAIRS, self.shape.dim]);
        // SAFETY: the scratch tensors have the sizes that the parts below document.
        unsafe {
            self.pack_keys::<L>(packed_keys.as_mut_slice(), n_keys);
            self.copy_values(values.as_mut_slice(), n_keys);
            let mut pair = first_pair;
            while pair < first_pair + n_pairs {
                let n = TILE_PAIRS.min(first_pair + n_pairs - pair);
                self.gather(queries.as_mut_slice(), (pair, n));
                let packed = (packed_keys.as_f32().as_ptr(), values.as_f32().as_ptr());
                let buffers = (queries.as_f32(), scores.as_mut_slice::<f32>());
                self.tile::<L>((pair, n), packed, buffers);
                pair += n;
            }
        }
    }
}

impl Attend<'_> {
    /// How many keys some of the pairs see at most.
    fn n_keys(&self, first_pair: usize, n_pairs: usize) -> usize {
        let rows = first_pair / self.shape.group..(first_pair + n_pairs).div_ceil(self.shape.group);
        self.seq.key_counts[rows].iter().copied().max().unwrap_or(0) as usize
    }

    /// Row among all queries, and query head, of a pair.
    fn place(&self, pair: usize) -> (usize, usize) {
        let row = self.seq.first_row + pair / self.shape.group;
        (row, self.task.kv_head * self.shape.group + pair % self.shape.group)
    }

    /// Keys, transposed into panels `[n/16][dim][16]`; keys beyond the last are zeros.
    #[inline(always)]
    unsafe fn pack_keys<L: Lanes>(&self, to: &mut [f32], n_keys: usize) {
        let dim = self.shape.dim;
        for (panel, to) in to.chunks_exact_mut(dim * LANES).enumerate() {
            let n_here = LANES.min(n_keys - panel * LANES);
            let mut keys = [std::ptr::null(); LANES];
            for (lane, key) in keys[..n_here].iter_mut().enumerate() {
                // SAFETY: the key exists.
                *key = unsafe { self.key(panel * LANES + lane) }.0;
            }
            for (part, to) in to.chunks_mut(LANES * LANES).enumerate() {
                // SAFETY: the keys have `dim` elements, of which a part is sixteen or the rest.
                unsafe { transpose_part::<L>((&keys, n_here), part * LANES, to) };
            }
        }
    }

    /// Addresses of key and value `idx`.
    #[inline(always)]
    unsafe fn key(&self, idx: usize) -> (*const f32, *const f32) {
        // SAFETY: passed on to the caller.
        unsafe { self.seq.keys.at(self.task.kv_head, self.shape.dim, idx) }
    }

    /// Values `[n_keys, dim rounded up to 16]`, zeros behind each.
    #[inline(always)]
    unsafe fn copy_values(&self, to: &mut [f32], n_keys: usize) {
        let dim = self.shape.dim;
        let padded_dim = to.len() / n_keys.max(1);
        for (idx, to) in to.chunks_exact_mut(padded_dim).enumerate() {
            // SAFETY: the value exists and has `dim` elements.
            let value = unsafe {
                let (_, value) = self.key(idx);
                std::slice::from_raw_parts(value, dim)
            };
            to[..dim].copy_from_slice(value);
            to[dim..].fill(0.0);
        }
    }

    /// The queries of a tile, side by side.
    #[inline(always)]
    unsafe fn gather(&self, to: &mut [f32], (first_pair, n): (usize, usize)) {
        let dim = self.shape.dim;
        for (idx, to) in to.chunks_exact_mut(dim).take(n).enumerate() {
            let (row, head) = self.place(first_pair + idx);
            // SAFETY: row and head lie inside the queries.
            let from = unsafe {
                std::slice::from_raw_parts(self.q.0.add(row * self.q.1 + head * dim), dim)
            };
            to.copy_from_slice(from);
        }
    }

    /// Scores, softmax and weighted values of up to eight pairs.
    #[inline(always)]
    unsafe fn tile<L: Lanes>(
        &self,
        (first_pair, n): (usize, usize),
        (keys, values): (*const f32, *const f32),
        (queries, scores): (&[f32], &mut [f32]),
    ) {
        let dim = self.shape.dim;
        let n_keys = self.n_keys(first_pair, n);
        let stride = scores.len() / TILE_PAIRS;
        let padded_dim = n_panels(dim) * LANES;
        // SAFETY: panels, rows and depth are those of the buffers.
        unsafe {
            let queries = Rows { data: queries.as_ptr(), stride: dim };
            let keys = Panels { data: keys, panel: dim * LANES, step: LANES };
            let scale = 1.0 / (dim as f32).sqrt();
            let mut sink = ScoreSink { scores: scores.as_mut_ptr(), stride, scale };
            product::<L, f32>((queries, n), (keys, n_panels(n_keys)), dim, &mut sink);
            let mut sink = ValueSink { of: self, first_pair, scales: [0.0; TILE_PAIRS] };
            for (idx, row) in scores.chunks_exact_mut(stride).take(n).enumerate() {
                let (place, _) = self.place(first_pair + idx);
                let count = self.seq.key_counts[place - self.seq.first_row] as usize;
                sink.scales[idx] = 1.0 / exponentials::<L>(row, count);
                row[n_panels(count) * LANES..n_panels(n_keys) * LANES].fill(0.0);
            }
            let weights = Rows { data: scores.as_ptr(), stride };
            let values = Panels { data: values, panel: LANES, step: padded_dim };
            product::<L, f32>((weights, n), (values, n_panels(dim)), n_keys, &mut sink);
        }
    }
}

/// Writes elements `start..` of the keys, as many as `to` has lines of sixteen, a line per element.
#[inline(always)]
unsafe fn transpose_part<L: Lanes>(
    (keys, n_keys): (&[*const f32; LANES], usize),
    start: usize,
    to: &mut [f32],
) {
    let n_elements = to.len() / LANES;
    // SAFETY: passed on to the caller.
    unsafe {
        let mut rows = [L::splat(0.0); LANES];
        for (row, key) in rows.iter_mut().zip(keys).take(n_keys) {
            let from = key.add(start);
            *row = if n_elements < LANES { L::load_first(from, n_elements) } else { L::load(from) };
        }
        let columns = L::transpose(rows);
        for (to, column) in to.chunks_exact_mut(LANES).zip(columns) {
            column.store(to.as_mut_ptr());
        }
    }
}

/// Turns the first `count` scores into `e^(score - largest)`, the rest of their last sixteen into
/// zeros, and returns the sum.
#[inline(always)]
unsafe fn exponentials<L: Lanes>(row: &mut [f32], count: usize) -> f32 {
    let end = n_panels(count) * LANES;
    // Lanes beyond the last score must not win the maximum.
    let first = row[0];
    row[count..end].fill(first);
    // SAFETY: the row has `end` elements.
    unsafe {
        let mut largest = L::splat(first);
        for chunk in row[..end].chunks_exact(LANES) {
            largest = largest.max(L::load(chunk.as_ptr()));
        }
        let largest = L::splat(largest.largest());
        let mut sum = L::splat(0.0);
        for (idx, chunk) in row[..end].chunks_exact_mut(LANES).enumerate() {
            math::exp(L::load(chunk.as_ptr()).sub(largest)).store(chunk.as_mut_ptr());
            let left = count - idx * LANES;
            if left < LANES {
                chunk[left..].fill(0.0);
            }
            sum = sum.add(L::load(chunk.as_ptr()));
        }
        sum.sum()
    }
}

/// Writes scaled scores.
struct ScoreSink {
    scores: *mut f32,
    stride: usize,
    scale: f32,
}

impl Sink for ScoreSink {
    #[inline(always)]
    unsafe fn put<L: Lanes>(&mut self, row: usize, panel: usize, sums: L) {
        // SAFETY: the buffer has the tile's rows and all panels of keys.
        unsafe {
            let to = self.scores.add(row * self.stride + panel * LANES);
            sums.mul(L::splat(self.scale)).store(to);
        }
    }
}

/// Writes weighted values, divided by the sum of weights.
struct ValueSink<'a> {
    of: &'a Attend<'a>,
    first_pair: usize,
    scales: [f32; TILE_PAIRS],
}

impl Sink for ValueSink<'_> {
    #[inline(always)]
    unsafe fn put<L: Lanes>(&mut self, row: usize, panel: usize, sums: L) {
        let dim = self.of.shape.dim;
        let (place, head) = self.of.place(self.first_pair + row);
        let left = dim - panel * LANES;
        // SAFETY: the pair's row and head lie inside the output.
        unsafe {
            let to = self.of.out.0.add(place * self.of.out.1 + head * dim + panel * LANES);
            let values = sums.mul(L::splat(self.scales[row]));
            if left >= LANES { values.store(to) } else { values.store_first(to, left) }
        }
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
