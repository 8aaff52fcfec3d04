//! Cases of the cache's writes: every key and value where the layout says, nothing anywhere else.

use super::*;
use crate::dtype::DType;
use crate::kv::KvLayout;
use crate::ops::blocks::fill_blocks;
use crate::ops::cases::Random;
use crate::ops::gpu_cases::{arena_bytes, gpus, rounded};
use crate::ops::paged::SeqRows;

const LAYOUT: KvLayout =
    KvLayout { block_size: 4, n_layers: 3, n_kv_heads: 2, head_dim: 5, dtype: DType::F32 };

/// The whole pool as elements.
fn elements(kv: &KvPool) -> &[f32] {
    let n = kv.layout.block_bytes() / 4 * kv.n_blocks;
    // SAFETY: the pool's arena holds as many f32, and nobody writes it here.
    unsafe { std::slice::from_raw_parts(kv.arena.base().cast(), n) }
}

#[test]
fn rows_go_where_the_layout_says_and_nowhere_else() {
    let mut kv = KvPool::new(LAYOUT, 4).unwrap();
    let device = Device::all_cpus();
    let qkv = Random(3).tensor(&[5, 30]);
    let (table, start, layer) = ([3, 0], 2, 1);
    let other = SeqRows { n_rows: 1, start_pos: 0, block_table: &[1] };
    let seq = SeqRows { n_rows: 4, start_pos: start, block_table: &table };
    let rows = PagedRows::new(&device, &[other, seq]).unwrap();
    kv_write(&device, &qkv, (&mut kv, layer), &rows).unwrap();
    let mut expected = vec![0.0; elements(&kv).len()];
    let places = (0..4).map(|idx| (1 + idx, table[(start + idx) / 4] as usize, (start + idx) % 4));
    for (row, block, token) in places.chain([(0, 1, 0)]) {
        for (head, which, dim) in (0..20).map(|i| (i / 10, i / 5 % 2, i % 5)) {
            // [block][kv_head][layer][K|V][token][dim]
            let at = ((((block * 2 + head) * 3 + layer) * 2 + which) * 4 + token) * 5 + dim;
            // Behind ten columns of queries: keys of both heads, then values of both.
            expected[at] = qkv.row(row)[10 + which * 10 + head * 5 + dim];
        }
    }
    assert_eq!(elements(&kv), expected);
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::all_cpus();
    let mut kv = KvPool::new(LAYOUT, 4).unwrap();
    let qkv = Tensor::zeros::<f32>(&[5, 30]);
    let mut run = |n_rows, start_pos, block_table: &[u32], layer| {
        let seq = SeqRows { n_rows, start_pos, block_table };
        let rows = PagedRows::new(&device, &[seq]).unwrap();
        kv_write(&device, &qkv, (&mut kv, layer), &rows)
    };
    assert!(run(5, 0, &[1, 2], 2).is_ok());
    assert!(run(5, 0, &[1], 2).is_err(), "the table is too short");
    assert!(run(5, 4, &[9, 1, 2], 2).is_err(), "a block before the rows does not exist");
    assert!(run(5, 0, &[1, 4], 2).is_err(), "there is no such block");
    assert!(run(6, 0, &[1, 2], 2).is_err(), "there are no such rows");
    assert!(run(5, 0, &[1, 2], 3).is_err(), "there is no such layer");
}

/// Key-value heads, size of a head, tokens of a block: around the units that are copied, real.
const CUDA_CASES: &[(usize, usize, usize)] =
    &[(1, 1, 1), (2, 5, 4), (1, 6, 4), (3, 33, 3), (4, 64, 32), (2, 80, 16), (4, 128, 32)];
const N_BLOCKS: usize = 9;

/// Rows on a device of which `places` says block and token, where they are written at all.
struct Case {
    rows: PagedRows,
    places: Vec<Option<(usize, usize)>>,
}

/// A row: its sequence, the keys it sees, and where it is written, if anywhere.
type Row = (u32, u32, Option<(usize, usize)>);

