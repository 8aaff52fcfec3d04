//! Python's methods of strings, lists and dictionaries, which templates call.

use super::filters::charge_call;
use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Calls `method`: of the library's collection, or one of those that it lacks.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let all: Vec<Value> = [value].into_iter().chain(args).cloned().collect();
    charge_call(state, method, &all)?;
    let found = minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args);
    match (found, value.as_str(), value.kind()) {
        (Err(error), Some(text), ValueKind::String) if error.kind() == ErrorKind::UnknownMethod => {
            of_string(text, method, args).unwrap_or(Err(error))
        }
        (found, ..) => found,
    }
}

fn of_string(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "removeprefix" => one(args).map(|prefix| text.strip_prefix(prefix).unwrap_or(text).into()),
        "removesuffix" => one(args).map(|suffix| text.strip_suffix(suffix).unwrap_or(text).into()),
        "partition" => one(args).map(|by| match text.split_once(by) {
            Some((before, after)) => tuple([before, by, after]),
            None => tuple([text, "", ""]),
        }),
        "rpartition" => one(args).map(|by| match text.rsplit_once(by) {
            Some((before, after)) => tuple([before, by, after]),
            None => tuple(["", "", text]),
        }),
        "rsplit" => split_from_the_right(text, args),
        _ => return None,
    })
}

fn one(args: &[Value]) -> Result<&str, Error> {
    let (only,) = from_args(args)?;
    Ok(only)
}

fn tuple(parts: [&str; 3]) -> Value {
    Value::from(Tuple::from(parts.map(Value::from)))
}

fn split_from_the_right(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (by, n_splits): (Option<&str>, Option<i64>) = from_args(args)?;
    let n_splits = n_splits.unwrap_or(-1);
    // A negative number splits everywhere.
    let n_parts = usize::try_from(n_splits).map_or(usize::MAX, |n| n.saturating_add(1));
    let mut parts: Vec<&str> = match by {
        Some(by) => text.rsplitn(n_parts, by).collect(),
        None if n_splits < 0 => text.split_whitespace().rev().collect(),
        None => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit wants a separator")),
    };
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}
