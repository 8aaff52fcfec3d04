//! The operations, a file each: contract, checks and dispatch, CPU code, cases.

pub mod attention;
pub mod blocks;
pub mod carry;
#[cfg(test)]
mod cases;
pub mod embedding;
#[cfg(test)]
mod gpu_cases;
pub mod kv_write;
pub mod linear;
mod linear_cuda;
mod linear_cuda_skinny;
pub mod norm;
pub mod pack;
pub mod paged;
pub mod patches;
mod philox;
pub mod resample;
pub mod rotary;
pub mod rows;
pub mod sample;
mod tile;
pub mod weight;
mod weight_cuda;

pub use attention::{Segments, attention_packed, attention_paged};
pub use blocks::{copy_blocks, fill_blocks};
pub use embedding::embedding;
pub use kv_write::kv_write;
pub use linear::{Activation, linear, linear_add, linear_f32};
pub use norm::{layer_norm, rms_norm, rms_norm_heads};
pub use pack::{Pack, Packed};
pub use paged::{PagedParts, PagedRows, Room, SeqRows};
pub use patches::{Normalisation, PatchShape, patches};
pub use resample::{GridSize, area_mean, bilinear};
pub use rotary::{Angles, rotary, rotary_pairs};
pub use rows::{cast, concatenated, copy_to_range, gather_rows, put_rows};
pub use weight::{Arrangement, Elements, Matrix, Weight};

use types::Error;

/// A shape that the caller must not have passed.
fn misuse(operation: &str, what: &str) -> Error {
    Error::internal(format!("{operation}: {what}"))
}
