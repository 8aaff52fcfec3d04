//! Writing keys and values into the paged cache.
//!
//! Contract. `qkv` `[rows, (heads + 2 · kv_heads) · dim]` in the compute type: queries, keys,
//! values; each row goes to its place as [`PagedRows`] says.

use super::misuse;
use super::paged::PagedRows;
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
        && layout.dtype == device.compute_dtype()
        && rows.n_rows() == qkv.n_rows()
        && rows.fit(kv);
    if !fits {
        return Err(misuse("kv_write", "the rows do not fit the cache or the tables"));
    }
    match device {
        Device::Cpu(_) => run_cpu(qkv, (kv, layer), rows),
        Device::Cuda(_) => return Err(misuse("kv_write", "not on a GPU yet")),
    }
    Ok(())
}

fn run_cpu(qkv: &Tensor, (kv, layer): (&mut KvPool, usize), rows: &PagedRows) {
    let kv_width = kv.layout.n_kv_heads * kv.layout.head_dim;
    let key_counts = rows.key_counts.as_slice::<u32>();
    for (seq_idx, span) in rows.spans.iter().enumerate() {
        let table = rows.table(seq_idx);
        for idx in span.first_row..span.first_row + span.n_rows {
            let row = qkv.row(idx);
            let (keys, values) = row[row.len() - 2 * kv_width..].split_at(kv_width);
            write_row(kv, layer, (table, key_counts[idx] as usize - 1), (keys, values));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::kv::KvLayout;
    use crate::ops::cases::Random;
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
}
