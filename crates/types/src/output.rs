//! What comes out of a request, token by token.

use crate::{Error, TokenId};

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end-of-sequence or stop token, or a stop string.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
}

/// The log probability of one token (natural logarithm).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logprob {
    /// The token.
    pub token: TokenId,
    /// ln p, after penalties and bias, before temperature and truncation.
    pub logprob: f32,
}

/// One token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputToken {
    /// The token.
    pub token: TokenId,
    /// Its log probability, when asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens at this place, most likely first, when asked for.
    pub top_logprobs: Vec<Logprob>,
}

/// What the spine tells the caller of a request, in this order: one `Admitted`, then tokens and
/// ends of the choices; the stream closes after the last choice has ended.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateEvent {
    /// The request was taken and its prompt is known.
    Admitted {
        /// Length of the expanded prompt.
        prompt_tokens: u32,
        /// How many of those were found in the prefix cache.
        cached_tokens: u32,
    },
    /// More tokens of one choice; never empty.
    Tokens {
        /// Index of the choice.
        choice: u32,
        /// The tokens, in order.
        tokens: Vec<OutputToken>,
    },
    /// A choice ended.
    Finished {
        /// Index of the choice.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
}

/// A stream item of a request.
pub type GenerateResult = std::result::Result<GenerateEvent, Error>;
