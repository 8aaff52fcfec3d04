//! Encoded pictures in, RGB pixels out: limits, headers, decoding, orientation, resizing.
//!
//! Pure functions over bytes. Must not know tokio, tensors, models, files or sockets: which size a
//! model wants, and how it normalises, is said by the model; bytes are fetched by the caller.
//!
//! Nothing here panics on any bytes, and nothing is decoded before its header passed the limits.
//! The reference is Pillow: `ImageOps.exif_transpose(image).convert("RGB")` of the first frame, and
//! `Image.resize` on 8-bit pixels. Both are met to the bit, in every format.

mod bmp;
mod decode;
mod exif;
mod gif;
mod header;
mod image;
mod jpeg;
mod limits;
mod pixels;
mod png;
pub mod resize;
mod tiles;
mod webp;

pub use decode::{AlphaPolicy, decode, decode_with};
pub use header::{Format, Header, header};
pub use image::{Image, Size, Window};
pub use limits::Limits;
pub use tiles::{padded, tiles};
