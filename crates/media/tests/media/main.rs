//! Tests of the whole crate against the goldens.

mod common;
mod decoding;
mod memory;
mod mutations;
mod resizing;
