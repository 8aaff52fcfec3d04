//! What a model's own files say of sampling and of its end.

use crate::card;
use serde_json::{Map, Value};
use types::card::ModelCard;
use types::{Result, TokenId};

/// A model's defaults, for what a request leaves unsaid; `None` where the model says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// 0 where the model says that it is not to be sampled (`do_sample: false`).
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// Number of tokens kept.
    pub top_k: Option<u32>,
    /// Least share of the most likely token's probability.
    pub min_p: Option<f32>,
    /// Factor on tokens seen.
    pub repetition_penalty: Option<f32>,
    /// Tokens that end an answer: of `generation_config.json`, else of `config.json`.
    pub eos_token_ids: Vec<TokenId>,
}

impl GenerationDefaults {
    /// Reads `generation_config.json`, where there is one.
    ///
    /// Errors: a file that is no JSON object.
    pub fn from_card(card: &ModelCard) -> Result<Self> {
        let own = card::json(card, "generation_config.json")?.unwrap_or_default();
        let config = card::json(card, "config.json")?.unwrap_or_default();
        let number = |name: &str| own.get(name).and_then(Value::as_f64).map(|value| value as f32);
        let is_greedy = own.get("do_sample") == Some(&Value::Bool(false));
        let top_k = own.get("top_k").and_then(Value::as_u64);
        Ok(Self {
            temperature: if is_greedy { Some(0.0) } else { number("temperature") },
            top_p: number("top_p"),
            top_k: top_k.and_then(|value| value.try_into().ok()),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
            eos_token_ids: eos(&own).or_else(|| eos(&config)).unwrap_or_default(),
        })
    }
}

/// `eos_token_id`: a number or a list, at the top or in the text model's part.
fn eos(config: &Map<String, Value>) -> Option<Vec<TokenId>> {
    let nested = || config.get("text_config")?.get("eos_token_id");
    let value = config.get("eos_token_id").filter(|value| !value.is_null()).or_else(nested)?;
    let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let ids: Vec<_> = ids.iter().filter_map(|id| id.as_u64()?.try_into().ok()).collect();
    (!ids.is_empty()).then_some(ids)
}
