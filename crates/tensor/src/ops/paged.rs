//! The rows of a step and their places in the paged cache, in the form that operations read.
//!
//! Contract. Rows are flattened, sequence after sequence. Sequence `s` keeps key `i` in block
//! `tables[table_starts[s] + i / block_size]`, at place `i % block_size`. Row `r` belongs to
//! sequence `seq_of_row[r]`, sees its first `key_counts[r]` keys, and is itself the last of them;
//! a row that sees none stands in for nothing: it is not written, and attends to zeros. All are
//! numbers of 32 bits, on the device: a recorded step reads them anew each time.

use super::attention::work::{Work, WorkParts, splits_max};
use super::misuse;
use super::pack::{Pack, Packed, Part};
use crate::device::Device;
use crate::kv::KvPool;
use crate::tensor::Tensor;
use types::Result;

/// The rows of one sequence in a step.
#[derive(Debug, Clone, Copy)]
pub struct SeqRows<'a> {
    /// Rows of this step.
    pub n_rows: usize,
    /// Tokens of the sequence that are in the KV cache already.
    pub start_pos: usize,
    /// The sequence's blocks, covering at least `start_pos + n_rows` tokens.
    pub block_table: &'a [u32],
}

/// The rows of a step, on the device.
#[derive(Debug)]
pub struct PagedRows {
    /// u32, one sequence's blocks after the other's.
    pub tables: Tensor,
    /// u32 `[n_seqs]`: where each sequence's blocks begin in `tables`.
    pub table_starts: Tensor,
    /// u32 `[n_rows]`.
    pub seq_of_row: Tensor,
    /// u32 `[n_rows]`.
    pub key_counts: Tensor,
    /// What the host knows of each sequence.
    pub spans: Vec<RowSpan>,
    /// What attention does with them.
    pub(super) work: Work,
}

/// The rows of one sequence, as the host sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowSpan {
    /// The first of its rows.
    pub first_row: usize,
    /// How many there are.
    pub n_rows: usize,
    /// Keys that its last row sees.
    pub n_keys: usize,
}

/// The rows themselves, on the host.
struct Rows {
    spans: Vec<RowSpan>,
    key_counts: Vec<u32>,
    seq_of_row: Vec<u32>,
}

/// The place of a recorded step's rows: everything is where it would be for the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Sequences, each of one row.
    pub n_seqs: usize,
    /// Most keys that one of them sees.
    pub n_keys_max: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// The block that sequences name which stand in for nothing.
    pub spare_block: u32,
}

/// [`PagedRows`] on their way to a device.
#[derive(Debug, Clone)]
pub struct PagedParts {
    tables: Part,
    table_starts: Part,
    seq_of_row: Part,
    key_counts: Part,
    work: WorkParts,
    n_blocks: usize,
    n_rows: usize,
    spans: Vec<RowSpan>,
}

