//! Log probabilities as OpenAI writes them: each token with its text and its bytes.

use serde_json::{Value, json};
use text::Tokenizer;
use types::TokenId;
use types::output::OutputToken;

/// What is said for a token that cannot occur: JSON has no infinity.
const LOGPROB_MIN: f32 = -9999.0;

/// `{"content": [...]}` of the tokens.
pub(crate) fn content(tokens: &[OutputToken], tokenizer: &Tokenizer) -> Value {
    let entry = |token: &OutputToken| {
        let mut entry = one(token.token, token.logprob.unwrap_or(LOGPROB_MIN), tokenizer);
        let top = token.top_logprobs.iter().map(|top| one(top.token, top.logprob, tokenizer));
        entry["top_logprobs"] = top.collect();
        entry
    };
    json!({"content": tokens.iter().map(entry).collect::<Vec<_>>(), "refusal": null})
}

fn one(token: TokenId, logprob: f32, tokenizer: &Tokenizer) -> Value {
    let bytes = tokenizer.token_bytes(token);
    json!({
        "token": String::from_utf8_lossy(bytes),
        "logprob": logprob.max(LOGPROB_MIN),
        "bytes": bytes,
    })
}
