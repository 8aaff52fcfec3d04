//! Where a model keeps its template and its special tokens.

use crate::card::{json, token_text};
use minijinja::Value as JinjaValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use types::card::ModelCard;
use types::{Error, ErrorKind, Result};

/// The variables that hold special tokens.
const TOKEN_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A model's templates and the tokens that they may use.
pub(super) struct Sources {
    pub(super) default: String,
    /// Another one for requests with tools.
    pub(super) tool_use: Option<String>,
    pub(super) tokens: BTreeMap<String, JinjaValue>,
}

impl Sources {
    /// Reads the card.
    pub(super) fn from_card(card: &ModelCard) -> Result<Self> {
        let config = json(card, "tokenizer_config.json")?.unwrap_or_default();
        let (default, tool_use) = templates(card, &config)?.ok_or_else(|| {
            let message = "the model has no chat template; give one on the worker's command line";
            Error::new(ErrorKind::NotFound, message)
        })?;
        Ok(Self { default, tool_use, tokens: tokens(&config) })
    }
}

/// The default template and the one for tools.
type Templates = (String, Option<String>);

fn templates(card: &ModelCard, config: &Map<String, Value>) -> Result<Option<Templates>> {
    if let Some(given) = &card.template_override {
        return Ok(Some((given.clone(), None)));
    }
    if let Some(bytes) = card.file("chat_template.jinja") {
        let text = String::from_utf8(bytes.to_vec());
        let text = text.map_err(|_| Error::internal("chat_template.jinja is not UTF-8"))?;
        return Ok(Some((text, None)));
    }
    let file = json(card, "chat_template.json")?.unwrap_or_default();
    let places = [&file, config].into_iter().filter_map(|fields| fields.get("chat_template"));
    Ok(places.filter_map(named).next())
}

/// A template, or a list of named ones of which the default is taken, else the first.
fn named(value: &Value) -> Option<Templates> {
    let list = match value {
        Value::String(template) => return Some((template.clone(), None)),
        Value::Array(list) => list,
        _ => return None,
    };
    let text = |entry: &Value| Some(entry.get("template")?.as_str()?.to_owned());
    let find = |name: &str| list.iter().find(|entry| entry["name"] == name).and_then(text);
    let default = find("default").or_else(|| text(list.first()?))?;
    Some((default, find("tool_use")))
}

fn tokens(config: &Map<String, Value>) -> BTreeMap<String, JinjaValue> {
    let single = TOKEN_NAMES.iter().filter_map(|&name| {
        Some((name.to_owned(), JinjaValue::from(token_text(config.get(name)?)?)))
    });
    let mut tokens: BTreeMap<_, _> = single.collect();
    if let Some(Value::Array(list)) = config.get("additional_special_tokens") {
        let list: Vec<_> = list.iter().filter_map(token_text).map(JinjaValue::from).collect();
        tokens.insert("additional_special_tokens".into(), list.into());
    }
    tokens
}
