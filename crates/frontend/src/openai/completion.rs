//! A whole answer in one body: the `chat.completion` object.

use super::logprobs;
use crate::answer::{Answer, Choice, Pending, Usage};
use serde_json::{Value, json};
use text::Tokenizer;
use types::output::FinishReason;

/// What every object of a request's answer repeats.
pub(crate) struct Header<'a> {
    pub(crate) id: &'a str,
    pub(crate) created_s: u64,
    pub(crate) model: &'a str,
    pub(crate) fingerprint: &'a str,
}

/// The body of a finished answer.
pub(crate) fn body(header: &Header<'_>, answer: &mut Answer) -> String {
    let tokenizer = &answer.model.tokenizer;
    let choices: Vec<Value> = answer
        .choices
        .iter_mut()
        .enumerate()
        .map(|(idx, choice)| self::choice(idx, choice, tokenizer))
        .collect();
    json!({
        "id": header.id,
        "object": "chat.completion",
        "created": header.created_s,
        "model": header.model,
        "system_fingerprint": header.fingerprint,
        "choices": choices,
        "usage": usage(&answer.usage),
    })
    .to_string()
}

fn choice(idx: usize, choice: &mut Choice, tokenizer: &Tokenizer) -> Value {
    let Pending { text, tokens, .. } = std::mem::take(&mut choice.pending);
    let logprobs = match tokens.is_empty() {
        true => Value::Null,
        false => logprobs::content(&tokens, tokenizer),
    };
    json!({
        "index": idx,
        "message": {"role": "assistant", "content": text, "refusal": null},
        "logprobs": logprobs,
        "finish_reason": choice.finish.map(finish_word),
    })
}

/// OpenAI's word for an end.
pub(crate) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// The `usage` object.
pub(crate) fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}
