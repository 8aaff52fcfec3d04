//! Between messages and tokens: chat templates, the tokenizer, incremental detokenisation, stop
//! strings, and a model's own defaults of sampling.
//!
//! Everything is made from a model card and holds no request. Must not know tokio, tensors, HTTP,
//! or what a request looks like beyond its messages in JSON.

mod card;
mod generation;
mod guard;
mod pieces;
mod prompt;
mod stop;
mod stream;
mod template;
mod tokenizer;
mod words;

pub use generation::GenerationDefaults;
pub use prompt::tokenize_chat;
pub use stream::{TextDelta, TextStream};
pub use template::{ChatTemplate, RenderOptions};
pub use tokenizer::Tokenizer;
