//! Cases of attention on a GPU: against f64 from the rounded inputs, with NaN wherever nobody may
//! read; and the bits of a row whatever is computed beside it, again and again, and recorded.

use super::*;
use crate::kv::KvLayout;
use crate::ops::attention::{attention_packed, attention_paged};
use crate::ops::blocks::fill_blocks;
use crate::ops::cases::Random;
use crate::ops::gpu_cases::{assert_near, gpus, repeated, rounded, widened};
use crate::ops::kv_write::kv_write;
use crate::ops::pack::{Pack, Packed};
use crate::ops::paged::{PagedParts, SeqRows};
use std::sync::Arc;

/// Query heads, key-value heads, size of a head, tokens of a block.
#[derive(Clone, Copy)]
struct Shape {
    n_heads: usize,
    n_kv_heads: usize,
    dim: usize,
    block_size: usize,
}

const fn shape(n_heads: usize, n_kv_heads: usize, dim: usize, block_size: usize) -> Shape {
    Shape { n_heads, n_kv_heads, dim, block_size }
}

const LAYER: usize = 1;
const N_LAYERS: usize = 3;
/// Scores of several units, so that the softmax is not flat.
const SPREAD: f32 = 2.0;

/// Sequences whose keys are in a pool of NaN, and their rows.
struct Rig {
    device: Device,
    shape: Shape,
    kv: KvPool,
    tables: Vec<Vec<u32>>,
    /// Of all tokens of each sequence, on the host, exact.
    qkv: Vec<Vec<f32>>,
}

impl Rig {
    /// Sequences of `lens` tokens; blocks are handed out in an order that no sequence has.
    fn new(device: &Device, shape: Shape, lens: &[usize]) -> Self {
        let Shape { n_heads, n_kv_heads, dim, block_size } = shape;
        let dtype = device.compute_dtype();
        let layout = KvLayout { block_size, n_layers: N_LAYERS, n_kv_heads, head_dim: dim, dtype };
        let n_blocks: usize = lens.iter().map(|len| len.div_ceil(block_size)).sum();
        let mut kv = KvPool::on(device, layout, n_blocks).unwrap();
        let all: Vec<u32> = (0..=n_blocks as u32).collect();
        fill_blocks(device, &mut kv, &all, 0xFF).unwrap();
        let mut free = shuffled(n_blocks as u32);
        let mut random = Random((dim * lens.len()) as u64);
        let width = (n_heads + 2 * n_kv_heads) * dim;
        let (mut tables, mut qkv) = (Vec::new(), Vec::new());
        for &len in lens {
            let table = free.split_off(free.len() - len.div_ceil(block_size));
            let values: Vec<f32> = random.units(len * width).iter().map(|v| v * SPREAD).collect();
            let values = rounded(dtype, &[len, width], &values);
            let seq = SeqRows { n_rows: len, start_pos: 0, block_table: &table };
            let rows = PagedRows::new(device, &[seq]).unwrap();
            kv_write(device, &values.to_device(device).unwrap(), (&mut kv, LAYER), &rows).unwrap();
            tables.push(table);
            qkv.push(widened(&values));
        }
        Self { device: device.clone(), shape, kv, tables, qkv }
    }

    fn width(&self) -> usize {
        (self.shape.n_heads + 2 * self.shape.n_kv_heads) * self.shape.dim
    }

    fn len(&self, seq: usize) -> usize {
        self.qkv[seq].len() / self.width()
    }

    fn part(&self, seq: usize, row: usize, column: usize) -> &[f32] {
        &self.qkv[seq][row * self.width() + column * self.shape.dim..][..self.shape.dim]
    }

