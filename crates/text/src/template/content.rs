//! Whether a template takes a message's words as a string, or as a list of parts.
//!
//! Templates of the first kind mostly take parts as well; those of the second kind walk through the
//! parts and, of a string, show nothing or fail. Which kind one is shows when it is tried.

use super::{ChatTemplate, RenderOptions};
use serde_json::{Value, json};

/// Words that no template has of its own.
const WORDS: &str = "\u{2042}words\u{2042}";

/// Whether the template shows words only where they are a part.
pub(super) fn wants_parts(template: &ChatTemplate) -> bool {
    let shows = |message: Value| {
        let rendered = template.render_given(&message, &RenderOptions::default());
        rendered.is_ok_and(|text| text.contains(WORDS))
    };
    let messages = json!([{ "role": "user", "content": WORDS }]);
    !shows(messages.clone()) && shows(in_parts(&messages))
}

/// The messages with every string given as a part.
pub(super) fn in_parts(messages: &Value) -> Value {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().into_iter().flatten() {
        if let Some(words) = message.get("content").filter(|content| content.is_string()) {
            message["content"] = json!([{ "type": "text", "text": words }]);
        }
    }
    messages
}
