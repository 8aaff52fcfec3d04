//! Every field of a request, and what each takes: whatever else it gets is refused by its name.

use serde_json::{Value, json};

/// What a field takes.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    /// Values of these kinds.
    Kinds(&'static [&'static str]),
    /// Nothing: the server knows the field and does not honour it.
    Nothing,
}

use Takes::{Kinds, Nothing};

const TEXT: Takes = Kinds(&["string"]);
const TRUTH: Takes = Kinds(&["boolean"]);
const NUMBER: Takes = Kinds(&["integer", "decimal"]);
const INTEGER: Takes = Kinds(&["integer"]);
const LIST: Takes = Kinds(&["array"]);
const OBJECT: Takes = Kinds(&["object"]);
/// Words of OpenAI's, or an object in the place of one.
const WORD: Takes = Kinds(&["string", "object"]);

/// All fields. Those inside of others stand where [`full_request`] has a place for them.
pub(crate) const FIELDS: &[(&str, Takes)] = &[
    ("model", TEXT),
    ("messages", LIST),
    ("messages[0]", OBJECT),
    ("messages[0].role", TEXT),
    ("messages[0].name", TEXT),
    ("messages[0].content", Kinds(&["string", "array"])),
    ("messages[0].content[0]", OBJECT),
    ("messages[0].content[0].type", TEXT),
    ("messages[0].content[0].text", TEXT),
    ("messages[0].content[1].image_url", OBJECT),
    ("messages[0].content[1].image_url.url", TEXT),
    ("messages[0].content[1].image_url.detail", TEXT),
    ("messages[1].content[0].refusal", TEXT),
    ("messages[1].refusal", TEXT),
    ("messages[1].tool_calls", LIST),
    ("messages[1].annotations", LIST),
    ("messages[1].function_call", Nothing),
    ("messages[1].audio", Nothing),
    ("stream", TRUTH),
    ("stream_options", OBJECT),
    ("stream_options.include_usage", TRUTH),
    ("stream_options.include_obfuscation", TRUTH),
    ("temperature", NUMBER),
    ("top_p", NUMBER),
    ("top_k", INTEGER),
    ("min_p", NUMBER),
    ("max_tokens", INTEGER),
    ("max_completion_tokens", INTEGER),
    ("min_tokens", INTEGER),
    ("n", INTEGER),
    ("seed", INTEGER),
    ("stop", Kinds(&["string", "array"])),
    ("stop[0]", TEXT),
    ("stop_token_ids", LIST),
    ("stop_token_ids[0]", INTEGER),
    ("ignore_eos", TRUTH),
    ("logprobs", TRUTH),
    ("top_logprobs", INTEGER),
    ("logit_bias", OBJECT),
    ("logit_bias.7", NUMBER),
    ("presence_penalty", NUMBER),
    ("frequency_penalty", NUMBER),
    ("repetition_penalty", NUMBER),
    ("skip_special_tokens", TRUTH),
    ("add_generation_prompt", TRUTH),
    ("chat_template_kwargs", OBJECT),
    ("mm_processor_kwargs", OBJECT),
    ("multi_modal_uuids", LIST),
    ("multi_modal_uuids[0]", TEXT),
    ("cache_salt", TEXT),
    ("audio", Nothing),
    ("function_call", WORD),
    ("functions", LIST),
    ("media_io_kwargs", OBJECT),
    ("metadata", OBJECT),
    ("modalities", LIST),
    ("parallel_tool_calls", TRUTH),
    ("prediction", Nothing),
    ("prompt_cache_key", TEXT),
    ("prompt_cache_retention", WORD),
    ("reasoning_effort", WORD),
    ("response_format", OBJECT),
    ("safety_identifier", TEXT),
    ("service_tier", WORD),
    ("store", TRUTH),
    ("tool_choice", WORD),
    ("tools", LIST),
    ("user", TEXT),
    ("verbosity", WORD),
    ("web_search_options", Nothing),
];

/// A request with a place for every field that stands inside another; `url` is a picture's.
pub(crate) fn full_request(url: &str) -> Value {
    let question = json!({"role": "user", "name": "me", "content": [
        {"type": "text", "text": "Which?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
    ]});
    let answer = json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]});
    json!({
        "model": "shapes", "messages": [question, answer], "stream": true, "stream_options": {},
        "stop": ["a"], "stop_token_ids": [7], "logit_bias": {}, "multi_modal_uuids": [null],
        "max_tokens": 1,
    })
}

/// The request with `value` in the field, and the word for what is wrong with it; `None` where the
/// field takes such a value.
pub(crate) fn wrong(
    request: &Value,
    (field, takes): (&str, Takes),
    (kind, value): &(&str, Value),
) -> Option<(Value, &'static str)> {
    let code = match takes {
        Kinds(kinds) if kinds.contains(kind) => return None,
        Kinds(_) => "invalid_type",
        Nothing => "unsupported_value",
    };
    let mut request = request.clone();
    put(&mut request, field, value.clone());
    Some((request, code))
}

/// A value of each kind that JSON has, but null, which is the same as nothing.
pub(crate) fn one_of_each_kind() -> [(&'static str, Value); 6] {
    [
        ("string", json!("x")),
        ("integer", json!(1)),
        ("decimal", json!(1.5)),
        ("boolean", json!(true)),
        ("array", json!([[]])),
        ("object", json!({"x": 1})),
    ]
}

/// Puts a value where `messages[0].role` or the like says.
pub(crate) fn put(request: &mut Value, field: &str, value: Value) {
    let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
    let (parent, name) = pointer.rsplit_once('/').expect("it begins with one");
    match request.pointer_mut(parent).expect("a place") {
        Value::Array(items) => items[name.parse::<usize>().expect("an index")] = value,
        inside => inside[name] = value,
    }
}
