//! The JSON files of a model folder, as values with readable errors.

use crate::LoadFormat;
use serde_json::Value;
use std::path::Path;
use tensor::DType;
use types::{Error, ErrorKind, Result, TokenId};

/// The configuration files that code here reads.
#[derive(Debug)]
pub(crate) struct ConfigFiles {
    /// `config.json`.
    pub(crate) config: Value,
    /// `generation_config.json`, null when there is none.
    pub(crate) generation: Value,
    /// `preprocessor_config.json`; null when there is none (dummy weights only).
    pub(crate) preprocessor: Value,
}

impl ConfigFiles {
    /// Reads the files of `folder`.
    ///
    /// Errors: `config.json` is missing, or any of them is not JSON.
    pub(crate) fn read(folder: &Path, load_format: LoadFormat) -> Result<Self> {
        let config =
            read_json(folder, "config.json")?.ok_or_else(|| missing(folder, "config.json"))?;
        let preprocessor = read_json(folder, "preprocessor_config.json")?;
        let preprocessor = match (preprocessor, load_format) {
            (Some(value), _) => value,
            (None, LoadFormat::Dummy) => Value::Null,
            (None, LoadFormat::Auto) => return Err(missing(folder, "preprocessor_config.json")),
        };
        let generation = read_json(folder, "generation_config.json")?.unwrap_or(Value::Null);
        Ok(Self { config, generation, preprocessor })
    }

    /// The part of the configuration that describes the text model: `text_config`, or all of it in
    /// the flat layout of older files.
    pub(crate) fn text(&self) -> &Value {
        self.config.get("text_config").unwrap_or(&self.config)
    }

    /// The tokens that end an answer: of the generation config, else of the model's.
    pub(crate) fn eos_token_ids(&self) -> Vec<TokenId> {
        let places = [&self.generation, self.text(), &self.config];
        let stated =
            places.iter().find_map(|place| place.get("eos_token_id").filter(|ids| !ids.is_null()));
        let ids = stated.map_or(&[][..], |ids| match ids {
            Value::Array(ids) => ids.as_slice(),
            one => std::slice::from_ref(one),
        });
        ids.iter().filter_map(|id| TokenId::try_from(id.as_u64()?).ok()).collect()
    }

    /// The type that the configuration says weights have; what dummy weights are made of.
    pub(crate) fn stated_dtype(&self) -> DType {
        let places = [&self.config, self.text()];
        let name = places.iter().flat_map(|place| [place.get("dtype"), place.get("torch_dtype")]);
        match name.flatten().find_map(Value::as_str) {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            _ => DType::Bf16,
        }
    }
}

/// Parses part of a configuration into a type with the same field names.
///
/// Errors: a field is missing or of another type; the message names it.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(value: &Value, what: &str) -> Result<T> {
    T::deserialize(value).map_err(|error| unusable(what, &error.to_string()))
}

/// The model folder cannot be served as it is.
pub(crate) fn unusable(what: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{what}: {why}"))
}

fn missing(folder: &Path, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} has no {name}", folder.display()))
}

fn read_json(folder: &Path, name: &str) -> Result<Option<Value>> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read(&path)?;
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| unusable(&path.display().to_string(), &error.to_string()))
}

/// The bytes of a file of the model folder.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Error::new(ErrorKind::NotFound, format!("cannot read {}: {error}", path.display()))
    })
}
