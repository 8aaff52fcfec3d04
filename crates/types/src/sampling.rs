//! How tokens are chosen and when a choice ends. Names and meanings are OpenAI's and vLLM's.

use crate::TokenId;

/// Sampling of one request; the same for all its choices.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus: keep the smallest set of tokens with at least this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less likely than this times the most likely one; 0 drops none.
    pub min_p: f32,
    /// Divides (positive) or multiplies (negative) the logits of tokens in prompt or answer; 1 is
    /// off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens already in the answer.
    pub presence_penalty: f32,
    /// Subtracted per occurrence from the logits of tokens already in the answer.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// With the choice and the token's index in the answer, determines all noise.
    pub seed: u64,
    /// Number of choices.
    pub n: u32,
    /// Most tokens of one choice; `None` is the rest of the context.
    pub max_tokens: Option<u32>,
    /// No end-of-sequence and no stop token before this many tokens.
    pub min_tokens: u32,
    /// Go on past end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Tokens that end a choice (they are not part of its text).
    pub stop_token_ids: Vec<TokenId>,
    /// Report the log probability of each token and this many alternatives; `None` reports nothing.
    pub logprobs: Option<u32>,
}

impl Default for SamplingParams {
    /// Greedy, one choice, no limits.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            n: 1,
            max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
            stop_token_ids: Vec::new(),
            logprobs: None,
        }
    }
}
