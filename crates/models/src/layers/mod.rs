//! Blocks that architectures share. Weight names are those of Hugging Face's modules.

pub(crate) mod clip;
pub(crate) mod decoder;
pub(crate) mod llama;
pub(crate) mod projector;
pub(crate) mod rope;
pub(crate) mod vision_block;
