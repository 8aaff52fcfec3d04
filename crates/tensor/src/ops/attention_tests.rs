//! Cases of both attentions: against f64, and the bits of a row whatever is computed beside it.

use super::*;
use crate::DType;
use crate::kv::KvLayout;
use crate::ops::cases::{Random, assert_close, bits, everywhere};
use crate::ops::kv_write::kv_write;
use crate::ops::paged::SeqRows;

/// Rows of each segment, heads, size of a head: sizes 1, around tiles and panels, real head sizes.
const PACKED: &[(&[usize], usize, usize)] = &[
    (&[1], 1, 16),
    (&[7], 2, 20),
    (&[8, 9], 1, 64),
    (&[3, 1, 17], 2, 80),
    (&[16, 33], 2, 72),
    (&[200, 130], 2, 64),
];

/// Tokens, query heads, key-value heads, size of a head, tokens of a block.
const PAGED: &[(usize, usize, usize, usize, usize)] = &[
    (1, 1, 1, 16, 4),
    (5, 2, 1, 24, 4),
    (33, 4, 2, 64, 16),
    (50, 6, 2, 128, 32),
    (300, 4, 2, 64, 32),
];

/// Softmax of scores and the weighted values, for one row and head.
fn reference(q: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let dot = |key: &&[f32]| -> f64 {
        q.iter().zip(*key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * scale
    };
    let scores: Vec<f64> = keys.iter().map(dot).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let column = |i: usize| -> f64 {
        weights.iter().zip(values).map(|(w, value)| w * f64::from(value[i])).sum::<f64>() / sum
    };
    (0..q.len()).map(column).collect()
}

fn check_packed((segments, n_heads, dim): (&[usize], usize, usize)) {
    let n_rows: usize = segments.iter().sum();
    let width = n_heads * dim;
    let mut qkv = Random(n_rows as u64).tensor(&[n_rows, 3 * width]);
    // Scores of several units, so that the softmax is not flat.
    qkv.as_mut_slice::<f32>().iter_mut().for_each(|value| *value *= 3.0);
    let part = |row: usize, which: usize, head: usize| -> &[f32] {
        &qkv.row(row)[which * width + head * dim..][..dim]
    };
    let mut expected = Vec::new();
    let mut first = 0;
    for len in segments {
        for row in first..first + len {
            for head in 0..n_heads {
                let rows = first..first + len;
                let keys: Vec<_> = rows.clone().map(|row| part(row, 1, head)).collect();
                let values: Vec<_> = rows.map(|row| part(row, 2, head)).collect();
                expected.extend(reference(part(row, 0, head), &keys, &values));
            }
        }
        first += len;
    }
    let mut bits_seen = None;
    for (threads, isa) in everywhere() {
        let out = run_packed((&threads, isa), &qkv, n_heads, segments);
        assert_close(out.as_f32(), &expected, 1e-5, &format!("{segments:?}"));
        assert_eq!(&bits(&out), bits_seen.get_or_insert(bits(&out)), "{isa:?} has other bits");
    }
    // A segment alone has the bits that it has among others.
    let device = Device::all_cpus();
    let all = Segments::new(&device, segments).unwrap();
    let out = attention_packed(&device, &qkv, n_heads, &all).unwrap();
    let last = segments[segments.len() - 1];
    let tail = &qkv.as_f32()[(n_rows - last) * 3 * width..];
    let tail = Tensor::from_slice(&[last, 3 * width], tail);
    let only = Segments::new(&device, &[last]).unwrap();
    let alone = attention_packed(&device, &tail, n_heads, &only).unwrap();
    assert_eq!(alone.as_f32(), &out.as_f32()[(n_rows - last) * width..]);
}

#[test]
fn segments_attend_to_themselves() {
    PACKED.iter().for_each(|&case| check_packed(case));
}

/// Queries, keys and values of a sequence, and a pool that holds them under a shuffled table.
struct Paged {
    qkv: Tensor,
    kv: KvPool,
    table: Vec<u32>,
    n_heads: usize,
}

const LAYER: usize = 1;

impl Paged {
    fn new(
        (n, n_heads, n_kv_heads, head_dim, block_size): (usize, usize, usize, usize, usize),
    ) -> Self {
        let dtype = DType::F32;
        let layout = KvLayout { block_size, n_layers: 3, n_kv_heads, head_dim, dtype };
        let n_blocks = n.div_ceil(block_size);
        let mut kv = KvPool::new(layout, n_blocks + 2).unwrap();
        // Anything but the order of the tokens.
        let table: Vec<u32> = (0..n_blocks as u32).rev().map(|block| block + 2).collect();
        let mut qkv = Random(n as u64).tensor(&[n, (n_heads + 2 * n_kv_heads) * head_dim]);
        qkv.as_mut_slice::<f32>().iter_mut().for_each(|value| *value *= 3.0);
        let device = Device::all_cpus();
        let seq = SeqRows { n_rows: n, start_pos: 0, block_table: &table };
        let rows = PagedRows::new(&device, &[seq]).unwrap();
        kv_write(&device, &qkv, (&mut kv, LAYER), &rows).unwrap();
        Self { qkv, kv, table, n_heads }
    }

    fn part(&self, row: usize, column: usize) -> &[f32] {
        let dim = self.kv.layout.head_dim;
        &self.qkv.row(row)[column * dim..][..dim]
    }

    fn expected(&self) -> Vec<f64> {
        let n_kv_heads = self.kv.layout.n_kv_heads;
        let mut expected = Vec::new();
        for row in 0..self.qkv.n_rows() {
            for head in 0..self.n_heads {
                let kv_head = self.n_heads + head * n_kv_heads / self.n_heads;
                let keys: Vec<_> = (0..=row).map(|row| self.part(row, kv_head)).collect();
                let values: Vec<_> =
                    (0..=row).map(|row| self.part(row, kv_head + n_kv_heads)).collect();
                expected.extend(reference(self.part(row, head), &keys, &values));
            }
        }
        expected
    }

    /// Attention of rows `from..` as one step.
    fn run(&self, (threads, isa): (&Threads, Isa), from: usize) -> Tensor {
        let n_rows = self.qkv.n_rows() - from;
        let width = self.qkv.row_len();
        let q = &self.qkv.as_f32()[from * width..];
        let q = Tensor::from_slice(&[n_rows, width], q);
        let seq = SeqRows { n_rows, start_pos: from, block_table: &self.table };
        let rows = PagedRows::new(&Device::all_cpus(), &[seq]).unwrap();
        run_paged((threads, isa), &q, self.n_heads, (&self.kv, LAYER), &rows)
    }
}

#[test]
fn rows_attend_to_the_cache_before_them() {
    for &case in PAGED {
        let paged = Paged::new(case);
        let mut bits_seen = None;
        for (threads, isa) in everywhere() {
            let out = paged.run((&threads, isa), 0);
            assert_close(out.as_f32(), &paged.expected(), 1e-5, &format!("{case:?}"));
            assert_eq!(&bits(&out), bits_seen.get_or_insert(bits(&out)), "{isa:?} has other bits");
            for from in [1, 4, 7, 16, case.0 - 1] {
                if from >= case.0 {
                    continue;
                }
                let part = paged.run((&threads, isa), from);
                let whole = &out.as_f32()[from * out.row_len()..];
                assert_eq!(part.as_f32(), whole, "{case:?} from {from}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::all_cpus();
    let paged = Paged::new(PAGED[1]);
    let run = |n_rows, start_pos, block_table: &[u32], layer| {
        let rows = PagedRows::new(&device, &[SeqRows { n_rows, start_pos, block_table }]).unwrap();
        attention_paged(&device, &paged.qkv, paged.n_heads, (&paged.kv, layer), &rows)
    };
    assert!(run(5, 0, &paged.table, LAYER).is_ok());
    assert!(run(5, 4, &paged.table, LAYER).is_err(), "the table is too short");
    assert!(run(5, 0, &[2, 4], LAYER).is_err(), "there is no such block");
    assert!(run(4, 0, &paged.table, LAYER).is_err(), "rows of no sequence");
    assert!(run(9, 0, &paged.table, LAYER).is_err(), "there are no such rows");
    assert!(run(5, 0, &paged.table, 3).is_err(), "there is no such layer");
    let segments = |lens: &[usize]| Segments::new(&device, lens).unwrap();
    let refused = attention_packed(&device, &paged.qkv, 5, &segments(&[5]));
    assert!(refused.is_err(), "heads do not divide");
    let qkv = Tensor::zeros::<f32>(&[4, 48]);
    let refused = attention_packed(&device, &qkv, 1, &segments(&[3]));
    assert!(refused.is_err(), "a row in no segment");
}
