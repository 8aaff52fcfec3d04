//! From what the user calls a model to a folder: a path, or a hub id found in the local cache.

use std::path::{Path, PathBuf};
use types::{Error, ErrorKind, Result};

/// A model folder, and the name it is served under unless another is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPath {
    /// The folder.
    pub folder: PathBuf,
    /// The folder's name, or the hub id.
    pub name: String,
}

/// Finds `model` as a folder, else as a hub id under `hub_cache`.
///
/// Errors: neither is there; the message says how to fetch it.
pub fn find(model: &str, hub_cache: Option<&Path>) -> Result<ModelPath> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(ModelPath { folder: path.to_owned(), name: folder_name(path) });
    }
    if !is_hub_id(model) {
        return Err(missing(format!("--model-path {model}: there is no such folder")));
    }
    let cached = hub_cache.and_then(|cache| snapshot(cache, model));
    cached.map(|folder| ModelPath { folder, name: model.to_owned() }).ok_or_else(|| {
        missing(format!(
            "--model-path {model}: there is no such folder, and the local Hugging Face cache \
             does not have it; fetch it with `hf download {model}`"
        ))
    })
}

/// Where Hugging Face tools keep what they fetched, by their own environment variables.
pub fn hub_cache(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(hub) = variable("HF_HUB_CACHE") {
        return Some(hub.into());
    }
    if let Some(home) = variable("HF_HOME") {
        return Some(PathBuf::from(home).join("hub"));
    }
    Some(PathBuf::from(variable("HOME")?).join(".cache/huggingface/hub"))
}

fn snapshot(cache: &Path, id: &str) -> Option<PathBuf> {
    let repository = cache.join(format!("models--{}", id.replace('/', "--")));
    let revision = std::fs::read_to_string(repository.join("refs/main")).ok()?;
    let folder = repository.join("snapshots").join(revision.trim());
    folder.is_dir().then_some(folder)
}

/// `organisation/name`, both of the characters that the hub allows.
fn is_hub_id(model: &str) -> bool {
    let is_name = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    model.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name))
}

fn folder_name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let last = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    last.unwrap_or_else(|| "model".to_owned())
}

fn missing(message: String) -> Error {
    Error::new(ErrorKind::NotFound, message)
}
