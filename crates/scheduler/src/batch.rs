//! What one step computes, complete in itself: the device needs nothing else of the scheduler.

use crate::sequence::Rank;
use types::{RequestId, TokenId};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of the step; rises by one each time.
    pub step: u64,
    /// Blocks to copy before the step computes anything, in any order.
    pub copies: Vec<BlockCopy>,
    /// The sequences that take part, those with a single row first.
    pub seqs: Vec<SeqStep>,
}

impl Batch {
    /// Token rows of the step.
    pub fn n_rows(&self) -> usize {
        self.seqs.iter().map(|seq| seq.tokens.len()).sum()
    }

    /// Tokens that the step samples.
    pub fn n_samples(&self) -> usize {
        self.seqs.iter().map(|seq| seq.n_samples as usize).sum()
    }
}

/// A whole block to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// Source block.
    pub from: u32,
    /// Destination block.
    pub to: u32,
}

/// The part of one sequence in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeqStep {
    /// The sequence.
    pub rank: Rank,
    /// Its request.
    pub request: RequestId,
    /// The choice that the first sample is for; further samples are for the choices after it.
    pub first_choice: u32,
    /// How many choices take their next token from the last row: 0 for a chunk that ends before the
    /// last known token, the number of choices at the end of a fresh prompt, otherwise 1.
    pub n_samples: u32,
    /// Position of the first row; so many tokens are in the blocks already.
    pub start_pos: usize,
    /// The tokens of the rows; never empty.
    pub tokens: Vec<TokenId>,
    /// The last of them is not known yet, and 0 stands in for it: it is this sample of the step
    /// before.
    pub carried: Option<u32>,
    /// The sequence's blocks, enough for all rows.
    pub block_table: Vec<u32>,
}