    /// The last `n` rows of each of some sequences, as rows of a step.
    fn seqs(&self, rows: &[(usize, usize)]) -> Vec<SeqRows<'_>> {
        let rows = rows.iter().map(|&(seq, n_rows)| SeqRows {
            n_rows,
            start_pos: self.len(seq) - n_rows,
            block_table: &self.tables[seq],
        });
        rows.collect()
    }

    fn queries(&self, rows: &[(usize, usize)]) -> Tensor {
        let width = self.width();
        let of_seq = |&(seq, n): &(usize, usize)| &self.qkv[seq][(self.len(seq) - n) * width..];
        let values: Vec<f32> = rows.iter().flat_map(of_seq).copied().collect();
        let host = rounded(self.device.compute_dtype(), &[values.len() / width, width], &values);
        host.to_device(&self.device).unwrap()
    }

    fn attend(&self, q: &Tensor, rows: &PagedRows) -> Tensor {
        let kv = (&self.kv, LAYER);
        attention_paged(&self.device, q, self.shape.n_heads, kv, rows).unwrap()
    }

    /// Attention of the last `n` rows of some sequences as one step, repeated.
    fn run(&self, rows: &[(usize, usize)]) -> Vec<f32> {
        let q = self.queries(rows);
        let rows = PagedRows::new(&self.device, &self.seqs(rows)).unwrap();
        repeated(&self.device, || self.attend(&q, &rows))
    }

    fn expected(&self, rows: &[(usize, usize)]) -> Vec<f64> {
        let Shape { n_heads, n_kv_heads, .. } = self.shape;
        let mut expected = Vec::new();
        for &(seq, n) in rows {
            for row in self.len(seq) - n..self.len(seq) {
                for head in 0..n_heads {
                    let key = n_heads + head * n_kv_heads / n_heads;
                    let keys = (0..=row).map(|row| self.part(seq, row, key));
                    let values = (0..=row).map(|row| self.part(seq, row, key + n_kv_heads));
                    expected.extend(reference(self.part(seq, row, head), keys, values));
                }
            }
        }
        expected
    }

    fn check(&self, rows: &[(usize, usize)], what: &str) -> Vec<f32> {
        let got = self.run(rows);
        let Shape { n_heads, n_kv_heads, dim, block_size } = self.shape;
        let what = format!("{what}: {n_heads}/{n_kv_heads} heads of {dim}, blocks of {block_size}");
        assert_near(self.device.compute_dtype(), &got, &self.expected(rows), &what);
        got
    }
}

/// `0..n` in another order.
fn shuffled(n: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..n).collect();
    let mut random = Random(u64::from(n));
    for idx in (1..all.len()).rev() {
        let other = (random.unit().abs() * (idx + 1) as f32) as usize;
        all.swap(idx, other.min(idx));
    }
    all
}

/// Softmax of scores and the weighted values, for one row and head.
fn reference<'a>(
    q: &[f32],
    keys: impl Iterator<Item = &'a [f32]>,
    values: impl Iterator<Item = &'a [f32]>,
) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let dot = |key: &[f32]| -> f64 {
        q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * scale
    };
    let scores: Vec<f64> = keys.map(dot).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut result = vec![0.0; q.len()];
    for (weight, value) in weights.iter().zip(values) {
        for (result, value) in result.iter_mut().zip(value) {
            *result += weight / sum * f64::from(*value);
        }
    }
    result
}

/// Lengths around every tile, step, part and block.
const LENS: &[usize] = &[
    1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 511, 512, 513,
    575, 576, 577, 1024, 1025,
];

#[test]
fn cuda_single_rows_of_every_length() {
    for device in gpus() {
        let rig = Rig::new(&device, shape(7, 1, 128, 32), LENS);
        let rows: Vec<(usize, usize)> = (0..LENS.len()).map(|seq| (seq, 1)).collect();
        rig.check(&rows, "single rows");
        let rows: Vec<(usize, usize)> =
            (0..LENS.len()).map(|seq| (seq, 4.min(LENS[seq]))).collect();
        rig.check(&rows, "few rows");
    }
}

#[test]
fn cuda_long_contexts() {
    for device in gpus() {
        // Parts of 256, 512 and 1024 keys, and the lengths where they change.
        let lens = [2047, 2048, 2049, 4096, 16_384, 16_385, 32_768];
        let rig = Rig::new(&device, shape(2, 1, 64, 32), &lens);
        let rows: Vec<(usize, usize)> = (0..lens.len()).map(|seq| (seq, 1)).collect();
        rig.check(&rows, "long contexts");
    }
}

#[test]
fn cuda_whole_prompts_and_their_ends() {
    for device in gpus() {
        let rig = Rig::new(&device, shape(7, 1, 128, 32), LENS);
        let whole: Vec<(usize, usize)> = LENS.iter().copied().enumerate().take(18).collect();
        rig.check(&whole, "prompts");
        let ends: Vec<(usize, usize)> =
            (0..LENS.len()).map(|seq| (seq, 19.min(LENS[seq]))).collect();
        rig.check(&ends, "ends of prompts");
    }
}

#[test]
fn cuda_heads_of_all_sizes_groups_and_blocks() {
    let dims = [32, 64, 72, 80, 88, 128, 256].map(|dim| shape(4, 2, dim, 32));
    let odd_dims = [1, 8, 17, 20, 36, 96, 100, 160, 250].map(|dim| shape(2, 1, dim, 16));
    let groups = [(5, 1), (28, 4), (8, 1), (2, 2), (16, 1), (40, 2), (71, 1), (150, 1)];
    let groups = groups.map(|(n_heads, n_kv_heads)| shape(n_heads, n_kv_heads, 64, 32));
    let blocks = [1, 5, 16, 64, 100, 128].map(|block_size| shape(4, 2, 64, block_size));
    for device in gpus() {
        for &shape in dims.iter().chain(&odd_dims).chain(&groups).chain(&blocks) {
            let rig = Rig::new(&device, shape, &[70, 40, 300, 3, 130]);
            rig.check(&[(0, 1), (1, 40), (2, 1), (3, 3), (4, 33), (2, 5)], "mixed");
        }
    }
}

