//! Attention of decode, of prompts and of the tower.

use super::check::{distance, sampled, widened};
use super::timer::seconds;
use super::{Case, Sizes, Timed};
use crate::ceilings::random_bf16;
use crate::shapes::TextShape;
use half::bf16;
use tensor::ops::{
    PagedRows, Segments, SeqRows, attention_packed, attention_paged, cast, kv_write,
};
use tensor::{Device, KvLayout, KvPool, Tensor};
use types::Result;

/// Sequences and their keys.
const DECODE: &[(usize, usize)] = &[
    (1, 128),
    (1, 1024),
    (1, 4096),
    (8, 128),
    (8, 1024),
    (8, 4096),
    (16, 4096),
    (32, 4096),
    (64, 128),
    (64, 256),
    (64, 1024),
    (64, 4096),
    (256, 256),
];
/// Prompts and their tokens.
const PREFILL: &[(usize, usize)] = &[(1, 128), (1, 1024), (1, 2048), (1, 8192), (16, 2048)];
/// Pictures of 336², 672² and 1008².
const PATCHES: &[usize] = &[576, 2304, 5184];
/// Tokens of a block.
const BLOCK_SIZE: usize = 32;
/// A GPU's caches of all layers together are as large, so that keys come from memory.
const CACHE_BYTES: usize = 256 << 20;
/// Rows whose heads are checked.
const N_CHECKED_ROWS: usize = 4;

pub(super) fn cases(sizes: &Sizes<'_>) -> Vec<Case> {
    let text = sizes.shapes.text;
    let decode = DECODE.iter().map(|&(n, len)| paged(text, (n, len, 1), sizes));
    let prefill = PREFILL.iter().map(|&(n, len)| paged(text, (n, len, len), sizes));
    let mut cases: Vec<Case> = decode.chain(prefill).collect();
    let Some(tower) = &sizes.shapes.tower else { return cases };
    cases.extend(PATCHES.iter().map(|&n_rows| packed((tower.width, tower.n_heads), n_rows, sizes)));
    cases
}

/// `n` sequences of `len` keys, of which the last `n_rows` ask.
fn paged(text: TextShape, (n, len, n_rows): (usize, usize, usize), sizes: &Sizes<'_>) -> Case {
    let kind = if n_rows == 1 { "decode" } else { "prefill" };
    let n_pairs = (n * (1 + len - n_rows + len) * n_rows / 2) as f64;
    let heads = (text.n_heads * text.head_dim) as f64;
    let kv_width = (2 * text.n_kv_heads * text.head_dim) as f64;
    Case {
        name: format!("attention {kind} {n}x{len}"),
        n_bytes: ((n * len) as f64 * kv_width + 2.0 * (n * n_rows) as f64 * heads) * sizes.n_bytes,
        n_flop: 4.0 * heads * n_pairs,
        run: Box::new(move |device| run_paged(device, text, (n, len, n_rows))),
    }
}

fn packed((width, n_heads): (usize, usize), n_rows: usize, sizes: &Sizes<'_>) -> Case {
    let rows = n_rows as f64;
    Case {
        name: format!("attention tower {n_rows}"),
        n_bytes: 4.0 * rows * width as f64 * sizes.n_bytes,
        n_flop: 4.0 * width as f64 * rows * rows,
        run: Box::new(move |device| run_packed(device, (width, n_heads), n_rows)),
    }
}

fn run_paged(
    device: &Device,
    text: TextShape,
    (n, len, n_rows): (usize, usize, usize),
) -> Result<Timed> {
    let width = (text.n_heads + 2 * text.n_kv_heads) * text.head_dim;
    let values = random_bf16(len * width, 11);
    let n_blocks = len.div_ceil(BLOCK_SIZE);
    // No two neighbours in order, as in a pool that has been used for a while.
    let tables: Vec<Vec<u32>> =
        (0..n).map(|seq| (0..n_blocks).rev().map(|idx| (idx * n + seq) as u32).collect()).collect();
    let mut kv = pool(device, &text, n * n_blocks)?;
    fill(device, &mut kv, (&values, len), &tables)?;
    let seqs: Vec<SeqRows<'_>> = tables
        .iter()
        .map(|table| SeqRows { n_rows, start_pos: len - n_rows, block_table: table })
        .collect();
    let rows = PagedRows::new(device, &seqs)?;
    let q = uploaded(device, &values[(len - n_rows) * width..], (n_rows, n), width)?;
    let n_layers = kv.layout.n_layers;
    let attend = |layer| attention_paged(device, &q, text.n_heads, (&kv, layer), &rows);
    let found = widened(device, &attend(n_layers - 1)?)?;
    let heads = Heads { n: text.n_heads, n_kv: text.n_kv_heads, dim: text.head_dim };
    let checked = sampled(N_CHECKED_ROWS, n * n_rows).into_iter().map(|row| {
        let position = len - n_rows + row % n_rows;
        (row, position, position + 1)
    });
    let error = error((&values, width), heads, checked, &found);
    Ok(Timed { error, seconds: seconds(device, n_layers, |layer| attend(layer).map(drop))? })
}

