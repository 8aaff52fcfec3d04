//! The fields of OpenAI's schema that this server does not act on, and the values at which not
//! acting on them changes nothing. Any other value is refused by name.

use super::fields::{Fields, Parsed, unsupported, wrong_type};
use serde_json::Value;

/// What a field may hold.
enum Neutral {
    /// Labels for the client's own use.
    AnyString,
    AnyObject,
    AnyBoolean,
    OneOf(&'static [&'static str]),
    False,
    EmptyArray,
    /// Exactly `["text"]`.
    TextOnly,
    /// An object whose `type` is `text`.
    TextType,
    EmptyObject,
    /// Nothing but null.
    Absent,
}

const TOOLS: &str = "this server does not call tools";
const SPEECH: &str = "this server does not produce sound";
const NOT_HERE: &str = "this server does not offer it";

/// Field, neutral values, and why others are refused.
const TABLE: &[(&str, Neutral, &str)] = &[
    ("audio", Neutral::Absent, SPEECH),
    ("function_call", Neutral::OneOf(&["none", "auto"]), TOOLS),
    ("functions", Neutral::EmptyArray, TOOLS),
    ("media_io_kwargs", Neutral::EmptyObject, "this server reads media in one way only"),
    ("metadata", Neutral::AnyObject, ""),
    ("modalities", Neutral::TextOnly, SPEECH),
    ("parallel_tool_calls", Neutral::AnyBoolean, ""),
    ("prediction", Neutral::Absent, NOT_HERE),
    ("prompt_cache_key", Neutral::AnyString, ""),
    ("prompt_cache_retention", Neutral::OneOf(&["in-memory", "in_memory"]), NOT_HERE),
    ("reasoning_effort", Neutral::OneOf(&["none"]), NOT_HERE),
    ("response_format", Neutral::TextType, "only the type 'text' is offered"),
    ("safety_identifier", Neutral::AnyString, ""),
    ("service_tier", Neutral::OneOf(&["auto", "default", "flex", "priority", "scale"]), NOT_HERE),
    ("store", Neutral::False, "answers are not stored"),
    ("tool_choice", Neutral::OneOf(&["none", "auto"]), TOOLS),
    ("tools", Neutral::EmptyArray, TOOLS),
    ("user", Neutral::AnyString, ""),
    ("verbosity", Neutral::OneOf(&["medium"]), NOT_HERE),
    ("web_search_options", Neutral::Absent, NOT_HERE),
];

/// Reads every field of the table and refuses the values that are not neutral.
pub(crate) fn check(fields: &mut Fields) -> Parsed<()> {
    for (name, neutral, why) in TABLE {
        if let Some(value) = fields.take(name) {
            neutral.check(&fields.path(name), &value, why)?;
        }
    }
    Ok(())
}

impl Neutral {
    fn check(&self, path: &str, value: &Value, why: &str) -> Parsed<()> {
        if !self.has_type(value) {
            return Err(wrong_type(path, self.type_words(), value));
        }
        if !self.allows(value) {
            return Err(unsupported(path, why));
        }
        Ok(())
    }

    fn has_type(&self, value: &Value) -> bool {
        match self {
            Self::AnyString => value.is_string(),
            // OpenAI's choices of a tool are words or objects.
            Self::OneOf(_) => value.is_string() || value.is_object(),
            Self::AnyObject | Self::EmptyObject | Self::TextType => value.is_object(),
            Self::AnyBoolean | Self::False => value.is_boolean(),
            Self::EmptyArray | Self::TextOnly => value.is_array(),
            Self::Absent => true,
        }
    }

    fn type_words(&self) -> &'static str {
        match self {
            Self::AnyString | Self::OneOf(_) => "a string",
            Self::AnyObject | Self::EmptyObject | Self::TextType => "an object",
            Self::AnyBoolean | Self::False => "a boolean",
            Self::EmptyArray | Self::TextOnly => "an array",
            Self::Absent => "null",
        }
    }

    fn allows(&self, value: &Value) -> bool {
        match self {
            Self::AnyString | Self::AnyObject | Self::AnyBoolean => true,
            Self::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::False => value.as_bool() == Some(false),
            Self::EmptyArray => value.as_array().is_some_and(Vec::is_empty),
            Self::TextOnly => {
                value.as_array().is_some_and(|all| all.len() == 1 && all[0] == "text")
            }
            Self::TextType => value["type"] == "text",
            Self::EmptyObject => value.as_object().is_some_and(is_hollow),
            Self::Absent => false,
        }
    }
}

/// Empty, or nothing but empty objects and nulls inside.
fn is_hollow(map: &serde_json::Map<String, Value>) -> bool {
    map.values().all(|value| value.is_null() || value.as_object().is_some_and(|map| map.is_empty()))
}