/// What a row of the result is, by (sequence, rows) and the row's place in it.
fn rows_of<'a>(result: &'a [f32], rows: &[(usize, usize)], idx: usize) -> &'a [f32] {
    let n_rows: usize = rows.iter().map(|(_, n)| n).sum();
    let width = result.len() / n_rows;
    let first: usize = rows[..idx].iter().map(|(_, n)| n).sum();
    &result[first * width..(first + rows[idx].1) * width]
}

#[test]
fn cuda_neighbours_and_cuts_change_no_bit() {
    for device in gpus() {
        let rig = Rig::new(&device, shape(7, 1, 128, 32), &[1200, 77, 1, 700, 129]);
        let together = [(0, 1), (1, 77), (2, 1), (3, 2), (4, 100)];
        let all = rig.run(&together);
        for (idx, &one) in together.iter().enumerate() {
            assert_eq!(rig.run(&[one]), rows_of(&all, &together, idx), "{one:?} alone");
        }
        let other = [(4, 100), (3, 2), (0, 1), (0, 3)];
        let reordered = rig.run(&other);
        for (idx, at) in [(0, 4), (1, 3), (2, 0)] {
            assert_eq!(rows_of(&reordered, &other, idx), rows_of(&all, &together, at));
        }
        // The last of few rows has the bits that it has alone, and a cut prompt those of the whole.
        let few = rows_of(&reordered, &other, 3);
        assert_eq!(few[few.len() / 3 * 2..], *rows_of(&all, &together, 0));
        let tail = rig.run(&[(1, 30)]);
        let whole = rows_of(&all, &together, 1);
        assert_eq!(tail, whole[whole.len() - tail.len()..]);
    }
}

#[test]
fn cuda_a_thousand_runs_give_the_same_bits() {
    for device in gpus() {
        let rig = Rig::new(&device, shape(14, 2, 128, 32), &[3000, 77, 1, 300]);
        let rows = [(0, 1), (1, 77), (2, 1), (3, 2)];
        let q = rig.queries(&rows);
        let rows = PagedRows::new(&device, &rig.seqs(&rows)).unwrap();
        let run = || rig.attend(&q, &rows).to_host(&device).unwrap();
        let first = run();
        for round in 0..1000 {
            assert_eq!(run().bytes(), first.bytes(), "round {round}");
        }
    }
}

/// Rows that see as many keys as is said, whatever the sequences have, as a recorded step has them.
fn with_counts(rig: &Rig, rows: &[(usize, usize)], counts: &[u32], room: usize) -> PagedRows {
    let mut pack = Pack::default();
    let parts = parts_with_counts(rig, &mut pack, (rows, counts), room);
    parts.unpack(&pack.to_device(&rig.device).unwrap()).unwrap()
}

fn parts_with_counts(
    rig: &Rig,
    pack: &mut Pack,
    (rows, counts): (&[(usize, usize)], &[u32]),
    room: usize,
) -> PagedParts {
    PagedRows::pack_with_counts(pack, &rig.seqs(rows), counts, room)
}

#[test]
fn cuda_rows_without_keys_become_zeros() {
    for device in gpus() {
        let rig = Rig::new(&device, shape(7, 1, 80, 32), &[40, 40, 40]);
        let rows = [(0, 1), (1, 1), (2, 20)];
        let q = rig.queries(&rows);
        let mut counts = vec![0, 17];
        counts.extend((0..20).map(|row| if row % 3 == 0 { 0 } else { row + 1 }));
        let paged = with_counts(&rig, &rows, &counts, 100);
        let got = repeated(&device, || rig.attend(&q, &paged));
        for (row, got) in got.chunks(7 * 80).enumerate() {
            let is_zero = got.iter().all(|&value| value == 0.0);
            assert_eq!(is_zero, counts[row] == 0, "row {row}");
            assert!(got.iter().all(|value| value.is_finite()), "row {row}");
        }
    }
}

