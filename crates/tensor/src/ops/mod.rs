//! The operations, a file each: contract, checks and dispatch, CPU code, cases.

pub mod attention;
#[cfg(test)]
mod cases;
pub mod embedding;
pub mod kv_write;
pub mod linear;
pub mod norm;
pub mod patches;
mod philox;
pub mod rotary;
pub mod sample;
mod tile;
pub mod weight;

pub use attention::{PagedSeq, attention_packed, attention_paged};
pub use embedding::embedding;
pub use kv_write::{KvRows, kv_write};
pub use linear::{Activation, linear, linear_add};
pub use norm::{layer_norm, rms_norm};
pub use patches::{Normalisation, PatchShape, patches};
pub use rotary::{Angles, rotary};
pub use weight::{Arrangement, Matrix, Weight};

use types::Error;

/// A shape that the caller must not have passed.
fn misuse(operation: &str, what: &str) -> Error {
    Error::internal(format!("{operation}: {what}"))
}
