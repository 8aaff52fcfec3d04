//! A request as the frontend hands it to the spine: tokenised, its media still references.

use crate::content::Digest;
use crate::media::MediaRef;
use crate::sampling::SamplingParams;
use crate::{RequestId, TokenId};
use std::time::Duration;

/// A planned request.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// Unique over all frontends.
    pub id: RequestId,
    /// The served model's name.
    pub model: String,
    /// Digest of the model card by which the prompt was made; whoever runs it has the same one.
    pub card: Digest,
    /// The rendered prompt, one placeholder token per medium.
    pub prompt: Vec<TokenId>,
    /// The media, in the order of their placeholders.
    pub media: Vec<MediaRef>,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// Prefix cache blocks are shared only among requests with the same salt.
    pub cache_salt: String,
    /// Longest time to the first token.
    pub first_token_deadline: Duration,
    /// W3C trace context of the caller (`traceparent`), empty when there is none.
    pub trace: String,
}
