//! What an engine sees of a model: one step over a batch of sequences, with all that the step needs
//! in its input. No ambient state; the KV cache belongs to the caller.

use crate::processor::PreparedMedia;
use crate::step::Step;
use tensor::{Device, KvPool, Tensor};
use types::prompt::{ExpandedPrompt, Placeholder};
use types::{Result, TokenId};

/// A loaded model.
///
/// On the processor the bits of a row never depend on its neighbours in the batch, on how a prompt
/// was cut into chunks, on where its KV blocks lie, or on the number of threads.
pub trait Model: Send + Sync {
    /// Shapes, limits and special tokens.
    fn spec(&self) -> &ModelSpec;

    /// Runs tower and projector: f32 `[sum of n_tokens, hidden_size]`, the media in order, on a
    /// lane of the model's device.
    fn encode(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor>;

    /// The rotary positions of a prompt.
    fn positions(&self, prompt: &ExpandedPrompt) -> Positions;

    /// One step on a lane of the model's device: writes keys and values of all rows, returns f32
    /// `[rows wanted, vocab_size]`.
    ///
    /// The blocks that the tables name and that this step writes must be nobody else's.
    fn forward(&self, device: &Device, step: &Step<'_>, kv: &mut KvPool) -> Result<Tensor>;
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
    /// Query heads of the text model.
    pub n_heads: usize,
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
    /// Of a model whose tokens are simply counted, on all axes alike.
    pub(crate) fn counted(n_tokens: usize) -> Self {
        Self { rows: (0..n_tokens as u32).map(|position| [position; 3]).collect(), delta: 0 }
    }

    /// The position of the token at index `idx`, in the prompt or behind it.
    pub fn at(&self, idx: usize) -> [u32; 3] {
        let behind = || [(idx as i64 + self.delta) as u32; 3];
        self.rows.get(idx).copied().unwrap_or_else(behind)
    }
}
