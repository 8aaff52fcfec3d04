//! The architectures: a file and a line each.

pub(crate) mod llava;
pub(crate) mod llava_next;
pub(crate) mod qwen2_vl;

use crate::files::{ConfigFiles, unusable};
use crate::model::{Model, ModelSpec};
use crate::processor::Processor;
use crate::weights::{Rename, Weights};
use serde_json::Value;
use std::sync::Arc;
use types::{Result, TokenId};

/// Every architecture that can be served.
pub(crate) const ZOO: &[Family] = &[llava::FAMILY, llava_next::FAMILY, qwen2_vl::FAMILY];

/// What the loader must know of an architecture.
pub(crate) struct Family {
    /// In `config.json`'s `architectures`.
    pub(crate) architecture: &'static str,
    /// In `config.json`'s `model_type`.
    pub(crate) model_type: &'static str,
    /// From older weight names to those the architecture asks for.
    pub(crate) renames: &'static [Rename],
    /// Shapes, limits and special tokens.
    pub(crate) spec: fn(&ConfigFiles) -> Result<ModelSpec>,
    /// Media to tower input.
    pub(crate) processor: fn(&ConfigFiles) -> Result<Arc<dyn Processor>>,
    /// The model itself.
    pub(crate) build: fn(&ConfigFiles, &Weights<'_>) -> Result<Arc<dyn Model>>,
    /// Stand-ins for files that a dummy model's folder may lack.
    pub(crate) stand_ins: StandIns,
}

/// A special token and its text.
pub(crate) type SpecialToken = (TokenId, &'static str);

/// What a dummy model's folder may lack.
pub(crate) struct StandIns {
    /// Special tokens of the byte tokenizer.
    pub(crate) special_tokens: fn(&ConfigFiles) -> Result<Vec<SpecialToken>>,
    /// The chat template.
    pub(crate) chat_template: &'static str,
}

/// The architecture of a configuration.
///
/// Errors: it is not in the zoo.
pub(crate) fn family_of(files: &ConfigFiles) -> Result<&'static Family> {
    let text = |name: &str| files.config.get(name).and_then(Value::as_str).unwrap_or("");
    let named = files.config.get("architectures").and_then(Value::as_array);
    let names: Vec<&str> = named.into_iter().flatten().filter_map(Value::as_str).collect();
    let by_name = ZOO.iter().find(|family| names.contains(&family.architecture));
    // Files that put `architectures` inside `text_config` still have the type on top.
    let by_type = || ZOO.iter().find(|family| family.model_type == text("model_type"));
    by_name.or_else(by_type).ok_or_else(|| {
        let known: Vec<&str> = ZOO.iter().map(|family| family.architecture).collect();
        let asked = if names.is_empty() { text("model_type").to_owned() } else { names.join(", ") };
        unusable("config.json", &format!("no architecture {asked}; known are {}", known.join(", ")))
    })
}
