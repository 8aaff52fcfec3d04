//! Writing keys and values into the paged cache.
//!
//! Contract. `qkv` f32 `[rows, (heads + 2 · kv_heads) · dim]`: queries, keys, values; the rows of a
//! sequence go to its positions `start_pos..`, in the block that its table names.

use super::misuse;
use crate::device::Device;
use crate::dtype::DType;
use crate::kv::KvPool;
use crate::tensor::Tensor;
use types::Result;

/// Rows of one sequence and the place of their keys.
#[derive(Debug, Clone, Copy)]
pub struct KvRows<'a> {
    /// The first of its rows.
    pub first_row: usize,
    /// How many there are.
    pub n_rows: usize,
    /// Position of the first one.
    pub start_pos: usize,
    /// The sequence's blocks.
    pub block_table: &'a [u32],
}

/// Writes the keys and values of all rows of `seqs` for one layer.
///
/// Errors: shapes that do not fit, a table that is too short or names no block.
pub fn kv_write(
    device: &Device,
    qkv: &Tensor,
    (kv, layer): (&mut KvPool, usize),
    seqs: &[KvRows<'_>],
) -> Result<()> {
    let layout = kv.layout;
    let kv_width = layout.n_kv_heads * layout.head_dim;
    let fits = 2 * kv_width <= qkv.row_len()
        && layer < layout.n_layers
        && layout.dtype == DType::F32
        && seqs.iter().all(|seq| is_covered(seq, qkv.n_rows(), kv));
    if !fits {
        return Err(misuse("kv_write", "the rows do not fit the cache or the tables"));
    }
    let Device::Cpu(_) = device;
    for seq in seqs {
        for idx in 0..seq.n_rows {
            let row = qkv.row(seq.first_row + idx);
            let (keys, values) = row[row.len() - 2 * kv_width..].split_at(kv_width);
            write_row(kv, layer, (seq.block_table, seq.start_pos + idx), (keys, values));
        }
    }
    Ok(())
}

fn is_covered(seq: &KvRows<'_>, n_rows: usize, kv: &KvPool) -> bool {
    let first_block = seq.start_pos / kv.layout.block_size;
    let n_blocks = (seq.start_pos + seq.n_rows).div_ceil(kv.layout.block_size);
    let written = seq.block_table.get(first_block..n_blocks);
    seq.first_row + seq.n_rows <= n_rows
        && written.is_some_and(|blocks| blocks.iter().all(|&block| (block as usize) < kv.n_blocks))
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
    use crate::kv::KvLayout;
    use crate::ops::cases::Random;

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
        let qkv = Random(3).tensor(&[5, 30]);
        let (table, start, layer) = ([3, 0], 2, 1);
        let rows = KvRows { first_row: 1, n_rows: 4, start_pos: start, block_table: &table };
        kv_write(&Device::all_cpus(), &qkv, (&mut kv, layer), &[rows]).unwrap();
        let mut expected = vec![0.0; elements(&kv).len()];
        for idx in 0..4 {
            let (block, token) = (table[(start + idx) / 4] as usize, (start + idx) % 4);
            for (head, which, dim) in (0..20).map(|i| (i / 10, i / 5 % 2, i % 5)) {
                // [block][kv_head][layer][K|V][token][dim]
                let at = ((((block * 2 + head) * 3 + layer) * 2 + which) * 4 + token) * 5 + dim;
                // Behind ten columns of queries: keys of both heads, then values of both.
                expected[at] = qkv.row(1 + idx)[10 + which * 10 + head * 5 + dim];
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
            let rows = KvRows { first_row: 0, n_rows, start_pos, block_table };
            kv_write(&device, &qkv, (&mut kv, layer), &[rows])
        };
        assert!(run(5, 0, &[1, 2], 2).is_ok());
        assert!(run(5, 0, &[1], 2).is_err(), "the table is too short");
        assert!(run(5, 4, &[9, 1, 2], 2).is_ok(), "a block before the rows is not written");
        assert!(run(5, 0, &[1, 4], 2).is_err(), "there is no such block");
        assert!(run(6, 0, &[1, 2], 2).is_err(), "there are no such rows");
        assert!(run(5, 0, &[1, 2], 3).is_err(), "there is no such layer");
    }
}
