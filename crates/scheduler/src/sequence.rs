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
    /// Prompt and answer, and at the end those that launched steps will sample.
    pub(crate) tokens: Vec<TokenId>,
    /// How many at the end are not known yet; zeros stand in for them.
    pub(crate) n_unknown: usize,
    /// Leading tokens whose KV is in `blocks`.
    pub(crate) n_computed: usize,
    /// Leading tokens whose KV is in `blocks` once all launched steps have finished.
    pub(crate) n_launched: usize,
    /// Which sample of the last step that named it is its last token.
    pub(crate) last_sample: u32,
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
            n_unknown: 0,
            n_computed: 0,
            n_launched: 0,
            last_sample: 0,
            blocks: Vec::new(),
            keys: Vec::new(),
            n_shared: 0,
            last_step: 0,
            running: false,
        }
    }

    /// Prompt and answer, up to the token that the last launched step samples; zeros stand in for
    /// those that are not known yet.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The tokens that are known.
    pub(crate) fn known(&self) -> &[TokenId] {
        &self.tokens[..self.tokens.len() - self.n_unknown]
    }

    /// Tokens whose KV no step computes yet.
    pub(crate) fn n_left(&self) -> usize {
        self.tokens.len() - self.n_launched
    }

    /// The next token has become known.
    pub(crate) fn learn(&mut self, token: TokenId) {
        let idx = self.tokens.len() - self.n_unknown;
        match self.tokens.get_mut(idx) {
            Some(place) => *place = token,
            None => return self.tokens.push(token),
        }
        self.n_unknown -= 1;
    }

    /// The launched step will sample a token with which the sequence goes on.
    pub(crate) fn expect(&mut self, sample: u32) {
        self.tokens.push(0);
        self.n_unknown += 1;
        self.last_sample = sample;
    }
}
