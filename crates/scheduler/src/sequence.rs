//! One line of tokens with its KV blocks: a fresh prompt, or one choice of a request.

use std::cmp::Reverse;
use types::content::BlockKey;
use types::{RequestId, TokenId};

/// Identity of a sequence and its place among all others: the smaller goes first.
///
/// A preempted sequence keeps its rank, so it never starves behind newcomers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    pub(crate) priority: Reverse<i32>,
    pub(crate) arrival: u64,
    pub(crate) choice: u32,
}

/// Tokens, and how many of them are in the KV cache, and where.
#[derive(Debug, Clone)]
pub struct Sequence {
    pub(crate) request: RequestId,
    /// Prompt and answer.
    pub(crate) tokens: Vec<TokenId>,
    /// Leading tokens whose KV is in `blocks`.
    pub(crate) n_computed: usize,
    pub(crate) blocks: Vec<u32>,
    /// Keys of leading full blocks, as far as they were needed.
    pub(crate) keys: Vec<BlockKey>,
    /// Leading blocks that are in the prefix cache.
    pub(crate) n_shared: usize,
    /// The last step launched that names `blocks`.
    pub(crate) last_step: u64,
    /// Whether it has a place in the running batch.
    pub(crate) running: bool,
}

impl Sequence {
    pub(crate) fn new(request: RequestId, tokens: Vec<TokenId>) -> Self {
        Self {
            request,
            tokens,
            n_computed: 0,
            blocks: Vec::new(),
            keys: Vec::new(),
            n_shared: 0,
            last_step: 0,
            running: false,
        }
    }

    /// Prompt and answer so far.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens whose KV is not computed yet.
    pub(crate) fn n_left(&self) -> usize {
        self.tokens.len() - self.n_computed
    }
}
