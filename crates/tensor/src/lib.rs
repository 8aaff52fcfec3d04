//! Devices, tensors, arenas, the paged KV pool, and the operations that models are made of.
//!
//! A row's bits never depend on its neighbours, on how a prompt was cut or on the number of
//! threads. Must not know models, tokens' meaning, files or sockets.

pub mod arena;
mod buffer;
pub mod cuda;
pub mod device;
pub mod dtype;
pub mod kv;
pub mod ops;
mod pages;
mod simd;
pub mod slab;
pub mod tensor;
pub mod testing;
mod threads;

pub use arena::Arena;
pub use device::Device;
pub use dtype::{DType, Element};
pub use kv::{KvLayout, KvPool};
pub use slab::{Awaiting, Slab, SlabRange};
pub use tensor::Tensor;
