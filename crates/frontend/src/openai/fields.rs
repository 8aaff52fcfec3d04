//! Reads the fields of a JSON object one by one, so that each wrong one and each unknown one is
//! refused by name, in the words and codes that OpenAI's clients know.
//!
//! Null is the same as absent, everywhere.

use super::error::ApiError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

pub(crate) type Parsed<T> = Result<T, ApiError>;

/// The fields of one object that nobody has read yet.
pub(crate) struct Fields {
    rest: Map<String, Value>,
    /// Where the object stands: empty, or `messages[0].`.
    prefix: String,
}

impl Fields {
    /// The fields of `value`, which stands at `path` (empty for the body itself).
    pub(crate) fn of(value: Value, path: &str) -> Parsed<Self> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        match value {
            Value::Object(rest) => Ok(Self { rest, prefix }),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// Where a field stands.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Any value; `None` if absent or null.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.rest.shift_remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, name: &str) -> Parsed<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(&self.path(name), "a string", &other)),
        }
    }

    pub(crate) fn required_string(&mut self, name: &str) -> Parsed<String> {
        self.string(name)?.ok_or_else(|| missing(&self.path(name)))
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Parsed<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path(name), "a boolean", &other)),
        }
    }

    pub(crate) fn array(&mut self, name: &str) -> Parsed<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(&self.path(name), "an array", &other)),
        }
    }

    pub(crate) fn object(&mut self, name: &str) -> Parsed<Option<Map<String, Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(wrong_type(&self.path(name), "an object", &other)),
        }
    }

    /// The fields of an object inside this one.
    pub(crate) fn fields(&mut self, name: &str) -> Parsed<Option<Self>> {
        let path = self.path(name);
        self.take(name).map(|value| Self::of(value, &path)).transpose()
    }

    pub(crate) fn integer(
        &mut self,
        name: &str,
        bounds: RangeInclusive<i64>,
    ) -> Parsed<Option<i64>> {
        let path = self.path(name);
        self.take(name).map(|value| integer(&path, &value, bounds)).transpose()
    }

    /// A number within `bounds`, both included.
    pub(crate) fn number(
        &mut self,
        name: &str,
        bounds: RangeInclusive<f32>,
    ) -> Parsed<Option<f32>> {
        let path = self.path(name);
        self.take(name).map(|value| number(&path, &value, bounds)).transpose()
    }

    /// Refuses whatever nobody has read.
    pub(crate) fn finish(self) -> Parsed<()> {
        match self.rest.keys().next() {
            None => Ok(()),
            Some(name) => {
                let path = self.path(&shorten(name));
                let message = format!("Unknown parameter: '{path}'.");
                Err(ApiError::invalid("unknown_parameter", &path, message))
            }
        }
    }
}

/// An integer within `bounds`.
pub(crate) fn integer(path: &str, value: &Value, bounds: RangeInclusive<i64>) -> Parsed<i64> {
    let Some(number) = value.as_i64() else {
        let too_large = value.as_u64().is_some();
        return match too_large {
            true => Err(above(path, "integer", &bounds.end(), value)),
            false => Err(wrong_type(path, "an integer", value)),
        };
    };
    if number < *bounds.start() {
        return Err(below(path, "integer", bounds.start(), value));
    }
    if number > *bounds.end() {
        return Err(above(path, "integer", bounds.end(), value));
    }
    Ok(number)
}

/// A number within `bounds`.
pub(crate) fn number(path: &str, value: &Value, bounds: RangeInclusive<f32>) -> Parsed<f32> {
    let Some(number) = value.as_f64() else {
        return Err(wrong_type(path, "a number", value));
    };
    if number < f64::from(*bounds.start()) {
        return Err(below(path, "decimal", bounds.start(), value));
    }
    if number > f64::from(*bounds.end()) {
        return Err(above(path, "decimal", bounds.end(), value));
    }
    Ok(number as f32)
}

/// What a client wrote, short enough to repeat to it.
pub(crate) fn shorten(text: &str) -> String {
    const SHOWN_MAX: usize = 64;
    text.chars().take(SHOWN_MAX).collect()
}

pub(crate) fn missing(path: &str) -> ApiError {
    let message = format!("Missing required parameter: '{path}'.");
    ApiError::invalid("missing_required_parameter", path, message)
}

pub(crate) fn wrong_type(path: &str, expected: &str, got: &Value) -> ApiError {
    let got = kind_of(got);
    let message = match path {
        "" => format!("The request body must be {expected}, but it is {got}."),
        _ => format!("Invalid type for '{path}': expected {expected}, but got {got} instead."),
    };
    ApiError::invalid("invalid_type", path, message)
}

/// A value of the right type that is none of those accepted.
pub(crate) fn wrong_value(path: &str, got: &str, expected: &str) -> ApiError {
    let message = format!("Invalid value for '{path}': {got}. Expected {expected}.");
    ApiError::invalid("invalid_value", path, message)
}

/// A value that OpenAI's API knows and this server does not honour.
pub(crate) fn unsupported(path: &str, why: &str) -> ApiError {
    let message = format!("Unsupported value for '{path}': {why}.");
    ApiError::invalid("unsupported_value", path, message)
}

/// A list with more items than allowed.
pub(crate) fn too_long(path: &str, n_items_max: usize, n_items: usize) -> ApiError {
    let message = format!(
        "Invalid '{path}': array too long. Expected an array with maximum length {n_items_max}, \
         but got an array with length {n_items} instead."
    );
    ApiError::invalid("array_above_max_length", path, message)
}

fn below(path: &str, kind: &str, min: &dyn std::fmt::Display, got: &Value) -> ApiError {
    let code =
        if kind == "integer" { "integer_below_min_value" } else { "decimal_below_min_value" };
    let message = format!(
        "Invalid '{path}': {kind} below minimum value. Expected a value >= {min}, but got {got} \
         instead."
    );
    ApiError::invalid(code, path, message)
}

fn above(path: &str, kind: &str, max: &dyn std::fmt::Display, got: &Value) -> ApiError {
    let code =
        if kind == "integer" { "integer_above_max_value" } else { "decimal_above_max_value" };
    let message = format!(
        "Invalid '{path}': {kind} above maximum value. Expected a value <= {max}, but got {got} \
         instead."
    );
    ApiError::invalid(code, path, message)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
