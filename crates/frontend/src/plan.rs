//! From a chat request and a loaded model to what the spine takes: a tokenised prompt, media by
//! reference, sampling with every default filled in.

use crate::conversation::{ChatRequest, SamplingWishes};
use crate::loaded::LoadedModel;
use serde_json::Value;
use std::time::Duration;
use text::{GenerationDefaults, RenderOptions, tokenize_chat};
use types::request::GenerateRequest;
use types::sampling::SamplingParams;
use types::{Error, ErrorKind, RequestId, Result};

/// Identity and limits of a request, which do not come from its body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Envelope {
    pub(crate) id: RequestId,
    /// Used where the client gave no seed.
    pub(crate) random_seed: u64,
    pub(crate) first_token_deadline: Duration,
    pub(crate) trace: String,
}

/// Renders and tokenises. CPU work that grows with the prompt.
///
/// Errors: the model has no place for a medium; the template refuses; the prompt does not fit.
pub(crate) fn plan(
    request: ChatRequest,
    model: &LoadedModel,
    envelope: Envelope,
) -> Result<GenerateRequest> {
    let unknown =
        request.conversation.media.iter().find(|item| !model.media_kinds.contains(&item.kind));
    if let Some(item) = unknown {
        let words = format!("The model '{}' does not read this kind of medium.", request.model);
        return Err(Error::invalid(words).at(item.param.clone()));
    }
    let options = RenderOptions {
        add_generation_prompt: request.rendering.add_generation_prompt,
        tools: None,
        documents: None,
        kwargs: request.rendering.template_kwargs,
    };
    check_bytes(&request.conversation.messages, model)?;
    let messages = Value::Array(request.conversation.messages);
    let prompt = tokenize_chat(&model.template, &model.tokenizer, &messages, &options)?;
    check_length(prompt.len(), request.wishes.max_tokens, model.max_seq_len)?;
    Ok(GenerateRequest {
        id: envelope.id,
        model: request.model,
        card: model.digest,
        prompt,
        media: request.conversation.media,
        sampling: sampling(&request.wishes, &model.defaults, envelope.random_seed),
        cache_salt: request.cache_salt,
        first_token_deadline: envelope.first_token_deadline,
        trace: envelope.trace,
    })
}

/// Tokenising takes long where there is much of it, so what cannot fit in any case is refused
/// before.
fn check_bytes(messages: &[Value], model: &LoadedModel) -> Result<()> {
    /// Composing characters and the like may leave this part of the bytes.
    const NORMALISED_PART_MIN: usize = 4;
    let n_bytes: usize = messages.iter().map(|message| text_bytes(&message["content"])).sum();
    let most = model.max_seq_len.saturating_mul(model.longest_token_bytes);
    if n_bytes / NORMALISED_PART_MIN <= most {
        return Ok(());
    }
    let message = format!(
        "The model's context is {} tokens, but the messages have {n_bytes} bytes of text, more \
         than so many tokens can hold.",
        model.max_seq_len
    );
    Err(Error::new(ErrorKind::ContextLengthExceeded, message).at("messages"))
}

/// Bytes of a content's text, which is a string or in parts.
fn text_bytes(content: &Value) -> usize {
    match content {
        Value::String(text) => text.len(),
        Value::Array(parts) => parts.iter().map(|part| text_bytes(&part["text"])).sum(),
        _ => 0,
    }
}

/// Exact for text. A medium takes one token here and more once its size is known, so what is
/// refused here would be refused later too.
fn check_length(n_prompt: usize, max_tokens: Option<u32>, max_seq_len: usize) -> Result<()> {
    let n_answer = max_tokens.unwrap_or(1) as usize;
    if n_prompt + n_answer <= max_seq_len {
        return Ok(());
    }
    let asked = match max_tokens {
        Some(max_tokens) => format!("{n_prompt} for the messages and {max_tokens} for the answer"),
        None => format!("{n_prompt} for the messages alone"),
    };
    let message =
        format!("The model's context is {max_seq_len} tokens, but the request needs {asked}.");
    Err(Error::new(ErrorKind::ContextLengthExceeded, message).at("messages"))
}

/// The client's word, else the model's `generation_config.json`, else what is usual.
fn sampling(
    wishes: &SamplingWishes,
    defaults: &GenerationDefaults,
    random_seed: u64,
) -> SamplingParams {
    let top_p = wishes.top_p.or(defaults.top_p).unwrap_or(1.0);
    SamplingParams {
        temperature: wishes.temperature.or(defaults.temperature).unwrap_or(1.0),
        // Zero means the most likely token alone; the smallest positive number keeps just that.
        top_p: top_p.max(f32::MIN_POSITIVE),
        top_k: wishes.top_k.or(defaults.top_k).unwrap_or(0),
        min_p: wishes.min_p.or(defaults.min_p).unwrap_or(0.0),
        repetition_penalty: wishes
            .repetition_penalty
            .or(defaults.repetition_penalty)
            .unwrap_or(1.0),
        presence_penalty: wishes.presence_penalty,
        frequency_penalty: wishes.frequency_penalty,
        logit_bias: wishes.logit_bias.clone(),
        seed: wishes.seed.unwrap_or(random_seed),
        n: wishes.n,
        max_tokens: wishes.max_tokens,
        min_tokens: wishes.min_tokens,
        ignore_eos: wishes.ignore_eos,
        stop_token_ids: wishes.stop_token_ids.clone(),
        logprobs: wishes.logprobs,
    }
}
