//! The operations, a file each: contract, checks and dispatch, CPU code, cases.

pub mod linear;
mod tile;

pub use linear::{Activation, Weight, linear, linear_add};

use types::Error;

/// A shape that the caller must not have passed.
fn misuse(operation: &str, what: &str) -> Error {
    Error::internal(format!("{operation}: {what}"))
}
