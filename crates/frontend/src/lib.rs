//! HTTP in front of the spine: OpenAI's API, streaming, limits, and a graceful end.
//!
//! The only crate that knows an API's shapes (`openai`). Must not know engines, scheduling or planes'
//! implementations: all it needs of them is [`router::Backend`].

mod admission;
mod answer;
mod app;
mod body;
mod chat;
mod conversation;
mod loaded;
mod offload;
mod openai;
mod phase;
mod plan;
mod run;
mod server;
mod shutdown;

pub use server::serve;
pub use shutdown::{Shutdown, ShutdownTrigger};
