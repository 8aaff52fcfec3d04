//! The `model` and `list` objects of `GET /v1/models`.

use router::ServedModel;
use serde_json::{Value, json};

/// Who is said to own every model.
const OWNER: &str = "triptych";

/// All models.
pub(crate) fn list(models: &[ServedModel]) -> String {
    json!({"object": "list", "data": models.iter().map(one).collect::<Vec<_>>()}).to_string()
}

/// One model.
pub(crate) fn one(model: &ServedModel) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": OWNER,
    })
}
