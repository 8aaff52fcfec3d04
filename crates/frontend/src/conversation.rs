//! A chat request in our own words, whatever API it came by.

use serde_json::{Map, Value};
use types::media::MediaRef;

/// What was said, as the chat template sees it, and the media in the order of their mention.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conversation {
    /// Objects with `role` and `content`; a medium is a part `{"type": "image"}`.
    pub(crate) messages: Vec<Value>,
    pub(crate) media: Vec<MediaRef>,
}

/// A whole request for an answer, before the model is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatRequest {
    pub(crate) model: String,
    pub(crate) conversation: Conversation,
    pub(crate) wishes: SamplingWishes,
    pub(crate) rendering: Rendering,
    pub(crate) delivery: Delivery,
    pub(crate) cache_salt: String,
}

/// What the template is told besides the messages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rendering {
    pub(crate) add_generation_prompt: bool,
    pub(crate) template_kwargs: Map<String, Value>,
}

/// How the answer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// Sampling as far as the client spoke of it; the model's defaults fill the rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SamplingWishes {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) seed: Option<u64>,
    pub(crate) n: u32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: u32,
    pub(crate) ignore_eos: bool,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) stop: Vec<String>,
    pub(crate) logprobs: Option<u32>,
    pub(crate) skip_special_tokens: bool,
}
