//! What an engine sees of a model: one step over a batch of sequences, with all that the step needs
//! in its input. No ambient state; the KV cache belongs to the caller.

use crate::processor::PreparedMedia;
use tensor::{KvPool, Tensor};
use types::prompt::{ExpandedPrompt, Placeholder};
use types::{Result, TokenId};

/// A loaded model.
///
/// The bits of a row never depend on its neighbours in the batch, on how a prompt was cut into
/// chunks, on where its KV blocks lie, or on the number of threads.
pub trait Model: Send + Sync {
    /// Shapes, limits and special tokens.
    fn spec(&self) -> &ModelSpec;

    /// Runs tower and projector: f32 `[sum of n_tokens, hidden_size]`, the media in order.
    fn encode(&self, media: &[&PreparedMedia]) -> Result<Tensor>;

    /// The rotary positions of a prompt.
    fn positions(&self, prompt: &ExpandedPrompt) -> Positions;

    /// One step: writes keys and values of all rows, returns f32 `[logit_rows.len(), vocab_size]`.
    ///
    /// The blocks that the tables name and that this step writes must be nobody else's.
    fn forward(&self, step: &StepInput<'_>, kv: &mut KvPool) -> Result<Tensor>;
}

/// Shapes, limits and special tokens of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The name in `config.json`'s `architectures`.
    pub architecture: &'static str,
    /// Columns of the logits (at least the tokenizer's vocabulary; often padded).
    pub vocab_size: usize,
    /// Width of an embedding row.
    pub hidden_size: usize,
    /// What a KV block must hold.
    pub kv: KvShape,
    /// Longest context in tokens.
    pub max_seq_len: usize,
    /// The tokens that stand for media.
    pub placeholders: Vec<Placeholder>,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<TokenId>,
}

/// The model's part of a KV layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers with a cache.
    pub n_layers: usize,
    /// Key-value heads.
    pub n_kv_heads: usize,
    /// Elements of one key.
    pub head_dim: usize,
}

/// Rotary positions: of each prompt token on the axes (time, height, width), and of what follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// One entry per token of the expanded prompt.
    pub rows: Vec<[u32; 3]>,
    /// The token at index `i` behind the prompt has position `i + delta` on all axes.
    pub delta: i64,
}

impl Positions {
    /// The position of the token at index `idx`, in the prompt or behind it.
    pub fn at(&self, idx: usize) -> [u32; 3] {
        let behind = || [(idx as i64 + self.delta) as u32; 3];
        self.rows.get(idx).copied().unwrap_or_else(behind)
    }
}

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

/// Embedding rows that replace those of placeholder tokens.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingRows<'a> {
    /// Row of the flattened step at which they start.
    pub first_row: usize,
    /// `[n, hidden_size]`.
    pub rows: &'a [f32],
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