#[test]
fn cuda_a_recorded_step_serves_any_lengths() {
    for device in gpus() {
        let Device::Cuda(cuda) = &device else { continue };
        let rig = Rig::new(&device, shape(7, 1, 128, 32), &[2000, 700, 300]);
        let rows = [(0, 1), (1, 1), (2, 1)];
        let q = rig.queries(&rows);
        let room = 3 * crate::ops::attention::work::SPLITS_MAX;
        let mut pack = Pack::default();
        let parts = parts_with_counts(&rig, &mut pack, (&rows, &[1, 0, 9]), room);
        let bytes: &[u8] = bytemuck::cast_slice(pack.words());
        let memory = Arc::new(cuda.scratch(bytes.len()).unwrap());
        cuda.upload(bytes, memory.address()).unwrap();
        let paged = parts.unpack(&Packed::in_place(&memory)).unwrap();
        let _ = rig.attend(&q, &paged);
        let mut out = None;
        let graph = cuda.stream().capture(|| {
            out = Some(rig.attend(&q, &paged));
            Ok(())
        });
        let (graph, out) = (graph.unwrap(), out.unwrap());
        for counts in [[2000, 700, 300], [513, 0, 256], [1, 512, 33]] {
            let mut pack = Pack::default();
            let _ = parts_with_counts(&rig, &mut pack, (&rows, &counts), room);
            cuda.upload(bytemuck::cast_slice(pack.words()), memory.address()).unwrap();
            graph.launch(cuda.stream()).unwrap();
            let got = out.to_host(&device).unwrap();
            let eager = rig.attend(&q, &with_counts(&rig, &rows, &counts, 0));
            assert_eq!(got.bytes(), eager.to_host(&device).unwrap().bytes(), "{counts:?}");
        }
    }
}

/// Rows of each segment, heads, size of a head.
const PACKED: &[(&[usize], usize, usize)] = &[
    (&[1], 1, 80),
    (&[1, 17, 64, 577, 1024], 2, 80),
    (&[577, 577], 2, 64),
    (&[64; 40], 1, 80),
    (&[127, 128, 129, 63, 65], 3, 72),
    (&[33, 31], 2, 88),
    (&[100, 3], 2, 32),
    (&[100, 30], 2, 128),
    (&[100, 30], 2, 256),
    (&[70, 0, 5], 3, 20),
    (&[70, 5], 1, 17),
];

fn check_packed(device: &Device, (segments, n_heads, dim): (&[usize], usize, usize)) {
    let dtype = device.compute_dtype();
    let (n_rows, width) = (segments.iter().sum::<usize>(), n_heads * dim);
    let values = Random(n_rows as u64).units(n_rows * 3 * width);
    let values: Vec<f32> = values.iter().map(|value| value * SPREAD).collect();
    let qkv = rounded(dtype, &[n_rows, 3 * width], &values);
    let exact = widened(&qkv);
    let part = |row: usize, which: usize, head: usize| -> &[f32] {
        &exact[(row * 3 + which) * width + head * dim..][..dim]
    };
    let mut expected = Vec::new();
    let mut first = 0;
    for len in segments {
        let rows = first..first + len;
        for (row, head) in rows.clone().flat_map(|row| (0..n_heads).map(move |head| (row, head))) {
            let keys = rows.clone().map(|row| part(row, 1, head));
            let values = rows.clone().map(|row| part(row, 2, head));
            expected.extend(reference(part(row, 0, head), keys, values));
        }
        first += len;
    }
    let on_device = qkv.to_device(device).unwrap();
    let run = |qkv: &Tensor, segments: &[usize]| {
        let segments = Segments::new(device, segments).unwrap();
        repeated(device, || attention_packed(device, qkv, n_heads, &segments).unwrap())
    };
    let got = run(&on_device, segments);
    assert_near(dtype, &got, &expected, &format!("{segments:?}, {n_heads} heads of {dim}"));
    // A segment alone has the bits that it has among others.
    let last = segments[segments.len() - 1];
    let tail = rounded(dtype, &[last, 3 * width], &exact[(n_rows - last) * 3 * width..]);
    let alone = run(&tail.to_device(device).unwrap(), &[last]);
    assert_eq!(alone, got[(n_rows - last) * width..]);
}

#[test]
fn cuda_segments_attend_to_themselves() {
    for device in gpus() {
        PACKED.iter().for_each(|&case| check_packed(&device, case));
    }
}

#[test]
fn cuda_what_does_not_fit_is_refused() {
    for device in gpus() {
        let rig = Rig::new(&device, shape(2, 1, 64, 32), &[20]);
        let q = rig.queries(&[(0, 2)]);
        let rows = PagedRows::new(&device, &rig.seqs(&[(0, 2)])).unwrap();
        let attend = |n_heads, layer, rows| {
            attention_paged(&device, &q, n_heads, (&rig.kv, layer), rows).is_ok()
        };
        assert!(attend(2, LAYER, &rows));
        assert!(!attend(5, LAYER, &rows), "there are no such heads");
        assert!(!attend(2, N_LAYERS, &rows), "there is no such layer");
        let others = PagedRows::new(&device, &rig.seqs(&[(0, 3)])).unwrap();
        assert!(!attend(2, LAYER, &others), "there are no such rows");
        let wide = Tensor::scratch_on(&device, device.compute_dtype(), &[1, 3 * 257]).unwrap();
        let segments = Segments::new(&device, &[1]).unwrap();
        assert!(attention_packed(&device, &wide, 1, &segments).is_err(), "heads of 257");
    }
}
