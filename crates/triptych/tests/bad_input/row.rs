//! A row of the table: what is sent, and what must come back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Where the only picture of a request stands.
pub(crate) const PICTURE: &str = "messages[0].content[0].image_url";

/// A request and what is right about its answer.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) body: Vec<u8>,
    pub(crate) expected: Expected,
}

/// What must come back.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    /// An answer.
    Answer,
    /// A failure.
    Refused(Refused),
}

/// Status, code, the field at fault and the telling words of a failure.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) code: Option<&'static str>,
    pub(crate) param: Option<String>,
    pub(crate) words: String,
}

/// A failure of this status and code that names no field.
pub(crate) fn refused(status: u16, code: &'static str, words: &str) -> Refused {
    Refused { status, code: Some(code), param: None, words: words.to_owned() }
}

/// A client's fault that has no code.
pub(crate) fn invalid(words: &str) -> Refused {
    Refused { status: 400, code: None, param: None, words: words.to_owned() }
}

impl Refused {
    /// The same, of this field.
    pub(crate) fn at(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self }
    }

    /// OpenAI's word for failures of this status.
    pub(crate) fn class(&self) -> &'static str {
        match self.status {
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl Row {
    /// A body that must be refused.
    pub(crate) fn refused(name: impl Into<String>, body: impl ToString, how: Refused) -> Self {
        let body = body.to_string().into_bytes();
        Self { name: name.into(), body, expected: Expected::Refused(how) }
    }

    /// A question about the picture at an address, which must be refused.
    pub(crate) fn at(address: impl Into<String>, how: Refused) -> Self {
        let address = address.into();
        let body = about(&address);
        let shown: String = address.chars().take(80).collect();
        Self::refused(shown, body, how.at(PICTURE))
    }

    /// A question about a picture's bytes.
    pub(crate) fn picture(name: impl Into<String>, file: &[u8], expected: Expected) -> Self {
        let body = about(&data_url("image/png", file)).to_string().into_bytes();
        Self { name: name.into(), body, expected }
    }
}

/// A picture that is broken; the message names the format.
pub(crate) fn broken(format: &str) -> Expected {
    no_picture(invalid(&format!("the {format} data are broken or cut off")))
}

/// A picture that is refused.
pub(crate) fn no_picture(how: Refused) -> Expected {
    Expected::Refused(how.at(PICTURE))
}

/// A question about the picture at an address.
pub(crate) fn about(address: &str) -> Value {
    let picture = json!({"type": "image_url", "image_url": {"url": address}});
    let words = json!({"type": "text", "text": "What is in the picture?"});
    chat(json!([{"role": "user", "content": [picture, words]}]))
}

/// A request for an answer to these messages.
pub(crate) fn chat(messages: Value) -> Value {
    json!({"model": "shapes", "messages": messages, "max_tokens": 40, "temperature": 0})
}

/// The bytes as a data URL.
pub(crate) fn data_url(media_type: &str, file: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(file))
}