fn run_packed(device: &Device, (width, n_heads): (usize, usize), n_rows: usize) -> Result<Timed> {
    let values = random_bf16(n_rows * 3 * width, 13);
    let qkv = uploaded(device, &values, (n_rows, 1), 3 * width)?;
    let segments = Segments::new(device, &[n_rows])?;
    let attend = || attention_packed(device, &qkv, n_heads, &segments);
    let found = widened(device, &attend()?)?;
    let heads = Heads { n: n_heads, n_kv: n_heads, dim: width / n_heads };
    let checked = sampled(N_CHECKED_ROWS, n_rows).into_iter().map(|row| (row, row, n_rows));
    let error = error((&values, 3 * width), heads, checked, &found);
    Ok(Timed { error, seconds: seconds(device, 1, |_| attend().map(drop))? })
}

/// A cache of as many layers as are needed to be larger than what a GPU keeps at hand.
fn pool(device: &Device, text: &TextShape, n_blocks: usize) -> Result<KvPool> {
    let mut layout = KvLayout {
        block_size: BLOCK_SIZE,
        n_layers: 1,
        n_kv_heads: text.n_kv_heads,
        head_dim: text.head_dim,
        dtype: device.compute_dtype(),
    };
    if let Device::Cuda(_) = device {
        let n_bytes = layout.block_bytes() * n_blocks;
        layout.n_layers = CACHE_BYTES.div_ceil(n_bytes).clamp(1, text.n_layers);
    }
    KvPool::on(device, layout, n_blocks)
}

/// Writes the same keys and values for every sequence and layer.
fn fill(
    device: &Device,
    kv: &mut KvPool,
    (values, len): (&[bf16], usize),
    tables: &[Vec<u32>],
) -> Result<()> {
    let qkv = uploaded(device, values, (len, 1), values.len() / len)?;
    for table in tables {
        let seq = SeqRows { n_rows: len, start_pos: 0, block_table: table };
        let rows = PagedRows::new(device, &[seq])?;
        for layer in 0..kv.layout.n_layers {
            kv_write(device, &qkv, (kv, layer), &rows)?;
        }
    }
    Ok(())
}

/// `n_rows` rows, so many times one after the other, in the compute type.
fn uploaded(
    device: &Device,
    values: &[bf16],
    (n_rows, times): (usize, usize),
    width: usize,
) -> Result<Tensor> {
    let once: Vec<f32> = values[..n_rows * width].iter().map(|value| value.to_f32()).collect();
    let tensor = Tensor::from_slice(&[n_rows * times, width], &once.repeat(times));
    cast(device, tensor.to_device(device)?, device.compute_dtype())
}

#[derive(Clone, Copy)]
struct Heads {
    n: usize,
    n_kv: usize,
    dim: usize,
}

/// `checked` are rows of the result, which rows of `values` ask there, and how many keys they see.
fn error(
    (values, width): (&[bf16], usize),
    heads: Heads,
    checked: impl Iterator<Item = (usize, usize, usize)>,
    found: &[f64],
) -> f64 {
    let n_columns = heads.n * heads.dim;
    let row_of = |idx: usize| &values[idx * width..(idx + 1) * width];
    distance(checked.flat_map(|(row, asking, n_keys)| {
        let found = &found[row * n_columns..(row + 1) * n_columns];
        let of_head = move |head: usize| {
            let kv_head = head / (heads.n / heads.n_kv);
            let query = &row_of(asking)[head * heads.dim..][..heads.dim];
            let part = |row: usize, first: usize| {
                &row_of(row)[(first + kv_head) * heads.dim..][..heads.dim]
            };
            let keys = (0..n_keys).map(|key| (part(key, heads.n), part(key, heads.n + heads.n_kv)));
            attended(query, keys)
        };
        let checked_heads = sampled(2, heads.n).into_iter();
        checked_heads.flat_map(move |head| {
            let found = &found[head * heads.dim..][..heads.dim];
            of_head(head).into_iter().zip(found.iter().copied())
        })
    }))
}

/// Softmax of scaled scores times values, in f64.
fn attended<'a>(query: &[bf16], keys: impl Iterator<Item = (&'a [bf16], &'a [bf16])>) -> Vec<f64> {
    let scale = (query.len() as f64).sqrt();
    let score = |key: &[bf16]| -> f64 {
        let products = query.iter().zip(key).map(|(q, k)| q.to_f64() * k.to_f64());
        products.sum::<f64>() / scale
    };
    let (mut sum, mut out) = (0.0, vec![0.0; query.len()]);
    for (key, value) in keys {
        // Elements are within ±1, so no score is large enough to overflow.
        let weight = score(key).exp();
        sum += weight;
        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value.to_f64());
    }
    out.iter().map(|out| out / sum).collect()
}
