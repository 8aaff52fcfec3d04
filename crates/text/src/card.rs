//! Reading of a model card's JSON files.

use serde_json::{Map, Value};
use types::card::ModelCard;
use types::{Error, ErrorKind, Result};

/// A JSON file of the card, if it has it.
pub(crate) fn json(card: &ModelCard, name: &str) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = card.file(name) else { return Ok(None) };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(Some(fields)),
        _ => Err(unusable(format!("the model's {name} is not a JSON object"))),
    }
}

/// The model folder cannot be used: its operator must act.
pub(crate) fn unusable(message: String) -> Error {
    Error::new(ErrorKind::Internal, message)
}

/// The text of a special token in tokenizer_config.json, where it is a string or an object.
pub(crate) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
