//! From messages to a prompt's tokens.

use crate::{ChatTemplate, RenderOptions, Tokenizer};
use serde_json::Value;
use types::{Result, TokenId};

/// Renders `messages` and tokenises the result.
///
/// Special tokens come from the template alone: where a client wrote the text of one, in messages,
/// tools or options, it is encoded as plain text. So there are exactly as many placeholders as the
/// template made of the media. Where a client wrote none, the tokens are those of
/// `tokenizer.encode(&template.render(messages, options)?)`, behind the token of the beginning
/// where the tokenizer, as `tokenizer.json` says, puts one there and the template does not.
///
/// Errors: those of [`ChatTemplate::render`].
pub fn tokenize_chat(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &Value,
    options: &RenderOptions,
) -> Result<Vec<TokenId>> {
    let guard = tokenizer.guard();
    let options = RenderOptions {
        add_generation_prompt: options.add_generation_prompt,
        tools: options.tools.as_ref().map(|tools| guard.protect(tools)),
        documents: options.documents.as_ref().map(|documents| guard.protect(documents)),
        kwargs: guard.protect_fields(&options.kwargs),
    };
    let rendered = template.render(&guard.protect(messages), &options)?;
    tokenizer.encode_guarded(&rendered)
}
