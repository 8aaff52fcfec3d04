//! Reading of the goldens.

use serde_json::Value;
use std::path::PathBuf;

/// A file of the goldens.
pub(crate) fn golden(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens")).join(path)
}

/// The bytes of a golden.
pub(crate) fn bytes(path: &str) -> Vec<u8> {
    let path = golden(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A golden in JSON.
pub(crate) fn json(path: &str) -> Value {
    serde_json::from_slice(&bytes(path)).expect("goldens are JSON")
}

/// A list in a golden.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is a list"))
}

/// A string in a golden.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is a string"))
}

/// A whole number in a golden.
pub(crate) fn number(value: &Value, key: &str) -> u32 {
    let number = value[key].as_u64().and_then(|number| number.try_into().ok());
    number.unwrap_or_else(|| panic!("{key} is a whole number"))
}