impl PagedRows {
    /// The rows of `seqs`, of which only `wanted` (ascending, among all rows) if it is given.
    pub fn pack(pack: &mut Pack, seqs: &[SeqRows<'_>], wanted: Option<&[usize]>) -> PagedParts {
        let (mut spans, mut key_counts, mut seq_of_row) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        for (seq_idx, seq) in seqs.iter().enumerate() {
            let own = first..first + seq.n_rows;
            let first_row = key_counts.len();
            let rows =
                own.clone().filter(|row| wanted.is_none_or(|all| all.binary_search(row).is_ok()));
            key_counts.extend(rows.map(|row| (seq.start_pos + row - own.start + 1) as u32));
            let n_rows = key_counts.len() - first_row;
            seq_of_row.resize(key_counts.len(), seq_idx as u32);
            let n_keys = key_counts[first_row..].last().map_or(0, |count| *count as usize);
            spans.push(RowSpan { first_row, n_rows, n_keys });
            first = own.end;
        }
        Self::parts(pack, seqs, Rows { spans, key_counts, seq_of_row }, 0)
    }

    /// The rows of `seqs`, one each, in the place of as many sequences as there is room for; those
    /// beyond see no keys. The last to be added to a pack.
    ///
    /// Errors: more sequences, rows or keys than there is room for.
    pub fn pack_in(pack: &mut Pack, seqs: &[SeqRows<'_>], room: Room) -> Result<PagedParts> {
        let Room { n_seqs, n_keys_max, block_size, .. } = room;
        let n_blocks_max = n_keys_max.div_ceil(block_size);
        let fits = |seq: &SeqRows<'_>| {
            seq.n_rows == 1 && seq.start_pos < n_keys_max && seq.block_table.len() <= n_blocks_max
        };
        if seqs.len() > n_seqs || !seqs.iter().all(fits) {
            return Err(misuse("paged rows", "a step that does not fit into its room"));
        }
        let mut key_counts: Vec<u32> = seqs.iter().map(|seq| seq.start_pos as u32 + 1).collect();
        let mut starts: Vec<u32> = starts(seqs).collect();
        key_counts.resize(n_seqs, 0);
        // The spare block comes last, so that every table ends where the next one begins; the
        // sequences that stand in for nothing have no other.
        let n_own_blocks: usize = seqs.iter().map(|seq| seq.block_table.len()).sum();
        starts.resize(n_seqs, n_own_blocks as u32);
        let span = |(first_row, count): (usize, &u32)| RowSpan {
            first_row,
            n_rows: 1,
            n_keys: *count as usize,
        };
        let spans: Vec<RowSpan> = key_counts.iter().enumerate().map(span).collect();
        let n_splits = n_seqs * splits_max(n_keys_max);
        let work = WorkParts::pack(pack, &spans, &key_counts, &starts, n_splits);
        let tables = seqs.iter().flat_map(|seq| seq.block_table.iter().copied());
        let n_blocks = 1 + n_seqs * n_blocks_max;
        Ok(PagedParts {
            n_rows: n_seqs,
            work,
            n_blocks,
            table_starts: pack.add(starts),
            seq_of_row: pack.add(0..n_seqs as u32),
            key_counts: pack.add(key_counts),
            tables: pack.add_last(tables.chain([room.spare_block]), n_blocks),
            spans,
        })
    }

    /// Rows of which each sees as many keys as it is told; attention's list has `room` for as many
    /// parts of rows at least.
    #[cfg(test)]
    pub(super) fn pack_with_counts(
        pack: &mut Pack,
        seqs: &[SeqRows<'_>],
        key_counts: &[u32],
        room: usize,
    ) -> PagedParts {
        let (mut spans, mut seq_of_row) = (Vec::new(), Vec::new());
        for (seq_idx, seq) in seqs.iter().enumerate() {
            let first_row = seq_of_row.len();
            seq_of_row.resize(first_row + seq.n_rows, seq_idx as u32);
            let n_keys = key_counts[seq_of_row.len() - 1] as usize;
            spans.push(RowSpan { first_row, n_rows: seq.n_rows, n_keys });
        }
        Self::parts(pack, seqs, Rows { spans, key_counts: key_counts.to_vec(), seq_of_row }, room)
    }

    fn parts(pack: &mut Pack, seqs: &[SeqRows<'_>], rows: Rows, room: usize) -> PagedParts {
        let Rows { spans, key_counts, seq_of_row } = rows;
        let starts: Vec<u32> = starts(seqs).collect();
        PagedParts {
            n_rows: key_counts.len(),
            work: WorkParts::pack(pack, &spans, &key_counts, &starts, room),
            n_blocks: seqs.iter().map(|seq| seq.block_table.len()).sum(),
            table_starts: pack.add(starts),
            seq_of_row: pack.add(seq_of_row),
            key_counts: pack.add(key_counts),
            tables: pack.add(seqs.iter().flat_map(|seq| seq.block_table.iter().copied())),
            spans,
        }
    }

    /// The rows of `seqs` by themselves.
    ///
    /// Errors: the device has no memory left, or fails.
    pub fn new(device: &Device, seqs: &[SeqRows<'_>]) -> Result<Self> {
        let mut pack = Pack::default();
        let parts = Self::pack(&mut pack, seqs, None);
        parts.unpack(&pack.to_device(device)?)
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.key_counts.n_elements()
    }

    /// The blocks of sequence `seq_idx`; panics if they lie on a GPU.
    pub fn table(&self, seq_idx: usize) -> &[u32] {
        let starts = self.table_starts.as_slice::<u32>();
        let end = starts.get(seq_idx + 1).map_or(self.tables.n_elements(), |end| *end as usize);
        &self.tables.as_slice::<u32>()[starts[seq_idx] as usize..end]
    }

    /// Whether every key that a row sees lies in a block of the pool; what lies on a GPU has been
    /// checked by whoever made it.
    pub(super) fn fit(&self, kv: &KvPool) -> bool {
        if !self.key_counts.is_on_host() {
            return true;
        }
        let counts = self.key_counts.as_slice::<u32>();
        self.spans.iter().enumerate().all(|(idx, span)| {
            let table = self.table(idx);
            let needed = table.get(..span.n_keys.div_ceil(kv.layout.block_size));
            let in_pool =
                |blocks: &[u32]| blocks.iter().all(|&block| (block as usize) < kv.n_blocks);
            counts[span.first_row..span.first_row + span.n_rows].iter().all(|&count| count > 0)
                && needed.is_some_and(in_pool)
        })
    }
}

/// Where each sequence's blocks begin.
fn starts(seqs: &[SeqRows<'_>]) -> impl Iterator<Item = u32> {
    seqs.iter().scan(0, |next, seq| {
        let start = *next;
        *next += seq.block_table.len() as u32;
        Some(start)
    })
}

impl PagedParts {
    /// The rows, once their pack is on the device.
    ///
    /// Errors: it is another pack.
    pub fn unpack(self, packed: &Packed) -> Result<PagedRows> {
        if self.spans.iter().map(|span| span.n_rows).sum::<usize>() != self.n_rows {
            return Err(misuse("paged rows", "sequences and rows do not match"));
        }
        Ok(PagedRows {
            tables: packed.tensor(&self.tables, &[self.n_blocks])?,
            table_starts: packed.tensor(&self.table_starts, &[self.spans.len()])?,
            seq_of_row: packed.tensor(&self.seq_of_row, &[self.n_rows])?,
            key_counts: packed.tensor(&self.key_counts, &[self.n_rows])?,
            spans: self.spans,
            work: self.work.unpack(packed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_as_the_contract_says() {
        let device = Device::all_cpus();
        let seqs = [
            SeqRows { n_rows: 3, start_pos: 4, block_table: &[7, 8] },
            SeqRows { n_rows: 1, start_pos: 0, block_table: &[9] },
            SeqRows { n_rows: 2, start_pos: 1, block_table: &[1, 2, 3] },
        ];
        let mut pack = Pack::default();
        let all = PagedRows::pack(&mut pack, &seqs, None);
        let some = PagedRows::pack(&mut pack, &seqs, Some(&[2, 3]));
        let packed = pack.to_device(&device).unwrap();
        let (all, some) = (all.unpack(&packed).unwrap(), some.unpack(&packed).unwrap());
        assert_eq!(all.key_counts.as_slice::<u32>(), [5, 6, 7, 1, 2, 3]);
        assert_eq!(all.seq_of_row.as_slice::<u32>(), [0, 0, 0, 1, 2, 2]);
        assert_eq!([all.table(0), all.table(1), all.table(2)], [&[7, 8][..], &[9], &[1, 2, 3]]);
        assert_eq!(some.key_counts.as_slice::<u32>(), [7, 1]);
        assert_eq!(some.seq_of_row.as_slice::<u32>(), [0, 1]);
        assert_eq!(some.spans[2], RowSpan { first_row: 2, n_rows: 0, n_keys: 0 });
        assert_eq!(some.table(2), [1, 2, 3]);
    }

    #[test]
    fn rows_that_stand_in_for_nothing_name_the_spare_block() {
        let room = Room { n_seqs: 3, n_keys_max: 6, block_size: 2, spare_block: 99 };
        let seq = |start_pos, block_table| SeqRows { n_rows: 1, start_pos, block_table };
        let seqs = [seq(4, &[7, 8, 9][..]), seq(0, &[5])];
        let mut pack = Pack::default();
        let before = pack.add([1]);
        let rows = PagedRows::pack_in(&mut pack, &seqs, room).unwrap();
        let n_words = pack.words().len();
        let mut full = Pack::default();
        assert_eq!(full.add([1]), before);
        let full_rows = PagedRows::pack_in(&mut full, &[seq(5, &[1, 2, 3]); 3], room).unwrap();
        assert_eq!(full.words().len(), n_words + 5, "only tables grow");
        let places = |rows: &PagedParts| {
            [&rows.tables, &rows.table_starts, &rows.seq_of_row, &rows.key_counts].map(Part::clone)
        };
        assert_eq!(places(&rows), places(&full_rows));
        // On the host the place must be filled up to be looked at.
        let _ = pack.add_padded([], 6, 0);
        let rows = rows.unpack(&pack.to_device(&Device::all_cpus()).unwrap()).unwrap();
        assert_eq!(rows.tables.as_slice::<u32>()[..5], [7, 8, 9, 5, 99]);
        assert_eq!(rows.table_starts.as_slice::<u32>(), [0, 3, 4]);
        assert_eq!([rows.table(0), rows.table(1)], [&[7, 8, 9][..], &[5]]);
        assert_eq!(rows.table(2)[0], 99);
        assert_eq!(rows.key_counts.as_slice::<u32>(), [5, 1, 0]);
        assert_eq!(rows.seq_of_row.as_slice::<u32>(), [0, 1, 2]);
        assert_eq!(rows.work.splits.as_slice::<u32>()[..2], [3, 0]);
        for seqs in [&[seq(6, &[1, 2, 3])][..], &[seq(0, &[1, 2, 3, 4])], &[seq(0, &[1]); 4]] {
            assert!(PagedRows::pack_in(&mut Pack::default(), seqs, room).is_err());
        }
        let two = SeqRows { n_rows: 2, start_pos: 0, block_table: &[1] };
        assert!(PagedRows::pack_in(&mut Pack::default(), &[two], room).is_err());
    }
}