/// A sequence that grows, one that begins, padding, and rows that no table covers.
fn case(device: &Device, block_size: usize) -> Case {
    let size = block_size as u32;
    let tables = [3, 0, 7, 5, N_BLOCKS as u32, 99];
    // Sequences: blocks 3, 0, 7; block 5; the spare block; a block that does not exist.
    let starts = [0, 3, 4, 5];
    let mut rows: Vec<Row> = Vec::new();
    for position in size.saturating_sub(2)..3 * size {
        let place = ([3, 0, 7][(position / size) as usize], (position % size) as usize);
        rows.push((0, position + 1, Some(place)));
    }
    rows.push((1, 1, Some((5, 0))));
    rows.extend([(2, 0, None), (0, 0, None)]);
    rows.push((0, 3 * size + 1, None)); // behind its table
    rows.push((1, size + 1, None)); // in the next sequence's
    rows.push((3, 1, None)); // outside the pool
    rows.push((4, 1, None)); // no such sequence
    rows.push((3, u32::MAX, None));
    let numbers =
        |numbers: &[u32]| Tensor::from_slice(&[numbers.len()], numbers).to_device(device).unwrap();
    let column = |of: fn(&Row) -> u32| numbers(&rows.iter().map(of).collect::<Vec<_>>());
    let (seq_of_row, key_counts) = (column(|row| row.0), column(|row| row.1));
    let [tables, table_starts] = [numbers(&tables), numbers(&starts)];
    // What this operation does not read may be another step's.
    let other = SeqRows { n_rows: 1, start_pos: 0, block_table: &[0] };
    let other = PagedRows::new(device, &[other]).unwrap();
    let on_device = PagedRows { tables, table_starts, seq_of_row, key_counts, ..other };
    Case { rows: on_device, places: rows.iter().map(|row| row.2).collect() }
}

fn check_cuda(device: &Device, (n_kv_heads, head_dim, block_size): (usize, usize, usize)) {
    let dtype = device.compute_dtype();
    let layout = KvLayout { block_size, n_layers: 3, n_kv_heads, head_dim, dtype };
    let mut kv = KvPool::on(device, layout, N_BLOCKS).unwrap();
    let all: Vec<u32> = (0..=N_BLOCKS as u32).collect();
    fill_blocks(device, &mut kv, &all, 0xFF).unwrap();
    let Case { rows, places } = case(device, block_size);
    let (width, queries) = ((2 + 2 * n_kv_heads) * head_dim, 2 * head_dim);
    let values = Random(head_dim as u64).units(places.len() * width);
    let qkv = rounded(dtype, &[places.len(), width], &values);
    let layer = 1;
    kv_write(device, &qkv.to_device(device).unwrap(), (&mut kv, layer), &rows).unwrap();
    let mut expected = vec![0xFF; kv.arena.n_bytes()];
    let head_bytes = head_dim * dtype.n_bytes();
    for (row, place) in places.iter().enumerate() {
        let Some((block, token)) = place else { continue };
        for (which, head) in (0..2 * n_kv_heads).map(|i| (i / n_kv_heads, i % n_kv_heads)) {
            let column = queries + (which * n_kv_heads + head) * head_dim;
            let from = (row * width + column) * dtype.n_bytes();
            // [block][kv_head][layer][K|V][token][dim]
            let plane = ((block * n_kv_heads + head) * 3 + layer) * 2 + which;
            let to = (plane * block_size + token) * head_bytes;
            expected[to..to + head_bytes].copy_from_slice(&qkv.bytes()[from..from + head_bytes]);
        }
    }
    let what = format!("{n_kv_heads} heads of {head_dim}, blocks of {block_size}");
    assert!(arena_bytes(device, &kv.arena) == expected, "{what}, {}", dtype.name());
}

#[test]
fn cuda_rows_go_where_the_layout_says_and_nowhere_else() {
    for device in gpus() {
        CUDA_CASES.iter().for_each(|&case| check_cuda(&device, case));
    }
}
