//! What a GPU's attention has to do in a step, as lists that its kernels read: made once on the
//! host, for all layers and whatever heads they have.
//!
//! Contract. A list is u32 `[1 + n, 4]`: how many entries count, then the entries.
//! Sequences with few rows are *split*: each row is an entry for every part of its keys,
//! `[start of its table, row, part | parts << 8 | log2(keys of a part) << 16, end of the part]`,
//! the parts of a row in order. How a row's keys are cut depends on their number alone, so its
//! result does not depend on its neighbours. Other sequences are *spans*,
//! `[start of the table, first row, rows, 0]`, which the kernel cuts into tiles.
//! Must not know heads, layers or memory.

use crate::cuda::Cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::ops::pack::{Pack, Packed, Part};
use crate::ops::paged::RowSpan;
use crate::tensor::Tensor;
use std::sync::{Mutex, PoisonError};
use types::Result;

/// Most rows of a sequence that are split: for more, keys are better read once for many rows.
pub(in crate::ops) const SPLIT_ROWS_MAX: usize = 4;
/// Keys of a part of a short row, and of a longer one, except where there would be too many parts:
/// few enough that one sequence keeps many blocks busy (1 row of 1024 keys on an H200: 8.9 µs in
/// parts of 256), enough that putting rows together keeps up (64 rows of 4096 keys: 145 µs in parts
/// of 512, 167 µs in parts of 256).
const SHORT_SPLIT_KEYS: usize = 256;
const LONG_SPLIT_KEYS: usize = 512;
/// Most keys of a short row.
const SHORT_ROW_KEYS: usize = 2048;
/// Most parts of a row, one for each lane of the warp that adds them up; it also bounds what is
/// kept of them.
pub(in crate::ops) const SPLITS_MAX: usize = 32;

/// The lists of a step, on their way to a device.
#[derive(Debug, Clone)]
pub(in crate::ops) struct WorkParts {
    splits: Part,
    spans: Part,
    n_splits_max: usize,
    rows_of_spans: Vec<usize>,
}

/// The lists of a step.
#[derive(Debug)]
pub(in crate::ops) struct Work {
    /// u32 `[1 + n_splits_max, 4]`.
    pub(in crate::ops) splits: Tensor,
    /// u32 `[1 + spans, 4]`.
    pub(in crate::ops) spans: Tensor,
    /// Entries that `splits` has room for.
    pub(in crate::ops) n_splits_max: usize,
    /// Rows of each span.
    pub(in crate::ops) rows_of_spans: Vec<usize>,
    /// Zeros by which the blocks that share a row find out who is last; all of them again after
    /// each launch.
    arrivals: Mutex<Option<Tensor>>,
}

impl WorkParts {
    /// The lists for rows that see `key_counts` keys, whose sequences' tables begin at `starts`.
    /// `room` is for how many split entries there must be a place at least: a recorded step wants
    /// [`splits_max`] for each of its sequences.
    pub(in crate::ops) fn pack(
        pack: &mut Pack,
        spans: &[RowSpan],
        key_counts: &[u32],
        starts: &[u32],
        room: usize,
    ) -> Self {
        let (mut splits, mut tiled, mut rows_of_spans) = (Vec::new(), Vec::new(), Vec::new());
        for (span, &start) in spans.iter().zip(starts).filter(|(span, _)| span.n_rows > 0) {
            if span.n_rows > SPLIT_ROWS_MAX {
                tiled.push([start, span.first_row as u32, span.n_rows as u32, 0]);
                rows_of_spans.push(span.n_rows);
                continue;
            }
            let rows = span.first_row..span.first_row + span.n_rows;
            for (row, &n_keys) in rows.clone().zip(&key_counts[rows]) {
                splits.extend(splits_of_row(start, row as u32, n_keys));
            }
        }
        let n_splits_max = splits.len().max(room);
        let words = with_count(&splits);
        Self {
            splits: pack.add_padded(words, (1 + n_splits_max) * 4, 0),
            spans: pack.add(with_count(&tiled)),
            n_splits_max,
            rows_of_spans,
        }
    }

    /// The lists, once their pack is on the device.
    ///
    /// Errors: it is another pack.
    pub(in crate::ops) fn unpack(self, packed: &Packed) -> Result<Work> {
        Ok(Work {
            splits: packed.tensor(&self.splits, &[1 + self.n_splits_max, 4])?,
            spans: packed.tensor(&self.spans, &[1 + self.rows_of_spans.len(), 4])?,
            n_splits_max: self.n_splits_max,
            rows_of_spans: self.rows_of_spans,
            arrivals: Mutex::default(),
        })
    }
}

impl Work {
    /// Spans of consecutive rows that have no table, however short they are.
    ///
    /// Errors: the device has no memory left, or fails.
    pub(in crate::ops) fn of_segments(device: &Device, lens: &[usize]) -> Result<Self> {
        let rows_of_spans: Vec<usize> = lens.iter().copied().filter(|&len| len > 0).collect();
        let spans: Vec<[u32; 4]> = rows_of_spans
            .iter()
            .scan(0, |first_row, &len| {
                let span = [0, *first_row, len as u32, 0];
                *first_row += len as u32;
                Some(span)
            })
            .collect();
        let mut pack = Pack::default();
        let splits = pack.add(with_count(&[]));
        let spans = pack.add(with_count(&spans));
        let parts = WorkParts { splits, spans, n_splits_max: 0, rows_of_spans };
        parts.unpack(&pack.to_device(device)?)
    }

