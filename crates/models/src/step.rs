//! What one step of a model reads, first as the engine describes it, then on the device.

use crate::model::ModelSpec;
use std::ops::Range;
use tensor::ops::{Pack, Packed, PagedParts, PagedRows, Room, SeqRows, pack};
use tensor::{Device, SlabRange, Tensor};
use types::{Error, Result, TokenId};

/// Embedding rows that replace those of placeholder tokens.
#[derive(Debug, Clone)]
pub struct EmbeddingRows<'a> {
    /// Row of the flattened step at which they start.
    pub first_row: usize,
    /// A medium's rows, f32 `[n, hidden_size]`.
    pub of: &'a SlabRange,
    /// Which of them.
    pub rows: Range<usize>,
}

/// All that one step needs. Rows are flattened, sequence after sequence.
#[derive(Debug, Clone, Copy)]
pub struct StepInput<'a> {
    /// Token of each row.
    pub tokens: &'a [TokenId],
    /// Rotary position of each row.
    pub positions: &'a [[u32; 3]],
    /// The sequences, in row order.
    pub seqs: &'a [SeqRows<'a>],
    /// Media rows; each span lies inside one sequence's rows.
    pub embeddings: &'a [EmbeddingRows<'a>],
    /// The rows whose logits are wanted, ascending.
    pub logit_rows: &'a [usize],
}

/// A step whose numbers are on the device.
#[derive(Debug)]
pub struct Step<'a> {
    /// u32 `[n_rows]`.
    pub tokens: Tensor,
    /// u32 `[n_rows, 3]`.
    pub positions: Tensor,
    /// Where the rows are written and what they see.
    pub rows: PagedRows,
    /// The rows whose logits are wanted, where these are not all.
    pub wanted: Option<WantedRows>,
    /// Media rows.
    pub embeddings: &'a [EmbeddingRows<'a>],
}

/// Some rows of a step.
#[derive(Debug)]
pub struct WantedRows {
    /// u32: which rows.
    pub indices: Tensor,
    /// What they see.
    pub rows: PagedRows,
}

/// A step on its way to a device.
#[derive(Debug, Clone)]
pub struct StepParts {
    tokens: pack::Part,
    positions: pack::Part,
    rows: PagedParts,
    wanted: Option<(pack::Part, PagedParts)>,
    n_rows: usize,
    n_wanted: usize,
}

impl<'a> Step<'a> {
    /// Brings a step to the device.
    ///
    /// Errors: rows that do not match; the device has no memory left, or fails.
    pub fn new(device: &Device, spec: &ModelSpec, input: &StepInput<'a>) -> Result<Self> {
        let mut pack = Pack::default();
        let parts = StepParts::pack(&mut pack, spec, input)?;
        parts.unpack(&pack.to_device(device)?, input.embeddings)
    }
}

impl StepParts {
    /// Packs the numbers of a step.
    ///
    /// Errors: rows that do not match.
    pub fn pack(pack: &mut Pack, _spec: &ModelSpec, input: &StepInput<'_>) -> Result<Self> {
        let n_rows = input.tokens.len();
        let wanted = input.logit_rows;
        let rows_fit = input.positions.len() == n_rows
            && input.seqs.iter().map(|seq| seq.n_rows).sum::<usize>() == n_rows;
        let wanted_fit = wanted.is_sorted() && wanted.last() < Some(&n_rows);
        if !rows_fit || !wanted_fit {
            return Err(Error::internal("the rows of a step do not match"));
        }
        let tokens = pack.add(input.tokens.iter().copied());
        let positions = pack.add(input.positions.iter().copied().flatten());
        let rows = PagedRows::pack(pack, input.seqs, None);
        let wanted_parts = (wanted.len() < n_rows).then(|| {
            let indices = pack.add(wanted.iter().map(|&row| row as u32));
            (indices, PagedRows::pack(pack, input.seqs, Some(wanted)))
        });
        let n_wanted = wanted.len();
        Ok(Self { tokens, positions, rows, wanted: wanted_parts, n_rows, n_wanted })
    }

    /// Packs the numbers of a step of single rows, all of whose logits are wanted, in the place of
    /// as many as there is room for: so a recorded step finds them where it looks. The last to be
    /// added to a pack. The rows beyond stand in for nothing, and have logits of anything.
    ///
    /// Errors: rows that do not match, or do not fit into the room.
    pub fn pack_in(pack: &mut Pack, input: &StepInput<'_>, room: Room) -> Result<Self> {
        let n_rows = input.tokens.len();
        let counts = [input.positions.len(), input.seqs.len(), input.logit_rows.len()];
        if counts != [n_rows; 3] || n_rows > room.n_seqs || !input.embeddings.is_empty() {
            return Err(Error::internal("a step does not fit into its recorded form"));
        }
        let positions = input.positions.iter().copied().flatten();
        Ok(Self {
            tokens: pack.add_padded(input.tokens.iter().copied(), room.n_seqs, 0),
            positions: pack.add_padded(positions, room.n_seqs * 3, 0),
            rows: PagedRows::pack_in(pack, input.seqs, room)?,
            wanted: None,
            n_rows: room.n_seqs,
            n_wanted: room.n_seqs,
        })
    }

    /// The step, once its pack is on the device.
    ///
    /// Errors: it is another pack.
    pub fn unpack<'a>(
        self,
        packed: &Packed,
        embeddings: &'a [EmbeddingRows<'a>],
    ) -> Result<Step<'a>> {
        let wanted = self.wanted.map(|(indices, rows)| {
            let indices = packed.tensor(&indices, &[self.n_wanted])?;
            Ok::<_, Error>(WantedRows { indices, rows: rows.unpack(packed)? })
        });
        Ok(Step {
            tokens: packed.tensor(&self.tokens, &[self.n_rows])?,
            positions: packed.tensor(&self.positions, &[self.n_rows, 3])?,
            rows: self.rows.unpack(packed)?,
            wanted: wanted.transpose()?,
            embeddings,
        })
    }
}
