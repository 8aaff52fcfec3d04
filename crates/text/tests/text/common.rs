//! Model cards and goldens.

use serde_json::Value;
use std::path::PathBuf;
use types::card::ModelCard;

/// The folder with the goldens of the architecture that most tests are about.
pub(crate) const FAMILY: &str = "qwen2_vl";

/// The bytes of a golden of [`FAMILY`], or of another one by a path from there.
pub(crate) fn bytes(path: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens"))
        .join(FAMILY)
        .join(path);
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

/// Token ids in a golden.
pub(crate) fn ids(value: &Value, key: &str) -> Vec<u32> {
    list(value, key).iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// The card of a golden checkpoint, with these of its files.
pub(crate) fn golden_card(folder: &str, files: &[&str]) -> ModelCard {
    let files = files.iter().map(|name| (name.to_string(), bytes(&format!("{folder}/{name}"))));
    ModelCard { files: files.collect(), ..ModelCard::default() }
}

/// A card with these files.
pub(crate) fn card(files: &[(&str, &str)]) -> ModelCard {
    let files = files.iter().map(|(name, content)| (name.to_string(), content.as_bytes().to_vec()));
    ModelCard { files: files.collect(), ..ModelCard::default() }
}

/// Multiplicative congruence, upper bits.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}