    /// The address of `n` zeros, the same for all layers of a step that share this list.
    ///
    /// Errors: the device has no memory left, or fails.
    pub(in crate::ops) fn arrivals(&self, device: &Device, cuda: &Cuda, n: usize) -> Result<u64> {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zeros) = arrivals.as_ref().filter(|zeros| zeros.n_elements() >= n) {
            return Ok(zeros.address());
        }
        let mut zeros = Tensor::scratch_on(device, DType::U32, &[n])?;
        cuda.fill(&mut zeros, 0)?;
        Ok(arrivals.insert(zeros).address())
    }
}

/// Keys of a part of a row that sees `n_keys`: a power of two.
fn keys_of_split(n_keys: usize) -> usize {
    let least = if n_keys <= SHORT_ROW_KEYS { SHORT_SPLIT_KEYS } else { LONG_SPLIT_KEYS };
    n_keys.div_ceil(SPLITS_MAX).next_power_of_two().max(least)
}

/// Most parts of any row that sees at most `n_keys_max`.
pub(in crate::ops) fn splits_max(n_keys_max: usize) -> usize {
    let of_short = n_keys_max.min(SHORT_ROW_KEYS).div_ceil(SHORT_SPLIT_KEYS);
    n_keys_max.div_ceil(LONG_SPLIT_KEYS).max(of_short).clamp(1, SPLITS_MAX)
}

fn splits_of_row(start: u32, row: u32, n_keys: u32) -> impl Iterator<Item = [u32; 4]> {
    let len = keys_of_split(n_keys as usize) as u32;
    // A row without keys has one part as well: somebody must write its zeros.
    let n_splits = n_keys.div_ceil(len).max(1);
    let shape = (n_splits << 8) | (len.ilog2() << 16);
    (0..n_splits).map(move |split| [start, row, split | shape, n_keys.min((split + 1) * len)])
}

fn with_count(entries: &[[u32; 4]]) -> impl Iterator<Item = u32> {
    std::iter::once([entries.len() as u32, 0, 0, 0]).chain(entries.iter().copied()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of all parts of a row, as the kernels read an entry.
    fn keys(n_keys: u32) -> Vec<(u32, u32)> {
        let entries: Vec<[u32; 4]> = splits_of_row(7, 3, n_keys).collect();
        for (idx, entry) in entries.iter().enumerate() {
            assert_eq!(entry[..2], [7, 3]);
            assert_eq!(entry[2] & 0xFF, idx as u32);
            assert_eq!(((entry[2] >> 8) & 0xFF) as usize, entries.len());
        }
        entries.iter().map(|entry| ((entry[2] & 0xFF) << (entry[2] >> 16), entry[3])).collect()
    }

    #[test]
    fn parts_cover_all_keys_once() {
        assert_eq!(keys(0), [(0, 0)]);
        assert_eq!(keys(1), [(0, 1)]);
        assert_eq!(keys(256), [(0, 256)]);
        assert_eq!(keys(257), [(0, 256), (256, 257)]);
        assert_eq!(keys(2048).len(), 8);
        assert_eq!(keys(2049), [(0, 512), (512, 1024), (1024, 1536), (1536, 2048), (2048, 2049)]);
        for n_keys in [16_383, 16_384, 16_385, 32_768, 100_000, 131_072] {
            let keys = keys(n_keys);
            assert!(keys.len() <= SPLITS_MAX && keys.len() > SPLITS_MAX / 4, "{n_keys}");
            assert!(keys.windows(2).all(|two| two[0].1 == two[1].0), "{n_keys}");
            assert!(keys.iter().all(|(first, end)| first < end), "{n_keys}");
            assert_eq!((keys[0].0, keys[keys.len() - 1].1), (0, n_keys));
        }
    }

    #[test]
    fn no_row_has_more_parts_than_foreseen() {
        for n_keys_max in [1, 256, 257, 2048, 2049, 2500, 4000, 8192, 8193, 20_000] {
            let n_parts_max = (1..=n_keys_max as u32).map(|n_keys| keys(n_keys).len()).max();
            assert_eq!(n_parts_max, Some(splits_max(n_keys_max)), "{n_keys_max}");
        }
    }

    #[test]
    fn short_sequences_are_split_and_others_are_spans() {
        let span = |first_row, n_rows| RowSpan { first_row, n_rows, n_keys: 0 };
        let spans = [span(0, 1), span(1, 5), span(6, 0), span(6, 2)];
        let counts = [300, 1, 2, 3, 4, 5, 8, 9];
        let mut pack = Pack::default();
        let parts = WorkParts::pack(&mut pack, &spans, &counts, &[10, 20, 30, 40], 9);
        let work = parts.unpack(&pack.to_device(&Device::all_cpus()).unwrap()).unwrap();
        let splits = work.splits.as_slice::<u32>();
        assert_eq!((splits.len(), splits[0], work.n_splits_max), (40, 4, 9));
        let starts: Vec<(u32, u32)> =
            splits[4..20].chunks(4).map(|entry| (entry[0], entry[1])).collect();
        assert_eq!(starts, [(10, 0), (10, 0), (40, 6), (40, 7)]);
        assert_eq!(work.spans.as_slice::<u32>(), [1, 0, 0, 0, 20, 1, 5, 0]);
        assert_eq!(work.rows_of_spans, [5]);
    }
}
