//! The limits a scheduler works under.

use types::{Error, Result};

/// Sizes of the pool, of a step and of the queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Tokens in a KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub n_blocks: usize,
    /// Most sequences (choices) that hold a place in the running batch.
    pub max_batch_size: usize,
    /// Most token rows in one step; not less than `max_batch_size`.
    pub max_num_tokens: usize,
    /// Fewest tokens of a prompt that are computed while the rows after them are still missing.
    pub min_piece_tokens: usize,
    /// Most tokens of prompt and answer together.
    pub max_seq_len: usize,
    /// Most requests that wait for their turn, and apart from them most imports.
    pub max_queue_len: usize,
    /// Whether blocks are shared among requests with the same prefix.
    pub reuse_blocks: bool,
    /// Most patches in one encoder step (a larger item runs alone).
    pub encoder_max_num_tokens: usize,
    /// Most items in one encoder step.
    pub encoder_max_batch_size: usize,
}

impl SchedulerConfig {
    /// Errors: a size of zero, or a step that cannot hold one row per sequence.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("tokens_per_block", self.block_size),
            ("KV blocks", self.n_blocks),
            ("max_batch_size", self.max_batch_size),
            ("max_seq_len", self.max_seq_len),
            ("queue length", self.max_queue_len),
            ("encoder_max_num_tokens", self.encoder_max_num_tokens),
            ("encoder_max_batch_size", self.encoder_max_batch_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::invalid(format!("{name} must be at least 1")));
        }
        if self.max_num_tokens < self.max_batch_size {
            return Err(Error::invalid(format!(
                "max_num_tokens ({}) must be at least max_batch_size ({}): every running sequence \
                 takes one row of a step",
                self.max_num_tokens, self.max_batch_size
            )));
        }
        Ok(())
    }

    /// Most tokens of one sequence: the context, or the pool where that is smaller.
    pub fn seq_len_max(&self) -> usize {
        self.max_seq_len.min(self.n_blocks * self.block_size)
    }

    /// Blocks that hold the KV of `n_tokens` tokens.
    pub(crate) fn blocks_for(&self, n_tokens: usize) -> usize {
        n_tokens.div_ceil(self.block_size)
    }
}
