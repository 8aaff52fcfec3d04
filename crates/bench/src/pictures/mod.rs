//! Fresh pictures for the demo model, drawn by rules and by a renderer of its own.
//!
//! Shares nothing with the scripts that drew the training pictures: only so can an evaluation tell
//! whether the model sees shapes or remembers a renderer.

pub mod digits;
pub mod law;
pub mod outline;
pub mod render;
